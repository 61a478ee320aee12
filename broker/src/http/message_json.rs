//! The JSON of messages (operations H3).

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::json::UnreachableJson;
use crate::admin::{FoundMessage, GroupMessageState, MessageState, Peeked, Standing};
use crate::api::{BodyEncoding, Delivery};
use serve::http::fields::time;

/// What everybody is told of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnvelopeJson {
    pub message_id: String,
    pub topic: String,
    pub r#type: String,
    pub tag: Option<String>,
    pub keys: Vec<String>,
    pub message_group: Option<String>,
    pub properties: BTreeMap<String, String>,
    pub born_at: String,
    pub born_host: String,
    pub stored_at: String,
    pub deliver_at: Option<String>,
    pub encoding: String,
    pub size: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MessageJson {
    #[serde(flatten)]
    pub envelope: EnvelopeJson,
    /// Where it is.
    pub broker: String,
    pub queue: u16,
    pub offset: u64,
    pub visible_since: String,
    /// None when it is not UTF-8.
    pub body: Option<String>,
    pub body_base64: String,
}

/// A message that was looked up, without its body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FoundJson {
    #[serde(flatten)]
    pub envelope: EnvelopeJson,
    /// Where it was sent to, and is.
    pub broker: String,
    /// In the log of that broker.
    pub position: u64,
    /// visible, scheduled, prepared, rolled_back, expired, ended or unknown.
    pub state: String,
    /// While it is visible.
    pub queue: Option<u16>,
    pub offset: Option<u64>,
    pub visible_since: Option<String>,
    /// When it becomes visible, while it is scheduled.
    pub due: Option<String>,
    /// Only where one message was asked for, and while it is visible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<GroupStateJson>>,
    /// Where one message was asked for: brokers that did not say whether they have it too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<UnreachableJson>,
}

impl MessageJson {
    /// As it is on this broker.
    pub fn on(self, broker: &str) -> Self {
        Self { broker: broker.into(), ..self }
    }
}

impl FoundJson {
    /// As it is on this broker.
    pub fn on(self, broker: &str) -> Self {
        Self { broker: broker.into(), ..self }
    }
}

/// How a message stands with one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GroupStateJson {
    pub group: String,
    /// acknowledged, dead_letter, in_flight, retry_wait or ready.
    pub state: String,
    pub attempts: u32,
    pub client: Option<String>,
    pub next_try: Option<String>,
    /// Its offset among the group's dead letters.
    pub dead_letter_offset: Option<u64>,
}

impl From<Delivery> for EnvelopeJson {
    fn from(message: Delivery) -> Self {
        Self {
            message_id: message.message_id,
            topic: message.topic.to_string(),
            r#type: message.message_type.word().into(),
            tag: message.tag,
            keys: message.keys,
            message_group: message.message_group,
            properties: message.properties.into_iter().collect(),
            born_at: time(message.born_at),
            born_host: message.born_host,
            stored_at: time(message.stored_at),
            deliver_at: message.deliver_at.map(time),
            encoding: encoding_word(message.encoding).into(),
            size: message.body.len(),
        }
    }
}

impl From<Peeked> for MessageJson {
    fn from(Peeked { message, visible_since }: Peeked) -> Self {
        Self {
            broker: String::new(),
            queue: message.queue.0,
            offset: message.offset.0,
            visible_since: time(visible_since),
            body: std::str::from_utf8(&message.body).ok().map(String::from),
            body_base64: BASE64_STANDARD.encode(&message.body),
            envelope: message.into(),
        }
    }
}

fn encoding_word(encoding: BodyEncoding) -> &'static str {
    match encoding {
        BodyEncoding::Identity => "identity",
        BodyEncoding::Gzip => "gzip",
    }
}

impl From<FoundMessage> for MessageJson {
    /// Of one that is visible.
    fn from(FoundMessage { message, state, .. }: FoundMessage) -> Self {
        let since = if let MessageState::Visible { since, .. } = state { since } else { message.stored_at };
        Peeked { message: Delivery { stored_at: since, ..message }, visible_since: since }.into()
    }
}

impl From<FoundMessage> for FoundJson {
    fn from(FoundMessage { message, position, state, groups }: FoundMessage) -> Self {
        let (mut place, mut due) = (None, None);
        let word = match state {
            MessageState::Visible { queue, offset, since } => {
                place = Some((queue.0, offset.0, time(since)));
                "visible"
            }
            MessageState::Scheduled { due: at } => {
                due = Some(time(at));
                "scheduled"
            }
            MessageState::Prepared => "prepared",
            MessageState::RolledBack => "rolled_back",
            MessageState::Expired => "expired",
            MessageState::Ended => "ended",
            MessageState::Unknown => "unknown",
        };
        Self {
            envelope: message.into(),
            broker: String::new(),
            position: position.0,
            state: word.into(),
            queue: place.as_ref().map(|place| place.0),
            offset: place.as_ref().map(|place| place.1),
            visible_since: place.map(|place| place.2),
            due,
            groups: groups.map(|groups| groups.into_iter().map(GroupStateJson::from).collect()),
            unreachable: Vec::new(),
        }
    }
}

impl From<GroupMessageState> for GroupStateJson {
    fn from(standing: GroupMessageState) -> Self {
        Self {
            group: standing.group.to_string(),
            state: match standing.state {
                Standing::Acknowledged => "acknowledged",
                Standing::DeadLetter => "dead_letter",
                Standing::InFlight => "in_flight",
                Standing::RetryWait => "retry_wait",
                Standing::Ready => "ready",
            }
            .into(),
            attempts: standing.attempts,
            client: standing.client,
            next_try: standing.next_try.map(time),
            dead_letter_offset: standing.dead_letter.map(|offset| offset.0),
        }
    }
}
