//! What the broker refuses, as errors of HTTP (operations D2).

use base::NameError;
use http::StatusCode;
use serve::http::Problem;

use crate::admin::AdminRefusal;
use crate::refusal::Refusal;

impl From<AdminRefusal> for Problem {
    fn from(refusal: AdminRefusal) -> Self {
        use StatusCode as S;
        let detail = refusal.to_string();
        match refusal {
            AdminRefusal::IllegalName(error) => illegal_name(&error),
            AdminRefusal::TopicNotFound(topic) => {
                Problem::new(S::NOT_FOUND, "topic_not_found", detail).value(topic.as_str())
            }
            AdminRefusal::TopicNotHere { topic, .. } => {
                Problem::new(S::NOT_FOUND, "topic_not_found", detail).value(topic.as_str())
            }
            AdminRefusal::TopicLivesElsewhere { broker, .. } => {
                Problem::new(S::CONFLICT, "topic_lives_elsewhere", detail).field("broker").value(broker)
            }
            AdminRefusal::NotKept { .. } => Problem::new(S::INTERNAL_SERVER_ERROR, "internal", detail),
            AdminRefusal::TopicOnOthers { topic, .. } => {
                Problem::new(S::CONFLICT, "topic_has_backlog", detail).value(topic.as_str())
            }
            AdminRefusal::GroupNotFound(group) => {
                Problem::new(S::NOT_FOUND, "group_not_found", detail).value(group.as_str())
            }
            AdminRefusal::QueueNotFound { queue, queues, .. } => {
                let problem = Problem::new(S::UNPROCESSABLE_ENTITY, "illegal_value", detail).field("queue");
                problem.value(queue).limit(queues.saturating_sub(1))
            }
            AdminRefusal::ExistsWithOtherSettings { field, asked, .. } => {
                Problem::new(S::CONFLICT, "exists_with_other_settings", detail).field(field).value(asked)
            }
            AdminRefusal::OutOfRange { field, value, min, max } => {
                let limit = if value > max { max } else { min };
                Problem::new(S::UNPROCESSABLE_ENTITY, "illegal_value", detail).field(field).value(value).limit(limit)
            }
            AdminRefusal::IllegalValue { field, .. } => {
                Problem::new(S::UNPROCESSABLE_ENTITY, "illegal_value", detail).field(field)
            }
            AdminRefusal::TopicHasBacklog { topic, .. } => {
                Problem::new(S::CONFLICT, "topic_has_backlog", detail).value(topic.as_str())
            }
            AdminRefusal::GroupHasConsumers { group, .. } => {
                Problem::new(S::CONFLICT, "group_has_consumers", detail).value(group.as_str())
            }
            AdminRefusal::MessageNotFound { id, .. } => {
                Problem::new(S::NOT_FOUND, "message_not_found", detail).value(id)
            }
            AdminRefusal::TopicNeeded { topics, max } => {
                Problem::new(S::BAD_REQUEST, "invalid_parameter", detail).field("topic").value(topics).limit(max)
            }
            AdminRefusal::NotHere { field, .. } => {
                Problem::new(S::BAD_REQUEST, "invalid_parameter", detail).field(field)
            }
            AdminRefusal::Incomplete { .. } => Problem::new(S::SERVICE_UNAVAILABLE, "look_up_incomplete", detail),
            AdminRefusal::TooMany { what, count, max } => {
                Problem::new(S::UNPROCESSABLE_ENTITY, "illegal_value", detail).field(what).value(count).limit(max)
            }
            AdminRefusal::Refused(refusal) => refused(&refusal),
        }
    }
}

fn illegal_name(error: &NameError) -> Problem {
    let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "illegal_value", error.to_string()).field("name");
    match error {
        NameError::Empty { .. } => problem.value(""),
        NameError::TooLong { length, max, .. } => problem.value(*length).limit(*max),
        NameError::Character { name, .. } | NameError::Reserved { name, .. } => problem.value(name.as_str()),
    }
}

/// An administrative call that failed for a reason of the messaging side.
fn refused(refusal: &Refusal) -> Problem {
    let (kind, code) = match refusal {
        Refusal::Overloaded { .. } => (StatusCode::TOO_MANY_REQUESTS, "overloaded"),
        Refusal::DiskFull { .. } => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
        Refusal::WritesDisabled { .. } => (StatusCode::SERVICE_UNAVAILABLE, "writes_disabled"),
        Refusal::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        Refusal::TopicNotFound(_) | Refusal::TopicElsewhere { .. } => (StatusCode::NOT_FOUND, "topic_not_found"),
        Refusal::IllegalTopic(error) | Refusal::IllegalGroup(error) => return illegal_name(error),
        // Retryable here: the outcome is unknown, or a read failed. The caller's words are not the cause.
        other if other.is_retryable() => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        _ => (StatusCode::UNPROCESSABLE_ENTITY, "illegal_value"),
    };
    Problem::new(kind, code, refusal.to_string())
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
