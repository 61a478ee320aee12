//! What the broker refuses, as errors of HTTP (operations D2).

use base::NameError;
use serve::http::Problem;
use serve::http::codes::*;

use crate::admin::AdminRefusal;
use crate::refusal::Refusal;

impl From<AdminRefusal> for Problem {
    fn from(refusal: AdminRefusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            AdminRefusal::IllegalName(error) => illegal_name(&error),
            AdminRefusal::TopicNotFound(topic) => {
                Problem::new(TOPIC_NOT_FOUND, detail).field("topic").value(topic.as_str())
            }
            AdminRefusal::TopicNotHere { topic, .. } => {
                Problem::new(TOPIC_NOT_FOUND, detail).field("topic").value(topic.as_str())
            }
            AdminRefusal::TopicLivesElsewhere { broker, .. } => {
                Problem::new(TOPIC_LIVES_ELSEWHERE, detail).field("broker").value(broker)
            }
            AdminRefusal::NotKept { .. } => Problem::new(INTERNAL, detail),
            AdminRefusal::TopicOnOthers { topic, .. } => {
                Problem::new(TOPIC_HAS_BACKLOG, detail).field("topic").value(topic.as_str())
            }
            AdminRefusal::GroupNotFound(group) => {
                Problem::new(GROUP_NOT_FOUND, detail).field("group").value(group.as_str())
            }
            AdminRefusal::QueueNotFound { queue, queues, .. } => {
                let problem = Problem::new(ILLEGAL_VALUE, detail).field("queue");
                problem.value(queue).limit(queues.saturating_sub(1))
            }
            AdminRefusal::ExistsWithOtherSettings { field, asked, .. } => {
                Problem::new(EXISTS_WITH_OTHER_SETTINGS, detail).field(field).value(asked)
            }
            AdminRefusal::OutOfRange { field, value, min, max } => {
                let limit = if value > max { max } else { min };
                Problem::new(ILLEGAL_VALUE, detail).field(field).value(value).limit(limit)
            }
            AdminRefusal::IllegalValue { field, value, .. } => {
                Problem::new(ILLEGAL_VALUE, detail).field(field).value(value)
            }
            AdminRefusal::TopicHasBacklog { topic, .. } => {
                Problem::new(TOPIC_HAS_BACKLOG, detail).field("topic").value(topic.as_str())
            }
            AdminRefusal::GroupHasConsumers { group, .. } => {
                Problem::new(GROUP_HAS_CONSUMERS, detail).field("group").value(group.as_str())
            }
            AdminRefusal::MessageNotFound { id, .. } => Problem::new(MESSAGE_NOT_FOUND, detail).field("id").value(id),
            AdminRefusal::TopicNeeded { topics, max } => {
                Problem::new(INVALID_PARAMETER, detail).field("topic").value(topics).limit(max)
            }
            AdminRefusal::NotHere { field, value, .. } => {
                Problem::new(INVALID_PARAMETER, detail).field(field).value(value)
            }
            AdminRefusal::Incomplete { .. } => Problem::new(LOOK_UP_INCOMPLETE, detail),
            AdminRefusal::TooMany { what, count, max } => {
                Problem::new(ILLEGAL_VALUE, detail).field(what).value(count).limit(max)
            }
            AdminRefusal::Refused(refusal) => refused(&refusal),
        }
    }
}

fn illegal_name(error: &NameError) -> Problem {
    let problem = Problem::new(ILLEGAL_VALUE, error.to_string()).field("name");
    match error {
        NameError::Empty { .. } => problem.value(""),
        NameError::TooLong { length, max, .. } => problem.value(*length).limit(*max),
        NameError::Character { name, .. } | NameError::Reserved { name, .. } => problem.value(name.as_str()),
    }
}

/// An administrative call that failed for a reason of the messaging side.
fn refused(refusal: &Refusal) -> Problem {
    let code = match refusal {
        Refusal::Overloaded { .. } => OVERLOADED,
        Refusal::DiskFull { .. } => DISK_FULL,
        Refusal::WritesDisabled { .. } => WRITES_DISABLED,
        Refusal::Draining => DRAINING,
        Refusal::TopicNotFound(_) | Refusal::TopicElsewhere { .. } => TOPIC_NOT_FOUND,
        Refusal::IllegalTopic(error) | Refusal::IllegalGroup(error) => return illegal_name(error),
        // Retryable here: the outcome is unknown, or a read failed. The caller's words are not the cause.
        other if other.is_retryable() => INTERNAL,
        _ => ILLEGAL_VALUE,
    };
    Problem::new(code, refusal.to_string())
}

#[cfg(test)]
mod tests {
    use base::TopicName;

    use super::*;

    #[test]
    fn a_refusal_becomes_status_code_field_value_and_limit() {
        let topic = || TopicName::parse("t").unwrap();
        for (refusal, status, code) in [
            (AdminRefusal::TopicNotFound(topic()), 404, "topic_not_found"),
            (AdminRefusal::IllegalName(NameError::Empty { what: "topic" }), 422, "illegal_value"),
            (
                AdminRefusal::TopicHasBacklog { topic: topic(), messages: 1, timers: 0, transactions: 0 },
                409,
                "topic_has_backlog",
            ),
            (AdminRefusal::TopicLivesElsewhere { topic: topic(), broker: "b".into() }, 409, "topic_lives_elsewhere"),
            (AdminRefusal::TopicOnOthers { topic: topic(), brokers: vec!["b".into()] }, 409, "topic_has_backlog"),
            (AdminRefusal::TopicNotHere { topic: topic(), brokers: vec!["b".into()] }, 404, "topic_not_found"),
            (AdminRefusal::Refused(Refusal::Overloaded { limit: "x" }), 429, "overloaded"),
            (AdminRefusal::Refused(Refusal::DiskFull { free: 0, reserve: 1 }), 507, "disk_full"),
            (AdminRefusal::Refused(Refusal::Draining), 503, "draining"),
            (AdminRefusal::Refused(Refusal::OutcomeUnknown { cause: "x" }), 500, "internal"),
        ] {
            let problem = Problem::from(refusal);
            assert_eq!((problem.kind.as_u16(), problem.code), (status, code));
        }
        let range = Problem::from(AdminRefusal::OutOfRange { field: "queues", value: 2000, min: 1, max: 1024 });
        let said = (range.field.as_deref(), range.value, range.limit);
        assert_eq!(said, (Some("queues"), Some(2000.into()), Some(1024.into())));
        assert_eq!(&*range.detail, "queues is 2000; it must be 1 to 1024");
    }
}
