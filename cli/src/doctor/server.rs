//! A running server, from outside: whether it answers, is ready, and has our time.

use bytes::Bytes;
use http::header::DATE;
use serde_json::Value;
use tokio::net::TcpStream;

use super::{Finding, Level};
use crate::args::Target;
use crate::http::Http;
use crate::runtime;

const CONNECT_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);
/// The header has whole seconds, and the answer takes its time.
const CLOCKS_APART_S: u64 = 3;

pub async fn look(target: &Target) -> Vec<Finding> {
    let mut findings = readiness(target).await;
    let grpc = &target.grpc;
    let connected = runtime::within(CONNECT_WITHIN, TcpStream::connect(grpc)).await;
    findings.push(match connected {
        Some(Ok(_)) => Finding::new("port grpc", Level::Ok, format!("{grpc} takes connections")),
        Some(Err(error)) => Finding::new("port grpc", Level::Critical, format!("{grpc}: {error}")),
        None => Finding::new("port grpc", Level::Critical, format!("{grpc} does not answer")),
    });
    findings
}

async fn readiness(target: &Target) -> Vec<Finding> {
    let mut request = http::Request::new(Bytes::new());
    *request.uri_mut() = http::Uri::from_static("/readyz");
    let answer = match Http::new(&target.http).call(request).await {
        Ok(answer) => answer,
        Err(error) => {
            let detail = format!("{} cannot be asked: {error}; is a server running there?", target.http);
            return vec![Finding::new("server", Level::Unknown, detail)];
        }
    };
    let mut findings = vec![Finding::new("server", Level::Ok, format!("{} answers", target.http))];
    let body: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let Some(checks) = body["checks"].as_array() else {
        return vec![Finding::new("server", Level::Unknown, format!("{} is no Carillon server", target.http))];
    };
    for check in checks {
        let name = match check["name"].as_str() {
            Some("writable") => "writable",
            Some("disk") => "disk space",
            _ => "readiness",
        };
        let level = if check["ok"] == Value::Bool(true) { Level::Ok } else { Level::Critical };
        findings.push(Finding::new(name, level, check["detail"].as_str().unwrap_or_default()));
    }
    let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
    findings.extend(date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|date| {
        let theirs = u64::try_from(date.timestamp().as_second()).unwrap_or(0);
        let apart = theirs.abs_diff(runtime::wall_us() / 1_000_000);
        let level = if apart > CLOCKS_APART_S { Level::Warning } else { Level::Ok };
        Finding::new("clock", level, format!("the server's and this machine's are {apart} s apart"))
    }));
    findings
}
