//! Errors of the HTTP gateway: `application/problem+json` (RFC 9457, operations D2).

use axum::response::{IntoResponse, Response};
use base::NameError;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use crate::admin::AdminRefusal;
use crate::refusal::Refusal;

/// What went wrong, for people and for programs. Travels in a response's extensions until [`super::guard::around`]
/// writes it, which knows the request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Problem {
    #[serde(skip)]
    pub(super) kind: StatusCode,
    /// Stable: programs decide by it.
    pub(super) code: &'static str,
    /// One sentence with field, value and limit.
    pub(super) detail: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) field: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<Value>,
}

/// A problem as it is sent.
#[derive(Serialize)]
struct Sent<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    instance: &'a str,
    request_id: &'a str,
    #[serde(flatten)]
    problem: &'a Problem,
}

impl Problem {
    pub(super) fn new(kind: StatusCode, code: &'static str, detail: impl Into<Box<str>>) -> Self {
        Self { kind, code, detail: detail.into(), field: None, value: None, limit: None }
    }

    pub(super) fn field(self, field: impl Into<Box<str>>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    pub(super) fn value(self, value: impl Into<Value>) -> Self {
        Self { value: Some(value.into()), ..self }
    }

    pub(super) fn limit(self, limit: impl Into<Value>) -> Self {
        Self { limit: Some(limit.into()), ..self }
    }

    pub(super) fn parameter(name: &str, value: &str, expected: &str) -> Self {
        let detail = format!("parameter {name} is {value:?}; it must be {expected}");
        Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail).field(name).value(value)
    }

    pub(super) fn render(&self, instance: &str, request_id: &str) -> Response {
        let sent = Sent {
            // Not a link until the pages that explain the codes have an address.
            r#type: format!("urn:carillon:problem:{}", self.code),
            title: self.kind.canonical_reason().unwrap_or("Error"),
            status: self.kind.as_u16(),
            instance,
            request_id,
            problem: self,
        };
        let body = serde_json::to_vec(&sent).unwrap_or_default();
        let mut response = (self.kind, [("content-type", "application/problem+json")], body).into_response();
        if self.kind == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(http::header::RETRY_AFTER, http::HeaderValue::from_static("1"));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.kind.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<AdminRefusal> for Problem {
    fn from(refusal: AdminRefusal) -> Self {
        use StatusCode as S;
        let detail = refusal.to_string();
        match refusal {
            AdminRefusal::IllegalName(error) => illegal_name(&error),
            AdminRefusal::TopicNotFound(topic) => {
                Self::new(S::NOT_FOUND, "topic_not_found", detail).value(topic.as_str())
            }
            AdminRefusal::GroupNotFound(group) => {
                Self::new(S::NOT_FOUND, "group_not_found", detail).value(group.as_str())
            }
            AdminRefusal::QueueNotFound { queue, queues, .. } => {
                let problem = Self::new(S::UNPROCESSABLE_ENTITY, "illegal_value", detail).field("queue");
                problem.value(queue).limit(queues.saturating_sub(1))
            }
            AdminRefusal::ExistsWithOtherSettings { field, asked, .. } => {
                Self::new(S::CONFLICT, "exists_with_other_settings", detail).field(field).value(asked)
            }
            AdminRefusal::OutOfRange { field, value, min, max } => {
                let limit = if value > max { max } else { min };
                Self::new(S::UNPROCESSABLE_ENTITY, "illegal_value", detail).field(field).value(value).limit(limit)
            }
            AdminRefusal::IllegalValue { field, .. } => {
                Self::new(S::UNPROCESSABLE_ENTITY, "illegal_value", detail).field(field)
            }
            AdminRefusal::TopicHasBacklog { topic, .. } => {
                Self::new(S::CONFLICT, "topic_has_backlog", detail).value(topic.as_str())
            }
            AdminRefusal::GroupHasConsumers { group, .. } => {
                Self::new(S::CONFLICT, "group_has_consumers", detail).value(group.as_str())
            }
            AdminRefusal::MessageNotFound { id, .. } => Self::new(S::NOT_FOUND, "message_not_found", detail).value(id),
            AdminRefusal::TopicNeeded { topics, max } => {
                Self::new(S::BAD_REQUEST, "invalid_parameter", detail).field("topic").value(topics).limit(max)
            }
            AdminRefusal::NotHere { field, .. } => Self::new(S::BAD_REQUEST, "invalid_parameter", detail).field(field),
            AdminRefusal::Incomplete { .. } => Self::new(S::SERVICE_UNAVAILABLE, "look_up_incomplete", detail),
            AdminRefusal::TooMany { what, count, max } => {
                Self::new(S::UNPROCESSABLE_ENTITY, "illegal_value", detail).field(what).value(count).limit(max)
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
        Refusal::TopicNotFound(_) => (StatusCode::NOT_FOUND, "topic_not_found"),
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

    fn rendered(problem: &Problem) -> Value {
        let sent = Sent { r#type: String::new(), title: "", status: 0, instance: "/x", request_id: "r", problem };
        serde_json::to_value(&sent).unwrap()
    }

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
            (AdminRefusal::Refused(Refusal::Overloaded { limit: "x" }), 429, "overloaded"),
            (AdminRefusal::Refused(Refusal::DiskFull { free: 0, reserve: 1 }), 507, "disk_full"),
            (AdminRefusal::Refused(Refusal::Draining), 503, "draining"),
            (AdminRefusal::Refused(Refusal::OutcomeUnknown { cause: "x" }), 500, "internal"),
        ] {
            let problem = Problem::from(refusal);
            assert_eq!((problem.kind.as_u16(), problem.code), (status, code));
        }
        let range = Problem::from(AdminRefusal::OutOfRange { field: "queues", value: 2000, min: 1, max: 1024 });
        let json = rendered(&range);
        assert_eq!((&json["field"], &json["value"], &json["limit"]), (&"queues".into(), &2000.into(), &1024.into()));
        assert_eq!(json["detail"], "queues is 2000; it must be 1 to 1024");
        assert!(rendered(&Problem::from(AdminRefusal::TopicNotFound(topic()))).get("limit").is_none());
    }

    #[test]
    fn an_overloaded_answer_says_when_to_try_again() {
        let problem = Problem::from(AdminRefusal::Refused(Refusal::Overloaded { limit: "x" }));
        let response = problem.render("/x", "r");
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
}
