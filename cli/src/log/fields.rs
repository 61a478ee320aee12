//! The fields of records, by name: the same for people and for programs.

use std::collections::BTreeMap;

use base::{GroupId, QueueIndex, QueueOffset, Timestamp, TopicId};
use serde_json::{Map, Value, json};
use storage::message::StoredMessage;
use storage::record::{Fact, Head, Pending, Pointer, Record, Why};

use crate::values::rfc3339;

/// What topics and groups were called last.
#[derive(Debug, Default)]
pub struct Names {
    topics: BTreeMap<TopicId, String>,
    groups: BTreeMap<GroupId, String>,
}

impl Names {
    pub fn learn(&mut self, record: &Record) {
        match record {
            Record::Topic(spec) => drop(self.topics.insert(spec.id, spec.name.as_str().to_owned())),
            Record::Group(spec) => drop(self.groups.insert(spec.id, spec.name.as_str().to_owned())),
            _ => {}
        }
    }

    fn topic(&self, id: TopicId) -> Value {
        self.topics.get(&id).map_or_else(|| json!(id.0), |name| json!(name))
    }

    fn group(&self, id: GroupId) -> Value {
        self.groups.get(&id).map_or_else(|| json!(id.0), |name| json!(name))
    }
}

/// A record's kind and fields.
pub fn of(record: &Record, names: &Names) -> (&'static str, Map<String, Value>) {
    match record {
        Record::Message { head, queue, offset } => ("message", merged([head_of(head, names), place(*queue, *offset)])),
        Record::Delayed { head, due } => ("delayed", merged([head_of(head, names), json!({"due": rfc3339(*due)})])),
        Record::Prepared { head, due, check_after_ms, client } => {
            let own = json!({"due": due.map(rfc3339), "check_after_ms": check_after_ms, "client": &**client});
            ("prepared", merged([head_of(head, names), own]))
        }
        Record::Publish { origin, head, queue, offset, visible_since, why } => {
            let own = json!({"origin": origin_of(origin), "visible_since": rfc3339(*visible_since)});
            ("publish", merged([head_of(head, names), place(*queue, *offset), own, why_of(why, names)]))
        }
        Record::Topic(spec) => {
            let kind = format!("{:?}", spec.kind).to_lowercase();
            let own = json!({"id": spec.id.0, "name": spec.name.as_str(), "type": kind, "queues": spec.queues,
                "dropped": spec.is_dropped, "changed_at": rfc3339(spec.changed_at)});
            ("topic", merged([own]))
        }
        Record::Group(spec) => {
            let order = format!("{:?}", spec.order).to_lowercase();
            let own = json!({"id": spec.id.0, "name": spec.name.as_str(), "order": order,
                "attempts_max": spec.attempts_max, "dropped": spec.is_dropped,
                "changed_at": rfc3339(spec.changed_at)});
            ("group", merged([own]))
        }
        Record::Fact(fact) => of_fact(fact, names),
        // The key of the hashes is a secret: who knows it chooses message groups that collide.
        Record::Members { voters, .. } => ("members", merged([json!({"voters": voters})])),
        Record::Epoch { node } => ("epoch", merged([json!({"node": node})])),
        Record::Mark => ("mark", Map::new()),
    }
}

/// The envelope of a body that was read.
pub fn of_message(message: &StoredMessage) -> Map<String, Value> {
    let envelope = &message.envelope;
    merged([json!({"message_id": envelope.message_id, "message_group": envelope.message_group,
        "tag": envelope.tag, "keys": envelope.keys, "born_at": rfc3339(envelope.born_at),
        "size": message.body.len()})])
}

fn of_fact(fact: &Fact, names: &Names) -> (&'static str, Map<String, Value>) {
    let pair = |group: &GroupId, topic: &TopicId| json!({"group": names.group(*group), "topic": names.topic(*topic)});
    match fact {
        Fact::Retire { origin, pending } => {
            ("retire", merged([json!({"origin": origin.0, "pending": pending_of(pending)})]))
        }
        Fact::Move { origin, head, from, due } => {
            let own = json!({"origin": origin_of(origin), "from": pending_of(from), "due": rfc3339(*due)});
            ("move", merged([head_of(head, names), own]))
        }
        Fact::Settle { group, topic, acks, retries } => {
            let acks: Vec<_> = acks
                .iter()
                .map(|ack| json!({"queue": ack.queue.0, "first": ack.first.0, "count": ack.count}))
                .collect();
            let retry = |retry: &storage::record::RetryEntry| {
                json!({"queue": retry.queue.0, "offset": retry.offset.0, "attempts": retry.attempts,
                    "next_visible": rfc3339(retry.next_visible)})
            };
            let retries: Vec<_> = retries.iter().map(retry).collect();
            ("settle", merged([pair(group, topic), json!({"acks": acks, "retries": retries})]))
        }
        Fact::Lease { group, topic, batch, client, until, entries } => {
            let entry = |entry: &storage::record::LeaseEntry| json!({"queue": entry.queue.0, "offset": entry.offset.0, "attempt": entry.attempt});
            let entries: Vec<_> = entries.iter().map(entry).collect();
            let own = json!({"batch": batch, "client": &**client, "until": until.map(rfc3339), "entries": entries});
            ("lease", merged([pair(group, topic), own]))
        }
        Fact::Subscribe { group, topic, start, filter } => {
            let start: Vec<_> = start.iter().map(|(queue, offset)| place(*queue, *offset)).collect();
            let own = json!({"start": start, "sql": filter.is_sql, "filter": &*filter.expression});
            ("subscribe", merged([pair(group, topic), own]))
        }
        Fact::Seek { group, topic, queue, to, generation } => {
            let own = json!({"queue": queue.0, "to": to.0, "generation": generation});
            ("seek", merged([pair(group, topic), own]))
        }
        Fact::Park { group, topic, message_group, is_on } => {
            let own = json!({"message_group_hash": format!("{message_group:016x}"), "on": is_on});
            ("park", merged([pair(group, topic), own]))
        }
        Fact::Purge { topic, queue, below } | Fact::Expire { topic, queue, below } => {
            ("purge", merged([json!({"topic": names.topic(*topic), "queue": queue.0, "below": below.0})]))
        }
        Fact::Schedule(spec) => {
            let own = json!({"name": &*spec.name, "dropped": spec.is_dropped, "bytes": spec.content.len()});
            ("schedule", merged([own]))
        }
    }
}

fn head_of(head: &Head, names: &Names) -> Value {
    json!({"topic": names.topic(head.topic)})
}

fn place(queue: QueueIndex, offset: QueueOffset) -> Value {
    json!({"queue": queue.0, "offset": offset.0})
}

fn origin_of(origin: &Pointer) -> Value {
    json!({"position": origin.position.0, "length": origin.length})
}

fn pending_of(pending: &Pending) -> Value {
    match pending {
        Pending::Timer { due } => json!({"timer": rfc3339(*due)}),
        Pending::Transaction => json!("transaction"),
    }
}

fn why_of(why: &Why, names: &Names) -> Value {
    match why {
        Why::Due { due } => json!({"why": "due", "due": rfc3339(*due)}),
        Why::Commit => json!({"why": "commit"}),
        Why::DeadLetter { group, attempts, reason } => json!({"why": "dead_letter", "group": names.group(*group),
            "attempts": attempts, "reason": format!("{reason:?}").to_lowercase()}),
        Why::Redrive { group } => json!({"why": "redrive", "group": names.group(*group)}),
    }
}

/// One line: names with their values, what is empty left out.
pub fn line(fields: &Map<String, Value>) -> String {
    let is_said = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Bool(is_so) => *is_so,
        _ => true,
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let said = fields.iter().filter(|(_, value)| is_said(value));
    said.map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(" ")
}

/// A time, as everywhere in this program.
pub fn time(at: Timestamp) -> String {
    rfc3339(at)
}

fn merged<const N: usize>(parts: [Value; N]) -> Map<String, Value> {
    let objects = parts.into_iter().filter_map(|part| match part {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    objects.flatten().collect()
}
