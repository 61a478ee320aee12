//! What must be true, whatever the disk and the clients do. Knows what was asked and what was answered; reads the views, but
//! trusts them only where they agree with that.
//!
//! An unanswered request at a crash has an unknown outcome: the first recovery after it settles what became of it.

mod attempts;
mod deaths;
mod deliveries;
mod operators;
mod progress;
mod queues;
mod recovery;
mod waits;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use base::{GroupId, LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId};
use broker::subscription::Slot;
use storage::record::Pointer;
use storage::view::transactions::Outcome;

use attempts::Attempts;
use deaths::Deaths;
use operators::{Operations, Parked};
use waits::Wait;

pub use operators::Operation;

pub type Id = u64;

/// Fails the run, saying what was expected and what came.
macro_rules! must {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            panic!($($what)+)
        }
    };
}
pub(crate) use must;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Visible,
    Delayed,
    Prepared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Asked for, not answered.
    Asked,
    Stored,
    /// Refused, or lost with an unanswered request.
    Nowhere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Open,
    Asked(Outcome),
    Ended(Outcome),
}

#[derive(Debug, Clone)]
pub struct Message {
    pub topic: TopicId,
    pub lane: u64,
    pub group_hash: u64,
    pub tag: u8,
    pub kind: Kind,
    pub fate: Fate,
    pub pointer: Option<Pointer>,
    pub slot: Option<Slot>,
    /// While it is a timer, when it is due.
    pub due: Option<Timestamp>,
    pub decision: Decision,
    pub recall: Recall,
    /// A reschedule is under way.
    pub is_moving: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    No,
    Asked,
    Done,
}

/// The body that a message was sent with.
pub fn body_of(id: Id) -> Vec<u8> {
    let length = 16 + usize::try_from(id * 37 % 400).expect("small") + if id.is_multiple_of(23) { 3000 } else { 0 };
    let mut body = format!("message {id}:").into_bytes();
    body.resize(length.max(body.len()), (id % 251) as u8);
    body
}

/// Until when a delivery is its client's.
#[derive(Debug, Clone)]
pub struct Hold {
    pub batch: u64,
    pub client: Arc<str>,
    /// The lease is over, or nobody knows whether it is.
    pub may_end: bool,
    pub until: Until,
}

#[derive(Debug, Clone, Copy)]
pub enum Until {
    Tick {
        tick: u64,
        wall: Timestamp,
    },
    /// Renewed for as long as the client lives, but not looked at before this tick.
    Alive {
        from: u64,
        end: u64,
    },
}

/// One (group, topic).
#[derive(Debug)]
pub struct Pair {
    pub group: GroupId,
    pub topic: TopicId,
    pub is_ordered: bool,
    pub attempts_max: u32,
    pub acked: HashSet<Slot>,
    pub acked_maybe: HashSet<Slot>,
    pub dead: HashSet<Slot>,
    pub dead_maybe: HashSet<Slot>,
    /// Forwarded by the client that had it, so dead.
    pub forwarded: HashSet<Slot>,
    pub holds: HashMap<Slot, Hold>,
    pub copies: HashMap<u64, u32>,
    pub attempts: Attempts,
    waits: HashMap<Slot, Wait>,
    /// Where each queue was sought to last, and the first batch after that.
    starts: HashMap<QueueIndex, QueueOffset>,
    void_below: HashMap<QueueIndex, u64>,
    parked: HashMap<u64, Parked>,
    /// Batches below this one may have left before an operator's record was applied, and not arrived yet.
    pub on_its_way: u64,
    /// The group's dead-letter topic, once it is there.
    pub letters: Option<TopicId>,
    /// Every filter there was: none = all tags.
    pub filters: Vec<Option<Vec<u8>>>,
}

impl Pair {
    pub fn new(group: GroupId, topic: TopicId, is_ordered: bool, attempts_max: u32) -> Self {
        Self {
            group,
            topic,
            is_ordered,
            attempts_max,
            acked: HashSet::new(),
            acked_maybe: HashSet::new(),
            dead: HashSet::new(),
            dead_maybe: HashSet::new(),
            forwarded: HashSet::new(),
            holds: HashMap::new(),
            copies: HashMap::new(),
            attempts: Attempts::default(),
            waits: HashMap::new(),
            starts: HashMap::new(),
            void_below: HashMap::new(),
            parked: HashMap::new(),
            on_its_way: 0,
            letters: None,
            filters: vec![None],
        }
    }

    /// Whether a batch was put together before its queue was sought.
    pub fn is_void(&self, queue: QueueIndex, batch: u64) -> bool {
        self.void_below.get(&queue).is_some_and(|void| batch < *void)
    }

    pub fn may_skip(&self, tag: u8) -> bool {
        self.filters.iter().flatten().any(|tags| !tags.contains(&tag))
    }

    fn is_wanted(&self, tag: u8) -> bool {
        self.filters.iter().any(|filter| filter.as_ref().is_none_or(|tags| tags.contains(&tag)))
    }
}

#[derive(Debug, Default)]
pub struct Oracle {
    pub messages: BTreeMap<Id, Message>,
    pub by_origin: HashMap<LogPosition, Id>,
    pub pairs: Vec<Pair>,
    /// What each queue was seen to hold; none = lost to damage.
    pub queues: BTreeMap<(TopicId, QueueIndex), Vec<Option<Id>>>,
    lanes: HashMap<(TopicId, u64), BTreeSet<Slot>>,
    /// What dead-letter queues were seen to hold, and what retry queues were.
    dead_letters: HashMap<(TopicId, Id), u32>,
    redriven: HashMap<(TopicId, Id), u64>,
    deaths: HashMap<(TopicId, Id), Deaths>,
    operations: Operations,
    /// When the wall clock was set last.
    pub wall_set_at: u64,
    pub may_lose: bool,
    pub delivered: u64,
}

impl Oracle {
    pub fn sent(&mut self, id: Id, pointer: Pointer, slot: Slot) {
        let message = self.messages.get_mut(&id).expect("asked for");
        must!(message.fate == Fate::Asked, "message {id} was answered twice: {message:?}");
        message.fate = Fate::Stored;
        message.pointer = Some(pointer);
        let earlier = self.by_origin.insert(pointer.position, id);
        must!(earlier.is_none(), "two messages at {pointer:?}: {earlier:?} and {id}");
        if message.kind == Kind::Visible {
            message.slot = Some(slot);
        }
    }

    /// How many messages a queue was seen to hold, purged ones included.
    pub fn length(&self, topic: TopicId, queue: QueueIndex) -> u64 {
        self.queues.get(&(topic, queue)).map_or(0, |known| known.len() as u64)
    }

    pub fn message_at(&self, topic: TopicId, (queue, offset): Slot) -> Option<Id> {
        let known = self.queues.get(&(topic, queue))?;
        known.get(usize::try_from(offset.0).expect("small")).copied().flatten()
    }
}
