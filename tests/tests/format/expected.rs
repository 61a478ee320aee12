//! What the store says a record is, in the words of the document's reader.

use base::{Backoff, GroupId, QueueIndex, QueueOffset, Timestamp, TopicId};
use storage::message::Envelope;
use storage::record::{Fact, Head, Pending, Pointer, Record, Why};
use storage::view::catalog::{GroupSpec, TopicSpec};

use super::reader::{Fields, Value};

fn number(number: impl Into<u64>) -> Value {
    Value::Number(number.into())
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn time(time: Timestamp) -> Value {
    number(time.0)
}

fn ms(duration: std::time::Duration) -> Value {
    number(u64::try_from(duration.as_millis()).expect("small"))
}

fn slot(queue: QueueIndex, offset: QueueOffset) -> Fields {
    vec![("queue", number(queue.0)), ("offset", number(offset.0))]
}

fn pair(group: GroupId, topic: TopicId) -> Value {
    Value::Fields(vec![("group", number(group.0)), ("topic", number(topic.0))])
}

fn pointer(pointer: &Pointer) -> Value {
    Value::Fields(vec![("position", number(pointer.position.0)), ("length", number(pointer.length))])
}

fn head(head: &Head) -> Value {
    Value::Fields(vec![
        ("topic", number(head.topic.0)),
        ("tag hash", number(head.tag_hash)),
        ("group hash", number(head.group_hash)),
        ("priority", number(head.priority)),
    ])
}

fn pending(pending: &Pending) -> Value {
    match pending {
        Pending::Transaction => text("transaction"),
        Pending::Timer { due } => time(*due),
    }
}

fn why(why: &Why) -> Value {
    Value::Fields(match why {
        Why::Due { due } => vec![("code", number(1u8)), ("due", time(*due))],
        Why::Commit => vec![("code", number(2u8))],
        Why::DeadLetter { group, attempts, reason } => vec![
            ("code", number(3u8)),
            ("group", number(group.0)),
            ("attempts", number(*attempts)),
            ("reason", number(*reason as u8)),
        ],
        Why::Redrive { group } => vec![("code", number(4u8)), ("group", number(group.0))],
    })
}

fn after(mut fields: Fields, more: Fields) -> Value {
    fields.extend(more);
    Value::Fields(fields)
}

pub fn fields(record: &Record) -> Fields {
    match record {
        Record::Message { head: of, queue, offset } => {
            vec![("head", head(of)), ("queue", number(queue.0)), ("offset", number(offset.0))]
        }
        Record::Delayed { head: of, due } => vec![("head", head(of)), ("due", time(*due))],
        Record::Prepared { head: of, due, check_after_ms, client } => vec![
            ("head", head(of)),
            ("due", time(due.unwrap_or_default())),
            ("check after", number(*check_after_ms)),
            ("client", text(client)),
        ],
        Record::Publish { origin, head: of, queue, offset, visible_since, why: reason } => vec![
            ("origin", pointer(origin)),
            ("head", head(of)),
            ("queue", number(queue.0)),
            ("offset", number(offset.0)),
            ("visible since", time(*visible_since)),
            ("why", why(reason)),
        ],
        Record::Fact(fact) => of_fact(fact),
        Record::Topic(spec) => of_topic(spec),
        Record::Group(spec) => of_group(spec),
        Record::Members { hash_key, voters } => vec![
            ("hash key", Value::Bytes(hash_key.0.to_vec())),
            ("voters", Value::List(voters.iter().map(|voter| number(*voter)).collect())),
        ],
        Record::Epoch { node } => vec![("node", number(*node))],
        Record::Mark => Vec::new(),
    }
}

fn of_fact(fact: &Fact) -> Fields {
    match fact {
        Fact::Retire { origin, pending: from } => vec![("origin", number(origin.0)), ("pending", pending(from))],
        Fact::Move { origin, head: of, from, due } => {
            vec![("origin", pointer(origin)), ("head", head(of)), ("from", pending(from)), ("due", time(*due))]
        }
        Fact::Settle { group, topic, acks, retries } => {
            let acks = acks.iter().map(|range| {
                Value::Fields(vec![
                    ("queue", number(range.queue.0)),
                    ("first", number(range.first.0)),
                    ("count", number(range.count)),
                ])
            });
            let retries = retries.iter().map(|retry| {
                let state = vec![("attempts", number(retry.attempts)), ("next visible", time(retry.next_visible))];
                after(slot(retry.queue, retry.offset), state)
            });
            let (acks, retries) = (Value::List(acks.collect()), Value::List(retries.collect()));
            vec![("pair", pair(*group, *topic)), ("acks", acks), ("retries", retries)]
        }
        Fact::Lease { group, topic, batch, client, until, entries } => {
            let entries = entries
                .iter()
                .map(|entry| after(slot(entry.queue, entry.offset), vec![("attempt", number(entry.attempt))]));
            vec![
                ("pair", pair(*group, *topic)),
                ("batch", number(*batch)),
                ("client", text(client)),
                ("until", time(until.unwrap_or_default())),
                ("entries", Value::List(entries.collect())),
            ]
        }
        Fact::Subscribe { group, topic, start, filter } => {
            let start = start.iter().map(|(queue, offset)| Value::Fields(slot(*queue, *offset)));
            vec![
                ("pair", pair(*group, *topic)),
                ("start", Value::List(start.collect())),
                ("is SQL", number(u8::from(filter.is_sql))),
                ("filter", text(&filter.expression)),
            ]
        }
        Fact::Seek { group, topic, queue, to, generation } => {
            let seek = vec![("queue", number(queue.0)), ("to", number(to.0)), ("generation", number(*generation))];
            vec![("pair", pair(*group, *topic)), ("seek", Value::Fields(seek))]
        }
        Fact::Park { group, topic, message_group, is_on } => vec![
            ("pair", pair(*group, *topic)),
            ("message group", number(*message_group)),
            ("on", number(u8::from(*is_on))),
        ],
        Fact::Purge { topic, queue, below } => {
            let purge = vec![("topic", number(topic.0)), ("queue", number(queue.0)), ("below", number(below.0))];
            vec![("purge", Value::Fields(purge))]
        }
        Fact::Expire { topic, queue, below } => {
            let expire = vec![("topic", number(topic.0)), ("queue", number(queue.0)), ("below", number(below.0))];
            vec![("expire", Value::Fields(expire))]
        }
        Fact::Schedule(spec) => vec![
            ("name", text(&spec.name)),
            ("dropped", number(u8::from(spec.is_dropped))),
            ("content", Value::Bytes(spec.content.to_vec())),
        ],
    }
}

fn of_topic(spec: &TopicSpec) -> Fields {
    vec![
        ("id", number(spec.id.0)),
        ("name", text(spec.name.as_str())),
        ("kind", number(spec.kind as u8)),
        ("queues", number(spec.queues)),
        ("created", time(spec.created_at)),
        ("dropped", number(u8::from(spec.is_dropped))),
        ("retention", number(spec.retention.map_or(0, |time| time.as_millis() as u64))),
        ("retention bytes", number(spec.retention_bytes.unwrap_or(0))),
        ("changed", time(spec.changed_at)),
    ]
}

fn of_group(spec: &GroupSpec) -> Fields {
    let backoff = match &spec.backoff {
        Backoff::Steps(steps) => Value::List(steps.iter().map(|step| ms(*step)).collect()),
        Backoff::Exponential { first, factor, max } => {
            Value::Fields(vec![("first", ms(*first)), ("factor", number(*factor)), ("longest", ms(*max))])
        }
    };
    vec![
        ("id", number(spec.id.0)),
        ("name", text(spec.name.as_str())),
        ("order", number(spec.order as u8)),
        ("attempts", number(spec.attempts_max)),
        ("back-off", backoff),
        ("invisible", ms(spec.invisible)),
        ("created", time(spec.created_at)),
        ("dropped", number(u8::from(spec.is_dropped))),
        ("changed", time(spec.changed_at)),
    ]
}

/// Fields of an envelope, in the order in which they are written.
pub fn envelope(envelope: &Envelope) -> Fields {
    let mut fields = vec![
        ("kind", number(envelope.kind as u8)),
        ("flags", number(u8::from(envelope.is_gzip))),
        ("born", time(envelope.born_at)),
        ("id", text(&envelope.message_id)),
        ("host", text(&envelope.born_host)),
    ];
    let texts = [
        ("tag", &envelope.tag),
        ("message group", &envelope.message_group),
        ("trace context", &envelope.trace_context),
        ("lite topic", &envelope.lite_topic),
    ];
    fields.extend(texts.into_iter().filter_map(|(name, value)| Some((name, text(value.as_ref()?)))));
    fields.extend(envelope.keys.iter().map(|key| ("key", text(key))));
    let properties = envelope.properties.iter();
    fields.extend(properties.map(|(name, value)| ("property", Value::List(vec![text(name), text(value)]))));
    fields.extend(envelope.deliver_at.map(|at| ("delivery time", time(at))));
    fields.extend(envelope.priority.map(|priority| ("priority", number(priority))));
    fields
}
