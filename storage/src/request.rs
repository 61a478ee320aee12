//! What the writer is asked for, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use base::{GroupId, LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId};
use smallvec::SmallVec;

use crate::log::LogFailure;
use crate::message::BodyPart;
use crate::record::{FRAME_BYTES, Fact, Head, Pointer, Why};
use crate::table::TableError;
use crate::upkeep::Standing;
use crate::view::catalog::{GroupSpec, TopicSpec};
use crate::view::transactions::Outcome;

/// Who is served first when the writer is busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// A client waits.
    Request,
    /// Due timers, redrive: at most half of a group while clients wait.
    Background,
}

/// A body that is new to the log.
#[derive(Debug, Clone)]
pub struct NewBody {
    pub head: Head,
    pub kind: BodyKind,
    pub part: BodyPart,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyKind {
    /// Visible at once; the writer chooses queue and offset.
    Visible,
    Delayed {
        due: Timestamp,
    },
    Prepared {
        due: Option<Timestamp>,
        check_after_ms: u32,
        client: Arc<str>,
    },
}

/// One record to be. Those of a request become one batch: all of them, or none.
#[derive(Debug, Clone)]
pub enum Change {
    Body(NewBody),
    /// The writer chooses queue and offset.
    Publish {
        origin: Pointer,
        head: Head,
        why: Why,
    },
    Fact(Fact),
    /// No record: the batch is refused when operators have changed progress more often than its sender knows.
    Expect {
        group: GroupId,
        topic: TopicId,
        operations: u64,
    },
}

#[derive(Debug, Clone)]
pub enum Request {
    Changes(SmallVec<[Change; 1]>),
    /// Creates a topic under this name; its id is the writer's to give, `spec.id` is ignored.
    CreateTopic(TopicSpec),
    /// Answered with the topic as it is then.
    ChangeTopic(TopicId, TopicChange),
    DropTopic(TopicId),
    CreateGroup(GroupSpec),
    DropGroup(GroupId),
    /// The topic as another broker has it, or that it was dropped there: made so here, unless what is known here is newer.
    /// Answered with what is here then; `is_new` when this request made it so.
    AdoptTopic(TopicSpec),
    AdoptGroup(GroupSpec),
    EndTransaction {
        origin: LogPosition,
        outcome: Outcome,
    },
    /// Answered when everything before it is applied.
    Barrier,
    /// As a barrier; everything applied is durable then, whatever the commit rule.
    Standing,
}

/// What of a topic changes; what is none stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TopicChange {
    /// More than there are, and not where messages are kept in order: their queue follows from the number of queues.
    pub queues: Option<u16>,
    /// `Some(None)`: as the store's default says.
    pub retention: Option<Option<Duration>>,
    /// `Some(None)`: no limit.
    pub retention_bytes: Option<Option<u64>>,
}

impl Request {
    pub fn one(change: Change) -> Self {
        Self::Changes(SmallVec::from_buf([change]))
    }

    /// Whether it brings delayed messages.
    pub fn is_delayed(&self) -> bool {
        let is_delayed =
            |change: &Change| matches!(change, Change::Body(NewBody { kind: BodyKind::Delayed { .. }, .. }));
        matches!(self, Self::Changes(changes) if changes.iter().any(is_delayed))
    }

    /// About how many bytes it takes in the log; what the inbox and the groups are bounded by.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Changes(changes) => changes.iter().map(Change::bytes).sum::<usize>() + 64,
            Self::CreateTopic(_) | Self::ChangeTopic(..) | Self::DropTopic(_) => 512,
            Self::CreateGroup(_) | Self::DropGroup(_) => 512,
            Self::AdoptTopic(_) | Self::AdoptGroup(_) => 512,
            Self::EndTransaction { .. } => 128,
            Self::Barrier | Self::Standing => 0,
        }
    }
}

impl Change {
    fn bytes(&self) -> usize {
        let fields = match self {
            Self::Body(body) => 64 + body.part.as_bytes().len(),
            Self::Publish { .. } => 64,
            Self::Fact(fact) => match fact {
                Fact::Retire { .. } | Fact::Move { .. } => 64,
                Fact::Settle { acks, retries, .. } => 16 + acks.len() * 12 + retries.len() * 24,
                Fact::Lease { client, entries, .. } => 48 + client.len() + entries.len() * 12,
                Fact::Subscribe { start, filter, .. } => 32 + start.len() * 12 + filter.expression.len(),
                Fact::Seek { .. } | Fact::Park { .. } | Fact::Purge { .. } | Fact::Expire { .. } => 48,
                Fact::Schedule(spec) => 32 + spec.name.len() + spec.content.len(),
            },
            Self::Expect { .. } => 0,
        };
        FRAME_BYTES + fields
    }
}

/// Where a body became durable, and visible if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub pointer: Pointer,
    pub queue: QueueIndex,
    pub offset: QueueOffset,
}

/// What became of a request; everything it says is committed and applied.
#[derive(Debug, Clone)]
pub enum Done {
    /// One for each `Body` and `Publish`, in order.
    Changed(SmallVec<[Placed; 1]>),
    /// The topic of that name; `is_new` when this request made it.
    Topic {
        spec: TopicSpec,
        is_new: bool,
    },
    Group {
        spec: GroupSpec,
        is_new: bool,
    },
    Dropped,
    TransactionEnded,
    /// A timer was taken back.
    Recalled(Pointer),
    Passed,
    /// Where the log stands.
    Standing(Standing),
}

/// Why a request was refused. Whatever the variant, nothing of it is in the log, except for `Failed` and `OutcomeUnknown`,
/// where nobody knows.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    #[error("{what} is full; the limit is {max}")]
    InboxFull { what: &'static str, max: usize },
    #[error("the batch has {size} bytes, the limit is {max}")]
    TooLarge { size: usize, max: usize },
    #[error("topic {0} does not exist any more")]
    TopicGone(TopicId),
    #[error("topic {topic} has {queues} queues and cannot have {asked}")]
    QueuesStay { topic: TopicId, queues: u16, asked: u16 },
    #[error("group {0} does not exist any more")]
    GroupGone(GroupId),
    #[error("{free} bytes are free on the disk, {reserve} are kept in reserve")]
    DiskFull { free: u64, reserve: u64 },
    #[error("the catalog holds {max} {what}, which is its limit")]
    CatalogFull { what: &'static str, max: usize },
    #[error("an operator changed the progress of {group} with {topic} in the meantime")]
    Overtaken { group: GroupId, topic: TopicId },
    #[error("the transaction is unknown")]
    TransactionUnknown,
    #[error("the transaction ended otherwise: {0:?}")]
    TransactionEndedAs(Outcome),
    #[error("the timer has ended, or never was")]
    TimerUnknown,
    #[error("the timer may be where nothing can be read: {0}")]
    TimerUnreadable(TableError),
    #[error("writes are disabled: {0}")]
    Failed(#[from] LogFailure),
    #[error("the outcome is unknown: what was written below {position} was taken back here, and may be kept elsewhere")]
    OutcomeUnknown { position: LogPosition },
    #[error("the store is closed")]
    Closed,
}

impl AppendError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::InboxFull { .. } | Self::DiskFull { .. } | Self::TimerUnreadable(_) => true,
            Self::TooLarge { .. } | Self::TopicGone(_) | Self::GroupGone(_) | Self::CatalogFull { .. } => false,
            Self::QueuesStay { .. } => false,
            // What the batch says was decided on what holds no more.
            Self::Overtaken { .. } => false,
            Self::TransactionUnknown | Self::TransactionEndedAs(_) | Self::TimerUnknown => false,
            // Only after a restart, and then the outcome of this request has to be looked up, not repeated.
            Self::Failed(_) | Self::OutcomeUnknown { .. } | Self::Closed => false,
        }
    }
}

/// The answer to the request that carried `ticket`.
#[derive(Debug)]
pub struct Answer {
    pub ticket: u64,
    pub result: Result<Done, AppendError>,
}

/// Where answers go: one hand-over per committed group and sink, not one per request.
pub trait ReplySink: Send + Sync {
    /// Takes all of `answers`; must return at once.
    fn deliver(&self, answers: &mut Vec<Answer>);
}

/// Where the answer to one request goes.
#[derive(Clone)]
pub struct ReplyTo {
    pub sink: Arc<dyn ReplySink>,
    pub ticket: u64,
}

impl std::fmt::Debug for ReplyTo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplyTo").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

/// A request on its way to the writer.
#[derive(Debug)]
pub struct Submission {
    pub request: Request,
    pub reply: ReplyTo,
}
