//! From the broker's types to the protocol's.
//!
//! E1. No enum leaves unspecified, no time outside of what a protobuf timestamp may hold: clients throw on both (D16).

use std::time::Duration;

use base::Timestamp;
use cluster::message_type;
use proto::v2;

use crate::api::{BodyEncoding, Delivery, Sent};

/// 9999-12-31T23:59:59.999Z, the last time that the libraries of all languages can show.
const LAST_MS: u64 = 253_402_300_799_999;

/// A message on its way to a consumer (§4.5). `store_host` is this server, as clients know it.
pub(super) fn delivery(delivery: Delivery, store_host: &str) -> v2::Message {
    let system = v2::SystemProperties {
        tag: delivery.tag,
        keys: delivery.keys,
        message_id: delivery.message_id,
        body_digest: Some(v2::Digest { r#type: v2::DigestType::Md5.into(), checksum: upper_hex(&delivery.md5) }),
        body_encoding: encoding(delivery.encoding).into(),
        message_type: message_type::to_protocol(delivery.message_type).into(),
        born_timestamp: Some(timestamp(delivery.born_at)),
        born_host: delivery.born_host,
        store_timestamp: Some(timestamp(delivery.stored_at)),
        store_host: store_host.into(),
        delivery_timestamp: delivery.deliver_at.map(timestamp),
        receipt_handle: Some(delivery.handle),
        queue_id: delivery.queue.0.into(),
        queue_offset: Some(i64::try_from(delivery.offset.0).unwrap_or(i64::MAX)),
        // Never set: clients take it for the remaining lease and renew on their own.
        invisible_duration: None,
        // At least 1: Java and Node throw on less.
        delivery_attempt: Some(i32::try_from(delivery.attempt).unwrap_or(i32::MAX).max(1)),
        message_group: delivery.message_group,
        trace_context: delivery.trace_context,
        orphaned_transaction_recovery_duration: None,
        dead_letter_queue: delivery.dead_letter_of.map(|(topic, message_id)| v2::DeadLetterQueue { topic, message_id }),
        lite_topic: None,
        priority: delivery.priority,
    };
    v2::Message {
        topic: Some(resource(delivery.topic.as_str())),
        user_properties: delivery.properties.into_iter().collect(),
        system_properties: Some(system),
        body: delivery.body,
    }
}

pub(super) fn sent(sent: Sent, status: v2::Status) -> v2::SendResultEntry {
    v2::SendResultEntry {
        status: Some(status),
        message_id: sent.message_id,
        transaction_id: sent.transaction_id.unwrap_or_default(),
        offset: i64::try_from(sent.offset.0).unwrap_or(i64::MAX),
        recall_handle: sent.recall_handle.unwrap_or_default(),
    }
}

pub(super) fn resource(name: &str) -> v2::Resource {
    v2::Resource { resource_namespace: String::new(), name: name.into() }
}

pub(super) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let ms = time.0.min(LAST_MS);
    // Both fit by the line above.
    prost_types::Timestamp { seconds: (ms / 1000) as i64, nanos: (ms % 1000) as i32 * 1_000_000 }
}

pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    // Ten thousand years, the most that a protobuf duration may hold.
    const SECONDS_MAX: u64 = 315_576_000_000;
    let seconds = duration.as_secs().min(SECONDS_MAX);
    prost_types::Duration { seconds: seconds as i64, nanos: duration.subsec_nanos() as i32 }
}

fn encoding(encoding: BodyEncoding) -> v2::Encoding {
    match encoding {
        BodyEncoding::Identity => v2::Encoding::Identity,
        BodyEncoding::Gzip => v2::Encoding::Gzip,
    }
}

fn upper_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use base::{QueueIndex, QueueOffset, TopicName};
    use bytes::Bytes;

    use super::*;
    use crate::api::MessageType;

    pub(in crate::grpc) fn some_delivery(body: &'static [u8]) -> Delivery {
        Delivery {
            topic: TopicName::parse("orders").unwrap(),
            queue: QueueIndex(3),
            offset: QueueOffset(7),
            message_id: "id".into(),
            message_type: MessageType::Fifo,
            tag: None,
            keys: vec!["k".into()],
            properties: vec![("a".into(), "1".into())],
            message_group: Some("g".into()),
            deliver_at: None,
            priority: None,
            born_at: Timestamp(1_700_000_000_123),
            born_host: "host".into(),
            stored_at: Timestamp(1_700_000_000_456),
            trace_context: None,
            encoding: BodyEncoding::Identity,
            md5: [0x5D, 0x41, 0x40, 0x2A, 0xBC, 0x4B, 0x2A, 0x76, 0xB9, 0x71, 0x9D, 0x91, 0x10, 0x17, 0xC5, 0x92],
            body: Bytes::from_static(body),
            attempt: 1,
            handle: "handle".into(),
            dead_letter_of: None,
        }
    }

    #[test]
    fn a_delivered_message_has_all_that_clients_insist_on() {
        let message = delivery(some_delivery(b"hello"), "10.0.0.1:8081");
        let system = message.system_properties.unwrap();
        assert_eq!(system.body_digest.as_ref().unwrap().checksum, "5D41402ABC4B2A76B9719D911017C592");
        assert_eq!(system.body_encoding(), v2::Encoding::Identity);
        assert_eq!(system.message_type(), v2::MessageType::Fifo);
        assert_eq!(system.born_timestamp, Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 123_000_000 }));
        assert_eq!((system.delivery_attempt, system.receipt_handle.as_deref()), (Some(1), Some("handle")));
        assert_eq!((system.queue_id, system.queue_offset, &*system.store_host), (3, Some(7), "10.0.0.1:8081"));
        assert_eq!((system.tag, system.delivery_timestamp, system.dead_letter_queue), (None, None, None));
        assert_eq!((system.invisible_duration, system.priority, system.lite_topic), (None, None, None));
        assert_eq!(message.topic.unwrap().name, "orders");
        assert_eq!((&*message.user_properties["a"], &*message.body), ("1", &b"hello"[..]));
    }

    #[test]
    fn a_dead_letter_names_its_origin_and_a_delayed_message_its_time() {
        let message = delivery(
            Delivery {
                dead_letter_of: Some(("orders".into(), "old".into())),
                deliver_at: Some(Timestamp::MAX),
                attempt: u32::MAX,
                ..some_delivery(b"x")
            },
            "",
        );
        let system = message.system_properties.unwrap();
        let origin = v2::DeadLetterQueue { topic: "orders".into(), message_id: "old".into() };
        assert_eq!(system.dead_letter_queue, Some(origin));
        let last = prost_types::Timestamp { seconds: 253_402_300_799, nanos: 999_000_000 };
        assert_eq!(system.delivery_timestamp, Some(last), "later times are beyond what clients can show");
        assert_eq!(system.delivery_attempt, Some(i32::MAX));
        assert_eq!(duration(Duration::MAX).seconds, 315_576_000_000);
    }
}
