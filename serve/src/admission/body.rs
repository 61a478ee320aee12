//! The one message of a call, received: its length is known and paid for before more than its beginning is held.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use base::limits::{REQUEST_BYTES_PER_SECOND_MIN, REQUEST_MS_MAX};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use tonic::Status;

use super::commands::Commands;
use super::{Held, Overload};
use crate::runtime;

/// gRPC puts this before each message: whether it is compressed, and its length.
pub const PREFIX_BYTES: usize = 5;

/// Of a message that is refused so much is read, and for so long, that its call ends orderly.
const LEFT_BYTES_MAX: usize = 64 * 1024;
const LEFT_WITHIN: Duration = Duration::from_secs(5);

/// Frames of less are copied together.
const FRAME_BYTES_MIN: usize = 4 * 1024;

/// A message that has begun to arrive.
#[derive(Debug)]
pub struct Begun<B> {
    frames: VecDeque<Bytes>,
    /// Small frames behind them: kept as they are, a message in frames of a byte would take forty times its length.
    tail: BytesMut,
    received: usize,
    /// None: not known yet, or the body ended before it said.
    length: Option<usize>,
    rest: B,
}

/// All of a message, as far as it came.
#[derive(Debug, Default)]
pub struct Message {
    frames: VecDeque<Bytes>,
}

/// What of a call is passed on.
#[derive(Debug)]
pub enum Received<B> {
    Message(Message),
    Commands(Box<Commands<B>>),
}

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    #[error(transparent)]
    Overload(#[from] Overload),
    #[error("the request did not arrive within {} s", within.as_secs())]
    TooSlow { within: Duration },
    /// Nobody is there to be told.
    #[error("the client left")]
    Left,
}

impl<B: Body<Data = Bytes> + Unpin> Begun<B> {
    pub fn new(body: B) -> Self {
        Self { frames: VecDeque::new(), tail: BytesMut::new(), received: 0, length: None, rest: body }
    }

    /// Reads until the length is known, and says it: 0 when the message says nothing.
    pub async fn length(&mut self) -> Result<usize, Unread> {
        self.read(PREFIX_BYTES, Duration::from_millis(REQUEST_MS_MAX)).await?;
        // Whatever came first is in one piece.
        self.length = announced(self.frames.front().map_or(&self.tail[..], |first| first));
        Ok(self.length.unwrap_or(0))
    }

    /// Pays for the message, whose length was asked for, and reads it to its end. One of more than `max` bytes is not read:
    /// who decodes it refuses it by its beginning.
    pub async fn receive(&mut self, held: &mut Held, max: usize) -> Result<Message, Unread> {
        if let Some(length) = self.length.filter(|length| *length <= max) {
            held.grow(length)?;
            let seconds = (length / REQUEST_BYTES_PER_SECOND_MIN) as u64;
            let within = Duration::from_millis(REQUEST_MS_MAX) + Duration::from_secs(seconds);
            // The end belongs to it: answered before, the call would end with a reset.
            self.read(PREFIX_BYTES + length + 1, within).await?;
        }
        self.gather();
        Ok(Message { frames: std::mem::take(&mut self.frames) })
    }

    /// The body, of which nothing was read yet.
    pub fn into_rest(self) -> B {
        self.rest
    }

    /// What is there of the message, without waiting for any more: for an answer that repeats a part of a small one.
    pub fn so_far(&mut self, max: usize) -> Vec<u8> {
        let mut context = Context::from_waker(Waker::noop());
        while self.received < max {
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut self.rest).poll_frame(&mut context) else { break };
            self.keep(frame);
        }
        self.bytes().skip(PREFIX_BYTES).take(max).collect()
    }

    /// Lets go of a call that is refused. A small message is read to its end first: what comes for a stream that was reset
    /// before counts as a mistake of its client, and HTTP/2 ends the connection after many.
    pub fn leave(mut self)
    where
        B: Send + 'static,
        B::Error: Send,
    {
        self.frames.clear();
        let mut left = LEFT_BYTES_MAX;
        let mut context = Context::from_waker(Waker::noop());
        // Mostly all of it is there already.
        while let Poll::Ready(frame) = Pin::new(&mut self.rest).poll_frame(&mut context) {
            if !is_on(frame, &mut left) {
                return;
            }
        }
        let mut rest = self.rest;
        runtime::spawn(async move {
            let reading = async { while is_on(rest.frame().await, &mut left) {} };
            let _is_over = tokio::time::timeout(LEFT_WITHIN, reading).await;
        });
    }

    /// Reads until so many bytes are there in all, or the body has ended.
    async fn read(&mut self, bytes: usize, within: Duration) -> Result<(), Unread> {
        // Mostly it is all there. Waiting takes a timer and its room, which only those pay for who have to wait.
        if let Poll::Ready(read) = self.poll_read(bytes, &mut Context::from_waker(Waker::noop())) {
            return read;
        }
        let waiting = tokio::time::timeout(within, poll_fn(|context| self.poll_read(bytes, context)));
        Box::pin(waiting).await.unwrap_or(Err(Unread::TooSlow { within }))
    }

    fn poll_read(&mut self, bytes: usize, context: &mut Context<'_>) -> Poll<Result<(), Unread>> {
        while self.received < bytes && !self.rest.is_end_stream() {
            match ready!(Pin::new(&mut self.rest).poll_frame(context)) {
                Some(Ok(frame)) => self.keep(frame),
                Some(Err(_)) => return Poll::Ready(Err(Unread::Left)),
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn keep(&mut self, frame: Frame<Bytes>) {
        let Ok(data) = frame.into_data() else { return };
        let is_whole = self.received == 0 && announced(&data).is_some_and(|length| data.len() == PREFIX_BYTES + length);
        self.received += data.len();
        if is_whole || data.len() >= FRAME_BYTES_MIN {
            self.gather();
            self.frames.push_back(data);
        } else {
            self.tail.extend_from_slice(&data);
        }
    }

    fn gather(&mut self) {
        if !self.tail.is_empty() {
            self.frames.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.frames.iter().flatten().chain(&self.tail).copied()
    }
}

/// Whether there may be more that is worth reading.
fn is_on<E>(frame: Option<Result<Frame<Bytes>, E>>, left: &mut usize) -> bool {
    let Some(Ok(frame)) = frame else { return false };
    let length = frame.data_ref().map_or(0, Bytes::len);
    *left = left.saturating_sub(length);
    *left > 0
}

/// The length that a prefix says.
fn announced(prefix: &[u8]) -> Option<usize> {
    let length: [u8; 4] = prefix.get(1..PREFIX_BYTES)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(length)).ok()
}

impl<B: Body<Data = Bytes> + Unpin> Body for Received<B>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            Self::Message(message) => Poll::Ready(message.frames.pop_front().map(|data| Ok(Frame::data(data)))),
            Self::Commands(commands) => Pin::new(&mut **commands).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(message) => message.frames.is_empty(),
            Self::Commands(commands) => commands.is_end_stream(),
        }
    }
}

#[cfg(test)]
mod tests {
    use base::ByteSize;
    use http_body_util::StreamBody;
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::admission::{Budget, Share};

    fn share() -> Share {
        Budget::new(ByteSize(1 << 20), &prometheus::Registry::new()).unwrap().share()
    }

    async fn whole(message: Message) -> Vec<u8> {
        Received::<hyper::body::Incoming>::Message(message).collect().await.unwrap().to_bytes().to_vec()
    }

    fn body(pieces: Vec<Vec<u8>>) -> impl Body<Data = Bytes, Error = hyper::Error> + Unpin {
        let frames = pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from(piece))));
        StreamBody::new(tokio_stream::iter(frames.collect::<Vec<_>>()))
    }

    fn framed(length: usize) -> Vec<u8> {
        let bytes = (0..length).map(|number| number as u8);
        [0].into_iter().chain(u32::try_from(length).unwrap().to_be_bytes()).chain(bytes).collect()
    }

    #[tokio::test]
    async fn a_message_comes_whole_however_it_is_cut_and_is_paid_for_before_it_is_read() {
        let share = share();
        for length in [0, 1, 300, 20_000] {
            for size in [1, 4, 5, 6, 1000, 5000, 50_000] {
                let whole = framed(length);
                let mut begun = Begun::new(body(whole.chunks(size).map(<[u8]>::to_vec).collect()));
                assert_eq!(begun.length().await.unwrap(), length);
                let mut held = share.hold(0).unwrap();
                let message = begun.receive(&mut held, 20_000).await.unwrap();
                assert_eq!(held.bytes(), length, "pieces of {size}");
                assert!(message.frames.len() <= 1 + whole.len() / FRAME_BYTES_MIN * 2, "pieces of {size}");
                assert_eq!(self::whole(message).await, whole, "pieces of {size}");
            }
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_by_its_first_bytes_and_what_is_cut_is_passed_on() {
        let share = share();
        let mut held = share.hold(0).unwrap();
        let rest = std::iter::from_fn(|| panic!("it is read although it is not paid for"));
        let frames = std::iter::once(Ok::<_, hyper::Error>(Frame::data(framed(2 << 20)[..5].to_vec().into())));
        let mut large = Begun::new(StreamBody::new(tokio_stream::iter(frames.chain(rest))));
        assert_eq!(large.length().await.unwrap(), 2 << 20);
        assert!(matches!(large.receive(&mut held, 4 << 20).await, Err(Unread::Overload(Overload::Memory))));
        let mut too_large = Begun::new(body(vec![framed(1000)[..100].to_vec(), framed(1000)]));
        assert_eq!(too_large.length().await.unwrap(), 1000);
        let passed_on = too_large.receive(&mut held, 999).await.unwrap();
        assert_eq!((whole(passed_on).await.len(), held.bytes()), (100, 0));
        for cut in [0, 3, 5, 50] {
            let mut begun = Begun::new(body(vec![framed(100)[..cut].to_vec()]));
            begun.length().await.unwrap();
            let message = begun.receive(&mut held, 999).await.unwrap();
            assert_eq!(whole(message).await.len(), cut);
        }
    }

    /// By the clock of the runtime, which goes on to the next deadline when there is nothing else to do.
    #[tokio::test(start_paused = true)]
    async fn a_message_that_stops_is_given_up_after_the_time_that_its_length_allows() {
        for (sent, length, seconds) in [(0, 9, 30), (3, 9, 30), (5, 9, 30), (13, 9, 30), (100, 256 * 1024, 34)] {
            let frames = [Ok::<_, hyper::Error>(Frame::data(Bytes::from(framed(length)[..sent].to_vec())))];
            let frames = tokio_stream::iter(frames).chain(tokio_stream::pending());
            let mut begun = Begun::new(StreamBody::new(frames));
            let (began, mut held) = (tokio::time::Instant::now(), share().hold(0).unwrap());
            let unread = match begun.length().await {
                Ok(_) => begun.receive(&mut held, 1 << 20).await.unwrap_err(),
                Err(unread) => unread,
            };
            let allowed = Duration::from_secs(seconds);
            assert!(
                matches!(unread, Unread::TooSlow { within } if within == allowed),
                "{sent} of {length}: {unread:?}"
            );
            assert_eq!(began.elapsed(), allowed, "{sent} of {length}");
        }
    }

    #[tokio::test]
    async fn bytes_behind_the_message_are_not_read_for_ever() {
        let pieces = std::iter::repeat_with(|| Ok::<_, hyper::Error>(Frame::data(Bytes::from(framed(100)))));
        let mut begun = Begun::new(StreamBody::new(tokio_stream::iter(pieces)));
        assert_eq!(begun.length().await.unwrap(), 100);
        let mut held = share().hold(0).unwrap();
        assert_eq!(begun.receive(&mut held, 999).await.unwrap().frames.len(), 2, "what showed that there is more");
    }

    #[tokio::test]
    async fn a_small_message_that_is_refused_is_read_to_its_end_and_a_large_one_is_not() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};
        for (pieces, read) in [(3, 3), (1000, LEFT_BYTES_MAX / 4096)] {
            let taken = Arc::new(AtomicUsize::new(0));
            let counted = taken.clone();
            let frames = (0..pieces).map(move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok::<_, hyper::Error>(Frame::data(Bytes::from(vec![0; 4096])))
            });
            Begun::new(StreamBody::new(tokio_stream::iter(frames))).leave();
            assert_eq!(taken.load(Ordering::Relaxed), read);
        }
    }

    #[tokio::test]
    async fn the_beginning_of_a_message_is_there_without_waiting() {
        let mut begun = Begun::new(body(vec![framed(10)[..8].to_vec(), framed(10)[8..].to_vec()]));
        assert_eq!(begun.so_far(100), (0..10).collect::<Vec<u8>>());
        assert_eq!(Begun::new(body(Vec::new())).so_far(100), [0; 0]);
    }
}
