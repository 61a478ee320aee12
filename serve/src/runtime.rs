//! Network workers: a few threads, each with a single-threaded runtime of its own, and the one place that starts tasks.
//!
//! A connection, its calls and its streams stay on the worker that accepted them, so that a call costs no hand-over
//! between threads. The broker's own tasks are spread over the same workers by their handles, which exist before it does.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Connections that wait to be accepted; the kernel cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// A port that was free a moment ago may be taken before it is bound again: other ports are tried this often.
const PORT_TRIES: usize = 16;
/// How long tasks that block (a render of metrics) may hold up the end of a worker.
const BLOCKING_GRACE: Duration = Duration::from_secs(1);

/// The workers. Dropped without [`Runtime::stop`], they end with their tasks and nobody waits for them.
#[derive(Debug)]
pub struct Runtime {
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// What else a worker does. The defaults do nothing.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Once, on the worker's thread, with its number.
    pub on_start: fn(usize),
    /// Each time the thread has nothing more to do.
    pub before_sleep: fn(),
}

impl Default for Hooks {
    fn default() -> Self {
        Self { on_start: |_| {}, before_sleep: || {} }
    }
}

impl Runtime {
    /// Starts `workers` threads; 0 = one for each core but one, and at least one.
    pub fn start(workers: usize, hooks: Hooks) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = if workers == 0 { cores.saturating_sub(1).max(1) } else { workers };
        let workers = (0..count).map(|number| Worker::start(number, hooks)).collect::<io::Result<Vec<_>>>()?;
        Ok(Self { workers })
    }

    /// The workers' handles, for those who spread tasks over them.
    pub fn handles(&self) -> Vec<Handle> {
        self.workers.iter().map(|worker| worker.handle.clone()).collect()
    }

    /// One worker; numbers beyond the last begin anew.
    pub fn handle(&self, worker: usize) -> &Handle {
        &self.workers[worker % self.workers.len()].handle
    }

    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Starts a task on one worker.
    pub fn spawn_on<F>(&self, worker: usize, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle(worker).spawn(task)
    }

    /// Ends the workers with whatever tasks they still have, and waits for their threads.
    pub fn stop(self) {
        let threads: Vec<_> = self
            .workers
            .into_iter()
            .map(|worker| {
                // A worker that has gone already is what we want.
                let _ = worker.stop.send(());
                worker.thread
            })
            .collect();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a network worker ended by a panic");
            }
        }
    }
}

impl Worker {
    fn start(number: usize, hooks: Hooks) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || run(number, hooks, &tell, stopped))?;
        let handle = told.recv().map_err(|_| io::Error::other("a network worker ended before it began"))??;
        Ok(Self { handle, stop, thread })
    }
}

fn run(number: usize, hooks: Hooks, tell: &mpsc::SyncSender<io::Result<Handle>>, stopped: oneshot::Receiver<()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = match builder.enable_all().on_thread_park(hooks.before_sleep).build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(tell.send(Err(error))),
    };
    (hooks.on_start)(number);
    if tell.send(Ok(runtime.handle().clone())).is_err() {
        return;
    }
    // Either way it ends: told to stop, or the owner has gone.
    let _ = runtime.block_on(stopped);
    runtime.shutdown_timeout(BLOCKING_GRACE);
}

/// Starts a task on the worker that this is called on. A panic in it ends it alone.
#[expect(clippy::disallowed_methods, reason = "the one place that starts tasks")]
pub fn spawn<F>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(task)
}

/// Runs what would hold up a worker for milliseconds on a thread beside it. None when the worker is ending.
pub async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// The monotonic clock, finer than `base::Clock`: for how long a start took, and for load.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock to the µs")]
pub fn now() -> Instant {
    Instant::now()
}

/// Runs `work` to its end on this thread, with a runtime of its own.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the operating system gives an event queue")
        .block_on(work)
}

/// Lets a client of hyper's start its tasks here.
#[derive(Debug, Clone, Copy)]
pub struct Tasks;

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        drop(spawn(task));
    }
}

/// Binds one listener for each of `count` workers, all on one address; the kernel spreads connections over them.
///
/// Port 0 is chosen once. An address that another process listens on is refused, although the sockets share theirs
/// among each other: a second server on the same port would silently take half of the connections.
pub fn bind(listen: &str, count: usize) -> io::Result<Vec<Socket>> {
    let asked = listen.to_socket_addrs()?.next();
    let asked = asked.ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address"))?;
    let mut tries = if asked.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_shared(asked, count) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            result => return result,
        }
    }
}

fn bind_shared(asked: SocketAddr, count: usize) -> io::Result<Vec<Socket>> {
    let alone = socket(asked)?;
    alone.bind(&asked.into())?;
    if count == 1 {
        alone.listen(BACKLOG)?;
        return Ok(vec![alone]);
    }
    let address = local_address(&alone)?;
    // Was only asked whether the address is free. Sharing must be declared before a socket is bound.
    drop(alone);
    (0..count)
        .map(|_| {
            let shared = socket(address)?;
            shared.set_reuse_port(true)?;
            shared.bind(&address.into())?;
            shared.listen(BACKLOG)?;
            Ok(shared)
        })
        .collect()
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process in TIME_WAIT do not keep a restart from binding.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The address that a socket of [`bind`] has.
pub fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("a TCP socket has no IP address"))
}

/// Registers a socket of [`bind`] with the worker that this is called on.
pub fn listener(socket: Socket) -> io::Result<TcpListener> {
    TcpListener::from_std(socket.into())
}

/// Answers leave at once, and a peer that has vanished without a word is noticed within about two minutes. The kernel
/// does it: pings of our own would wake every idle connection.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    SockRef::from(stream).set_tcp_keepalive(&keepalive.with_retries(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_one_port_that_no_other_server_gets() {
        let ours = bind("127.0.0.1:0", 3).unwrap();
        let address = local_address(&ours[0]).unwrap();
        assert_ne!(address.port(), 0);
        assert!(ours.iter().all(|socket| local_address(socket).unwrap() == address));
        for workers in [1, 3] {
            let other = bind(&address.to_string(), workers).map(|_| ());
            assert_eq!(other.map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse), "{workers} workers");
        }
    }

    #[test]
    fn a_panic_in_a_task_ends_that_task_alone() {
        let runtime = Runtime::start(2, Hooks::default()).unwrap();
        assert_eq!(runtime.handles().len(), 2);
        let failed = runtime.spawn_on(3, async { panic!("on purpose") });
        let (tell, told) = mpsc::channel();
        runtime.spawn_on(1, async move {
            let result = failed.await;
            spawn(async move { tell.send(result.is_err()) });
        });
        assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(true), "the worker goes on after the panic");
        runtime.stop();
    }
}
