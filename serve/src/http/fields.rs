//! What a request says: names in its path, parameters, and its body. What is not known is an error that names it (H4).

use aide::generate::GenContext;
use aide::openapi::{MediaType, Operation, RequestBody, SchemaObject};
use aide::operation::{OperationInput, ParamLocation, set_body};
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use base::Timestamp;
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::bodies::too_large;
use super::codes::*;
use super::openapi::{add_parameters_of, add_problems};
use super::problem::Problem;

/// What may stand in a path segment as it is. Names of topics hold `%`, which must not.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A name as one segment of a path, or as a value of a query.
pub fn encode(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
}

/// The name in a path, decoded.
#[derive(Debug)]
pub struct Name(pub String);

/// The parameters of a query: all that `T` names, and no others. `T` refuses what it does not know.
#[derive(Debug)]
pub struct Query<T>(pub T);

/// A JSON body.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, state).await.map_err(|error| {
            Problem::new(INVALID_PARAMETER, error.body_text()).field("name").value(parts.uri.path())
        })?;
        Ok(Self(name))
    }
}

/// The description names it as the path does.
impl OperationInput for Name {
    fn operation_input(_: &mut GenContext, operation: &mut Operation) {
        add_problems(operation, &[INVALID_PARAMETER]);
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parse_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

impl<T: JsonSchema> OperationInput for Query<T> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        add_parameters_of::<T>(context, operation, ParamLocation::Query);
        // What is not known is refused where nothing is known too.
        add_problems(operation, &[INVALID_PARAMETER]);
    }
}

fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let value_of = |name: &str| pairs.iter().find(|(found, _)| found == name).map(|(_, value)| &**value);
    for (at, (name, value)) in pairs.iter().enumerate() {
        if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
            let detail = format!("parameter {name} is there twice");
            return Err(Problem::new(INVALID_PARAMETER, detail).field(&**name).value(&**value));
        }
    }
    let reader = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
    serde_path_to_error::deserialize(reader).map_err(|error| {
        let path = error.path().to_string();
        let text = error.into_inner().to_string();
        if let Some(name) = quoted(&text, "unknown field `") {
            let detail = format!("parameter {name:?} is not known here");
            return Problem::new(INVALID_PARAMETER, detail).field(name).value(value_of(name).unwrap_or_default());
        }
        if let Some(name) = quoted(&text, "missing field `") {
            let detail = format!("parameter {name} is missing");
            return Problem::new(INVALID_PARAMETER, detail).field(name).value(Value::Null);
        }
        let value = value_of(&path).unwrap_or_default();
        let problem = Problem::new(INVALID_PARAMETER, format!("parameter {path} is {value:?}; {text}"));
        let problem = problem.field(path.as_str()).value(value);
        match super::parameters::limit_of(&text) {
            Some(limit) => problem.limit(limit),
            None => problem,
        }
    })
}

/// The name that an error of serde puts in quotes behind these words.
fn quoted<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.strip_prefix(words).and_then(|rest| rest.split('`').next())
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = Bytes::from_request(request, state).await.map_err(unread)?;
        parse(&body).map(Self)
    }
}

impl<T: JsonSchema> OperationInput for Json<T> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        let json_schema = context.schema.subschema_for::<T>();
        let schema = Some(SchemaObject { json_schema, external_docs: None, example: None });
        let content = [("application/json".to_owned(), MediaType { schema, ..MediaType::default() })];
        let body = RequestBody { content: content.into_iter().collect(), required: true, ..RequestBody::default() };
        set_body(context, operation, body);
        add_problems(operation, &[INVALID_BODY, UNKNOWN_FIELD, TOO_LARGE, REQUEST_TIMEOUT, OVERLOADED]);
    }
}

fn unread(error: BytesRejection) -> Problem {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return too_large();
    }
    Problem::new(INVALID_BODY, error.body_text()).field("body")
}

/// What a JSON body says.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if body.is_empty() {
        let detail = "the body is empty; a JSON object is needed";
        return Err(Problem::new(INVALID_BODY, detail).field("body").value(""));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        match error.is_data() {
            true => misformed(body, &path, &error.to_string()),
            false => no_json(body, format!("the body is not JSON: {error}")),
        }
    })?;
    reader.end().map_err(|error| no_json(body, format!("the body goes on after its JSON: {error}")))?;
    Ok(parsed)
}

fn no_json(body: &[u8], detail: String) -> Problem {
    Problem::new(INVALID_BODY, detail).field("body").value(&*String::from_utf8_lossy(body))
}

/// It is JSON, and not what is asked for here.
fn misformed(body: &[u8], path: &str, text: &str) -> Problem {
    let whole: Value = serde_json::from_slice(body).unwrap_or_default();
    if let Some(name) = quoted(text, "unknown field `") {
        let place = match path {
            "." | "?" => name.to_owned(),
            path if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
            path => format!("{path}.{name}"),
        };
        return Problem::new(UNKNOWN_FIELD, text).field(place.as_str()).value(at(&whole, &place));
    }
    let (path, detail) = match (quoted(text, "missing field `"), path) {
        (Some(name), "." | "?") => (name.to_owned(), text.to_owned()),
        (Some(name), path) => (format!("{path}.{name}"), text.to_owned()),
        (None, "." | "?") => ("body".to_owned(), text.to_owned()),
        (None, path) => (path.to_owned(), format!("{path}: {text}")),
    };
    let value = if path == "body" { Some(whole.clone()) } else { at(&whole, &path) };
    Problem::new(INVALID_BODY, detail).field(path).value(value)
}

/// The value at a path such as `a.b[1].c`.
fn at(whole: &Value, path: &str) -> Option<Value> {
    let parts = path.split(['.', '[']).map(|part| part.trim_end_matches(']'));
    let step = |value: &Value, part: &str| match value {
        Value::Array(items) => items.get(part.parse::<usize>().ok()?).cloned(),
        other => other.get(part).cloned(),
    };
    parts.filter(|part| !part.is_empty()).try_fold(whole.clone(), |value, part| step(&value, part))
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
    use crate::http::parameters::{Flag, Number};

    #[test]
    fn names_in_paths_are_encoded() {
        assert_eq!(encode("%DLQ%a|b_c-d"), "%25DLQ%25a%7Cb_c-d");
    }

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Known {
        force: Flag,
        queue: Option<Number<0, 1023>>,
        prefix: Option<String>,
        retention: Vec<Inner>,
    }

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        time: u8,
    }

    fn said(problem: &Problem) -> (&str, Option<&str>, Option<&Value>) {
        (problem.code, problem.field.as_deref(), problem.value.as_ref())
    }

    #[test]
    fn parameters_that_are_not_known_or_not_of_their_form_are_refused_by_name_with_their_value() {
        let known: Known = parse_query("force&queue=3&prefix=a%25b").unwrap();
        assert_eq!((known.force.0, known.queue, known.prefix.as_deref()), (true, Some(Number(3)), Some("a%b")));
        assert_eq!(parse_query::<Known>("").unwrap(), Known::default());
        for (query, field, value) in [
            ("forse=true", "forse", "true"),
            ("queue=x", "queue", "x"),
            ("queue=1024", "queue", "1024"),
            ("queue=-1", "queue", "-1"),
            ("queue=", "queue", ""),
            ("force=maybe", "force", "maybe"),
            ("prefix=1&prefix=2", "prefix", "2"),
        ] {
            let problem = parse_query::<Known>(query).unwrap_err();
            assert_eq!(said(&problem), ("invalid_parameter", Some(field), Some(&value.into())), "{query}");
        }
        let large = parse_query::<Known>("queue=1024").unwrap_err();
        assert_eq!(&*large.detail, "parameter queue is \"1024\"; it must be a number from 0 to 1023");
        assert_eq!(large.limit, Some(1023.into()));
    }

    #[test]
    fn fields_of_a_body_are_refused_by_their_place_with_their_value() {
        for (body, code, field, value) in [
            ("", "invalid_body", "body", Value::from("")),
            ("{\"prefix\":", "invalid_body", "body", "{\"prefix\":".into()),
            ("{} x", "invalid_body", "body", "{} x".into()),
            ("3", "invalid_body", "body", 3.into()),
            ("{\"prefix\":7}", "invalid_body", "prefix", 7.into()),
            ("{\"x\":[1]}", "unknown_field", "x", vec![1].into()),
            ("{\"retention\":[{\"time\":1},{\"time\":-1}]}", "invalid_body", "retention[1].time", (-1).into()),
            ("{\"retention\":[{\"time\":1,\"y\":2}]}", "unknown_field", "retention[0].y", 2.into()),
        ] {
            let problem = parse::<Known>(body.as_bytes()).unwrap_err();
            assert_eq!(said(&problem), (code, Some(field), Some(&value)), "{body}");
        }
        let missing = parse::<Known>(b"{\"retention\":[{}]}").unwrap_err();
        assert_eq!(said(&missing), ("invalid_body", Some("retention[0].time"), Some(&Value::Null)));
        let deep = "[".repeat(10_000);
        assert_eq!(parse::<Known>(deep.as_bytes()).unwrap_err().code, "invalid_body");
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
