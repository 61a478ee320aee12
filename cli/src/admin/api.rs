//! The admin API of a server: calls, pages and problems.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_MATCH};
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::http::{Http, HttpError};
pub use serve::http::fields::encode;

/// The most that a server gives at once.
pub const PAGE_MAX: usize = 1000;
/// A server that hands out cursors for ever is broken.
const PAGES_MAX: usize = 10_000;

/// Why a call gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{address} cannot be reached; is the server running, and its HTTP address right (--server)?")]
    Unreachable {
        address: String,
        #[source]
        source: HttpError,
    },
    #[error("{address} gave no answer in time")]
    TimedOut { address: String },
    #[error("{address} does not answer as a Carillon server: {path}: {problem}")]
    NotOurs { address: String, path: String, problem: String },
    #[error("{}", .0.text())]
    Refused(Box<Problem>),
}

/// A refusal, `application/problem+json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    pub title: String,
    pub status: u16,
    pub detail: String,
    pub code: String,
    pub field: Option<String>,
    pub limit: Option<Value>,
    pub setting: Option<String>,
    pub request_id: Option<String>,
}

impl Problem {
    fn text(&self) -> String {
        let mut text = if self.detail.is_empty() { self.title.clone() } else { self.detail.clone() };
        if !self.code.is_empty() {
            text += &format!(" ({})", self.code);
        }
        if let Some(setting) = &self.setting {
            text += &format!("; {setting} changes the limit");
        }
        // Only faults of the server are worth looking up in its log.
        if let (Some(id), true) = (&self.request_id, self.status >= 500) {
            text += &format!("; request {id}");
        }
        text
    }
}

/// An answer that is no refusal.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// The state that a change must be based on.
    pub etag: Option<HeaderValue>,
    pub body: Value,
}

/// A connection to the admin API.
#[derive(Debug)]
pub struct Api {
    http: Http,
}

impl Api {
    pub fn new(address: &str) -> Self {
        Self { http: Http::new(address) }
    }

    pub async fn get(&mut self, path: &str) -> Result<Answer, ApiError> {
        self.call(Method::GET, path, None, None).await
    }

    pub async fn post(&mut self, path: &str, body: &Value) -> Result<Answer, ApiError> {
        self.call(Method::POST, path, Some(body), None).await
    }

    pub async fn patch(&mut self, path: &str, body: &Value) -> Result<Answer, ApiError> {
        self.call(Method::PATCH, path, Some(body), None).await
    }

    pub async fn delete(&mut self, path: &str, etag: Option<HeaderValue>) -> Result<Answer, ApiError> {
        self.call(Method::DELETE, path, None, etag).await
    }

    /// All items of a list, page after page.
    pub async fn list(&mut self, path: &str) -> Result<Page, ApiError> {
        self.list_where(path, []).await
    }

    /// Those items of a list that fit the parameters.
    pub async fn list_where<'a>(
        &mut self,
        path: &str,
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Page, ApiError> {
        let mut path = format!("{path}?limit={PAGE_MAX}");
        for (name, value) in parameters {
            path += &format!("&{name}={}", encode(value));
        }
        let mut whole = Page::default();
        let mut next = path.clone();
        for _ in 0..PAGES_MAX {
            let page = self.page(&next).await?;
            whole.add(page);
            match &whole.next_cursor {
                Some(cursor) => next = format!("{path}&cursor={}", encode(cursor)),
                None => {
                    whole.warn();
                    return Ok(whole);
                }
            }
        }
        Err(self.not_ours(&path, "its list has no end"))
    }

    /// One page of a list.
    pub async fn page(&mut self, path: &str) -> Result<Page, ApiError> {
        let answer = self.get(path).await?;
        self.read(path, answer.body)
    }

    /// What is no JSON.
    pub async fn bytes(&mut self, path: &str) -> Result<Bytes, ApiError> {
        let full = format!("/api/v1{path}");
        let (head, bytes) = self.send(Method::GET, &full, Bytes::new(), None).await?.into_parts();
        if head.status.is_success() {
            return Ok(bytes);
        }
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => Err(ApiError::Refused(Box::new(Problem { status: head.status.as_u16(), ..problem }))),
            Err(_) => Err(self.not_ours(&full, head.status.as_str())),
        }
    }

    /// A value that must have a certain form.
    pub fn read<T: DeserializeOwned>(&self, path: &str, value: Value) -> Result<T, ApiError> {
        serde_json::from_value(value).map_err(|error| self.not_ours(path, &error.to_string()))
    }

    /// The text at a path outside of the API, such as the metrics.
    pub async fn text(&mut self, path: &str) -> Result<String, ApiError> {
        let answer = self.send(Method::GET, path, Bytes::new(), None).await?;
        match answer.status().is_success() {
            true => Ok(String::from_utf8_lossy(answer.body()).into_owned()),
            false => Err(self.not_ours(path, answer.status().as_str())),
        }
    }

    async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        etag: Option<HeaderValue>,
    ) -> Result<Answer, ApiError> {
        let full = format!("/api/v1{path}");
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let answer = self.send(method, &full, bytes, etag).await?;
        let (head, bytes) = answer.into_parts();
        let value = match bytes.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_slice::<Value>(&bytes),
        };
        if head.status.is_success() {
            let body = value.map_err(|error| self.not_ours(&full, &error.to_string()))?;
            return Ok(Answer { status: head.status, etag: head.headers.get(ETAG).cloned(), body });
        }
        match value.ok().and_then(|value| serde_json::from_value::<Problem>(value).ok()) {
            Some(problem) => Err(ApiError::Refused(Box::new(Problem { status: head.status.as_u16(), ..problem }))),
            None => Err(self.not_ours(&full, head.status.as_str())),
        }
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        etag: Option<HeaderValue>,
    ) -> Result<http::Response<Bytes>, ApiError> {
        let mut request = http::Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("paths are made of encoded segments");
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(etag) = etag {
            request.headers_mut().insert(IF_MATCH, etag);
        }
        let address = self.http.address().to_owned();
        self.http.call(request).await.map_err(|error| match error {
            HttpError::TimedOut => ApiError::TimedOut { address },
            source => ApiError::Unreachable { address, source },
        })
    }

    fn not_ours(&self, path: &str, problem: &str) -> ApiError {
        ApiError::NotOurs { address: self.http.address().into(), path: path.into(), problem: problem.into() }
    }
}

/// A page of a list, or several that follow each other.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Page {
    pub items: Vec<Value>,
    #[serde(default)]
    pub next_cursor: Option<String>,
    /// Brokers whose items are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Page {
    /// The next one. A broker is named once, and also when it has answered again.
    pub fn add(&mut self, next: Self) {
        self.items.extend(next.items);
        self.next_cursor = next.next_cursor;
        for broker in next.unreachable {
            if self.unreachable.iter().all(|known| known["broker"] != broker["broker"]) {
                self.unreachable.push(broker);
            }
        }
        for warning in next.warnings {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    /// Says what is missing.
    pub fn warn(&self) {
        super::warn_of_unreachable(&self.unreachable);
        self.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    }
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
