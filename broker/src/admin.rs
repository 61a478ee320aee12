//! What operators create, change and look at: topics and groups, and messages without consuming them.

use std::sync::Arc;
use std::time::Duration;

pub use base::{Backoff, GroupOrder};
use base::{GroupName, LogPosition, NameError, QueueIndex, QueueOffset, Timestamp, TopicName};

use crate::api::Delivery;

/// What a topic takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TopicType {
    Normal,
    Fifo,
    Delay,
    Transaction,
    /// Can be created; its messages are not served yet.
    Lite,
    /// Can be created; its messages are not served yet.
    Priority,
    /// Normal, ordered, delayed and transactional messages.
    Mixed,
}

/// Settings of a topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    pub topic_type: TopicType,
    pub queues: u16,
    /// How long messages are kept; none = as the server's default says.
    pub retention: Option<Duration>,
    /// How many bytes of messages are kept.
    pub retention_bytes: Option<u64>,
}

/// Settings of a topic to change; what is none stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TopicChanges {
    /// Only more than there are, and not where messages are kept in order.
    pub queues: Option<u16>,
    /// `Some(None)`: as the server's default says.
    pub retention: Option<Option<Duration>>,
    /// `Some(None)`: no limit.
    pub retention_bytes: Option<Option<u64>>,
}

/// How long messages of a topic are kept, counted from when they became visible, and how many bytes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub time: Duration,
    /// The topic says nothing itself.
    pub is_time_default: bool,
    pub bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    pub name: TopicName,
    pub topic_type: TopicType,
    pub created_at: Timestamp,
    pub queues: Vec<QueueDescription>,
    pub timers_pending: u64,
    pub transactions_prepared: u64,
    pub retention: Retention,
    /// The brokers that have it, this one too; none when there is no other. Not in lists.
    pub copies: Vec<TopicCopy>,
    /// After a change: brokers that do not say yet that they have it. They get it as soon as they can.
    pub pending_on: Vec<Arc<str>>,
}

/// A topic as one of the brokers has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicCopy {
    pub broker: String,
    /// None: one that this broker does not know.
    pub topic_type: Option<TopicType>,
    pub queues: u16,
    pub changed_at: Timestamp,
    /// What is not as it is here; `keeper`: it lives on another broker, and this copy is not served.
    pub differs: Vec<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDescription {
    pub queue: QueueIndex,
    pub first: QueueOffset,
    pub next: QueueOffset,
    /// When the newest message became visible.
    pub newest_at: Option<Timestamp>,
}

/// Settings of a group to create; what is none is the server's default for its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGroup {
    pub name: String,
    pub order: GroupOrder,
    /// Deliveries in all, the first included.
    pub attempts_max: Option<u32>,
    pub backoff: Option<Backoff>,
    pub invisible: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    pub name: GroupName,
    pub order: GroupOrder,
    pub attempts_max: u32,
    pub backoff: Backoff,
    pub invisible: Duration,
    pub created_at: Timestamp,
    pub members: Vec<MemberDescription>,
    pub topics: Vec<GroupTopicDescription>,
    pub dead_letters: u64,
    /// As that of a topic.
    pub pending_on: Vec<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDescription {
    pub client_id: String,
    pub language: String,
    pub version: String,
    pub address: Option<String>,
    pub last_seen_ms_ago: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupTopicDescription {
    pub topic: TopicName,
    pub filter: String,
    /// Visible and not acknowledged.
    pub lag_messages: u64,
    /// Age of the oldest of them.
    pub oldest_unacked_ms: u64,
    /// Handed out and not settled, without those that are held.
    pub in_flight: u64,
    /// Handed out in order and renewed twice or more: their clients are at work on them for long.
    pub held: u64,
    pub retry_wait: u64,
    /// Message groups with a batch handed out.
    pub open_message_groups: u64,
    /// Message groups whose first message failed at least once and is not settled.
    pub blocked_message_groups: u64,
    /// Messages that retention took before the group had read them.
    pub expired_unread: u64,
    /// When retention may take the oldest that is not acknowledged; none when everything is.
    pub oldest_expires_in_ms: Option<u64>,
    pub queues: Vec<GroupQueueDescription>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupQueueDescription {
    pub queue: QueueIndex,
    /// Everything below is acknowledged.
    pub floor: QueueOffset,
    pub next: QueueOffset,
    /// Visible and not acknowledged.
    pub lag: u64,
}

/// Whether a create call made something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    New,
    /// It was there with the same settings.
    Already,
}

/// Where a peek starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeekFrom {
    Earliest,
    Latest,
    Offset(QueueOffset),
    /// The first message that became visible at or after this time.
    Time(Timestamp),
}

/// A message that was looked at; nothing was leased or counted.
#[derive(Debug, Clone)]
pub struct Peeked {
    pub message: Delivery,
    pub visible_since: Timestamp,
}

/// What of a topic's messages is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeekFilter {
    pub message_group: Option<String>,
    pub tag: Option<String>,
}

/// Messages of a queue that a filter let through.
#[derive(Debug, Clone)]
pub struct PeekedPage {
    pub messages: Vec<Peeked>,
    /// Where to go on; none at the end of the last queue.
    pub next: Option<(QueueIndex, QueueOffset)>,
    pub warnings: Vec<String>,
}

/// Messages that have a key or an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Find {
    pub by: FindBy,
    /// None: in all of them, when there are few.
    pub topic: Option<String>,
    /// Only what was stored from then on.
    pub from: Option<Timestamp>,
    /// Only what was stored until then.
    pub to: Option<Timestamp>,
    pub limit: usize,
    /// Where the page before ended.
    pub below: Option<LogPosition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FindBy {
    Key(String),
    Id(String),
}

/// What has become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageState {
    Visible {
        queue: QueueIndex,
        offset: QueueOffset,
        since: Timestamp,
    },
    Scheduled {
        due: Timestamp,
    },
    /// Half of a transaction that is not decided.
    Prepared,
    RolledBack,
    /// Retention or a purge took it from its queue.
    Expired,
    /// Recalled, or where it went is not known any more.
    Ended,
    /// What would say it cannot be read now.
    Unknown,
}

/// A message that was looked up.
#[derive(Debug, Clone)]
pub struct FoundMessage {
    /// Queue and offset are zero unless it is visible.
    pub message: Delivery,
    /// Of its body in the log.
    pub position: LogPosition,
    pub state: MessageState,
    /// Of the groups that read its topic; only where one message was asked for, and while it is visible.
    pub groups: Option<Vec<GroupMessageState>>,
}

#[derive(Debug, Clone)]
pub struct FoundPage {
    /// Newest first.
    pub messages: Vec<FoundMessage>,
    /// Where to go on; none when there is no more.
    pub next: Option<LogPosition>,
    /// What could not be looked through.
    pub warnings: Vec<String>,
}

/// How a message stands with one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMessageState {
    pub group: GroupName,
    pub state: Standing,
    /// Deliveries that count.
    pub attempts: u32,
    /// Who has it.
    pub client: Option<String>,
    /// When it may be delivered again.
    pub next_try: Option<Timestamp>,
    /// Where it is among the group's dead letters.
    pub dead_letter: Option<QueueOffset>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Acknowledged,
    DeadLetter,
    InFlight,
    /// In back-off.
    RetryWait,
    /// Not handed out; perhaps behind its message group.
    Ready,
}

/// Why an administrative call is refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminRefusal {
    #[error("{0}")]
    IllegalName(NameError),
    #[error("topic {0} does not exist")]
    TopicNotFound(TopicName),
    #[error("topic {topic} is not on this broker, but on {}", .brokers.join(", "))]
    TopicNotHere { topic: TopicName, brokers: Vec<String> },
    #[error("topic {topic} lives on broker {broker}, there or away, and such a topic is on one broker only")]
    TopicLivesElsewhere { topic: TopicName, broker: String },
    #[error("{what} cannot be written down: {cause}")]
    NotKept { what: &'static str, cause: String },
    #[error("group {0} does not exist")]
    GroupNotFound(GroupName),
    #[error("queue {queue} does not exist; topic {topic} has {queues}")]
    QueueNotFound { topic: TopicName, queue: u16, queues: u16 },
    #[error("{what} {name} exists with another {field}: it is {existing}, not {asked}")]
    ExistsWithOtherSettings { what: &'static str, name: String, field: &'static str, existing: String, asked: String },
    #[error("{field} is {value}; it must be {min} to {max}")]
    OutOfRange { field: &'static str, value: u64, min: u64, max: u64 },
    #[error("{field} {problem}")]
    IllegalValue { field: &'static str, value: String, problem: &'static str },
    #[error(
        "topic {topic} still holds {messages} unread messages, {timers} timers and {transactions} prepared transactions; force deletes them"
    )]
    TopicHasBacklog { topic: TopicName, messages: u64, timers: u64, transactions: u64 },
    #[error(
        "topic {topic} is also on {}, and what is unread there is not known here; force deletes it everywhere", .brokers.join(", ")
    )]
    TopicOnOthers { topic: TopicName, brokers: Vec<String> },
    #[error("group {group} has {members} members connected; force deletes it all the same")]
    GroupHasConsumers { group: GroupName, members: usize },
    #[error("no message with the id {id} is stored{}", in_topic(topic))]
    MessageNotFound { id: String, topic: Option<TopicName> },
    #[error("name the topic: there are {topics}, and without a name at most {max} are looked through")]
    TopicNeeded { topics: usize, max: usize },
    #[error("{field} cannot be used here: {problem}")]
    NotHere { field: &'static str, value: String, problem: &'static str },
    #[error("not all could be looked through, ask again: {gaps}")]
    Incomplete { gaps: String },
    #[error("there are {count} {what}, the limit is {max}")]
    TooMany { what: &'static str, count: usize, max: usize },
    #[error("{0}")]
    Refused(crate::refusal::Refusal),
}

fn in_topic(topic: &Option<TopicName>) -> String {
    topic.as_ref().map(|topic| format!(", in topic {topic}")).unwrap_or_default()
}
