//! What every HTTP request passes through: its id, the check against foreign web pages, and the form of errors.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use base::{Clock, SystemClock};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::codes;
use super::problem::Problem;
use crate::port::Peer;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Runs a request. Every answer names the request (H7), and every error has the form of D2.
pub async fn around(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let path = request.uri().path().to_string();
    let (method, peer) = (request.method().clone(), request.extensions().get::<Peer>().copied());
    let is_change = !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
    let mut response = if is_change && is_foreign(request.headers(), peer) {
        let detail = "the header Origin names another site; pages of other sites may not change anything here";
        problem_of(Problem::new(codes::FORBIDDEN, detail).field("Origin"))
    } else {
        next.run(request).await
    };
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        if problem.kind.is_server_error() {
            tracing::warn!(request_id = id, %method, path, code = problem.code, detail = &*problem.detail, "HTTP request failed");
        }
        let headers = std::mem::take(response.headers_mut());
        response = problem.render(&path, &id);
        // What the router said beside the problem: which methods a path has.
        if let Some(allow) = headers.get(header::ALLOW) {
            response.headers_mut().insert(header::ALLOW, allow.clone());
        }
    }
    if is_change {
        let address = peer.map(|peer| peer.address.to_string());
        tracing::info!(target: "audit", request_id = id, %method, path, address, status = response.status().as_u16(), "change");
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'self'"));
    response
}

pub async fn no_such_path(request: Request) -> Problem {
    let detail = format!("there is nothing at {}", request.uri().path());
    Problem::new(codes::NOT_FOUND, detail)
}

pub async fn no_such_method(request: Request) -> Problem {
    let detail = format!("{} does not take {}", request.uri().path(), request.method());
    Problem::new(codes::METHOD_NOT_ALLOWED, detail)
}

pub(super) fn problem_of(problem: Problem) -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(problem);
    response
}

/// The caller's own id if it can stand in a log, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    match given {
        Some(id) if !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(|b| b.is_ascii_graphic()) => {
            id.into()
        }
        _ => format!("{:x}-{:x}", SystemClock.now().0, COUNT.fetch_add(1, Ordering::Relaxed)),
    }
}

/// Whether a page of another site makes this request. Browsers name their page in `Origin`; programs say nothing.
///
/// A name that resolves to this machine (DNS rebinding) makes a foreign page look like our own. So over the loopback
/// address, where nobody logs in, a page has to be called by a loopback name as well.
fn is_foreign(headers: &HeaderMap, peer: Option<Peer>) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let authority = origin
        .to_str()
        .ok()
        .and_then(|text| text.split_once("://"))
        .and_then(|(_, rest)| rest.parse::<Authority>().ok());
    let Some(origin) = authority else { return true };
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    if !host.is_some_and(|host| host.eq_ignore_ascii_case(origin.as_str())) {
        return true;
    }
    let is_local = peer.is_none_or(|peer| peer.local.ip().to_canonical().is_loopback());
    is_local && !is_loopback_name(origin.host())
}

fn is_loopback_name(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use axum::{Router, middleware};
    use tower::ServiceExt;

    use super::*;

    fn foreign(origin: Option<&str>, host: &str, local: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        let peer = Peer { address: "127.0.0.1:9".parse().unwrap(), local: local.parse().unwrap() };
        is_foreign(&headers, Some(peer))
    }

    #[test]
    fn pages_of_other_sites_are_foreign_and_programs_and_our_own_pages_are_not() {
        let (here, lan) = ("127.0.0.1:8080", "10.0.0.1:8080");
        assert!(!foreign(None, "anything", here));
        assert!(!foreign(Some("http://localhost:8080"), "localhost:8080", here));
        assert!(!foreign(Some("http://[::1]:8080"), "[::1]:8080", here));
        assert!(!foreign(Some("https://mq.example.com"), "mq.example.com", lan));
        assert!(foreign(Some("https://evil.example"), "localhost:8080", here));
        assert!(foreign(Some("http://localhost:3000"), "localhost:8080", here), "another port is another site");
        assert!(foreign(Some("null"), "localhost:8080", here));
        assert!(foreign(Some("http://evil.example:8080"), "evil.example:8080", here), "DNS rebinding");
    }

    async fn answer(request: Request) -> (http::response::Parts, serde_json::Value) {
        let app = Router::new()
            .route("/x", get(|| async { "fine" }).post(|| async { "changed" }))
            .route("/bad", get(|| async { Problem::parameter("queue", "x", "a number") }))
            .fallback(no_such_path)
            .method_not_allowed_fallback(no_such_method)
            .layer(middleware::from_fn(around));
        let (parts, body) = app.oneshot(request).await.unwrap().into_parts();
        let body = axum::body::to_bytes(body, 10_000).await.unwrap();
        (parts, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
        let request = http::Request::builder().method(method).uri(path).header("host", "localhost:8080");
        headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value))
            .body(Body::empty())
            .unwrap()
    }

    #[tokio::test]
    async fn every_error_is_a_problem_that_names_the_request() {
        for (method, path, status, code) in [
            ("GET", "/nowhere", 404, "not_found"),
            ("DELETE", "/x", 405, "method_not_allowed"),
            ("GET", "/bad", 400, "invalid_parameter"),
        ] {
            let (parts, json) = answer(request(method, path, &[("x-request-id", "id-1")])).await;
            assert_eq!(parts.status.as_u16(), status, "{path}");
            assert_eq!(parts.headers["content-type"], "application/problem+json");
            assert_eq!(parts.headers["x-request-id"], "id-1");
            let problem: super::super::problem::ProblemJson = serde_json::from_value(json).unwrap();
            assert_eq!((problem.status, &*problem.code, &*problem.instance), (status, code, path));
            assert_eq!(problem.request_id, "id-1");
            assert!(!problem.title.is_empty() && !problem.detail.is_empty() && problem.r#type.ends_with(code));
        }
        let (parts, _) = answer(request("DELETE", "/x", &[])).await;
        assert_eq!(parts.headers["allow"], "GET,HEAD,POST");
        let (parts, _) = answer(request("GET", "/x", &[])).await;
        assert!(parts.status.is_success() && parts.headers.contains_key("x-request-id"));
    }

    #[tokio::test]
    async fn a_foreign_page_may_not_change_anything_and_our_own_may() {
        let from = |origin| [("origin", origin)];
        let (parts, json) = answer(request("POST", "/x", &from("https://evil.example"))).await;
        assert_eq!((parts.status.as_u16(), &json["code"]), (403, &"forbidden".into()));
        let (parts, _) = answer(request("POST", "/x", &from("http://localhost:8080"))).await;
        assert_eq!(parts.status.as_u16(), 200);
        let (parts, _) = answer(request("POST", "/x", &[])).await;
        assert_eq!(parts.status.as_u16(), 200);
    }

    #[test]
    fn request_ids_are_the_callers_when_sane_and_differ_otherwise() {
        let mut headers = HeaderMap::new();
        assert_ne!(request_id(&headers), request_id(&headers));
        headers.insert(REQUEST_ID, "abc-1".parse().unwrap());
        assert_eq!(request_id(&headers), "abc-1");
        headers.insert(REQUEST_ID, "x".repeat(129).parse().unwrap());
        assert_ne!(request_id(&headers), "x".repeat(129));
    }
}
