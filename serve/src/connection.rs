//! One TCP connection: what it speaks, and HTTP/2 over it.
//!
//! The first byte tells TLS from clear text (D1). HTTP/2's preface is read here, with a deadline, and given back to the
//! HTTP/2 implementation: whoever connects and says nothing, or something else, is gone before it costs more than a
//! socket.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base::limits::PARTING_MS_MAX;
use futures_util::FutureExt as _;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use tokio_rustls::TlsAcceptor;

use crate::admission::{Flow, Share};
use crate::authority::Frames;
use crate::port::Draining;
use crate::runtime;

const PARTING_MAX: Duration = Duration::from_millis(PARTING_MS_MAX);
/// From accepting a connection to the end of its TLS handshake and HTTP/2's preface.
pub const OPENING_MAX: Duration = Duration::from_secs(10);

const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
const HTTP_1_ANSWER: &[u8] =
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\nconnection: close\r\n\
    content-length: 40\r\n\r\nThis port speaks gRPC over HTTP/2 only.\n";

const STREAMS_MAX: u32 = 4096;
/// A call carries a few dozen short headers.
pub(crate) const HEADER_LIST_BYTES_MAX: u32 = 32 * 1024;
/// One window a round trip: at 1 ms this is 1 GB/s for a single stream, more than a log takes.
pub const STREAM_WINDOW: u32 = 1024 * 1024;
/// Several senders at a time; a stream that is not read never stops the others: requests are read at once or refused. So
/// windows say how fast one client may send, and not how much is held for it: that is paid for (`admission`).
pub const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Fewer frames for large bodies; small ones do not notice.
pub(crate) const FRAME_BYTES_MAX: u32 = 64 * 1024;

/// Why a connection ended before it was served.
#[derive(Debug, thiserror::Error)]
pub enum Unserved {
    #[error("said nothing intelligible in time")]
    TooSlow,
    #[error("ended before it said anything")]
    Silent,
    #[error("speaks something other than HTTP/2")]
    Foreign,
    #[error("speaks clear text, TLS is required")]
    ClearText,
    #[error("failed")]
    Broken(#[from] io::Error),
}

/// How a connection that was served ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Client,
    Drain,
    /// By an operator.
    Cut,
    Error,
    /// The client took nothing of what waited for it.
    Stalled,
}

/// A connection that speaks HTTP/2.
pub enum Opened {
    Clear(Prefaced<TcpStream>),
    Tls(Box<Prefaced<tokio_rustls::server::TlsStream<TcpStream>>>),
}

impl Opened {
    /// Finds out what `stream` speaks.
    pub async fn accept(
        stream: TcpStream,
        tls: &TlsAcceptor,
        is_tls_required: bool,
        within: Duration,
    ) -> Result<Self, Unserved> {
        let opening = async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 0 {
                return Err(Unserved::Silent);
            }
            if first[0] == TLS_HANDSHAKE {
                let stream = tls.accept(stream).await?;
                return Ok(Self::Tls(Box::new(Prefaced::read(stream).await?)));
            }
            if is_tls_required {
                return Err(Unserved::ClearText);
            }
            Ok(Self::Clear(Prefaced::read(stream).await?))
        };
        tokio::time::timeout(within, opening).await.unwrap_or(Err(Unserved::TooSlow))
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

/// Runs the calls of one connection, each as a task, and counts them.
#[derive(Debug, Clone)]
struct Calls(Share);

impl<F> Executor<F> for Calls
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let call = self.0.call();
        // An async block would have room for the task twice: where it is captured, and where it is awaited.
        drop(runtime::spawn(task.map(|_| drop(call))));
    }
}

/// The HTTP/2 server of one connection.
fn http2(calls: Calls) -> http2::Builder<Calls> {
    let mut builder = http2::Builder::new(calls);
    builder
        .max_concurrent_streams(STREAMS_MAX)
        // Clients that leave many calls at once are busy, not hostile (D19): the default of 20 ends such a connection.
        .max_pending_accept_reset_streams(STREAMS_MAX as usize)
        // Counted for as long as a connection lives: clients of a server that is overloaded for days may have many, and
        // each costs no more than a call.
        .max_local_error_reset_streams(None)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .adaptive_window(false)
        .max_frame_size(FRAME_BYTES_MAX)
        // No client looks at it.
        .auto_date_header(false);
    builder
}

/// Serves calls until the client leaves or the server drains: then the client is told, and calls in progress finish.
///
/// HTTP/2 tells it in two steps. The first GOAWAY forbids nothing yet; the second names the last call that was taken,
/// and comes when the client has answered a ping: all that it had sent before is there by then. A client that has been
/// cut off answers none, and is not waited for when nothing is in progress.
pub async fn serve<IO, S, B>(io: IO, service: S, share: Share, drain: Draining) -> End
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = std::convert::Infallible>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let builder = http2(Calls(share.clone()));
    // Each future around one that is awaited has room for it twice.
    let mut connection = Box::pin(builder.serve_connection(TokioIo::new(Flow::new(io, share.clone())), service));
    let result = tokio::select! {
        result = connection.as_mut() => result.map(|()| End::Client),
        () = drain.begins() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                // What has come is read before the client counts as silent.
                biased;
                result = connection => result.map(|()| End::Drain),
                () = share.rests(PARTING_MAX) => Ok(End::Drain),
            }
        }
    };
    result.unwrap_or_else(|error| {
        // A client that vanishes without a word is nobody's mistake.
        let has_left = error.source().is_some_and(|cause| cause.is::<io::Error>());
        tracing::debug!(%error, has_left, "gRPC connection ended");
        if has_left { End::Client } else { End::Error }
    })
}

/// A stream whose HTTP/2 preface was read already and is given out again, before the frames that follow.
#[derive(Debug)]
pub struct Prefaced<IO> {
    /// How much of the preface is still to be given out.
    left: usize,
    /// As long as the client may be one that names several addresses, or is.
    frames: Option<Box<Frames>>,
    inner: IO,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Prefaced<IO> {
    async fn read(mut inner: IO) -> Result<Self, Unserved> {
        let mut read = [0; PREFACE.len()];
        let mut length = 0;
        while length < PREFACE.len() {
            let more = inner.read(&mut read[length..]).await?;
            length += more;
            if more == 0 {
                return Err(Unserved::Silent);
            }
            if read[..length] != PREFACE[..length] {
                if read[..length].iter().take(3).all(u8::is_ascii_uppercase) {
                    explain(inner).await?;
                }
                return Err(Unserved::Foreign);
            }
        }
        Ok(Self { left: PREFACE.len(), frames: Some(Box::default()), inner })
    }
}

/// Gives a browser or a probe an answer that its user understands, and reads until it hangs up: closed with bytes unread,
/// the kernel would throw the answer away. The deadline of the opening holds here too.
async fn explain<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO) -> io::Result<()> {
    io.write_all(HTTP_1_ANSWER).await?;
    io.shutdown().await?;
    while io.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}

impl<IO: AsyncRead + Unpin> AsyncRead for Prefaced<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            let Self { frames, inner, .. } = &mut *self;
            return Frames::poll_read(frames, inner, context, buffer);
        }
        let rest = &PREFACE[PREFACE.len() - self.left..];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.left -= count;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Prefaced<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
