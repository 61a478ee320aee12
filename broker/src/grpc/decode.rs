//! From the protocol's types to the broker's. Nothing is checked here but what a number can mean at all: absent parts
//! become empty texts, and the broker refuses those by their own codes.

use std::time::Duration;

use base::Timestamp;
use cluster::message_type;
use proto::v2;

use crate::api::{BodyDigest, BodyEncoding, FilterKind, FilterText, Language, NewMessage, Receive, Resolution};
use crate::membership::ClientKind;

/// The name of a topic or group. Namespaces are echoed, they do not tell names apart.
pub(super) fn name(resource: Option<v2::Resource>) -> String {
    resource.map(|resource| resource.name).unwrap_or_default()
}

pub(super) fn message(message: v2::Message) -> NewMessage {
    let system = message.system_properties.unwrap_or_default();
    let mut properties: Vec<_> = message.user_properties.into_iter().collect();
    // The map's order differs between processes; what is stored must not.
    properties.sort_unstable();
    NewMessage {
        topic: name(message.topic),
        message_id: system.message_id,
        declared_type: message_type::from_protocol(system.message_type),
        tag: system.tag,
        keys: system.keys,
        properties,
        message_group: system.message_group,
        deliver_at: system.delivery_timestamp.map(instant_not_before),
        lite_topic: system.lite_topic,
        priority: system.priority,
        born_at: system.born_timestamp.and_then(instant),
        born_host: system.born_host,
        trace_context: system.trace_context.filter(|text| !text.is_empty()),
        encoding: encoding(system.body_encoding),
        digest: system.body_digest.and_then(digest),
        check_after: system.orphaned_transaction_recovery_duration.and_then(positive),
        body: message.body,
    }
}

pub(super) fn receive(request: v2::ReceiveMessageRequest, bytes_max: usize) -> Receive {
    let filter = request.filter_expression.unwrap_or_default();
    let kind = if filter.r#type == v2::FilterType::Sql as i32 { FilterKind::Sql } else { FilterKind::Tag };
    Receive {
        bytes_max,
        group: name(request.group),
        // The queue is a hint (D5, D7): a poll is served from every queue of the topic.
        topic: name(request.message_queue.and_then(|queue| queue.topic)),
        filter: FilterText { kind, expression: filter.expression },
        messages_max: request.batch_size,
        invisible_ms: request.invisible_duration.map(signed_ms),
        auto_renew: request.auto_renew,
        polling: request.long_polling_timeout.map(|polling| positive(polling).unwrap_or_default()),
        attempt_id: request.attempt_id.filter(|id| !id.is_empty()),
    }
}

/// None for what this server does not know.
pub(super) fn client_kind(kind: i32) -> Option<ClientKind> {
    match v2::ClientType::try_from(kind).ok()? {
        v2::ClientType::Unspecified => None,
        v2::ClientType::Producer => Some(ClientKind::Producer),
        v2::ClientType::PushConsumer => Some(ClientKind::PushConsumer),
        v2::ClientType::SimpleConsumer => Some(ClientKind::SimpleConsumer),
        v2::ClientType::PullConsumer => Some(ClientKind::PullConsumer),
        v2::ClientType::LitePushConsumer => Some(ClientKind::LitePushConsumer),
        v2::ClientType::LiteSimpleConsumer => Some(ClientKind::LiteSimpleConsumer),
    }
}

/// None where a user agent does not say: then its headers do.
pub(super) fn language(language: i32) -> Option<Language> {
    match v2::Language::try_from(language).unwrap_or_default() {
        v2::Language::Unspecified => None,
        v2::Language::Java => Some(Language::Java),
        v2::Language::Cpp => Some(Language::Cpp),
        v2::Language::DotNet => Some(Language::DotNet),
        v2::Language::Golang => Some(Language::Go),
        v2::Language::Rust => Some(Language::Rust),
        v2::Language::Python => Some(Language::Python),
        v2::Language::Php => Some(Language::Php),
        v2::Language::NodeJs => Some(Language::NodeJs),
        v2::Language::Ruby => Some(Language::Ruby),
        v2::Language::ObjectiveC | v2::Language::Dart | v2::Language::Kotlin => Some(Language::Other),
    }
}

pub(super) fn resolution(resolution: i32) -> Resolution {
    match v2::TransactionResolution::try_from(resolution).unwrap_or_default() {
        v2::TransactionResolution::Commit => Resolution::Commit,
        v2::TransactionResolution::Rollback => Resolution::Rollback,
        v2::TransactionResolution::Unspecified => Resolution::Unknown,
    }
}

/// Whole milliseconds, rounded towards zero; what does not fit becomes the nearest that does.
pub(super) fn signed_ms(duration: prost_types::Duration) -> i64 {
    duration.seconds.saturating_mul(1000).saturating_add(i64::from(duration.nanos / 1_000_000))
}

fn positive(duration: prost_types::Duration) -> Option<Duration> {
    u64::try_from(signed_ms(duration)).ok().map(Duration::from_millis)
}

/// None before 1970: such a time is nonsense, not information.
fn instant(time: prost_types::Timestamp) -> Option<Timestamp> {
    let ms = time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000));
    u64::try_from(ms).ok().map(Timestamp)
}

/// The first millisecond that is not before `time`: rounded down, a message would be early. Before 1970 = now.
fn instant_not_before(time: prost_types::Timestamp) -> Timestamp {
    let part = i64::from(time.nanos).div_euclid(1_000_000) + i64::from(time.nanos.rem_euclid(1_000_000) > 0);
    let ms = time.seconds.saturating_mul(1000).saturating_add(part);
    Timestamp(u64::try_from(ms).unwrap_or(0))
}

/// Bytes are stored as they came; an encoding that receivers could not name to their users counts as none.
fn encoding(encoding: i32) -> BodyEncoding {
    match v2::Encoding::try_from(encoding).unwrap_or_default() {
        v2::Encoding::Gzip => BodyEncoding::Gzip,
        v2::Encoding::Identity | v2::Encoding::Unspecified => BodyEncoding::Identity,
    }
}

fn digest(digest: v2::Digest) -> Option<BodyDigest> {
    if digest.checksum.is_empty() {
        return None;
    }
    match v2::DigestType::try_from(digest.r#type).ok()? {
        v2::DigestType::Crc32 => Some(BodyDigest::Crc32(digest.checksum)),
        v2::DigestType::Md5 => Some(BodyDigest::Md5(digest.checksum)),
        v2::DigestType::Sha1 => Some(BodyDigest::Sha1(digest.checksum)),
        v2::DigestType::Unspecified => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::api::MessageType;

    #[test]
    fn numbers_at_the_edges_become_the_nearest_that_can_be_meant() {
        let duration = |seconds, nanos| prost_types::Duration { seconds, nanos };
        for (input, ms) in [
            (duration(10, 0), 10_000),
            (duration(0, 999_999), 0),
            (duration(-1, 0), -1_000),
            (duration(i64::MAX, i32::MAX), i64::MAX),
            (duration(i64::MIN, i32::MIN), i64::MIN),
        ] {
            assert_eq!(signed_ms(input), ms, "{input:?}");
        }
        assert_eq!(positive(duration(-1, 0)), None);

        let time = |seconds, nanos| prost_types::Timestamp { seconds, nanos };
        assert_eq!(instant(time(1, 999_999)), Some(Timestamp(1_000)));
        assert_eq!(instant(time(-1, 0)), None);
        assert_eq!(instant(time(i64::MAX, i32::MAX)), Some(Timestamp(i64::MAX as u64)));
        assert_eq!(instant(time(i64::MIN, i32::MIN)), None);
    }

    #[test]
    fn a_delivery_time_is_never_rounded_to_an_earlier_millisecond() {
        for (seconds, nanos, ms) in [
            (1, 0, 1_000),
            (1, 1, 1_001),
            (1, 1_000_000, 1_001),
            (1, -1, 1_000),
            (-5, 0, 0),
            (i64::MAX, i32::MAX, i64::MAX),
        ] {
            let time = prost_types::Timestamp { seconds, nanos };
            assert_eq!(instant_not_before(time), Timestamp(ms as u64), "{time:?}");
        }
    }

    #[test]
    fn a_message_keeps_its_parts_and_the_bytes_of_its_body() {
        let body = Bytes::from_static(b"body");
        let system = v2::SystemProperties {
            tag: Some("t".into()),
            keys: vec!["k1".into(), "k2".into()],
            message_id: "id".into(),
            message_type: v2::MessageType::Transaction.into(),
            body_encoding: v2::Encoding::Gzip.into(),
            body_digest: Some(v2::Digest { r#type: v2::DigestType::Md5.into(), checksum: "AB".into() }),
            message_group: Some("g".into()),
            priority: Some(3),
            trace_context: Some(String::new()),
            orphaned_transaction_recovery_duration: Some(prost_types::Duration { seconds: 7, nanos: 0 }),
            ..Default::default()
        };
        let decoded = message(v2::Message {
            topic: Some(v2::Resource { resource_namespace: "ns".into(), name: "topic".into() }),
            user_properties: [("b".into(), "2".into()), ("a".into(), "1".into())].into(),
            system_properties: Some(system),
            body: body.clone(),
        });
        assert_eq!((&*decoded.topic, &*decoded.message_id, decoded.tag.as_deref()), ("topic", "id", Some("t")));
        assert_eq!(decoded.declared_type, Some(MessageType::Transaction));
        assert_eq!(decoded.properties, [("a".into(), "1".into()), ("b".into(), "2".into())]);
        assert_eq!((decoded.encoding, decoded.digest), (BodyEncoding::Gzip, Some(BodyDigest::Md5("AB".into()))));
        assert_eq!((decoded.check_after, decoded.trace_context), (Some(Duration::from_secs(7)), None));
        assert_eq!(decoded.body.as_ptr(), body.as_ptr(), "the body is not copied");
    }

    #[test]
    fn enum_values_of_a_newer_schema_are_survived() {
        let system = v2::SystemProperties { message_type: 77, body_encoding: 77, ..Default::default() };
        let decoded = message(v2::Message { system_properties: Some(system), ..Default::default() });
        assert_eq!((decoded.declared_type, decoded.encoding), (None, BodyEncoding::Identity));
        assert_eq!(client_kind(77), None);
        assert_eq!(language(77), None);
        assert_eq!(resolution(-1), Resolution::Unknown);
        let empty = receive(v2::ReceiveMessageRequest::default(), 1024);
        assert_eq!((empty.group, empty.topic, empty.polling, empty.invisible_ms), ("".into(), "".into(), None, None));
    }
}
