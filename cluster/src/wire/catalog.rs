//! Topics, groups and what was dropped, on the wire.

use std::time::Duration;

use base::duration::ms;
use base::limits::*;
use base::{Backoff, GroupName, GroupOrder, Timestamp, TopicName};
use proto::cluster as wire;

use super::{WireError, read_group_name, read_topic_name};
use crate::catalog::{Buried, Group, Kind, Served};
use crate::message_type;

const KINDS: [(Kind, wire::TopicKind); 9] = [
    (Kind::Normal, wire::TopicKind::Normal),
    (Kind::Fifo, wire::TopicKind::Fifo),
    (Kind::Delay, wire::TopicKind::Delay),
    (Kind::Transaction, wire::TopicKind::Transaction),
    (Kind::Mixed, wire::TopicKind::Mixed),
    (Kind::DeadLetter, wire::TopicKind::DeadLetter),
    (Kind::Retry, wire::TopicKind::Retry),
    (Kind::Lite, wire::TopicKind::Lite),
    (Kind::Priority, wire::TopicKind::Priority),
];

fn kind_number(kind: Kind) -> i32 {
    match kind {
        Kind::Other(number) => number,
        known => KINDS.iter().find(|(kind, _)| *kind == known).map_or(0, |(_, number)| (*number).into()),
    }
}

fn read_kind(number: i32) -> Kind {
    KINDS.iter().find(|(_, known)| i32::from(*known) == number).map_or(Kind::Other(number), |(kind, _)| *kind)
}

pub(super) fn topic(name: &TopicName, served: &Served) -> wire::Topic {
    wire::Topic {
        name: name.as_str().into(),
        queues: served.queues.into(),
        accepts: served.accepts.iter().map(|&kind| message_type::to_protocol(kind).into()).collect(),
        is_writable: served.is_writable,
        is_placed: served.is_placed,
        is_ceded: served.is_ceded,
        created_at: served.created_at.0,
        kind: kind_number(served.kind),
        retention_ms: served.retention.map_or(0, ms),
        retention_bytes: served.retention_bytes.unwrap_or(0),
        changed_at: served.changed_at.0,
    }
}

pub(super) fn group(name: &GroupName, group: &Group) -> wire::Group {
    let order = match group.order {
        GroupOrder::Auto => wire::Order::Auto,
        GroupOrder::Always => wire::Order::Always,
        GroupOrder::Never => wire::Order::Never,
    };
    let said = wire::Group {
        name: name.as_str().into(),
        order: order.into(),
        attempts_max: group.attempts_max,
        invisible_ms: ms(group.invisible),
        created_at: group.created_at.0,
        changed_at: group.changed_at.0,
        ..wire::Group::default()
    };
    match &group.backoff {
        Backoff::Steps(steps) => wire::Group { backoff_steps_ms: steps.iter().map(|step| ms(*step)).collect(), ..said },
        Backoff::Exponential { first, factor, max } => {
            wire::Group { backoff_first_ms: ms(*first), backoff_factor: *factor, backoff_max_ms: ms(*max), ..said }
        }
    }
}

pub(super) fn buried(what: &Buried, at: u64) -> wire::Buried {
    match what {
        Buried::Topic(name, kind) => {
            wire::Buried { topic: name.as_str().into(), kind: kind_number(*kind), group: String::new(), at }
        }
        Buried::Group(name) => wire::Buried { topic: String::new(), kind: 0, group: name.as_str().into(), at },
    }
}

pub(super) fn read_topic(topic: wire::Topic) -> Result<(TopicName, Served), WireError> {
    let name = read_topic_name(&topic.name)?;
    let queues = u16::try_from(topic.queues).ok().filter(|queues| (1..=TOPIC_QUEUES_MAX).contains(queues));
    let queues = queues.ok_or_else(|| wrong("topics.queues", topic.queues, "must be 1 to 1,024"))?;
    // A kind that only newer brokers know is passed over.
    let accepts: Vec<_> = topic.accepts.iter().filter_map(|number| message_type::from_protocol(*number)).collect();
    if accepts.is_empty() {
        let (field, problem) = ("topics.accepts", "must name a type of messages");
        return Err(WireError::Field { field, value: format!("{:?}", topic.accepts), problem });
    }
    let retention = Some(topic.retention_ms).filter(|time| *time > 0);
    if retention.is_some_and(|time| !(RETENTION_MS_MIN..=RETENTION_MS_MAX).contains(&time)) {
        return Err(wrong("topics.retention_ms", topic.retention_ms, "must be 0, or a second to a hundred years"));
    }
    let retention_bytes = Some(topic.retention_bytes).filter(|bytes| *bytes > 0);
    if retention_bytes.is_some_and(|bytes| !(RETENTION_BYTES_MIN..=RETENTION_BYTES_MAX).contains(&bytes)) {
        return Err(wrong("topics.retention_bytes", topic.retention_bytes, "must be 0, or 1 MiB to 1 EiB"));
    }
    let wire::Topic { is_writable, is_placed, is_ceded, created_at, changed_at, .. } = topic;
    let served = Served {
        kind: read_kind(topic.kind),
        queues,
        accepts,
        is_writable,
        is_placed,
        is_ceded,
        retention: retention.map(Duration::from_millis),
        retention_bytes,
        created_at: Timestamp(created_at),
        changed_at: Timestamp(changed_at),
    };
    Ok((name, served))
}

pub(super) fn read_group(group: wire::Group) -> Result<(GroupName, Group), WireError> {
    let name = read_group_name(&group.name)?;
    let order = match group.order() {
        wire::Order::Auto => GroupOrder::Auto,
        wire::Order::Always => GroupOrder::Always,
        wire::Order::Never => GroupOrder::Never,
        wire::Order::Unspecified => {
            return Err(wrong("groups.order", group.order, "must be AUTO, ALWAYS or NEVER"));
        }
    };
    if !(1..=ATTEMPTS_MAX).contains(&group.attempts_max) {
        return Err(wrong("groups.attempts_max", group.attempts_max, "must be 1 to 1,000"));
    }
    if !(1..=INVISIBLE_MS_MAX).contains(&group.invisible_ms) {
        return Err(wrong("groups.invisible_ms", group.invisible_ms, "must be 1 ms to 12 hours"));
    }
    let said = Group {
        changed_at: Timestamp(group.changed_at),
        created_at: Timestamp(group.created_at),
        order,
        attempts_max: group.attempts_max,
        backoff: read_backoff(&group)?,
        invisible: Duration::from_millis(group.invisible_ms),
    };
    Ok((name, said))
}

fn read_backoff(group: &wire::Group) -> Result<Backoff, WireError> {
    let steps = &group.backoff_steps_ms;
    if steps.len() > BACKOFF_STEPS_MAX {
        return Err(wrong("groups.backoff_steps_ms", steps.len(), "must be at most 64 steps"));
    }
    let wait = |field, wait: u64| match wait {
        0..=DELAY_MS_MAX => Ok(Duration::from_millis(wait)),
        _ => Err(wrong(field, wait, "must be at most a hundred years")),
    };
    if !steps.is_empty() {
        let steps = steps.iter().map(|step| wait("groups.backoff_steps_ms", *step));
        return Ok(Backoff::Steps(steps.collect::<Result<_, _>>()?));
    }
    if group.backoff_factor == 0 {
        return Err(wrong("groups.backoff_factor", 0, "must be at least 1 where there are no steps"));
    }
    Ok(Backoff::Exponential {
        first: wait("groups.backoff_first_ms", group.backoff_first_ms)?,
        factor: group.backoff_factor,
        max: wait("groups.backoff_max_ms", group.backoff_max_ms)?,
    })
}

pub(super) fn read_buried(buried: wire::Buried) -> Result<(Buried, Timestamp), WireError> {
    let what = match (&*buried.topic, &*buried.group) {
        ("", "") => return Err(wrong("buried.topic", "", "must name a topic, unless a group is named")),
        (topic, "") => Buried::Topic(read_topic_name(topic)?, read_kind(buried.kind)),
        ("", group) => Buried::Group(read_group_name(group)?),
        (topic, _) => return Err(wrong("buried.topic", topic, "must be empty where a group is named")),
    };
    Ok((what, Timestamp(buried.at)))
}

fn wrong(field: &'static str, value: impl ToString, problem: &'static str) -> WireError {
    WireError::Field { field, value: value.to_string(), problem }
}
