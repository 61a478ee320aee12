//! What a request says: names in its path, parameters, and its body. What is not known is an error that names it (H4).

use std::str::FromStr;

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use base::Timestamp;
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::bodies::too_large;
use super::problem::Problem;

/// The name in a path, decoded.
#[derive(Debug)]
pub struct Name(pub String);

/// Query parameters. Each is taken out by who knows it; [`Parameters::finish`] refuses what is left.
#[derive(Debug, Default)]
pub struct Parameters {
    pairs: Vec<(String, String)>,
}

/// A JSON body.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, state).await.map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", error.body_text()).field("name")
        })?;
        Ok(Self(name))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(pairs) = Query::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", error.body_text()))?;
        Ok(Self { pairs })
    }
}

impl Parameters {
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let Some(place) = self.pairs.iter().position(|(found, _)| found == name) else { return Ok(None) };
        let (_, value) = self.pairs.swap_remove(place);
        if self.pairs.iter().any(|(found, _)| found == name) {
            let detail = format!("parameter {name} is there twice");
            return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail).field(name));
        }
        Ok(Some(value))
    }

    pub fn parsed<T: FromStr>(&mut self, name: &str, expected: &str) -> Result<Option<T>, Problem> {
        let Some(value) = self.text(name)? else { return Ok(None) };
        value.parse().map(Some).map_err(|_| Problem::parameter(name, &value, expected))
    }

    /// Absent = false; without a value = true.
    pub fn flag(&mut self, name: &str) -> Result<bool, Problem> {
        match self.text(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(other) => Err(Problem::parameter(name, other, "true or false")),
        }
    }

    pub fn finish(self) -> Result<(), Problem> {
        let Some((name, value)) = self.pairs.into_iter().next() else { return Ok(()) };
        let detail = format!("parameter {name:?} is not known here");
        Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail).field(name).value(value))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = Bytes::from_request(request, state).await.map_err(unread)?;
        parse(&body).map(Self)
    }
}

fn unread(error: BytesRejection) -> Problem {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return too_large();
    }
    Problem::new(StatusCode::BAD_REQUEST, "invalid_body", error.body_text())
}

/// What a JSON body says.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let bad = |code, detail| Problem::new(StatusCode::BAD_REQUEST, code, detail);
    if body.is_empty() {
        return Err(bad("invalid_body", "the body is empty; a JSON object is needed".into()));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if !error.is_data() {
            return bad("invalid_body", format!("the body is not JSON: {error}"));
        }
        let text = error.to_string();
        if let Some(name) = text.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
            return bad("unknown_field", text.clone()).field(name);
        }
        let missing = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        match (missing, path.as_str()) {
            (Some(name), _) => bad("invalid_body", text.clone()).field(name),
            (None, "." | "?") => bad("invalid_body", text),
            (None, _) => bad("invalid_body", format!("{path}: {text}")).field(path),
        }
    })?;
    reader.end().map_err(|error| bad("invalid_body", format!("the body goes on after its JSON: {error}")))?;
    Ok(parsed)
}

/// RFC 3339 in UTC with milliseconds (H3).
pub fn time(time: Timestamp) -> String {
    let ms = i64::try_from(time.0).unwrap_or(i64::MAX);
    let shown = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
    format!("{shown:.3}")
}

/// A time of [`time`]'s form, any offset. None before 1970 too.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_nobody_takes_are_refused_by_name() {
        let pairs = |pairs: &[(&str, &str)]| Parameters {
            pairs: pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect(),
        };
        let mut known = pairs(&[("force", ""), ("queue", "3"), ("prefix", "a%b")]);
        assert!(known.flag("force").unwrap());
        assert_eq!(known.parsed::<u16>("queue", "a number").unwrap(), Some(3));
        assert_eq!(known.text("prefix").unwrap().as_deref(), Some("a%b"));
        assert!(known.finish().is_ok());

        let left = pairs(&[("forse", "true")]).finish().unwrap_err();
        assert_eq!((left.code, left.field.as_deref()), ("invalid_parameter", Some("forse")));
        let bad = pairs(&[("queue", "x")]).parsed::<u16>("queue", "a number").unwrap_err();
        assert_eq!(bad.field.as_deref(), Some("queue"));
        assert!(pairs(&[("a", "1"), ("a", "2")]).text("a").is_err());
        assert!(pairs(&[("force", "maybe")]).flag("force").is_err());
    }

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        assert_eq!(time(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(Timestamp(1_700_000_000_120)), "2023-11-14T22:13:20.120Z");
        assert!(time(Timestamp::MAX).starts_with("9999-12-"));
        assert_eq!(parse_time("2023-11-14T22:13:20.12Z"), Some(Timestamp(1_700_000_000_120)));
        assert_eq!(parse_time("2023-11-14T23:13:20.12+01:00"), Some(Timestamp(1_700_000_000_120)));
        assert_eq!(parse_time("yesterday"), None);
        assert_eq!(parse_time("1960-01-01T00:00:00Z"), None);
    }
}
