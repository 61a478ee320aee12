//! Errors of the HTTP gateway: `application/problem+json` (RFC 9457, operations D2).

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What went wrong, for people and for programs. Travels in a response's extensions until [`super::guard::around`]
/// writes it, which knows the request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Problem {
    #[serde(skip)]
    pub kind: StatusCode,
    /// Stable: programs decide by it.
    pub code: &'static str,
    /// One sentence with field, value and limit.
    pub detail: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Value>,
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

/// Any error, as a client reads it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ProblemJson {
    pub r#type: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    pub instance: String,
    pub code: String,
    pub field: Option<String>,
    pub value: Option<serde_json::Value>,
    pub limit: Option<serde_json::Value>,
    pub request_id: String,
}

impl Problem {
    pub fn new(kind: StatusCode, code: &'static str, detail: impl Into<Box<str>>) -> Self {
        Self { kind, code, detail: detail.into(), field: None, value: None, limit: None }
    }

    pub fn field(self, field: impl Into<Box<str>>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    pub fn value(self, value: impl Into<Value>) -> Self {
        Self { value: Some(value.into()), ..self }
    }

    pub fn limit(self, limit: impl Into<Value>) -> Self {
        Self { limit: Some(limit.into()), ..self }
    }

    pub fn parameter(name: &str, value: &str, expected: &str) -> Self {
        let detail = format!("parameter {name} is {value:?}; it must be {expected}");
        Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail).field(name).value(value)
    }

    pub fn render(&self, instance: &str, request_id: &str) -> Response {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overloaded_answer_says_when_to_try_again() {
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", "too much");
        let response = problem.render("/x", "r");
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }

    #[test]
    fn what_a_problem_does_not_have_is_not_said() {
        let problem = Problem::parameter("queue", "x", "a number");
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!((&json["field"], &json["value"]), (&"queue".into(), &"x".into()));
        assert!(json.get("limit").is_none());
    }
}
