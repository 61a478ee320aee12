//! The bytes of a connection on their way: in, in turns that leave calls time to read them; out, and whether the client
//! takes them.
//!
//! HTTP/2 lets a client send up to its windows before anybody has read a byte, and its implementation reads a socket for as
//! long as there is something. With many connections that would be far more than any budget. So a connection pauses
//! after each turn until the calls it has brought were run, which read what came or refuse it. A client that takes no
//! answers is not heard beyond a few more calls: every call makes an answer. One that needs too many refusals pauses
//! (`pace`).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker, ready};

use base::limits::STUCK_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

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
    /// The end of a pause.
    resumes: Option<Pin<Box<Sleep>>>,
}

impl<IO> Flow<IO> {
    pub fn new(inner: IO, share: Share) -> Self {
        Self { inner, share, turn: 0, reader: None, resumes: None }
    }

    /// How much more may be read in this turn; pending when it is over, or the connection is paused.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        if let Some(resumes) = &mut self.resumes {
            ready!(resumes.as_mut().poll(context));
            self.resumes = None;
        }
        if let Some(rest) = self.share.paused() {
            ready!(self.resumes.insert(Box::pin(tokio::time::sleep(rest))).as_mut().poll(context));
            self.resumes = None;
        }
        let left = self.share.0.budget.turn_bytes().saturating_sub(self.turn);
        if left == 0 {
            // Behind the calls that were brought: tasks of a worker run in the order in which they were woken.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(left)
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
        let Poll::Ready(left) = self.poll_turn(context) else {
            self.turn = 0;
            return Poll::Pending;
        };
        if self.share.0.stuck.load(Ordering::Relaxed) > STUCK_BYTES_MAX {
            self.turn = 0;
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = if buffer.remaining() > left {
            // HTTP/2's buffer grows with what there is to read.
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(left));
            let read = Pin::new(&mut self.inner).poll_read(context, &mut part);
            let length = part.filled().len();
            buffer.advance(length);
            read
        } else {
            Pin::new(&mut self.inner).poll_read(context, buffer)
        };
        let Poll::Ready(result) = read else {
            self.turn = 0;
            return Poll::Pending;
        };
        let length = buffer.filled().len() - before;
        if length > 0 {
            self.share.0.heard();
        }
        self.turn += length;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use base::ByteSize;
    use base::limits::{REFUSALS_OF_SPAN, TURN_BYTES_MAX, TURN_BYTES_MIN};

    use super::*;
    use crate::admission::{Budget, Overload, pace};
    use crate::runtime;

    /// More than a turn has, so that one that does not end is seen.
    const READS_MAX: usize = 10_000;

    /// Always has something to read; takes what is written, or nothing.
    #[derive(Debug, Default)]
    struct Endless {
        takes_nothing: bool,
    }

    #[derive(Debug, Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl AsyncRead for Endless {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            buffer.put_slice(&vec![0; buffer.remaining()]);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Endless {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            if self.takes_nothing { Poll::Pending } else { Poll::Ready(Ok(bytes.len())) }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn budget() -> Budget {
        Budget::new(ByteSize(64 << 20), &prometheus::Registry::new()).unwrap()
    }

    /// Reads once; how much came.
    fn read(flow: &mut Flow<Endless>, bell: &Arc<Bell>) -> Option<usize> {
        read_into(&mut [0; 1000], flow, bell)
    }

    fn read_into(bytes: &mut [u8], flow: &mut Flow<Endless>, bell: &Arc<Bell>) -> Option<usize> {
        let waker = bell.clone().into();
        let mut buffer = ReadBuf::new(bytes);
        let polled = Pin::new(flow).poll_read(&mut Context::from_waker(&waker), &mut buffer);
        polled.is_ready().then(|| buffer.filled().len())
    }

    fn write(flow: &mut Flow<Endless>) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(flow).poll_write(&mut context, b"answer").is_ready()
    }

    #[test]
    fn a_connection_pauses_after_its_turn_which_is_short_when_there_are_many() {
        let budget = budget();
        let many: Vec<Share> = (0..10_000).map(|_| budget.share()).collect();
        let mut flow = Flow::new(Endless::default(), many[0].clone());
        let bell = Arc::new(Bell::default());
        for turn in 1..4 {
            let read: usize = std::iter::from_fn(|| read(&mut flow, &bell)).take(READS_MAX).sum();
            assert_eq!((read, bell.0.load(Ordering::Relaxed)), (TURN_BYTES_MIN, turn), "and goes on by itself");
        }
        drop(many);
        let read: usize = std::iter::from_fn(|| read(&mut flow, &bell)).take(READS_MAX).sum();
        assert_eq!(read, TURN_BYTES_MAX);
        let mut large = vec![0; 3 * TURN_BYTES_MAX];
        assert_eq!(read_into(&mut large, &mut flow, &bell), Some(TURN_BYTES_MAX), "however much there is room for");
    }

    #[tokio::test]
    async fn a_connection_that_is_refused_too_often_is_not_read_in_that_span_and_then_in_smaller_turns() {
        let share = budget().share();
        let mut flow = Flow::new(Endless::default(), share.clone());
        let mut refusals = 0;
        while share.0.paused_in.load(Ordering::Relaxed) == 0 {
            assert!(refusals < 100 * REFUSALS_OF_SPAN, "they are given in a few spans");
            share.refused(Overload::Wait, runtime::now());
            refusals += 1;
        }
        assert!(refusals >= REFUSALS_OF_SPAN, "{refusals} refusals pause nobody");
        let paused_in = share.0.paused_in.load(Ordering::Relaxed);
        let mut bytes = [0; 1000];
        let mut buffer = ReadBuf::new(&mut bytes);
        std::future::poll_fn(|context| Pin::new(&mut flow).poll_read(context, &mut buffer)).await.unwrap();
        assert!(pace::span(runtime::now()) > paused_in, "nothing is read before");
        let bell = Arc::new(Bell::default());
        let read: usize = std::iter::from_fn(|| read(&mut flow, &bell)).take(READS_MAX).sum();
        assert_eq!((read + 1000, bell.0.load(Ordering::Relaxed)), (TURN_BYTES_MAX / 2, 1));
    }

    #[test]
    fn a_client_that_takes_no_answers_is_not_heard_until_it_does() {
        let budget = budget();
        let share = budget.share();
        let mut flow = Flow::new(Endless { takes_nothing: true }, share.clone());
        let bell = Arc::new(Bell::default());
        assert!(!write(&mut flow));
        drop(share.hold(STUCK_BYTES_MAX).unwrap());
        assert!(read(&mut flow, &bell).is_some(), "a few answers may wait");
        drop(share.hold(1).unwrap());
        assert_eq!((read(&mut flow, &bell), budget.used()), (None, STUCK_BYTES_MAX + 1));
        assert_eq!(bell.0.load(Ordering::Relaxed), 0);
        flow.inner.takes_nothing = false;
        assert!(write(&mut flow));
        assert_eq!((bell.0.load(Ordering::Relaxed), budget.used()), (1, 0));
        assert!(read(&mut flow, &bell).is_some());
    }
}
