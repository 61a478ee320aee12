//! A way to a server that a test can cut: every connection to it goes through here.
//!
//! What is under way when a way is cut is lost for good: TCP would bring it later, so a connection that lost bytes is
//! reset as soon as its ends can hear of it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

const BUFFER_BYTES: usize = 64 << 10;
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Bytes go there and back.
    Open,
    /// Connections are reset, new ones too.
    Reset,
    /// Connections stay, new ones are taken, and no byte arrives anywhere.
    Silent,
    /// As in [`Way::Silent`] for those that are there, for ever; bytes of new ones go there and back. Something
    /// between the two ends has forgotten about them.
    Forgotten,
}

/// Listens on loopback for its life, in place of a server that may come and go.
pub struct Link {
    address: SocketAddr,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    way: Way,
    /// A connection that is older than the last cut is broken, also when it has not noticed.
    cuts: u64,
    last_cut: Way,
}

impl Link {
    /// Leads to `server`, `host:port`.
    pub async fn to(server: String) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = watch::Sender::new(State { way: Way::Open, cuts: 0, last_cut: Way::Open });
        let accepting = start(accept(listener, server, state.subscribe()));
        Self { address, state, accepting }
    }

    /// `host:port` for those who are to go this way.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn set(&self, way: Way) {
        self.state.send_modify(|state| {
            state.way = way;
            if way != Way::Open {
                state.cuts += 1;
                state.last_cut = way;
            }
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, server: String, state: watch::Receiver<State>) {
    // Ends its connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Only fails when a process has too many files open: the next may do better.
                let Ok((near, _)) = accepted else { continue };
                add(&mut connections, carry(near, server.clone(), state.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries a connection until one of its ends, or a cut, ends it.
async fn carry(mut near: TcpStream, server: String, mut state: watch::Receiver<State>) {
    let State { mut way, cuts, .. } = *state.borrow_and_update();
    let mut far = None;
    if matches!(way, Way::Open | Way::Forgotten)
        && let Ok(Ok(stream)) = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(&server)).await
    {
        let far = far.insert(stream);
        tokio::select! {
            // What is said after a cut is not heard.
            biased;
            Ok(cut) = state.wait_for(|state| state.cuts != cuts) => way = cut.last_cut,
            _ = both_ways(&mut near, far) => way = Way::Reset,
        }
    }
    match way {
        Way::Open | Way::Reset => {}
        Way::Forgotten => vanish(&mut near, &mut far).await,
        Way::Silent => {
            // Neither end may hear that the other has gone.
            let for_ever = async {
                vanish(&mut near, &mut far).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = for_ever => {}
                _ = state.wait_for(|state| state.way != Way::Silent) => {}
            }
        }
    }
    reset(&near);
    far.iter().for_each(reset);
}

/// Reads what both ends say until they end.
async fn vanish(near: &mut TcpStream, far: &mut Option<TcpStream>) {
    let far = async {
        if let Some(far) = far {
            swallow(far).await;
        }
    };
    tokio::join!(swallow(near), far);
}

async fn swallow(from: &mut TcpStream) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while matches!(from.read(&mut buffer).await, Ok(1..)) {}
}

async fn both_ways(near: &mut TcpStream, far: &mut TcpStream) -> io::Result<()> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_in, near_out) = near.split();
    let (far_in, far_out) = far.split();
    // A half that ends leaves the other open.
    tokio::try_join!(one_way(near_in, far_out), one_way(far_in, near_out)).map(|_| ())
}

async fn one_way(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}

/// Its end hears of a reset, and not of an orderly end, as soon as it is dropped.
fn reset(stream: &TcpStream) {
    // Zero makes closing it a reset. A stream that is broken already needs none.
    let _is_set = stream.set_zero_linger();
}

#[expect(clippy::disallowed_methods, reason = "a link owns its task, and ends it when it is dropped")]
fn start(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(work)
}

fn add(connections: &mut JoinSet<()>, work: impl Future<Output = ()> + Send + 'static) {
    connections.spawn(work);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cut_way_resets_or_swallows_and_an_open_one_carries_again() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let link = Link::to(listener.local_addr().unwrap().to_string()).await;
        let connect = async || {
            let near = TcpStream::connect(link.address()).await.unwrap();
            let (far, _) = listener.accept().await.unwrap();
            (near, far)
        };
        let (mut near, mut far) = connect().await;
        near.write_all(b"there").await.unwrap();
        let mut heard = [0; 5];
        far.read_exact(&mut heard).await.unwrap();
        far.write_all(b"back!").await.unwrap();
        near.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"back!");

        link.set(Way::Silent);
        near.write_all(b"lost").await.unwrap();
        link.set(Way::Open);
        for stream in [&mut near, &mut far] {
            assert_eq!(stream.read(&mut heard).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }

        let (mut near, mut far) = connect().await;
        link.set(Way::Reset);
        let mut refused = TcpStream::connect(link.address()).await.unwrap();
        for stream in [&mut near, &mut far, &mut refused] {
            assert_eq!(stream.read(&mut heard).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
        link.set(Way::Open);
        let (mut near, far) = connect().await;
        link.set(Way::Forgotten);
        near.write_all(b"lost").await.unwrap();
        drop(near);
        let (mut near, mut later) = connect().await;
        near.write_all(b"again").await.unwrap();
        later.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"again");
        assert!(far.try_read(&mut heard).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));

        link.set(Way::Open);
        let (mut near, mut far) = connect().await;
        near.write_all(b"again").await.unwrap();
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"again");
    }
}
