//! What clients ask: each call as it is meant, before anything is changed in it.

use base::Chance;
use parking_lot::Mutex;
use prost::Message as _;
use prost_types::{Duration, Timestamp};
use proto::v2;

pub const TOPICS: [(&str, &str); 4] =
    [("orders", "fifo"), ("plain", "normal"), ("later", "delay"), ("deals", "transaction")];
const GROUPS: [&str; 2] = [tests::cluster::GROUP, "others"];
/// Of each kind of handle.
const KNOWN_MAX: usize = 200;

/// One method, and how its requests and replies are made and read.
pub struct Rpc {
    pub name: &'static str,
    pub make: fn(&mut Chance, &Known) -> Vec<u8>,
    pub read: fn(&[u8], &Known) -> Result<Option<v2::Status>, prost::DecodeError>,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Unary,
    /// Waits for messages, and answers with several elements.
    Poll,
    /// Goes on in both directions.
    Stream,
}

/// What servers have given out: handles to come back with, right or not.
#[derive(Debug, Default)]
pub struct Known {
    // A mutex, because all who ask share what they were given.
    handles: Mutex<Vec<String>>,
}

impl Known {
    fn learn(&self, handle: &str) {
        let mut handles = self.handles.lock();
        if !handle.is_empty() && handles.len() < KNOWN_MAX {
            handles.push(handle.to_owned());
        } else if let Some(first) = handles.first_mut().filter(|_| !handle.is_empty()) {
            // The newest are those that are worth most.
            *first = handle.to_owned();
            handles.rotate_left(1);
        }
    }

    /// One of any kind, as it was, cut, changed or made up.
    pub fn handle(&self, chance: &mut Chance) -> String {
        let handles = self.handles.lock();
        if handles.is_empty() || chance.one_in(10) {
            return chance.pick(&["", "x", "AAAA", "dGVzdA", "====", "ü", "01AB00"]).to_string();
        }
        let mut handle = chance.pick(&handles).clone();
        // Servers echo handles that were no text of theirs.
        let at = handle.floor_char_boundary(usize::try_from(chance.below(handle.len() as u64)).expect("an index"));
        match chance.below(10) {
            0 => handle.truncate(at),
            1 => handle.insert(at, 'A'),
            2 => {
                let other = if handle.as_bytes()[at] == b'B' { "C" } else { "B" };
                let end = handle.ceil_char_boundary(at + 1);
                handle.replace_range(at..end, other);
            }
            3 => handle = handle.repeat(2),
            _ => {}
        }
        handle
    }
}

macro_rules! rpc {
    ($name:literal, $kind:ident, $make:expr, $reply:ty, $read:expr) => {
        Rpc {
            name: $name,
            kind: Kind::$kind,
            make: |chance, known| {
                let make: fn(&mut Chance, &Known) -> _ = $make;
                make(chance, known).encode_to_vec()
            },
            read: |bytes, known| {
                let reply = <$reply>::decode(bytes)?;
                let read: fn(&$reply, &Known) -> Option<v2::Status> = $read;
                Ok(read(&reply, known))
            },
        }
    };
}

pub const RPCS: [Rpc; 17] = [
    rpc!("QueryRoute", Unary, route, v2::QueryRouteResponse, |reply, _| reply.status.clone()),
    rpc!("Heartbeat", Unary, heartbeat, v2::HeartbeatResponse, |reply, _| reply.status.clone()),
    rpc!("SendMessage", Unary, send, v2::SendMessageResponse, |reply, known| {
        for entry in &reply.entries {
            known.learn(&entry.transaction_id);
            known.learn(&entry.recall_handle);
        }
        reply.status.clone()
    }),
    rpc!("QueryAssignment", Unary, assignment, v2::QueryAssignmentResponse, |reply, _| reply.status.clone()),
    rpc!("ReceiveMessage", Poll, receive, v2::ReceiveMessageResponse, |reply, known| match &reply.content {
        Some(v2::receive_message_response::Content::Status(status)) => Some(status.clone()),
        Some(v2::receive_message_response::Content::Message(message)) => {
            let properties = message.system_properties.as_ref();
            known.learn(properties.and_then(|found| found.receipt_handle.as_deref()).unwrap_or_default());
            None
        }
        _ => None,
    }),
    rpc!("AckMessage", Unary, ack, v2::AckMessageResponse, |reply, _| reply.status.clone()),
    rpc!("ForwardMessageToDeadLetterQueue", Unary, bury, v2::ForwardMessageToDeadLetterQueueResponse, |reply, _| reply
        .status
        .clone()),
    rpc!("PullMessage", Poll, pull, v2::PullMessageResponse, |reply, _| match &reply.content {
        Some(v2::pull_message_response::Content::Status(status)) => Some(status.clone()),
        _ => None,
    }),
    rpc!(
        "UpdateOffset",
        Unary,
        |chance, _| v2::UpdateOffsetRequest { group: group(chance), message_queue: queue(chance), offset: -1 },
        v2::UpdateOffsetResponse,
        |reply, _| reply.status.clone()
    ),
    rpc!(
        "GetOffset",
        Unary,
        |chance, _| v2::GetOffsetRequest { group: group(chance), message_queue: queue(chance) },
        v2::GetOffsetResponse,
        |reply, _| reply.status.clone()
    ),
    rpc!(
        "QueryOffset",
        Unary,
        |chance, _| v2::QueryOffsetRequest {
            message_queue: queue(chance),
            timestamp: Some(Timestamp { seconds: 1, nanos: 1 }),
            ..Default::default()
        },
        v2::QueryOffsetResponse,
        |reply, _| reply.status.clone()
    ),
    rpc!("EndTransaction", Unary, end_transaction, v2::EndTransactionResponse, |reply, _| reply.status.clone()),
    rpc!("Telemetry", Stream, telemetry, v2::TelemetryCommand, |reply, _| reply.status.clone()),
    rpc!(
        "NotifyClientTermination",
        Unary,
        |chance, _| v2::NotifyClientTerminationRequest { group: group(chance) },
        v2::NotifyClientTerminationResponse,
        |reply, _| reply.status.clone()
    ),
    rpc!("ChangeInvisibleDuration", Unary, change_invisible, v2::ChangeInvisibleDurationResponse, |reply, known| {
        known.learn(&reply.receipt_handle);
        reply.status.clone()
    }),
    rpc!(
        "RecallMessage",
        Unary,
        |chance, known| v2::RecallMessageRequest { topic: topic(chance), recall_handle: known.handle(chance) },
        v2::RecallMessageResponse,
        |reply, _| reply.status.clone()
    ),
    rpc!(
        "SyncLiteSubscription",
        Unary,
        |chance, _| v2::SyncLiteSubscriptionRequest {
            topic: topic(chance),
            group: group(chance),
            lite_topic_set: vec!["a".into(), "b".into()],
            ..Default::default()
        },
        v2::SyncLiteSubscriptionResponse,
        |reply, _| reply.status.clone()
    ),
];

fn resource(name: &str) -> Option<v2::Resource> {
    Some(v2::Resource { resource_namespace: String::new(), name: name.into() })
}

fn topic(chance: &mut Chance) -> Option<v2::Resource> {
    if chance.one_in(12) { resource("missing") } else { resource(chance.pick(&TOPICS).0) }
}

fn group(chance: &mut Chance) -> Option<v2::Resource> {
    resource(chance.pick::<&str>(&GROUPS))
}

fn endpoints() -> Option<v2::Endpoints> {
    let address = v2::Address { host: "127.0.0.1".into(), port: 8081 };
    Some(v2::Endpoints { scheme: v2::AddressScheme::IPv4.into(), addresses: vec![address] })
}

fn queue(chance: &mut Chance) -> Option<v2::MessageQueue> {
    let broker = v2::Broker { name: "broker-a".into(), id: 0, endpoints: endpoints() };
    Some(v2::MessageQueue {
        topic: topic(chance),
        id: 0,
        permission: v2::Permission::ReadWrite.into(),
        broker: Some(broker),
        accept_message_types: Vec::new(),
    })
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn filter(chance: &mut Chance) -> Option<v2::FilterExpression> {
    let expression = chance.pick(&["*", "a", "a || b", "", "a ||", "x > 3"]).to_string();
    let kind = if chance.one_in(6) { v2::FilterType::Sql } else { v2::FilterType::Tag };
    Some(v2::FilterExpression { r#type: kind.into(), expression })
}

fn route(chance: &mut Chance, _: &Known) -> v2::QueryRouteRequest {
    v2::QueryRouteRequest { topic: topic(chance), endpoints: endpoints() }
}

fn heartbeat(chance: &mut Chance, _: &Known) -> v2::HeartbeatRequest {
    let kinds = [v2::ClientType::Producer, v2::ClientType::PushConsumer, v2::ClientType::SimpleConsumer];
    v2::HeartbeatRequest { group: group(chance), client_type: (*chance.pick(&kinds)).into() }
}

fn send(chance: &mut Chance, _: &Known) -> v2::SendMessageRequest {
    let (name, kind) = *chance.pick(&TOPICS);
    let message_type = match kind {
        "fifo" => v2::MessageType::Fifo,
        "delay" => v2::MessageType::Delay,
        "transaction" => v2::MessageType::Transaction,
        _ => v2::MessageType::Normal,
    };
    let message = |chance: &mut Chance| v2::Message {
        topic: resource(name),
        user_properties: [("region".to_owned(), "eu".to_owned())].into(),
        system_properties: Some(v2::SystemProperties {
            tag: Some("a".into()),
            keys: vec!["k1".into(), "k2".into()],
            message_id: format!("01{:032X}", chance.next_u64()),
            body_digest: None,
            body_encoding: v2::Encoding::Identity.into(),
            message_type: message_type.into(),
            born_timestamp: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
            born_host: "host".into(),
            message_group: (kind == "fifo").then(|| format!("g{}", chance.below(5))),
            // In 1970 = now, or in the year 2100.
            delivery_timestamp: (kind == "delay")
                .then(|| Timestamp { seconds: *chance.pick(&[1, 4_102_444_800]), nanos: 0 }),
            ..Default::default()
        }),
        body: format!("body {}", chance.below(1_000)).into_bytes().into(),
    };
    let count = if kind == "transaction" { 1 } else { 1 + chance.below(3) };
    v2::SendMessageRequest { messages: (0..count).map(|_| message(chance)).collect() }
}

fn assignment(chance: &mut Chance, _: &Known) -> v2::QueryAssignmentRequest {
    v2::QueryAssignmentRequest { topic: topic(chance), group: group(chance), endpoints: endpoints() }
}

fn receive(chance: &mut Chance, _: &Known) -> v2::ReceiveMessageRequest {
    v2::ReceiveMessageRequest {
        group: group(chance),
        message_queue: queue(chance),
        filter_expression: filter(chance),
        batch_size: *chance.pick(&[1, 16, 32]),
        invisible_duration: seconds(10),
        auto_renew: chance.one_in(2),
        long_polling_timeout: Some(Duration { seconds: 0, nanos: 20_000_000 }),
        attempt_id: chance.one_in(3).then(|| "attempt".into()),
    }
}

fn ack(chance: &mut Chance, known: &Known) -> v2::AckMessageRequest {
    let entry = |chance: &mut Chance| v2::AckMessageEntry {
        message_id: "id".into(),
        receipt_handle: known.handle(chance),
        lite_topic: None,
    };
    let entries = (0..1 + chance.below(3)).map(|_| entry(chance)).collect();
    v2::AckMessageRequest { group: group(chance), topic: topic(chance), entries }
}

fn bury(chance: &mut Chance, known: &Known) -> v2::ForwardMessageToDeadLetterQueueRequest {
    v2::ForwardMessageToDeadLetterQueueRequest {
        group: group(chance),
        topic: topic(chance),
        receipt_handle: known.handle(chance),
        message_id: "id".into(),
        delivery_attempt: 1,
        max_delivery_attempts: 16,
        lite_topic: None,
    }
}

fn pull(chance: &mut Chance, _: &Known) -> v2::PullMessageRequest {
    v2::PullMessageRequest {
        group: group(chance),
        message_queue: queue(chance),
        offset: 0,
        batch_size: 16,
        filter_expression: filter(chance),
        long_polling_timeout: seconds(0),
    }
}

fn end_transaction(chance: &mut Chance, known: &Known) -> v2::EndTransactionRequest {
    v2::EndTransactionRequest {
        topic: topic(chance),
        message_id: "id".into(),
        transaction_id: known.handle(chance),
        resolution: (*chance.pick(&[v2::TransactionResolution::Commit, v2::TransactionResolution::Rollback])).into(),
        source: v2::TransactionSource::SourceClient.into(),
        trace_context: String::new(),
    }
}

fn change_invisible(chance: &mut Chance, known: &Known) -> v2::ChangeInvisibleDurationRequest {
    v2::ChangeInvisibleDurationRequest {
        group: group(chance),
        topic: topic(chance),
        receipt_handle: known.handle(chance),
        invisible_duration: seconds(*chance.pick(&[0, 1, 10, 30])),
        message_id: "id".into(),
        lite_topic: None,
        suspend: chance.one_in(3).then_some(true),
    }
}

/// Anything that either side may say on a stream, also what only a server says.
fn telemetry(chance: &mut Chance, known: &Known) -> v2::TelemetryCommand {
    use v2::telemetry_command::Command;
    let command = match chance.below(8) {
        0 => Command::ThreadStackTrace(v2::ThreadStackTrace { nonce: "n".into(), thread_stack_trace: None }),
        1 => Command::VerifyMessageResult(v2::VerifyMessageResult { nonce: "n".into() }),
        2 => Command::RecoverOrphanedTransactionCommand(v2::RecoverOrphanedTransactionCommand {
            message: None,
            transaction_id: known.handle(chance),
        }),
        _ => Command::Settings(settings(chance)),
    };
    v2::TelemetryCommand { status: None, command: Some(command).filter(|_| !chance.one_in(10)) }
}

fn settings(chance: &mut Chance) -> v2::Settings {
    use v2::settings::PubSub;
    let entry = v2::SubscriptionEntry { topic: topic(chance), expression: filter(chance) };
    let (kind, pub_sub) = match chance.below(3) {
        0 => {
            let topics = topic(chance).into_iter().collect();
            let publishing = v2::Publishing { topics, max_body_size: 4 << 20, validate_message_type: true };
            (v2::ClientType::Producer, PubSub::Publishing(publishing))
        }
        number => {
            let subscription = v2::Subscription {
                group: group(chance),
                subscriptions: vec![entry],
                fifo: None,
                receive_batch_size: Some(32),
                long_polling_timeout: seconds(30),
                ..Default::default()
            };
            let kind = if number == 1 { v2::ClientType::PushConsumer } else { v2::ClientType::SimpleConsumer };
            (kind, PubSub::Subscription(subscription))
        }
    };
    v2::Settings {
        client_type: Some(kind.into()),
        access_point: endpoints(),
        request_timeout: seconds(3),
        user_agent: Some(v2::Ua { language: v2::Language::Java.into(), version: "5.0".into(), ..Default::default() }),
        pub_sub: Some(pub_sub),
        ..Default::default()
    }
}
