//! The reply to a poll as a stream: status, messages, the time of delivery, end.
//!
//! R1. The receipt is confirmed only when the transport came back for the end, and before the caller's deadline. Dropped
//!     earlier, by a reset, a lost connection or a panic, it takes every message of the reply back (D20, F10).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base::{Clock, SystemClock};
use futures_core::Stream;
use proto::v2;
use proto::v2::Code;
use proto::v2::receive_message_response::Content;
use serve::admission::{Answer, Held, Share};

use super::encode;
use super::metrics::{Call, Metrics};
use super::status::{self, Denial};
use crate::api::{Delivery, Received};
use crate::refusal::Refusal;
use crate::subscription::Receipt;

/// What happens when a reply was written to its end.
trait Confirm {
    fn confirm(self);
}

impl Confirm for Receipt {
    fn confirm(self) {
        self.written();
    }
}

/// One reply.
pub(super) struct Reply {
    frames: Frames<Receipt>,
    deadline: Deadline,
    /// Until the end was written.
    call: Option<Call<Arc<Metrics>>>,
    code: Code,
    /// What the client has not taken yet, paid for.
    waiting: Option<(Held, Answer)>,
    /// Running while the end of a large reply is held back.
    hold: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// Replies with more body bytes than this end a little later than their last byte.
///
/// A client that gives a call up after it has the end of the reply in its buffers cannot be told from one that read it.
/// Libraries buffer megabytes, so a large reply would always have ended before its reader could have given up; holding
/// the end back lets a reset arrive first, and then nothing of the reply stays leased to nobody (D20).
const HELD_BYTES_MIN: usize = 2 << 20;
const HOLD: Duration = Duration::from_millis(200);

/// What a delivery has beside its body and its properties.
const DELIVERY_BYTES: usize = 1024;

/// When the caller gives up, by the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at_ms: u64,
}

impl Deadline {
    pub(super) fn after(remaining: Option<Duration>) -> Self {
        let ms = remaining.map_or(u64::MAX, base::duration::ms);
        Self { at_ms: SystemClock.monotonic_ms().saturating_add(ms) }
    }

    fn has_passed(self) -> bool {
        SystemClock.monotonic_ms() > self.at_ms
    }
}

/// The frames in their order, and what is confirmed behind the last one.
struct Frames<R> {
    status: Option<v2::Status>,
    deliveries: std::vec::IntoIter<Delivery>,
    store_host: Arc<str>,
    tail: Tail,
    receipt: Option<R>,
    is_large: bool,
}

/// What follows the messages.
///
/// The encoder gathers frames until the stream has to wait, and the transport takes a chunk only once the peer's window
/// covered the one before it. So a stream that waits for a moment before its last small frame, and after it, reaches
/// its end only when the window has covered every message: a client that stopped reading never confirms them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    FlushMessages,
    DeliveryTime,
    FlushDeliveryTime,
    End,
}

impl Reply {
    pub(super) fn received(
        received: Received,
        store_host: Arc<str>,
        deadline: Deadline,
        call: Call<Arc<Metrics>>,
        share: &Share,
    ) -> Self {
        let (deliveries, receipt) = received.into_parts();
        if deliveries.is_empty() {
            // An OK without messages is an error to C++ (D9).
            let frames = Frames { receipt, ..Frames::denied(&Denial::NoMessage) };
            return Self { frames, deadline, call: Some(call), code: Code::MessageNotFound, waiting: None, hold: None };
        }
        let held = match share.hold(deliveries.iter().map(bytes).sum()) {
            Ok(held) => held,
            // The receipt gives the messages back.
            Err(full) => return Self::denied(&Refusal::Overloaded { limit: full.limit() }.into(), deadline, call),
        };
        let waiting = Some((held, share.answer()));
        let frames = Frames::new(deliveries, store_host, receipt);
        Self { frames, deadline, call: Some(call), code: Code::Ok, waiting, hold: None }
    }

    pub(super) fn denied(denial: &Denial, deadline: Deadline, call: Call<Arc<Metrics>>) -> Self {
        call.refused(denial);
        Self {
            frames: Frames::denied(denial),
            deadline,
            call: Some(call),
            code: denial.code(),
            waiting: None,
            hold: None,
        }
    }
}

/// What a delivery takes until it was taken.
fn bytes(delivery: &Delivery) -> usize {
    let properties = delivery.properties.iter().map(|(name, value)| name.len() + value.len());
    DELIVERY_BYTES + delivery.body.len() + properties.sum::<usize>()
}

impl Stream for Reply {
    type Item = Result<v2::ReceiveMessageResponse, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let deadline = self.deadline;
        if let Some(hold) = &mut self.hold {
            ready!(hold.as_mut().poll(context));
            self.hold = None;
        }
        if let Some((_, answer)) = &self.waiting {
            answer.moves();
        }
        match self.frames.next(|| deadline.has_passed()) {
            Next::Frame(content) => Poll::Ready(Some(Ok(v2::ReceiveMessageResponse { content: Some(content) }))),
            Next::Flush => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Next::Hold => {
                let hold = self.hold.insert(Box::pin(tokio::time::sleep(HOLD)));
                ready!(hold.as_mut().poll(context));
                Poll::Pending
            }
            Next::End => {
                let code = self.code;
                if let Some(call) = self.call.take() {
                    call.answered(code);
                }
                Poll::Ready(None)
            }
        }
    }
}

#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a frame is encoded at once; a box would cost more than the move")]
enum Next {
    Frame(Content),
    Flush,
    /// As `Flush`, and some time more.
    Hold,
    End,
}

impl<R: Confirm> Frames<R> {
    fn new(deliveries: Vec<Delivery>, store_host: Arc<str>, receipt: Option<R>) -> Self {
        let bytes: usize = deliveries.iter().map(|delivery| delivery.body.len()).sum();
        let is_large = bytes >= HELD_BYTES_MIN;
        let deliveries = deliveries.into_iter();
        Self { status: Some(status::ok()), deliveries, store_host, tail: Tail::FlushMessages, receipt, is_large }
    }

    /// Nothing to take back, so nothing to wait for.
    fn denied(denial: &Denial) -> Self {
        let deliveries = Vec::new().into_iter();
        Self {
            status: Some(denial.status()),
            deliveries,
            store_host: "".into(),
            tail: Tail::DeliveryTime,
            receipt: None,
            is_large: false,
        }
    }

    fn next(&mut self, is_late: impl FnOnce() -> bool) -> Next {
        if let Some(status) = self.status.take() {
            return Next::Frame(Content::Status(status));
        }
        if let Some(delivery) = self.deliveries.next() {
            return Next::Frame(Content::Message(encode::delivery(delivery, &self.store_host)));
        }
        match self.tail {
            Tail::FlushMessages => {
                self.tail = Tail::DeliveryTime;
                Next::Flush
            }
            Tail::DeliveryTime => {
                self.tail = if self.receipt.is_some() { Tail::FlushDeliveryTime } else { Tail::End };
                Next::Frame(Content::DeliveryTimestamp(encode::timestamp(SystemClock.now())))
            }
            Tail::FlushDeliveryTime => {
                self.tail = Tail::End;
                if self.is_large { Next::Hold } else { Next::Flush }
            }
            Tail::End => {
                // R1. A late one is dropped: the client has thrown the reply away.
                if let Some(receipt) = self.receipt.take()
                    && !is_late()
                {
                    receipt.confirm();
                }
                Next::End
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::grpc::encode::tests::some_delivery;

    struct Probe(Rc<Cell<bool>>);

    impl Confirm for Probe {
        fn confirm(self) {
            self.0.set(true);
        }
    }

    fn frames(count: usize) -> (Frames<Probe>, Rc<Cell<bool>>) {
        let is_confirmed = Rc::new(Cell::new(false));
        let deliveries = (0..count).map(|_| some_delivery(b"x")).collect();
        (Frames::new(deliveries, "a:1".into(), Some(Probe(is_confirmed.clone()))), is_confirmed)
    }

    #[test]
    fn a_reply_is_status_messages_and_time_and_is_confirmed_at_its_very_end() {
        let (mut frames, is_confirmed) = frames(2);
        assert!(matches!(frames.next(|| false), Next::Frame(Content::Status(status)) if status.code == 20_000));
        for _ in 0..2 {
            assert!(matches!(frames.next(|| false), Next::Frame(Content::Message(_))));
        }
        assert_eq!(frames.next(|| false), Next::Flush);
        assert!(matches!(frames.next(|| false), Next::Frame(Content::DeliveryTimestamp(_))));
        assert_eq!(frames.next(|| false), Next::Flush);
        assert!(!is_confirmed.get(), "all frames are out, the end is not");
        assert_eq!(frames.next(|| false), Next::End);
        assert!(is_confirmed.get());
        assert_eq!(frames.next(|| false), Next::End);
    }

    #[test]
    fn a_reply_that_is_dropped_or_late_is_not_confirmed() {
        let (mut dropped, is_confirmed) = frames(1);
        for _ in 0..5 {
            assert_ne!(dropped.next(|| false), Next::End);
        }
        drop(dropped);
        assert!(!is_confirmed.get());

        let (mut late, is_confirmed) = frames(1);
        while late.next(|| true) != Next::End {}
        assert!(!is_confirmed.get());
    }

    #[test]
    fn nothing_to_deliver_is_message_not_found_with_a_time() {
        let mut frames = Frames::<Probe>::denied(&Denial::NoMessage);
        assert!(matches!(frames.next(|| false), Next::Frame(Content::Status(status)) if status.code == 40_401));
        assert!(matches!(frames.next(|| false), Next::Frame(Content::DeliveryTimestamp(_))));
        assert_eq!(frames.next(|| false), Next::End);
    }
}
