//! A gRPC port: one listener for each worker, all on one address; clear text and TLS on the same.
//!
//! L1. A failure of one connection, or of accepting one, never ends a listener.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::limits::STALLED_MS_MAX;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;

use crate::admission::{Budget, Share};
use crate::connection::{self, End, OPENING_MAX, Opened};
use crate::metrics::ConnectionMetrics;
use crate::runtime::{self, Runtime};

const STALLED_MAX: Duration = Duration::from_millis(STALLED_MS_MAX);
/// Out of file handles, accepting fails at once, again and again: others get time to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An address that is ours, and that nobody is served on yet.
#[derive(Debug)]
pub struct Bound {
    address: SocketAddr,
    sockets: Vec<Socket>,
    drain: watch::Sender<bool>,
}

/// The running port. Dropped, it stops as if told to, without waiting.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    drain: watch::Sender<bool>,
    open: Arc<Open>,
}

/// How connections are taken.
#[derive(Clone)]
pub struct Options {
    pub tls: TlsAcceptor,
    pub is_tls_required: bool,
    pub connections_max: usize,
    pub metrics: ConnectionMetrics,
    /// What connections may make the process hold.
    pub budget: Budget,
}

/// Who is at the other end of a connection, and which of our addresses was used.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub address: SocketAddr,
    pub local: SocketAddr,
}

/// Ends one connection, without a word to its client.
#[derive(Debug, Clone, Default)]
pub struct Cut(Arc<Notify>);

impl Cut {
    pub fn now(&self) {
        self.0.notify_one();
    }
}

/// Tells when the port begins to stop.
#[derive(Debug, Clone)]
pub struct Draining(watch::Receiver<bool>);

impl Draining {
    /// Ends when the port begins to stop, or when it has gone.
    pub fn begins(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut drain = self.0.clone();
        async move {
            let _ = drain.wait_for(|&is_draining| is_draining).await;
        }
    }
}

impl From<watch::Receiver<bool>> for Draining {
    fn from(receiver: watch::Receiver<bool>) -> Self {
        Self(receiver)
    }
}

/// The connections that are open.
#[derive(Debug)]
struct Open {
    count: AtomicUsize,
    max: usize,
    none_left: Notify,
}

/// One of them, until dropped.
#[derive(Debug)]
struct Slot(Arc<Open>);

/// What every listener has.
#[derive(Clone)]
struct Port<F> {
    options: Options,
    open: Arc<Open>,
    draining: Draining,
    connect: F,
}

impl Bound {
    /// Takes an address, `host:port`; port 0 is any free one.
    pub fn bind(listen: &str, runtime: &Runtime) -> io::Result<Self> {
        let sockets = runtime::bind(listen, runtime.workers())?;
        Ok(Self { address: runtime::local_address(&sockets[0])?, sockets, drain: watch::Sender::new(false) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn draining(&self) -> Draining {
        self.drain.subscribe().into()
    }

    /// Serves connections from now on, each with what `connect` makes for it.
    pub fn serve<F, S, B>(self, runtime: &Runtime, options: Options, connect: F) -> Server
    where
        F: Fn(Peer, Share, Cut) -> S + Clone + Send + Sync + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let open =
            Arc::new(Open { count: AtomicUsize::new(0), max: options.connections_max, none_left: Notify::new() });
        let draining = self.draining();
        let port = Port { options, open: open.clone(), draining, connect };
        for (worker, socket) in self.sockets.into_iter().enumerate() {
            let port = port.clone();
            runtime.spawn_on(worker, async move {
                match runtime::listener(socket) {
                    Ok(listener) => port.listen(listener).await,
                    Err(error) => tracing::error!(%error, "a worker cannot listen for gRPC"),
                }
            });
        }
        Server { address: self.address, drain: self.drain, open }
    }
}

impl Server {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening, tells every client to go elsewhere and waits for the calls in progress until `within` has
    /// passed. True when all of them ended in time. Clients that have no call in progress and say nothing any more are
    /// not waited for.
    pub async fn stop(self, within: Duration) -> bool {
        self.drain.send_replace(true);
        tokio::time::timeout(within, self.open.until_none()).await.is_ok()
    }
}

impl Open {
    /// A place for one more connection, if there is any.
    fn enter(self: &Arc<Self>) -> Option<Slot> {
        let enter = |count| (count < self.max).then_some(count + 1);
        self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).ok()?;
        Some(Slot(self.clone()))
    }

    async fn until_none(&self) {
        loop {
            // Registered before the count is read: the last one cannot leave unnoticed in between.
            let mut none_left = std::pin::pin!(self.none_left.notified());
            none_left.as_mut().enable();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none_left.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}

impl<F, S, B> Port<F>
where
    F: Fn(Peer, Share, Cut) -> S + Clone + Send + Sync + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    async fn listen(self, listener: TcpListener) {
        let mut draining = std::pin::pin!(self.draining.begins());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = draining.as_mut() => return,
            };
            match accepted {
                Ok((stream, address)) => match self.open.enter() {
                    Some(slot) => drop(runtime::spawn(self.clone().serve(stream, address, slot))),
                    None => tracing::debug!(%address, max = self.open.max, "connection refused: grpc.connections_max"),
                },
                Err(error) => {
                    tracing::warn!(%error, "gRPC connections cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(self, stream: TcpStream, address: SocketAddr, _slot: Slot) {
        let end = match self.open_and_serve(stream, address).await {
            Ok(end) => end,
            Err(error) => {
                tracing::debug!(%address, %error, "gRPC connection ended before it was served");
                End::Error
            }
        };
        self.options.metrics.closed(match end {
            End::Client => "client",
            End::Drain => "drain",
            End::Cut => "operator",
            End::Error => "error",
            End::Stalled => "stalled",
        });
    }

    async fn open_and_serve(&self, stream: TcpStream, address: SocketAddr) -> Result<End, connection::Unserved> {
        runtime::tune(&stream)?;
        let local = stream.local_addr()?;
        // Boxed: not needed any more when the connection is served.
        let opening = Box::pin(Opened::accept(stream, &self.options.tls, self.options.is_tls_required, OPENING_MAX));
        let opened = tokio::select! {
            opened = opening => opened?,
            () = self.draining.begins() => return Ok(End::Drain),
        };
        let _open = self.options.metrics.opened("grpc", opened.is_tls());
        let (share, cut) = (self.options.budget.share(), Cut::default());
        let service = (self.connect)(Peer { address, local }, share.clone(), cut.clone());
        let serving = async {
            match opened {
                Opened::Clear(io) => Box::pin(self.serve_one(io, service, share, address)).await,
                Opened::Tls(io) => Box::pin(self.serve_one(io, service, share, address)).await,
            }
        };
        Ok(tokio::select! {
            end = serving => end,
            () = cut.0.notified() => End::Cut,
        })
    }

    async fn serve_one<IO>(&self, io: IO, service: S, share: Share, address: SocketAddr) -> End
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        tokio::select! {
            end = connection::serve(io, service, share.clone(), self.draining.clone()) => end,
            // Its calls end with it, and give back what was not taken.
            () = share.stalls(STALLED_MAX) => {
                tracing::info!(%address, after = ?STALLED_MAX, "gRPC connection closed: the client takes no answers");
                End::Stalled
            }
        }
    }
}

#[cfg(test)]
#[path = "port_tests.rs"]
mod tests;
