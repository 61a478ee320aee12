//! What a server says of itself at `/readyz`.

use bytes::Bytes;
use http::HeaderMap;
use http::header::DATE;
use serve::http::health::CheckJson;

use crate::http::{Http, HttpError};

/// An answer, whether it is yes or no.
#[derive(Debug)]
pub struct Ready {
    pub is_ready: bool,
    pub checks: Vec<CheckJson>,
    headers: HeaderMap,
}

impl Ready {
    /// None when what answers is no server of ours.
    pub async fn ask(address: &str) -> Result<Option<Self>, HttpError> {
        let mut request = http::Request::new(Bytes::new());
        *request.uri_mut() = http::Uri::from_static("/readyz");
        let (head, body) = Http::new(address).call(request).await?.into_parts();
        let health = serde_json::from_slice::<serve::http::health::HealthJson>(&body).ok();
        let is_ready = head.status.is_success();
        Ok(health.map(|health| Self { is_ready, checks: health.checks, headers: head.headers }))
    }

    /// The server's clock, in seconds since 1970.
    pub fn clock(&self) -> Option<u64> {
        let date = jiff::fmt::rfc2822::parse(self.headers.get(DATE)?.to_str().ok()?).ok()?;
        Some(u64::try_from(date.timestamp().as_second()).unwrap_or(0))
    }
}
