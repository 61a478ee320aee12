//! The description of an HTTP API (operations H1), made from its handlers: what they take, what they answer, and the
//! problems they say.
//!
//! Extractors and answers describe themselves. A route adds its sentence and the codes of its problems; from those follow
//! the statuses. Nothing else is written by hand.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use aide::generate::{GenContext, in_context};
use aide::openapi::{Info, OpenApi, Operation};
use aide::operation::{OperationInput, OperationOutput, ParamLocation, add_parameters, parameters_from_schema};
use aide::transform::TransformOperation;
use axum::Router;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, json_schema};
use serde_json::{Map, Value, json};

use super::Query;
use super::codes::{self, Code};
use super::paid;
use super::parameters::Nothing;
use super::problem::ProblemJson;

/// Where the description is.
pub const PATH: &str = "/api/v1/openapi.json";
/// Of an operation, until its responses are made from it.
const PROBLEMS: &str = "x-problems";
const SCHEMAS: &str = "#/components/schemas/";

/// A router that also serves its own description, at [`PATH`].
pub fn described<S: Clone + Send + Sync + 'static>(title: &str, build: impl FnOnce() -> ApiRouter<S>) -> Router<S> {
    in_context(|context| {
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = SCHEMAS.into());
        context.schema = SchemaGenerator::new(settings);
    });
    let text: Arc<OnceLock<Bytes>> = Arc::default();
    let served = text.clone();
    let own = move |_: Query<Nothing>| async move { Description(served.get().cloned().unwrap_or_default()) };
    let router = build().api_route(PATH, get_with(own, says("This description.", &[])));
    in_context(|context| context.schema.subschema_for::<ProblemJson>());
    let info = Info { title: title.into(), version: env!("CARGO_PKG_VERSION").into(), ..Info::default() };
    let mut api = OpenApi { info, ..OpenApi::default() };
    let router = router.finish_api(&mut api);
    let mut document = serde_json::to_value(api).expect("a description is JSON");
    finish(&mut document);
    let _is_first = text.set(document.to_string().into());
    router
}

/// What a route does, in one sentence, and the codes of its problems beside those of its parameters and its body.
pub fn says(
    summary: &'static str,
    problems: &'static [Code],
) -> impl FnOnce(TransformOperation<'_>) -> TransformOperation<'_> {
    move |mut route| {
        add_problems(route.inner_mut(), problems);
        route.summary(summary)
    }
}

/// As [`says`], of a route that changes topics, groups or progress.
pub fn changes(
    summary: &'static str,
    problems: &'static [Code],
) -> impl FnOnce(TransformOperation<'_>) -> TransformOperation<'_> {
    move |route| {
        let mut route = says(summary, problems)(route);
        add_problems(route.inner_mut(), &codes::OF_CHANGES);
        route
    }
}

/// Codes of problems that a part of a route says.
pub fn add_problems(operation: &mut Operation, problems: &[Code]) {
    let known = operation.extensions.entry(PROBLEMS.into()).or_insert_with(|| json!([]));
    if let Value::Array(known) = known {
        known.extend(problems.iter().map(|code| Value::from(code.word)));
    }
}

/// The members of `T` as parameters: of a query, or headers.
pub fn add_parameters_of<T: JsonSchema>(context: &mut GenContext, operation: &mut Operation, location: ParamLocation) {
    let schema = context.schema.subschema_for::<T>();
    let parameters = parameters_from_schema(context, schema, location);
    add_parameters(context, operation, parameters);
}

/// A response of another form than JSON.
pub(super) fn response(description: &str, content_type: &str) -> aide::openapi::Response {
    let content = [(content_type.to_owned(), aide::openapi::MediaType::default())];
    aide::openapi::Response {
        description: description.into(),
        content: content.into_iter().collect(),
        ..Default::default()
    }
}

/// The description itself.
struct Description(Bytes);

impl IntoResponse for Description {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

impl OperationOutput for Description {
    type Inner = Value;

    fn inferred_responses(_: &mut GenContext, _: &mut Operation) -> Vec<(Option<u16>, aide::openapi::Response)> {
        let mut response = response("OpenAPI 3.1", "application/json");
        if let Some(content) = response.content.get_mut("application/json") {
            let json_schema = json_schema!({"type": "object", "required": ["openapi", "paths"]});
            content.schema = Some(aide::openapi::SchemaObject { json_schema, external_docs: None, example: None });
        }
        vec![(Some(200), response)]
    }
}

/// Names what an operation is called, and makes responses of the codes of its problems.
fn finish(document: &mut Value) {
    let Some(paths) = document["paths"].as_object_mut() else { return };
    for (path, item) in paths {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            let words = path.trim_start_matches("/api/v1").split(['/', '{', '}', '.']).filter(|word| !word.is_empty());
            let name: Vec<_> = [method.as_str()].into_iter().chain(words).collect();
            operation["operationId"] = name.join("_").into();
            name_places(path, operation);
            plain_parameters(operation);
            let is_change = !matches!(method.as_str(), "get" | "head");
            let said = operation.as_object_mut().and_then(|operation| operation.remove(PROBLEMS));
            let mut said: Vec<Code> = said.iter().flat_map(Value::as_array).flatten().filter_map(code).collect();
            if is_change {
                said.push(codes::FORBIDDEN);
            } else if path.starts_with(paid::API) {
                said.push(codes::OVERLOADED);
            }
            let responses = problem_responses(&said);
            match operation["responses"].as_object_mut() {
                Some(known) => responses.into_iter().for_each(|(status, response)| add(known, status, response)),
                None => operation["responses"] = Value::Object(responses),
            }
        }
    }
}

/// Names in a path are texts.
fn name_places(path: &str, operation: &mut Value) {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let places = names.map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    let places: Vec<_> = places.collect();
    match operation.get_mut("parameters").and_then(Value::as_array_mut) {
        Some(parameters) => drop(parameters.splice(0..0, places)),
        None if !places.is_empty() => operation["parameters"] = places.into(),
        None => {}
    }
}

/// A status that says something else too, as a health check does, has both forms.
fn add(known: &mut Map<String, Value>, status: String, response: Value) {
    match known.get_mut(&status) {
        Some(other) => {
            other["content"]["application/problem+json"] = response["content"]["application/problem+json"].clone()
        }
        None => drop(known.insert(status, response)),
    }
}

fn code(word: &Value) -> Option<Code> {
    word.as_str().and_then(codes::of)
}

/// What is absent is not null: a parameter has no such value.
fn plain_parameters(operation: &mut Value) {
    for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
        let schema = &mut parameter["schema"];
        if let Some(Value::Array(kinds)) = schema.get("type") {
            let kinds: Vec<_> = kinds.iter().filter(|kind| *kind != "null").cloned().collect();
            schema["type"] = if kinds.len() == 1 { kinds[0].clone() } else { kinds.into() };
        }
        if let Some(Value::Array(forms)) = schema.get("anyOf") {
            let forms: Vec<_> = forms.iter().filter(|form| form["type"] != "null").cloned().collect();
            if let [form] = &forms[..] {
                *schema = form.clone();
            }
        }
    }
}

/// One response for each status of these codes.
fn problem_responses(said: &[Code]) -> Map<String, Value> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in said {
        let codes = by_status.entry(code.status.as_u16()).or_default();
        if !codes.contains(code) {
            codes.push(*code);
        }
    }
    let response = |codes: Vec<Code>| {
        let meanings: Vec<_> = codes.iter().map(|code| format!("`{}`: {}", code.word, code.meaning)).collect();
        let words: Vec<_> = codes.iter().map(|code| code.word).collect();
        let schema = json!({
            "allOf": [{"$ref": format!("{SCHEMAS}ProblemJson")}, {"properties": {"code": {"enum": words}}}],
        });
        json!({
            "description": meanings.join("; "),
            "content": {"application/problem+json": {"schema": schema}},
        })
    };
    by_status.into_iter().map(|(status, codes)| (status.to_string(), response(codes))).collect()
}

impl OperationInput for super::problem::Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_one_status_are_one_response() {
        let responses = problem_responses(&[codes::INVALID_BODY, codes::DISK_FULL, codes::UNKNOWN_FIELD]);
        assert_eq!(responses.keys().collect::<Vec<_>>(), ["400", "507"]);
        let schema = &responses["400"]["content"]["application/problem+json"]["schema"];
        assert_eq!(schema["allOf"][1]["properties"]["code"]["enum"], json!(["invalid_body", "unknown_field"]));
    }

    #[test]
    fn a_parameter_that_may_be_absent_is_not_null() {
        let mut operation = json!({"parameters": [
            {"schema": {"type": ["integer", "null"], "minimum": 1}},
            {"schema": {"anyOf": [{"$ref": "#/x"}, {"type": "null"}]}},
        ]});
        plain_parameters(&mut operation);
        assert_eq!(operation["parameters"][0]["schema"], json!({"type": "integer", "minimum": 1}));
        assert_eq!(operation["parameters"][1]["schema"], json!({"$ref": "#/x"}));
    }
}
