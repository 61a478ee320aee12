//! Messages as a producer gives them and a consumer gets them.

use std::collections::HashMap;

use base::{QueueIndex, QueueOffset, Timestamp};
use bytes::Bytes;
use proto::v2;

use crate::connection::Caller;

/// A message to send. It is built in the form of the wire, so that sending converts nothing.
#[derive(Debug, Clone)]
pub struct NewMessage {
    message: v2::Message,
    system: v2::SystemProperties,
}

impl NewMessage {
    pub fn new(topic: impl Into<String>, body: impl Into<Bytes>) -> Self {
        let topic = v2::Resource { resource_namespace: String::new(), name: topic.into() };
        let message = v2::Message { topic: Some(topic), body: body.into(), ..v2::Message::default() };
        Self { message, system: v2::SystemProperties::default() }
    }

    /// What consumers may filter by; one for a message.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.system.tag = Some(tag.into());
        self
    }

    /// What the message can be found by; any number.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.system.keys.push(key.into());
        self
    }

    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.message.user_properties.insert(name.into(), value.into());
        self
    }

    /// Messages of one group are delivered in the order they were sent in. For FIFO topics.
    pub fn message_group(mut self, group: impl Into<String>) -> Self {
        self.system.message_group = Some(group.into());
        self
    }

    /// Visible from then on, and not before. For DELAY topics.
    pub fn deliver_at(mut self, at: Timestamp) -> Self {
        self.system.delivery_timestamp = Some(to_wire(at));
        self
    }

    /// Higher ones first. For topics with priorities.
    pub fn priority(mut self, priority: i32) -> Self {
        self.system.priority = Some(priority);
        self
    }

    /// What the wire wants beside what the caller said.
    pub(crate) fn into_wire(self, caller: &Caller, id: String, now: Timestamp, is_transaction: bool) -> v2::Message {
        let Self { mut message, mut system } = self;
        let namespace = &caller.options().namespace;
        if let (Some(topic), false) = (&mut message.topic, namespace.is_empty()) {
            topic.resource_namespace.clone_from(namespace);
        }
        system.message_type = type_of(&system, is_transaction) as i32;
        system.message_id = id;
        system.born_timestamp = Some(to_wire(now));
        system.born_host = caller.host().to_owned();
        system.body_encoding = v2::Encoding::Identity as i32;
        message.system_properties = Some(system);
        message
    }

    pub(crate) fn topic(&self) -> &str {
        self.message.topic.as_ref().map_or("", |topic| topic.name.as_str())
    }
}

/// What became of a message that was sent: it is stored, as durably as the server promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub message_id: String,
    /// In the queue the server chose, whose number the protocol does not tell.
    pub offset: QueueOffset,
    /// Takes a delayed message back before it is due.
    pub recall_handle: Option<String>,
}

/// A message that was handed out.
#[derive(Debug, Clone)]
pub struct Received {
    pub topic: String,
    pub message_id: String,
    /// Settles this delivery; a change of the invisible time replaces it.
    pub receipt_handle: String,
    pub queue: QueueIndex,
    pub offset: QueueOffset,
    /// 1 for the first delivery.
    pub attempt: u32,
    pub tag: Option<String>,
    pub keys: Vec<String>,
    pub message_group: Option<String>,
    pub properties: HashMap<String, String>,
    pub born_at: Option<Timestamp>,
    pub stored_at: Option<Timestamp>,
    /// When it was to become visible, for delayed messages.
    pub deliver_at: Option<Timestamp>,
    /// As it was sent: not inflated when the sender compressed it.
    pub body: Bytes,
    pub is_compressed: bool,
}

impl Received {
    /// None when the message lacks what the protocol demands.
    pub(crate) fn from_wire(message: v2::Message) -> Option<Self> {
        let system = message.system_properties?;
        Some(Self {
            topic: message.topic?.name,
            message_id: system.message_id,
            receipt_handle: system.receipt_handle.unwrap_or_default(),
            queue: QueueIndex(u16::try_from(system.queue_id).unwrap_or(0)),
            offset: offset_from_wire(system.queue_offset.unwrap_or(0)),
            attempt: u32::try_from(system.delivery_attempt.unwrap_or(1)).unwrap_or(1),
            tag: system.tag,
            keys: system.keys,
            message_group: system.message_group,
            properties: message.user_properties,
            born_at: system.born_timestamp.and_then(from_wire),
            stored_at: system.store_timestamp.and_then(from_wire),
            deliver_at: system.delivery_timestamp.and_then(from_wire),
            body: message.body,
            is_compressed: system.body_encoding == v2::Encoding::Gzip as i32,
        })
    }
}

pub(crate) fn offset_from_wire(offset: i64) -> QueueOffset {
    QueueOffset(u64::try_from(offset).unwrap_or(0))
}

/// The kind that follows from the properties, as servers derive it too.
fn type_of(system: &v2::SystemProperties, is_transaction: bool) -> v2::MessageType {
    if is_transaction {
        v2::MessageType::Transaction
    } else if system.delivery_timestamp.is_some() {
        v2::MessageType::Delay
    } else if system.message_group.is_some() {
        v2::MessageType::Fifo
    } else if system.priority.is_some() {
        v2::MessageType::Priority
    } else {
        v2::MessageType::Normal
    }
}

fn to_wire(at: Timestamp) -> prost_types::Timestamp {
    let seconds = i64::try_from(at.0 / 1000).expect("a 64th of the range is enough for milliseconds");
    let nanos = i32::try_from(at.0 % 1000).expect("below 1000") * 1_000_000;
    prost_types::Timestamp { seconds, nanos }
}

fn from_wire(at: prost_types::Timestamp) -> Option<Timestamp> {
    let seconds = u64::try_from(at.seconds).ok()?;
    let nanos = u64::try_from(at.nanos).ok()?;
    Some(Timestamp(seconds.checked_mul(1000)?.checked_add(nanos / 1_000_000)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_a_message_follows_from_its_properties() {
        let plain = NewMessage::new("t", "b");
        assert_eq!(type_of(&plain.system, false), v2::MessageType::Normal);
        assert_eq!(type_of(&plain.system, true), v2::MessageType::Transaction);
        let grouped = plain.message_group("g");
        assert_eq!(type_of(&grouped.system, false), v2::MessageType::Fifo);
        let delayed = grouped.deliver_at(Timestamp(1));
        assert_eq!(type_of(&delayed.system, false), v2::MessageType::Delay);
        assert_eq!(type_of(&NewMessage::new("t", "b").priority(3).system, false), v2::MessageType::Priority);
    }

    #[test]
    fn times_survive_the_wire_to_the_millisecond() {
        for ms in [0, 1, 999, 1000, 1_767_225_600_123] {
            assert_eq!(from_wire(to_wire(Timestamp(ms))), Some(Timestamp(ms)));
        }
        assert_eq!(from_wire(prost_types::Timestamp { seconds: -1, nanos: 0 }), None);
    }
}
