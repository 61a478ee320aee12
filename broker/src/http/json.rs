//! The JSON of the admin API, for the server and for the command line: durations as `"30s"`, times in RFC 3339 with
//! milliseconds, offsets as integers (operations H3).

use std::time::Duration;

use base::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

pub use super::message_json::{FoundJson, GroupStateJson, MessageJson};
pub use super::node_json::{ClientJson, DisconnectedJson, DrainJson, DrainedJson, NameserverJson, NodeJson};
pub use super::reset_json::{QueueResetJson, ResetDoneJson, ResetJson, ResetToJson};
use super::schemas;
use crate::admin::{
    Backoff, GroupDescription, GroupOrder, GroupQueueDescription, GroupTopicDescription, MemberDescription, NewGroup,
    NewTopic, QueueDescription, TopicChanges, TopicCopy, TopicDescription, TopicType,
};
use serve::http::fields::time;

/// Queues of a topic unless it says otherwise.
const QUEUES_DEFAULT: u16 = 8;

/// A page of a list. `next_cursor` is the parameter `cursor` of the next page; null on the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next_cursor: Option<String>,
    /// Brokers whose items are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<UnreachableJson>,
    /// What is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl<T> Page<T> {
    pub fn new(items: Vec<T>, next_cursor: Option<String>) -> Self {
        Self { items, next_cursor, unreachable: Vec::new(), warnings: Vec::new() }
    }

    pub fn with_warnings(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }
}

/// Body of `POST /topics`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTopicJson {
    pub name: String,
    pub r#type: TopicType,
    #[serde(default = "queues_default")]
    pub queues: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<NewRetentionJson>,
}

/// What of a topic's retention is set; null = as the server's default says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewRetentionJson {
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DurationJson>")]
    pub time: Option<Option<DurationJson>>,
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schemas::Size>")]
    pub size: Option<Option<ByteSize>>,
}

/// Body of `PATCH /topics/{t}`; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TopicChangesJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    pub retention: NewRetentionJson,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RetentionJson {
    pub time: DurationJson,
    /// The topic says nothing itself.
    pub time_is_default: bool,
    #[schemars(with = "Option<schemas::Size>")]
    pub size: Option<ByteSize>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TopicJson {
    pub name: String,
    pub r#type: TopicType,
    pub created_at: String,
    pub queues: Vec<QueueJson>,
    pub timers_pending: u64,
    pub transactions_prepared: u64,
    pub retention: RetentionJson,
    /// The brokers that have it, when there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub brokers: Vec<TopicCopyJson>,
    /// After a change: brokers that do not have it yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_on: Vec<String>,
    /// Brokers that have it too, and whose queues, timers and transactions are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<UnreachableJson>,
    /// What whoever made a change should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A topic as one of the brokers has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TopicCopyJson {
    pub broker: String,
    pub r#type: Option<TopicType>,
    pub queues: u16,
    pub changed_at: String,
    /// What is not as on the broker that answers; `keeper`: it lives on another one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differs: Vec<String>,
}

/// A broker that did not answer, and what it would have added is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnreachableJson {
    pub broker: String,
    pub reason: String,
}

/// Answer to a DELETE that some brokers have yet to follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GoneJson {
    pub pending_on: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QueueJson {
    pub broker: String,
    pub queue: u16,
    pub first: u64,
    pub next: u64,
    pub newest_at: Option<String>,
}

/// Body of `POST /groups`; what is absent is the server's default for the group's order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGroupJson {
    pub name: String,
    #[serde(default)]
    #[schemars(with = "schemas::Order")]
    pub order: GroupOrder,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<BackoffJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invisible: Option<DurationJson>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BackoffJson {
    Steps { steps: Vec<DurationJson> },
    Exponential { first: DurationJson, factor: u32, max: DurationJson },
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DurationJson(#[serde(with = "base::duration")] pub Duration);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GroupJson {
    pub name: String,
    #[schemars(with = "schemas::Order")]
    pub order: GroupOrder,
    pub attempts_max: u32,
    pub backoff: BackoffJson,
    pub invisible: DurationJson,
    pub created_at: String,
    pub members: Vec<MemberJson>,
    pub topics: Vec<GroupTopicJson>,
    pub dead_letters: u64,
    /// After a change: brokers that do not have it yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_on: Vec<String>,
    /// Brokers whose members and messages are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<UnreachableJson>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MemberJson {
    /// Where it is connected.
    pub broker: String,
    pub client_id: String,
    pub language: String,
    pub version: String,
    pub address: Option<String>,
    pub last_seen_ms_ago: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GroupTopicJson {
    pub topic: String,
    pub filter: String,
    pub lag_messages: u64,
    pub oldest_unacked_ms: u64,
    pub in_flight: u64,
    pub held: u64,
    pub retry_wait: u64,
    /// With a batch handed out.
    pub open_message_groups: u64,
    /// Whose first message failed at least once and is not settled; counted up to 4,096 messages on a broker.
    pub blocked_message_groups: u64,
    pub expired_unread: u64,
    pub oldest_expires_in_ms: Option<u64>,
    pub queues: Vec<GroupQueueJson>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GroupQueueJson {
    pub broker: String,
    pub queue: u16,
    pub floor: u64,
    pub next: u64,
    /// Visible and not acknowledged.
    pub lag: u64,
}

fn queues_default() -> u16 {
    QUEUES_DEFAULT
}

impl From<NewTopicJson> for NewTopic {
    fn from(json: NewTopicJson) -> Self {
        let retention = json.retention.unwrap_or_default();
        Self {
            name: json.name,
            topic_type: json.r#type,
            queues: json.queues,
            retention: retention.time.flatten().map(|time| time.0),
            retention_bytes: retention.size.flatten().map(|size| size.0),
        }
    }
}

impl From<TopicChangesJson> for TopicChanges {
    fn from(TopicChangesJson { queues, retention }: TopicChangesJson) -> Self {
        Self {
            queues,
            retention: retention.time.map(|time| time.map(|time| time.0)),
            retention_bytes: retention.size.map(|size| size.map(|size| size.0)),
        }
    }
}

/// Null says something, being absent does not.
fn said<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

impl From<TopicDescription> for TopicJson {
    fn from(topic: TopicDescription) -> Self {
        Self {
            name: topic.name.to_string(),
            r#type: topic.topic_type,
            created_at: time(topic.created_at),
            queues: topic.queues.into_iter().map(QueueJson::from).collect(),
            timers_pending: topic.timers_pending,
            transactions_prepared: topic.transactions_prepared,
            retention: RetentionJson {
                time: DurationJson(topic.retention.time),
                time_is_default: topic.retention.is_time_default,
                size: topic.retention.bytes.map(ByteSize),
            },
            brokers: topic.copies.into_iter().map(TopicCopyJson::from).collect(),
            pending_on: topic.pending_on.iter().map(|broker| broker.to_string()).collect(),
            unreachable: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl TopicJson {
    /// As it is on this broker.
    pub fn on(mut self, broker: &str) -> Self {
        self.queues.iter_mut().for_each(|queue| queue.broker = broker.into());
        self
    }
}

impl GroupJson {
    /// As it is on this broker.
    pub fn on(mut self, broker: &str) -> Self {
        self.members.iter_mut().for_each(|member| member.broker = broker.into());
        self.members.sort_by(|a, b| a.client_id.cmp(&b.client_id));
        let queues = self.topics.iter_mut().flat_map(|topic| &mut topic.queues);
        queues.for_each(|queue| queue.broker = broker.into());
        self
    }
}

impl From<TopicCopy> for TopicCopyJson {
    fn from(copy: TopicCopy) -> Self {
        let TopicCopy { broker, topic_type, queues, changed_at, differs } = copy;
        let differs = differs.into_iter().map(String::from).collect();
        Self { broker, r#type: topic_type, queues, changed_at: time(changed_at), differs }
    }
}

impl From<QueueDescription> for QueueJson {
    fn from(queue: QueueDescription) -> Self {
        let newest_at = queue.newest_at.map(time);
        Self { broker: String::new(), queue: queue.queue.0, first: queue.first.0, next: queue.next.0, newest_at }
    }
}

impl From<NewGroupJson> for NewGroup {
    fn from(json: NewGroupJson) -> Self {
        Self {
            name: json.name,
            order: json.order,
            attempts_max: json.attempts_max,
            backoff: json.backoff.map(Backoff::from),
            invisible: json.invisible.map(|invisible| invisible.0),
        }
    }
}

impl From<BackoffJson> for Backoff {
    fn from(json: BackoffJson) -> Self {
        match json {
            BackoffJson::Steps { steps } => Self::Steps(steps.into_iter().map(|step| step.0).collect()),
            BackoffJson::Exponential { first, factor, max } => Self::Exponential { first: first.0, factor, max: max.0 },
        }
    }
}

impl From<Backoff> for BackoffJson {
    fn from(backoff: Backoff) -> Self {
        match backoff {
            Backoff::Steps(steps) => Self::Steps { steps: steps.into_iter().map(DurationJson).collect() },
            Backoff::Exponential { first, factor, max } => {
                Self::Exponential { first: DurationJson(first), factor, max: DurationJson(max) }
            }
        }
    }
}

impl From<GroupDescription> for GroupJson {
    fn from(group: GroupDescription) -> Self {
        Self {
            name: group.name.to_string(),
            order: group.order,
            attempts_max: group.attempts_max,
            backoff: group.backoff.into(),
            invisible: DurationJson(group.invisible),
            created_at: time(group.created_at),
            members: group.members.into_iter().map(MemberJson::from).collect(),
            topics: group.topics.into_iter().map(GroupTopicJson::from).collect(),
            dead_letters: group.dead_letters,
            pending_on: group.pending_on.iter().map(|broker| broker.to_string()).collect(),
            unreachable: Vec::new(),
        }
    }
}

impl From<MemberDescription> for MemberJson {
    fn from(member: MemberDescription) -> Self {
        let MemberDescription { client_id, language, version, address, last_seen_ms_ago } = member;
        Self { broker: String::new(), client_id, language, version, address, last_seen_ms_ago }
    }
}

impl From<GroupTopicDescription> for GroupTopicJson {
    fn from(topic: GroupTopicDescription) -> Self {
        let queues = topic.queues.into_iter();
        Self {
            topic: topic.topic.to_string(),
            filter: topic.filter,
            lag_messages: topic.lag_messages,
            oldest_unacked_ms: topic.oldest_unacked_ms,
            in_flight: topic.in_flight,
            held: topic.held,
            retry_wait: topic.retry_wait,
            open_message_groups: topic.open_message_groups,
            blocked_message_groups: topic.blocked_message_groups,
            expired_unread: topic.expired_unread,
            oldest_expires_in_ms: topic.oldest_expires_in_ms,
            queues: queues.map(GroupQueueJson::from).collect(),
        }
    }
}

impl From<GroupQueueDescription> for GroupQueueJson {
    fn from(queue: GroupQueueDescription) -> Self {
        let GroupQueueDescription { queue, floor, next, lag } = queue;
        Self { broker: String::new(), queue: queue.0, floor: floor.0, next: next.0, lag }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_are_read_and_written_in_the_documented_form() {
        let text = json!({"name": "g", "order": "always", "backoff": {"kind": "steps", "steps": ["1s", "500ms"]}});
        let group: NewGroupJson = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(&group).unwrap(), text);
        let backoff = Backoff::Steps(vec![Duration::from_secs(1), Duration::from_millis(500)]);
        assert_eq!(NewGroup::from(group).backoff, Some(backoff));

        let backoff = Backoff::Exponential { first: Duration::from_secs(5), factor: 2, max: Duration::from_secs(7200) };
        let written = serde_json::to_value(BackoffJson::from(backoff)).unwrap();
        assert_eq!(written, json!({"kind": "exponential", "first": "5s", "factor": 2, "max": "2h"}));

        let bare: NewGroupJson = serde_json::from_value(json!({"name": "g"})).unwrap();
        assert_eq!((bare.order, bare.attempts_max, bare.invisible), (GroupOrder::Auto, None, None));
        let topic: NewTopicJson = serde_json::from_value(json!({"name": "t", "type": "fifo"})).unwrap();
        assert_eq!((topic.r#type, topic.queues), (TopicType::Fifo, 8));
    }

    #[test]
    fn null_sets_back_and_absent_leaves() {
        let changes = |json| TopicChanges::from(serde_json::from_value::<TopicChangesJson>(json).unwrap());
        assert_eq!(changes(json!({})), TopicChanges::default());
        assert_eq!(
            changes(json!({"queues": 9, "retention": {"time": "30d", "size": null}})),
            TopicChanges {
                queues: Some(9),
                retention: Some(Some(Duration::from_secs(30 * 86_400))),
                retention_bytes: Some(None),
            }
        );
        let set = changes(json!({"retention": {"time": null, "size": "10GiB"}}));
        assert_eq!((set.retention, set.retention_bytes), (Some(None), Some(Some(10 << 30))));
        assert!(serde_json::from_value::<TopicChangesJson>(json!({"retention": {"tme": "1d"}})).is_err());
        let new = json!({"name": "t", "type": "fifo", "retention": {"time": "30d"}});
        let new = NewTopic::from(serde_json::from_value::<NewTopicJson>(new).unwrap());
        assert_eq!((new.retention, new.retention_bytes), (Some(Duration::from_secs(30 * 86_400)), None));
    }

    #[test]
    fn a_body_that_is_wrong_is_refused_with_the_field_that_is() {
        for (body, code, field) in [
            ("", "invalid_body", Some("body")),
            ("{", "invalid_body", Some("body")),
            ("[]", "invalid_body", Some("body")),
            (r#"{"name":"t","type":"fifo"} x"#, "invalid_body", Some("body")),
            (r#"{"name":"t","type":"fifo","quues":4}"#, "unknown_field", Some("quues")),
            (r#"{"name":"t","type":"fifo","queues":"4"}"#, "invalid_body", Some("queues")),
            (r#"{"name":"t","type":"fifo","queues":-1}"#, "invalid_body", Some("queues")),
            (r#"{"name":"t","type":"queue"}"#, "invalid_body", Some("type")),
            (r#"{"type":"fifo"}"#, "invalid_body", Some("name")),
        ] {
            let problem = serve::http::fields::parse::<NewTopicJson>(body.as_bytes()).unwrap_err();
            assert_eq!((problem.kind.as_u16(), problem.code, problem.field.as_deref()), (400, code, field), "{body}");
        }
        let backoff = r#"{"name":"g","backoff":{"kind":"steps","steps":["1s","2 parsecs"]}}"#;
        let problem = serve::http::fields::parse::<NewGroupJson>(backoff.as_bytes()).unwrap_err();
        assert!(problem.detail.contains("2 parsecs"), "{problem:?}");
        let unknown = r#"{"name":"g","backoff":{"kind":"exponential","first":"1s","factor":2,"max":"1h","jitter":1}}"#;
        let problem = serve::http::fields::parse::<NewGroupJson>(unknown.as_bytes()).unwrap_err();
        assert_eq!((problem.code, problem.field.as_deref()), ("unknown_field", Some("backoff.jitter")));
    }
}
