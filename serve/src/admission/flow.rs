//! The bytes of a connection on their way: in, in turns that leave calls time to read them; out, and whether the client
//! takes them.
//!
//! HTTP/2 lets a client send up to its windows before anybody has read a byte, and its implementation reads a socket for as
//! long as there is something. With many connections that would be far more than any budget. So a connection pauses
//! after each turn until the calls it has brought were run, which read what came or refuse it. A client that takes no
//! answers is not heard beyond a few more calls: every call makes an answer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use base::limits::STUCK_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Share;

/// A stream, watched.
#[derive(Debug)]
pub struct Flow<IO> {
    inner: IO,
    share: Share,
    /// Read since the last pause.
    turn: usize,
    /// Who wants to read and has to wait until the client takes something.
    reader: Option<Waker>,
}

impl<IO> Flow<IO> {
    pub fn new(inner: IO, share: Share) -> Self {
        Self { inner, share, turn: 0, reader: None }
    }

    fn moved<T>(&mut self, done: Poll<T>) -> Poll<T> {
        match done {
            Poll::Ready(_) => {
                self.share.0.moved();
                if let Some(reader) = self.reader.take() {
                    reader.wake();
                }
            }
            Poll::Pending => self.share.0.blocked(),
        }
        done
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Flow<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn >= self.share.0.budget.turn_bytes() {
            self.turn = 0;
            // Behind the calls that were brought: tasks of a worker run in the order in which they were woken.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.share.0.stuck.load(Ordering::Relaxed) > STUCK_BYTES_MAX {
            self.turn = 0;
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let Poll::Ready(result) = Pin::new(&mut self.inner).poll_read(context, buffer) else {
            self.turn = 0;
            return Poll::Pending;
        };
        self.turn += buffer.filled().len() - before;
        Poll::Ready(result)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Flow<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.moved(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.moved(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS keeps what was written until here.
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        if flushed.is_pending() || self.share.0.is_blocked.load(Ordering::Relaxed) {
            return self.moved(flushed);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
