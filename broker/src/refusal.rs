//! Why the broker refuses a call: facts as fields, one variant for each thing a caller can do about it.
//!
//! One enum for all operations, because the protocol has one list of codes for all of them and an operation refuses for
//! the same reasons as its neighbours (names, limits, overload). What each gateway makes of a variant is decided in that
//! gateway alone.

use base::{NameError, TopicName};

use crate::api::MessageType;

/// Nothing was changed by a refused call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    IllegalTopic(NameError),
    #[error("{0}")]
    IllegalGroup(NameError),
    #[error("topic {0} does not exist")]
    TopicNotFound(TopicName),
    #[error("topic {topic} is not made here: it lives on broker {broker}")]
    TopicElsewhere { topic: TopicName, broker: String },
    #[error("topic {0} is derived by the server: it is read, never written, by clients")]
    TopicNotWritable(TopicName),
    #[error("the request holds no message")]
    NoMessages,
    #[error("the request holds {count} messages, the limit is {max}")]
    TooManyMessages { count: usize, max: usize },
    #[error("the request names two topics, {first:?} and {second:?}; all messages of one request go to one topic")]
    TwoTopics { first: String, second: String },
    #[error("the body is empty")]
    BodyEmpty,
    #[error("the body has {size} bytes, the limit is {max}")]
    BodyTooLarge { size: usize, max: usize },
    #[error("the body does not have the {kind} digest {expected} that was sent with it")]
    BodyCorrupted { kind: &'static str, expected: String },
    #[error("{count} user properties, the limit is {max}")]
    TooManyProperties { count: usize, max: usize },
    #[error("user properties, tag and keys have {size} bytes, the limit is {max}")]
    PropertiesTooLarge { size: usize, max: usize },
    #[error("user property {key:?} {problem}")]
    IllegalProperty { key: String, problem: &'static str },
    #[error("tag {tag:?} {problem}")]
    IllegalTag { tag: String, problem: &'static str },
    #[error("message key {key:?} {problem}")]
    IllegalKey { key: String, problem: &'static str },
    #[error("message id {id:?} {problem}")]
    IllegalMessageId { id: String, problem: &'static str },
    #[error("message group {group:?} {problem}")]
    IllegalMessageGroup { group: String, problem: &'static str },
    #[error("field {field} has {size} bytes, the limit is {max}")]
    FieldTooLarge { field: &'static str, size: usize, max: usize },
    #[error("delivery time {asked} ms lies more than {max} ms ahead")]
    DeliveryTooFar { asked: u64, max: u64 },
    #[error("orphaned transaction recovery duration of {asked} ms, the limit is {max} ms")]
    CheckAfterTooLong { asked: u64, max: u64 },
    #[error("topic {topic} takes {topic_type:?} messages, this one is {message_type:?}")]
    WrongMessageType { topic: TopicName, topic_type: MessageType, message_type: MessageType },
    #[error("{feature} is not supported by this server")]
    Unsupported { feature: &'static str },
    #[error("filter {expression:?}: {problem}")]
    IllegalFilter { expression: String, problem: &'static str },
    #[error("invisible duration of {asked} ms; it must be {min} to {max} ms")]
    IllegalInvisibleTime { asked: i64, min: u64, max: u64 },
    #[error("the receipt handle {problem}")]
    InvalidHandle { problem: &'static str },
    #[error("the request holds no entry")]
    NoEntries,
    #[error("the request holds {count} entries, the limit is {max}")]
    TooManyEntries { count: usize, max: usize },
    #[error("transaction id {id:?} {problem}")]
    InvalidTransaction { id: String, problem: &'static str },
    #[error("the recall handle {problem}")]
    IllegalRecallHandle { problem: &'static str },
    #[error("the message {problem}")]
    NothingToRecall { problem: &'static str },
    #[error("settings name neither what is published nor what is subscribed")]
    SettingsWithoutSide,
    #[error("settings of a consumer name no group")]
    SettingsWithoutGroup,
    #[error("the server is at its limit: {limit}")]
    Overloaded { limit: &'static str },
    #[error("the disk has {free} bytes free, at {reserve} new messages are refused")]
    DiskFull { free: u64, reserve: u64 },
    #[error("writes are disabled: {cause}")]
    WritesDisabled { cause: String },
    #[error("the server is stopping")]
    Draining,
    #[error("the topic or the group was deleted")]
    Gone,
    #[error("consumer group {0} does not exist")]
    GroupNotFound(base::GroupName),
    #[error("the outcome is unknown: {cause}")]
    OutcomeUnknown { cause: &'static str },
    #[error("broker {broker} holds it and does not answer now")]
    HolderAway { broker: String },
    #[error("{what} cannot be read: {cause}")]
    Unreadable { what: &'static str, cause: String },
}

impl Refusal {
    /// Whether the same call may succeed later without being changed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Overloaded { .. } | Self::DiskFull { .. } | Self::WritesDisabled { .. } => true,
            Self::Draining | Self::OutcomeUnknown { .. } | Self::HolderAway { .. } | Self::Unreadable { .. } => true,
            Self::IllegalTopic(_) | Self::IllegalGroup(_) | Self::TopicNotFound(_) | Self::TopicNotWritable(_) => false,
            Self::TopicElsewhere { .. } => false,
            Self::NoMessages | Self::TooManyMessages { .. } | Self::TwoTopics { .. } => false,
            Self::BodyEmpty | Self::BodyTooLarge { .. } | Self::BodyCorrupted { .. } => false,
            Self::TooManyProperties { .. } | Self::PropertiesTooLarge { .. } | Self::IllegalProperty { .. } => false,
            Self::IllegalTag { .. } | Self::IllegalKey { .. } | Self::IllegalMessageId { .. } => false,
            Self::IllegalMessageGroup { .. } | Self::FieldTooLarge { .. } | Self::DeliveryTooFar { .. } => false,
            Self::CheckAfterTooLong { .. } | Self::WrongMessageType { .. } | Self::Unsupported { .. } => false,
            Self::IllegalFilter { .. } | Self::IllegalInvisibleTime { .. } | Self::InvalidHandle { .. } => false,
            Self::NoEntries | Self::TooManyEntries { .. } | Self::InvalidTransaction { .. } => false,
            Self::IllegalRecallHandle { .. } | Self::NothingToRecall { .. } => false,
            Self::SettingsWithoutSide | Self::SettingsWithoutGroup => false,
            Self::Gone | Self::GroupNotFound(_) => false,
        }
    }
}
