//! What a message must be like (gRPC specification §3.1): checked before anything is stored, named when it is not.

use base::limits::*;
use base::{Timestamp, TopicName};
use storage::message::{Envelope, MessageKind, digest};
use storage::view::catalog::TopicKind;

use crate::api::{BodyDigest, BodyEncoding, MessageType, NewMessage};
use crate::refusal::Refusal;

/// Limits that an operator may lower.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub body_bytes_max: usize,
    pub delay_ms_max: u64,
}

/// Names that mean something to the reference server; refused for portability.
const RESERVED_PROPERTIES: [&str; 54] = [
    "TRACE_ON",
    "MSG_REGION",
    "KEYS",
    "TAGS",
    "WAIT",
    "DELAY",
    "RETRY_TOPIC",
    "REAL_TOPIC",
    "REAL_QID",
    "TRAN_MSG",
    "PGROUP",
    "MIN_OFFSET",
    "MAX_OFFSET",
    "BUYER_ID",
    "ORIGIN_MESSAGE_ID",
    "TRANSFER_FLAG",
    "CORRECTION_FLAG",
    "MQ2_FLAG",
    "RECONSUME_TIME",
    "UNIQ_KEY",
    "MAX_RECONSUME_TIMES",
    "CONSUME_START_TIME",
    "POP_CK",
    "POP_CK_OFFSET",
    "1ST_POP_TIME",
    "TRAN_PREPARED_QUEUE_OFFSET",
    "DUP_INFO",
    "EXTEND_UNIQ_INFO",
    "INSTANCE_ID",
    "CORRELATION_ID",
    "REPLY_TO_CLIENT",
    "TTL",
    "ARRIVE_TIME",
    "PUSH_REPLY_TIME",
    "CLUSTER",
    "MSG_TYPE",
    "INNER_MULTI_QUEUE_OFFSET",
    "TIMER_DELAY_MS",
    "TIMER_DELAY_SEC",
    "TIMER_DELIVER_MS",
    "TIMER_ENQUEUE_MS",
    "TIMER_DEQUEUE_MS",
    "TIMER_ROLL_TIMES",
    "TIMER_OUT_MS",
    "TIMER_DEL_UNIQKEY",
    "TIMER_DELAY_LEVEL",
    "__BORNHOST",
    "BORN_TIMESTAMP",
    "DLQ_ORIGIN_TOPIC",
    "DLQ_ORIGIN_MESSAGE_ID",
    "__CRC32#",
    "__SHARDINGKEY",
    "__transactionId__",
    "CHECK_IMMUNITY_TIME_IN_SECONDS",
];

/// What a message is, by what it carries (§4.3): transaction before delivery time before message group.
pub fn type_of(message: &NewMessage) -> MessageType {
    if message.declared_type == Some(MessageType::Transaction) {
        MessageType::Transaction
    } else if message.lite_topic.is_some() {
        MessageType::Lite
    } else if message.deliver_at.is_some() {
        MessageType::Delay
    } else if message.message_group.is_some() {
        MessageType::Fifo
    } else if message.priority.is_some() {
        MessageType::Priority
    } else {
        MessageType::Normal
    }
}

/// The kind of topic that this type of message makes when topics are created by their first message.
pub fn topic_kind_for(message_type: MessageType) -> Option<TopicKind> {
    match message_type {
        MessageType::Normal => Some(TopicKind::Normal),
        MessageType::Fifo => Some(TopicKind::Fifo),
        MessageType::Delay => Some(TopicKind::Delay),
        MessageType::Transaction => Some(TopicKind::Transaction),
        MessageType::Lite | MessageType::Priority => None,
    }
}

/// Whether a topic takes this type of message.
pub fn check_type(topic: &TopicName, kind: TopicKind, message_type: MessageType) -> Result<(), Refusal> {
    let topic_type = match kind {
        TopicKind::Normal => MessageType::Normal,
        TopicKind::Fifo => MessageType::Fifo,
        TopicKind::Delay => MessageType::Delay,
        TopicKind::Transaction => MessageType::Transaction,
        TopicKind::Mixed if topic_kind_for(message_type).is_some() => return Ok(()),
        TopicKind::Mixed => MessageType::Normal,
        TopicKind::Lite => MessageType::Lite,
        TopicKind::Priority => MessageType::Priority,
        TopicKind::DeadLetter | TopicKind::Retry => return Err(Refusal::TopicNotWritable(topic.clone())),
    };
    match (topic_type == message_type, message_type) {
        (true, MessageType::Lite) => Err(Refusal::Unsupported { feature: "sending lite messages" }),
        (true, MessageType::Priority) => Err(Refusal::Unsupported { feature: "sending messages with a priority" }),
        (true, _) => Ok(()),
        (false, _) => Err(Refusal::WrongMessageType { topic: topic.clone(), topic_type, message_type }),
    }
}

/// Checks everything about a message but its topic.
pub fn check(message: &NewMessage, limits: &Limits, now: Timestamp) -> Result<(), Refusal> {
    check_body(message, limits)?;
    check_id(&message.message_id)?;
    check_properties(message)?;
    if let Some(tag) = &message.tag {
        check_tag(tag)?;
    }
    for key in &message.keys {
        check_key(key)?;
    }
    if let Some(group) = &message.message_group {
        check_message_group(group)?;
    }
    for (field, text) in [("born_host", Some(&message.born_host)), ("trace_context", message.trace_context.as_ref())] {
        let size = text.map_or(0, String::len);
        if size > PASSED_TEXT_BYTES_MAX {
            return Err(Refusal::FieldTooLarge { field, size, max: PASSED_TEXT_BYTES_MAX });
        }
    }
    if let Some(at) = message.deliver_at
        && at.ms_since(now) > limits.delay_ms_max
    {
        return Err(Refusal::DeliveryTooFar { asked: at.0, max: limits.delay_ms_max });
    }
    let check_after = message.check_after.map_or(0, base::duration::ms);
    if check_after > TRANSACTION_CHECK_AFTER_MS_MAX {
        return Err(Refusal::CheckAfterTooLong { asked: check_after, max: TRANSACTION_CHECK_AFTER_MS_MAX });
    }
    Ok(())
}

/// The envelope of a message that was checked.
pub fn envelope(message: NewMessage, message_type: MessageType, now: Timestamp) -> (Envelope, bytes::Bytes) {
    let envelope = Envelope {
        kind: match message_type {
            MessageType::Normal => MessageKind::Normal,
            MessageType::Fifo => MessageKind::Fifo,
            MessageType::Delay => MessageKind::Delay,
            MessageType::Transaction => MessageKind::Transaction,
            MessageType::Lite => MessageKind::Lite,
            MessageType::Priority => MessageKind::Priority,
        },
        is_gzip: message.encoding == BodyEncoding::Gzip,
        message_id: message.message_id,
        born_at: message.born_at.unwrap_or(now),
        born_host: message.born_host,
        tag: message.tag.filter(|tag| !tag.is_empty()),
        keys: message.keys,
        properties: message.properties,
        message_group: message.message_group,
        deliver_at: message.deliver_at,
        trace_context: message.trace_context,
        priority: message.priority.and_then(|priority| u32::try_from(priority).ok()),
        lite_topic: message.lite_topic,
    };
    (envelope, message.body)
}

fn check_body(message: &NewMessage, limits: &Limits) -> Result<(), Refusal> {
    let size = message.body.len();
    if size == 0 {
        return Err(Refusal::BodyEmpty);
    }
    if size > limits.body_bytes_max {
        return Err(Refusal::BodyTooLarge { size, max: limits.body_bytes_max });
    }
    match &message.digest {
        // Clients disagree about the text form of CRC32, and SHA1 is sent by none: only MD5 can be compared.
        Some(BodyDigest::Md5(expected)) if !hex(&digest(&message.body)).eq_ignore_ascii_case(expected) => {
            Err(Refusal::BodyCorrupted { kind: "MD5", expected: expected.clone() })
        }
        _ => Ok(()),
    }
}

fn check_id(id: &str) -> Result<(), Refusal> {
    let problem = if id.trim().is_empty() {
        "is blank"
    } else if id.len() > MESSAGE_ID_BYTES_MAX {
        "is longer than 255 bytes"
    } else {
        return Ok(());
    };
    Err(Refusal::IllegalMessageId { id: id.into(), problem })
}

fn check_properties(message: &NewMessage) -> Result<(), Refusal> {
    let count = message.properties.len();
    if count > MESSAGE_PROPERTIES_MAX {
        return Err(Refusal::TooManyProperties { count, max: MESSAGE_PROPERTIES_MAX });
    }
    let own: usize = message.properties.iter().map(|(key, value)| key.len() + value.len()).sum();
    let keys: usize = message.keys.iter().map(String::len).sum();
    let size = own + keys + message.tag.as_ref().map_or(0, String::len);
    if size > MESSAGE_PROPERTIES_BYTES_MAX {
        return Err(Refusal::PropertiesTooLarge { size, max: MESSAGE_PROPERTIES_BYTES_MAX });
    }
    for (key, value) in &message.properties {
        let problem = if key.trim().is_empty() {
            "has a blank name"
        } else if RESERVED_PROPERTIES.contains(&key.as_str()) {
            "has a name that is kept for the system"
        } else if has_control(key) {
            "has a control character in its name"
        } else if has_control(value) {
            "has a control character in its value"
        } else {
            continue;
        };
        return Err(Refusal::IllegalProperty { key: key.clone(), problem });
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), Refusal> {
    let problem = if tag.is_empty() {
        return Ok(());
    } else if tag.trim().is_empty() {
        "is blank"
    } else if tag.contains('|') {
        "has a '|', which separates tags in filters"
    } else if has_control(tag) {
        "has a control character"
    } else {
        return Ok(());
    };
    Err(Refusal::IllegalTag { tag: tag.into(), problem })
}

fn check_key(key: &str) -> Result<(), Refusal> {
    let problem = if key.trim().is_empty() {
        "is blank"
    } else if has_control(key) {
        "has a control character"
    } else {
        return Ok(());
    };
    Err(Refusal::IllegalKey { key: key.into(), problem })
}

fn check_message_group(group: &str) -> Result<(), Refusal> {
    let problem = if group.trim().is_empty() {
        "is blank"
    } else if group.len() > MESSAGE_GROUP_BYTES_MAX {
        "is longer than 63 bytes"
    } else if has_control(group) {
        "has a control character"
    } else {
        return Ok(());
    };
    Err(Refusal::IllegalMessageGroup { group: group.into(), problem })
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// Upper-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        write!(out, "{byte:02X}").expect("writing to a String cannot fail");
        out
    })
}
