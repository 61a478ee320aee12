//! Answers that are more than JSON at 200, each with what the description says of it.

use aide::generate::GenContext;
use aide::openapi::{Operation, Response as Described};
use aide::operation::OperationOutput;
use axum::Json;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;

use super::health::HealthJson;
use super::openapi::response;

/// What was made, and where it is then; or what was there already, as it was asked for.
#[derive(Debug)]
pub struct Made<T> {
    pub json: T,
    /// A path; none when it was there.
    pub place: Option<String>,
}

/// What is gone; and, when it is not gone everywhere, what there is to say of that.
#[derive(Debug)]
pub struct Gone<T>(pub Option<T>);

/// It is done.
#[derive(Debug)]
pub struct Done;

/// Bytes as they are.
#[derive(Debug)]
pub struct Octets(pub Bytes);

/// Whether a server is well: 200 or 503.
#[derive(Debug)]
pub struct Health(pub StatusCode, pub HealthJson);

/// A page of metrics.
#[derive(Debug)]
pub struct Page {
    pub content_type: &'static str,
    pub text: String,
}

impl<T: Serialize> IntoResponse for Made<T> {
    fn into_response(self) -> Response {
        let Some(place) = self.place else { return Json(self.json).into_response() };
        let mut response = (StatusCode::CREATED, Json(self.json)).into_response();
        if let Ok(place) = HeaderValue::from_str(&place) {
            response.headers_mut().insert(header::LOCATION, place);
        }
        response
    }
}

impl<T: Serialize> IntoResponse for Gone<T> {
    fn into_response(self) -> Response {
        match self.0 {
            Some(json) => Json(json).into_response(),
            None => StatusCode::NO_CONTENT.into_response(),
        }
    }
}

impl IntoResponse for Done {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl IntoResponse for Octets {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/octet-stream")], self.0).into_response()
    }
}

impl IntoResponse for Health {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, self.content_type)], self.text).into_response()
    }
}

type Responses = Vec<(Option<u16>, Described)>;

fn json<T: JsonSchema>(context: &mut GenContext, operation: &mut Operation, description: &str) -> Described {
    let described = Json::<T>::operation_response(context, operation).unwrap_or_default();
    Described { description: description.into(), ..described }
}

fn empty(description: &str) -> Described {
    Described { description: description.into(), ..Described::default() }
}

impl<T: JsonSchema> OperationOutput for Made<T> {
    type Inner = T;

    fn inferred_responses(context: &mut GenContext, operation: &mut Operation) -> Responses {
        let there = json::<T>(context, operation, "it was there, with the same settings");
        vec![(Some(200), there), (Some(201), json::<T>(context, operation, "it is made"))]
    }
}

impl<T: JsonSchema> OperationOutput for Gone<T> {
    type Inner = T;

    fn inferred_responses(context: &mut GenContext, operation: &mut Operation) -> Responses {
        let left = json::<T>(context, operation, "it is gone here, and not yet everywhere");
        vec![(Some(200), left), (Some(204), empty("it is gone"))]
    }
}

impl OperationOutput for Done {
    type Inner = ();

    fn inferred_responses(_: &mut GenContext, _: &mut Operation) -> Responses {
        vec![(Some(204), empty("it is done"))]
    }
}

impl OperationOutput for Octets {
    type Inner = ();

    fn inferred_responses(_: &mut GenContext, _: &mut Operation) -> Responses {
        vec![(Some(200), response("bytes as they are stored", "application/octet-stream"))]
    }
}

impl OperationOutput for Health {
    type Inner = HealthJson;

    fn inferred_responses(context: &mut GenContext, operation: &mut Operation) -> Responses {
        let well = json::<HealthJson>(context, operation, "it is well");
        vec![(Some(200), well), (Some(503), json::<HealthJson>(context, operation, "it is not"))]
    }
}

impl OperationOutput for Page {
    type Inner = ();

    fn inferred_responses(_: &mut GenContext, _: &mut Operation) -> Responses {
        let mut page = response("Prometheus' text form, or OpenMetrics for who accepts it", "text/plain");
        page.content.extend([("application/openmetrics-text".into(), aide::openapi::MediaType::default())]);
        vec![(Some(200), page)]
    }
}
