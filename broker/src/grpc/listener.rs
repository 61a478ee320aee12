//! The gRPC port: one listener for each worker, all on one address.
//!
//! L1. A failure of one connection, or of accepting one, never ends a listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use http::uri::Authority;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use proto::v2::messaging_service_server::MessagingServiceServer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;
use tower::Service as _;

use super::caller::UserAgents;
use super::connection::{self, End, OPENING_MAX, Opened};
use super::metrics::{ConnectionMetrics, Metrics};
use super::service::Peer;
use super::{Gateway, endpoints, tls};
use crate::Broker;
use crate::gateways::StartError;
use crate::runtime::{self, Runtime, Tasks};

/// Out of file handles, accepting fails at once, again and again: others get time to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The running port. Dropped, it stops as if told to, without waiting.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    drain: watch::Sender<bool>,
    open: Arc<Open>,
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
struct Port {
    gateway: Arc<Gateway>,
    tls: TlsAcceptor,
    is_tls_required: bool,
    http2: http2::Builder<Tasks>,
    connections: ConnectionMetrics,
    open: Arc<Open>,
}

impl Server {
    pub(crate) fn start(
        runtime: &Runtime,
        broker: &Broker,
        connections: ConnectionMetrics,
    ) -> Result<Self, StartError> {
        let config = broker.config();
        let listen = |cause| StartError::Listen { setting: "grpc.listen", address: config.grpc.listen.clone(), cause };
        let sockets = runtime::bind(&config.grpc.listen, runtime.workers()).map_err(listen)?;
        let address = runtime::local_address(&sockets[0]).map_err(listen)?;
        let advertised = match &config.grpc.advertise {
            Some(text) => {
                Some(endpoints::parse(text, address.port()).ok_or_else(|| StartError::Advertise(text.clone()))?)
            }
            None => None,
        };
        let (drain, draining) = watch::channel(false);
        let open =
            Arc::new(Open { count: AtomicUsize::new(0), max: config.grpc.connections_max, none_left: Notify::new() });
        let port = Port {
            gateway: Arc::new(Gateway {
                broker: broker.clone(),
                metrics: Arc::new(Metrics::register(broker.registry())?),
                agents: UserAgents::default(),
                advertised,
                drain: draining,
            }),
            tls: tls::acceptor(config)?,
            is_tls_required: config.tls.required,
            http2: connection::http2(),
            connections,
            open: open.clone(),
        };
        for (worker, socket) in sockets.into_iter().enumerate() {
            let port = port.clone();
            runtime.spawn_on(worker, async move {
                match runtime::listener(socket) {
                    Ok(listener) => port.listen(listener).await,
                    Err(error) => tracing::error!(%error, "a worker cannot listen for gRPC"),
                }
            });
        }
        Ok(Self { address, drain, open })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening, tells every client to go elsewhere and waits for the calls in progress until `within` has
    /// passed. True when all of them ended in time.
    pub(crate) async fn stop(self, within: Duration) -> bool {
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

impl Port {
    async fn listen(self, listener: TcpListener) {
        let mut draining = std::pin::pin!(self.gateway.draining());
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
        self.connections.closed(match end {
            End::Client => "client",
            End::Drain => "drain",
            End::Error => "error",
        });
    }

    async fn open_and_serve(&self, stream: TcpStream, address: SocketAddr) -> Result<End, connection::Unserved> {
        runtime::tune(&stream)?;
        let local = stream.local_addr()?;
        let opening = Opened::accept(stream, &self.tls, self.is_tls_required, OPENING_MAX);
        let opened = tokio::select! {
            opened = opening => opened?,
            () = self.gateway.draining() => return Ok(End::Drain),
        };
        let _open = self.connections.opened("grpc", opened.is_tls());
        let peer = Peer::new(self.gateway.clone(), address, local);
        let service = MessagingServiceServer::new(peer).max_decoding_message_size(base::limits::REQUEST_BYTES_MAX);
        let service = hyper::service::service_fn(move |request| service.clone().call(with_authority(request)));
        let drain = self.gateway.drain.clone();
        Ok(match opened {
            Opened::Clear(io) => connection::serve(io, &self.http2, service, drain).await,
            Opened::Tls(io) => connection::serve(io, &self.http2, service, drain).await,
        })
    }
}

/// Keeps the authority of the calls that answer with this server's address: the generated service forgets the URI.
/// Others go without, because an extension costs a call more than all else that the gateway adds to it.
fn with_authority(mut request: Request<Incoming>) -> Request<Incoming> {
    let path = request.uri().path();
    if path.ends_with("/QueryRoute") || path.ends_with("/QueryAssignment") {
        let host = || request.headers().get(http::header::HOST)?.to_str().ok()?.parse::<Authority>().ok();
        if let Some(authority) = request.uri().authority().cloned().or_else(host) {
            request.extensions_mut().insert(authority);
        }
    }
    request
}
