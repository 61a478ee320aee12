//! Errors of the HTTP gateway: `application/problem+json` (RFC 9457, operations D2).

use aide::generate::GenContext;
use aide::openapi::Operation;
use aide::operation::OperationOutput;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::codes::{self, Code};

/// What of a caller's words is said again.
const VALUE_CHARS_MAX: usize = 200;
const DETAIL_CHARS_MAX: usize = 1000;

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
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
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
    pub fn new(code: Code, detail: impl Into<Box<str>>) -> Self {
        let detail = cut(detail.into().into(), DETAIL_CHARS_MAX).into();
        Self { kind: code.status, code: code.word, detail, field: None, value: None, limit: None }
    }

    pub fn field(self, field: impl Into<Box<str>>) -> Self {
        let field: Box<str> = field.into();
        Self { field: Some(cut(field.into(), VALUE_CHARS_MAX).into()), ..self }
    }

    pub fn value(self, value: impl Into<Value>) -> Self {
        Self { value: Some(short(value.into())), ..self }
    }

    pub fn limit(self, limit: impl Into<Value>) -> Self {
        Self { limit: Some(limit.into()), ..self }
    }

    pub fn parameter(name: &str, value: &str, expected: &str) -> Self {
        let detail = format!("parameter {name} is {value:?}; it must be {expected}");
        Self::new(codes::INVALID_PARAMETER, detail).field(name).value(value)
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

/// A value as it may stand in an answer: one that is long loses its end, or, when it is no text, all but its kind.
fn short(value: Value) -> Value {
    match value {
        Value::String(text) => cut(text, VALUE_CHARS_MAX).into(),
        Value::Array(_) | Value::Object(_) => {
            let text = value.to_string();
            if text.chars().count() <= VALUE_CHARS_MAX { value } else { cut(text, VALUE_CHARS_MAX).into() }
        }
        short => short,
    }
}

fn cut(text: String, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Which problems a route has is said beside it.
impl OperationOutput for Problem {
    type Inner = ProblemJson;

    fn inferred_responses(_: &mut GenContext, _: &mut Operation) -> Vec<(Option<u16>, aide::openapi::Response)> {
        Vec::new()
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
        let problem = Problem::new(codes::OVERLOADED, "too much");
        let response = problem.render("/x", "r");
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }

    #[test]
    fn what_a_caller_said_is_not_repeated_without_end() {
        let long = "ü".repeat(100_000);
        let problem = Problem::new(codes::INVALID_BODY, long.as_str()).field(long.as_str()).value(long.as_str());
        let (field, value) = (problem.field.unwrap(), problem.value.unwrap());
        assert_eq!(problem.detail.chars().count(), DETAIL_CHARS_MAX + 1);
        assert_eq!((field.chars().count(), value.as_str().unwrap().chars().count()), (201, 201));
        let list = Problem::new(codes::INVALID_BODY, "x").value(vec![0; 1000]).value.unwrap();
        assert_eq!(list.as_str().unwrap().chars().count(), 201);
    }

    #[test]
    fn what_a_problem_does_not_have_is_not_said() {
        let problem = Problem::parameter("queue", "x", "a number");
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!((&json["field"], &json["value"]), (&"queue".into(), &"x".into()));
        assert!(json.get("limit").is_none());
    }
}
