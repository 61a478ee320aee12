//! The HTTP port. It runs on one worker: operators and Prometheus make few calls.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use base::limits::STALLED_MS_MAX;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::Service as _;

use super::{bodies, guard, paid};
use crate::admission::{Budget, Flow};
use crate::metrics::ConnectionMetrics;
use crate::port::Peer;
use crate::runtime::{self, Runtime};

/// Bodies of requests (operations D3).
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Connections at once; with one request at a time on each, this bounds the requests too (D3).
const CONNECTIONS_MAX: usize = 256;
/// What a connection reads before it is looked at: the head of a request is no longer.
const BUFFER_BYTES_MAX: usize = 128 * 1024;
/// How long a client may take for the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(10);
const STALLED_MAX: Duration = Duration::from_millis(STALLED_MS_MAX);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The running port. Dropped, it stops; requests in progress are finished.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// Held for its drop: listeners and connections end with it.
    _stop: watch::Sender<()>,
}

impl Server {
    /// Serves `app` on `listen`, `host:port`; port 0 is any free one. None when `listen` is empty.
    pub fn start(
        runtime: &Runtime,
        listen: &str,
        app: Router,
        connections: ConnectionMetrics,
        budget: Budget,
    ) -> io::Result<Option<Self>> {
        if listen.is_empty() {
            return Ok(None);
        }
        let socket = runtime::bind(listen, 1)?.remove(0);
        let address = runtime::local_address(&socket)?;
        let (stop, stopped) = watch::channel(());
        let app = around(app);
        runtime.spawn_on(0, async move {
            match runtime::listener(socket) {
                Ok(listener) => run(listener, app, connections, budget, stopped).await,
                Err(error) => tracing::error!(%error, "HTTP cannot be listened for"),
            }
        });
        Ok(Some(Self { address, _stop: stop }))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// What every request passes through.
fn around(app: Router) -> Router {
    app.fallback(guard::no_such_path)
        .method_not_allowed_fallback(guard::no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(bodies::receive))
        .layer(middleware::from_fn(paid::answer))
        .layer(middleware::from_fn(guard::around))
}

async fn run(
    listener: TcpListener,
    app: Router,
    connections: ConnectionMetrics,
    budget: Budget,
    stopped: watch::Receiver<()>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut until = stopped.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = until.changed() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                // Beyond the limit a connection is closed at once: a scrape that has to wait would be the wrong sign.
                let Ok(place) = places.clone().try_acquire_owned() else { continue };
                let (app, connections, stopped) = (app.clone(), connections.clone(), stopped.clone());
                let budget = budget.clone();
                runtime::spawn(async move {
                    let _open = connections.opened("http", false);
                    connections.closed(serve(stream, address, app, budget, stopped).await);
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "HTTP connections cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Why it ended.
async fn serve(
    stream: TcpStream,
    address: SocketAddr,
    app: Router,
    budget: Budget,
    mut stopped: watch::Receiver<()>,
) -> &'static str {
    let Ok(local) = stream.local_addr() else { return "client" };
    if let Err(error) = runtime::tune(&stream) {
        tracing::debug!(%address, %error, "an HTTP connection ended before it was served");
        return "client";
    }
    let share = budget.share();
    let flow = Flow::new(stream, share.clone());
    let of_connection = share.clone();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer { address, local });
        request.extensions_mut().insert(of_connection.clone());
        app.clone().call(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).max_buf_size(BUFFER_BYTES_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(flow), service));
    let mut stalls = std::pin::pin!(share.stalls(STALLED_MAX));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stalls.as_mut() => return "stalled",
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection => result,
                () = stalls => return "stalled",
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%address, %error, "HTTP connection ended");
    }
    "client"
}
