//! What the gateways say to [`Broker`](crate::Broker) and hear back: one set of nouns for every protocol.
//!
//! Nothing here knows a wire format. A gateway turns its own types into these and refusals into its own codes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use base::MessageType;
use base::{GroupName, QueueIndex, QueueOffset, Timestamp, TopicName};
use bytes::Bytes;
pub use cluster::Place;

use crate::membership::ClientKind;

/// The language of a client's library, where the server has to make up for what it does (gRPC specification §5.4, F4, F5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Language {
    Java,
    Cpp,
    DotNet,
    Go,
    Rust,
    Python,
    Php,
    NodeJs,
    Ruby,
    #[default]
    Other,
}

impl Language {
    /// How many messages of one message group a batch may hold (F4): 1 where the library goes on with the next message
    /// although an earlier one failed.
    pub fn messages_of_one_group_max(self) -> usize {
        match self {
            Self::Go | Self::DotNet | Self::Cpp => 1,
            Self::Java | Self::Rust | Self::Python | Self::NodeJs | Self::Php | Self::Ruby | Self::Other => usize::MAX,
        }
    }

    /// How many messages an ordered batch may hold in all (F5).
    pub fn ordered_batch_max(self) -> usize {
        if self == Self::Cpp { 1 } else { usize::MAX }
    }
}

/// Who makes a call.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Opaque, not empty.
    pub client_id: Arc<str>,
    pub language: Language,
    /// As the client says, for metrics and the client list.
    pub version: Arc<str>,
    pub address: Option<SocketAddr>,
    /// How long the caller still waits for the answer; none = for ever.
    pub remaining: Option<Duration>,
}

/// How the body is encoded: stored and handed out unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEncoding {
    Identity,
    Gzip,
}

/// The digest a sender put beside a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyDigest {
    Crc32(String),
    Md5(String),
    Sha1(String),
}

/// A message as a producer sends it, before anything was checked. Texts are as they came.
#[derive(Debug, Clone)]
pub struct NewMessage {
    pub topic: String,
    pub message_id: String,
    /// What the client says it is; only `Transaction` matters, the rest follows from the properties (§4.3).
    pub declared_type: Option<MessageType>,
    pub tag: Option<String>,
    pub keys: Vec<String>,
    pub properties: Vec<(String, String)>,
    pub message_group: Option<String>,
    pub deliver_at: Option<Timestamp>,
    pub lite_topic: Option<String>,
    pub priority: Option<i32>,
    pub born_at: Option<Timestamp>,
    pub born_host: String,
    pub trace_context: Option<String>,
    pub encoding: BodyEncoding,
    pub digest: Option<BodyDigest>,
    /// When to ask about an undecided transaction first.
    pub check_after: Option<Duration>,
    pub body: Bytes,
}

/// A message that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub message_id: String,
    /// Where it is visible; 0 for messages that are not visible yet.
    pub queue: QueueIndex,
    pub offset: QueueOffset,
    /// For transactional messages.
    pub transaction_id: Option<String>,
    /// For delayed messages.
    pub recall_handle: Option<String>,
}

/// Where a topic is served.
#[derive(Debug, Clone)]
pub struct Route {
    pub topic: TopicName,
    /// By brokers' names; never empty. One without an address is this broker.
    pub places: Vec<Place>,
}

/// What a member of a group polls.
#[derive(Debug, Clone)]
pub struct Assignment {
    pub route: Route,
    pub is_ordered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterKind {
    Tag,
    Sql,
}

/// A filter as the client sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterText {
    pub kind: FilterKind,
    pub expression: String,
}

/// One poll.
#[derive(Debug, Clone)]
pub struct Receive {
    pub group: String,
    pub topic: String,
    pub filter: FilterText,
    /// As asked for; capped by the server.
    pub messages_max: i32,
    /// What the reply may hold; one message is always more than nothing.
    pub bytes_max: usize,
    /// Signed milliseconds as the client sent them.
    pub invisible_ms: Option<i64>,
    pub auto_renew: bool,
    pub polling: Option<Duration>,
    pub attempt_id: Option<String>,
}

/// A message on its way to a consumer.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub topic: TopicName,
    pub queue: QueueIndex,
    pub offset: QueueOffset,
    pub message_id: String,
    pub message_type: MessageType,
    pub tag: Option<String>,
    pub keys: Vec<String>,
    pub properties: Vec<(String, String)>,
    pub message_group: Option<String>,
    pub deliver_at: Option<Timestamp>,
    pub priority: Option<i32>,
    pub born_at: Timestamp,
    pub born_host: String,
    pub stored_at: Timestamp,
    pub trace_context: Option<String>,
    pub encoding: BodyEncoding,
    /// MD5 of the body as stored, computed once at the send.
    pub md5: [u8; 16],
    pub body: Bytes,
    /// ≥ 1.
    pub attempt: u32,
    pub handle: String,
    /// Where a dead letter came from: topic and message id.
    pub dead_letter_of: Option<(String, String)>,
}

/// What a poll ends with. Dropping it without [`Received::written`] takes every message back: a client whose call failed
/// throws the whole reply away (D20), so a message counts as handed out only when the reply was written to its end.
#[derive(Debug)]
pub struct Received {
    /// Empty when there was nothing until the poll ended.
    pub deliveries: Vec<Delivery>,
    pub(crate) receipt: Option<crate::subscription::Receipt>,
}

impl Received {
    /// Parts the messages from what has to be said once they are written.
    pub fn into_parts(mut self) -> (Vec<Delivery>, Option<crate::subscription::Receipt>) {
        (std::mem::take(&mut self.deliveries), self.receipt.take())
    }
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    Commit,
    Rollback,
    Unknown,
}

/// The part of a client's settings that matters to the server.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    pub kind: ClientKind,
    /// For consumers.
    pub group: Option<String>,
    /// Topics published (producers) or subscribed (consumers).
    pub topics: Vec<String>,
}

/// What the server says back to settings.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    pub body_bytes_max: usize,
    /// For consumers.
    pub group: Option<GroupSettings>,
}

/// What members of a group have to know about it.
#[derive(Debug, Clone)]
pub struct GroupSettings {
    pub name: GroupName,
    pub is_ordered: bool,
    /// Deliveries in all, the first included.
    pub attempts_max: u32,
    /// Waits between attempts, in order; the last one repeats. Never empty.
    pub backoff: Vec<Duration>,
    pub receive_messages_max: usize,
    pub polling: Duration,
}

/// What the server asks of a client on its telemetry stream.
#[derive(Debug, Clone)]
pub enum Command {
    /// Decide about this prepared message.
    CheckTransaction { message: Box<Delivery>, transaction_id: String },
    /// The same about a message that another broker holds, as its gateway has written it for the one here.
    CheckOfOther(Bytes),
    /// The group changed: settings have to be sent again.
    SettingsChanged,
    /// An operator ends the stream; the client may come back.
    Disconnect,
}
