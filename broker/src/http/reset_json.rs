//! The JSON of resets (operations H3).

use base::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serve::http::fields::{parse_time, time};

use crate::{QueueReset, Reset, ResetTo};

/// Body of `POST /groups/{g}/reset`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetJson {
    pub topic: String,
    /// Only on this one; otherwise on every broker that has the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
    /// Only this one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u16>,
    pub to: ResetToJson,
}

/// Where the group goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResetToJson {
    /// What is stored still.
    Earliest,
    /// What comes from now on.
    Latest,
    /// The first message that became visible then, or later.
    Time(TimeJson),
    /// Of one queue.
    Offset(u64),
    /// So many offsets further in each queue, at most to its end.
    Skip(u64),
    /// Where this other group is.
    Group(String),
}

/// RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, JsonSchema)]
#[schemars(transparent)]
pub struct TimeJson(#[schemars(with = "String", extend("format" = "date-time"))] pub Timestamp);

/// What was done, or would be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResetDoneJson {
    pub group: String,
    pub topic: String,
    /// Nothing was done.
    pub dry_run: bool,
    pub queues: Vec<QueueResetJson>,
    /// Messages that were acknowledged, and come again.
    pub repeated: u64,
    /// Messages that were not acknowledged, and do not come any more.
    pub skipped: u64,
    /// Brokers that have the topic and did not say that it was done, with the reason. One that is only slow may still do it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<super::json::UnreachableJson>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QueueResetJson {
    pub broker: String,
    pub queue: u16,
    /// Everything below was acknowledged.
    pub old: u64,
    pub new: u64,
    pub repeated: u64,
    pub skipped: u64,
}

impl Serialize for TimeJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&time(self.0))
    }
}

impl<'de> Deserialize<'de> for TimeJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let error = || serde::de::Error::custom(format_args!("{text:?} is no time such as 2026-01-31T12:00:00Z"));
        parse_time(&text).map(Self).ok_or_else(error)
    }
}

impl From<ResetJson> for Reset {
    fn from(json: ResetJson) -> Self {
        let to = match json.to {
            ResetToJson::Earliest => ResetTo::Earliest,
            ResetToJson::Latest => ResetTo::Latest,
            ResetToJson::Time(TimeJson(time)) => ResetTo::Time(time),
            ResetToJson::Offset(offset) => ResetTo::Offset(offset),
            ResetToJson::Skip(count) => ResetTo::Skip(count),
            ResetToJson::Group(name) => ResetTo::Group(name),
        };
        Self { topic: json.topic, queue: json.queue, to }
    }
}

impl ResetDoneJson {
    pub fn new(group: &str, topic: &str, dry_run: bool) -> Self {
        let (group, topic) = (group.into(), topic.into());
        Self { group, topic, dry_run, queues: Vec::new(), repeated: 0, skipped: 0, unreachable: Vec::new() }
    }

    /// With what was done on one broker.
    pub fn on(mut self, broker: &str, plan: Vec<QueueReset>) -> Self {
        self.add(plan.into_iter().map(|reset| QueueResetJson {
            broker: broker.into(),
            queue: reset.queue.0,
            old: reset.old.0,
            new: reset.new.0,
            repeated: reset.repeated,
            skipped: reset.skipped,
        }));
        self
    }

    pub fn add(&mut self, queues: impl IntoIterator<Item = QueueResetJson>) {
        self.queues.extend(queues);
        self.queues.sort_by(|a, b| (&a.broker, a.queue).cmp(&(&b.broker, b.queue)));
        self.repeated = self.queues.iter().map(|queue| queue.repeated).sum();
        self.skipped = self.queues.iter().map(|queue| queue.skipped).sum();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn resets_are_read_in_the_documented_form() {
        for (to, expected) in [
            (json!("earliest"), ResetTo::Earliest),
            (json!("latest"), ResetTo::Latest),
            (json!({"time": "1970-01-01T00:00:01Z"}), ResetTo::Time(Timestamp(1000))),
            (json!({"offset": 7}), ResetTo::Offset(7)),
            (json!({"skip": 7}), ResetTo::Skip(7)),
            (json!({"group": "other"}), ResetTo::Group("other".into())),
        ] {
            let json: ResetJson = serde_json::from_value(json!({"topic": "t", "queue": 1, "to": to})).unwrap();
            assert_eq!(serde_json::to_value(&json).unwrap()["topic"], "t");
            assert_eq!(Reset::from(json), Reset { topic: "t".into(), queue: Some(1), to: expected });
        }
        for bad in [json!("first"), json!({"time": "yesterday"}), json!({"offset": -1}), json!({}), json!(7)] {
            let reset = json!({"topic": "t", "to": bad});
            assert!(serde_json::from_value::<ResetJson>(reset.clone()).is_err(), "{reset}");
        }
    }
}
