//! Deliveries of one group from one topic.
//!
//! [`core`] is the pure state machine: what is ready, who holds what until when, what has to be appended. Its rules are in
//! [`polls`], [`reading`], [`refill`], [`ahead`], [`leases`], [`settling`] and [`operated`]. [`task`] drives it: one task for each (group, topic), started by
//! the first poll. [`lanes`] keeps the order of message groups, [`room`] says what all of them may fetch ahead.

mod ahead;
pub mod core;
mod gather;
mod lanes;
mod leases;
mod operated;
mod polls;
mod reading;
mod refill;
pub mod room;
mod settling;
pub mod task;

#[cfg(test)]
mod ahead_tests;
#[cfg(test)]
mod core_tests;
#[cfg(test)]
mod operated_tests;
#[cfg(test)]
mod ordered_tests;
#[cfg(test)]
mod refill_tests;
#[cfg(test)]
mod story_tests;

use std::sync::Arc;
use std::time::Duration;

use base::{Backoff, GroupId, QueueIndex, QueueOffset, Timestamp, TopicId};
use storage::hash::HashKey;
use storage::lookup::{self, Wanted};
use storage::message::StoredMessage;
use storage::reads::{Asker, Urgency};
use storage::record::Pointer;
use storage::request::{AppendError, Change, Done};
use storage::view::catalog::Topic;
use storage::view::queue::{Bounds, Entry};
use tokio::sync::oneshot;

use crate::api::Language;
use crate::handle;
use crate::refusal::Refusal;

pub use storage::view::progress::Slot;
pub use task::Receipt;

/// A (group, topic).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair {
    pub group: GroupId,
    pub topic: TopicId,
}

impl Pair {
    /// As whom it reads the disk.
    pub fn asker(self) -> Asker {
        Asker::Subscription(self.group, self.topic)
    }
}

/// The time, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub wall: Timestamp,
    /// Milliseconds of the monotonic clock: leases, back-off and polls run on it.
    pub tick: u64,
}

impl Now {
    /// What the monotonic clock will show when the wall clock shows `at`, if neither is set until then.
    pub fn tick_at(&self, at: Timestamp) -> u64 {
        self.tick + at.ms_since(self.wall)
    }

    /// The reverse.
    pub fn wall_at(&self, tick: u64) -> Timestamp {
        self.wall.plus_ms(tick.saturating_sub(self.tick))
    }
}

/// The queues of a topic, as far as a subscription reads them.
pub trait Source: Send + Sync {
    fn queues(&self) -> usize;
    fn bounds(&self, queue: QueueIndex) -> Bounds;
    fn read(&self, from: QueueOffset, queue: QueueIndex, max: usize, out: &mut Vec<Entry>) -> QueueOffset;
    fn entry(&self, slot: Slot) -> Option<Entry>;
    /// Entries of a message group.
    fn members(&self, queue: QueueIndex, wanted: &Wanted) -> Stretch;
}

/// What was looked through of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// In order.
    pub entries: Vec<(QueueOffset, Entry)>,
    /// Where to go on.
    pub to: QueueOffset,
    /// What lies there cannot be read now.
    pub is_stuck: bool,
}

/// The queues of a topic in the store.
#[derive(Debug, Clone)]
pub struct Queues {
    pub topic: Arc<Topic>,
    /// Finds message groups in index files.
    pub hash_key: HashKey,
}

impl Source for Queues {
    fn queues(&self) -> usize {
        self.topic.queues.len()
    }

    fn bounds(&self, queue: QueueIndex) -> Bounds {
        let none = Bounds { first: QueueOffset(0), next: QueueOffset(0) };
        self.topic.queue(queue).map_or(none, |queue| queue.bounds())
    }

    fn read(&self, from: QueueOffset, queue: QueueIndex, max: usize, out: &mut Vec<Entry>) -> QueueOffset {
        self.topic.queue(queue).map_or(from, |queue| queue.read(from, max, out))
    }

    fn entry(&self, (queue, offset): Slot) -> Option<Entry> {
        self.topic.queue(queue)?.entry(offset)
    }

    fn members(&self, queue: QueueIndex, wanted: &Wanted) -> Stretch {
        let Some(queue) = self.topic.queue(queue) else {
            return Stretch { entries: Vec::new(), to: wanted.until, is_stuck: false };
        };
        let members = lookup::members(&self.hash_key, queue, wanted);
        let to = members.next.unwrap_or(wanted.until);
        Stretch { entries: members.entries, to, is_stuck: !members.gaps.is_empty() || to <= wanted.from }
    }
}

/// What the group says about deliveries.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub is_ordered: bool,
    /// Deliveries in all, the first included.
    pub attempts_max: u32,
    pub backoff: Backoff,
    /// The lease of a delivery when the poll does not say.
    pub invisible: Duration,
    pub in_flight_max: usize,
}

/// A poll that was checked.
#[derive(Debug, Clone)]
pub struct Poll {
    pub client: Arc<str>,
    pub language: Language,
    pub messages_max: usize,
    /// Bodies of the reply; one message is always given.
    pub bytes_max: usize,
    /// None: renewed for as long as the client lives.
    pub invisible: Option<Duration>,
    pub attempt_id: Option<Arc<str>>,
    /// When to answer that there is nothing.
    pub until: u64,
}

/// What a client wants done with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Ack,
    /// Visible again after this time; the attempt counts unless suspended.
    Return {
        after: Duration,
        is_suspended: bool,
    },
    Forward,
}

#[derive(Debug, Clone)]
pub struct Settle {
    pub client: Arc<str>,
    pub receipt: handle::Receipt,
    pub verdict: Verdict,
}

/// Whom to answer; numbers of the driver's.
pub type PollId = u64;
pub type SettleId = u64;
pub type Ticket = u64;

#[derive(Debug)]
pub enum Event {
    Poll(PollId, Poll),
    /// The caller no longer waits.
    CancelPoll(PollId),
    Settle(SettleId, Settle),
    /// The reply with this batch was written to its end, or was not.
    Written(u64),
    Unwritten(u64),
    /// What the writer answered.
    Answer(Ticket, Result<Done, AppendError>),
    /// The topic has new messages, or an operator has changed the progress of its groups.
    Ring,
    /// What this client holds comes to others at once.
    ClientGone(Arc<str>),
    SettingsChanged(Settings),
    FilterChanged(crate::filter::Filter, storage::record::FilterSpec),
    /// The topic's queues changed.
    SourceChanged(Queues),
    /// Messages that cannot be delivered, ever: damaged on the disk, or not wanted after all.
    Discard(Vec<Slot>),
    /// The bodies of an [`Effect::Fetch`], in order; none where one could not be had, and empty when it was refused.
    Fetched(Ticket, Vec<Option<StoredMessage>>),
    /// Somebody looks at a message; nothing changes. Answered by [`Effect::Seen`].
    Look(Slot, SeenReply),
}

/// How a message that is not acknowledged stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Deliveries that count, the present one included.
    pub attempts: u32,
    /// Who has it.
    pub client: Option<Arc<str>>,
    /// In back-off until this tick.
    pub waits_until: Option<u64>,
}

/// None: it is not in memory.
pub type SeenReply = oneshot::Sender<Option<Seen>>;

/// One message of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handout {
    pub entry: Entry,
    pub receipt: handle::Receipt,
}

#[derive(Debug)]
pub enum Effect {
    /// Messages for a poll, leased and, when ordered, durably so.
    Deliver {
        poll: PollId,
        batch: u64,
        messages: Vec<Handout>,
        /// Of each message, if it was fetched ahead.
        bodies: Vec<Option<StoredMessage>>,
        /// How the others are to be read.
        urgency: Urgency,
    },
    /// Nothing came in time.
    Empty {
        poll: PollId,
    },
    Refuse {
        poll: PollId,
        refusal: Refusal,
    },
    Settled {
        settle: SettleId,
        result: Result<(), Refusal>,
    },
    Append {
        ticket: Ticket,
        changes: Vec<Change>,
    },
    /// Bodies that will be handed out soon; answered by [`Event::Fetched`], always.
    Fetch {
        ticket: Ticket,
        urgency: Urgency,
        pointers: Vec<Pointer>,
    },
    Seen(SeenReply, Option<Seen>),
    /// The group's dead-letter topic is needed; answered by [`core::Core::dead_letter_topic`].
    NeedDeadLetterTopic,
}

/// Which clients are there. Asked when a lease that is renewed would end.
pub trait Alive {
    fn is_alive(&self, client: &str) -> bool;
}
