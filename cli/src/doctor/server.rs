//! A running server, from outside: whether it answers, is ready, and has our time.

use tokio::net::TcpStream;

use super::{Finding, Level};
use crate::args::Target;
use crate::ready::Ready;
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
    let ready = match Ready::ask(&target.http).await {
        Ok(Some(ready)) => ready,
        Ok(None) => {
            return vec![Finding::new("server", Level::Unknown, format!("{} is no Carillon server", target.http))];
        }
        Err(error) => {
            let detail = format!("{} cannot be asked: {error}; is a server running there?", target.http);
            return vec![Finding::new("server", Level::Unknown, detail)];
        }
    };
    let mut findings = vec![Finding::new("server", Level::Ok, format!("{} answers", target.http))];
    for check in &ready.checks {
        let name = match &*check.name {
            "writable" => "writable",
            "disk" => "disk space",
            _ => "readiness",
        };
        let level = if check.ok { Level::Ok } else { Level::Critical };
        findings.push(Finding::new(name, level, &*check.detail));
    }
    findings.extend(ready.clock().map(|theirs| {
        let apart = theirs.abs_diff(runtime::wall_us() / 1_000_000);
        let level = if apart > CLOCKS_APART_S { Level::Warning } else { Level::Ok };
        Finding::new("clock", level, format!("the server's and this machine's are {apart} s apart"))
    }));
    findings
}
