//! What other brokers add to an answer, and calls that are theirs to answer (operations H2).
//!
//! Brokers ask each other at the addresses of their admin APIs, which they register. One that is asked answers for
//! itself only: a call is sent on once at most. Nobody is redirected, as whoever asks may not reach that address.

use std::sync::Arc;
use std::time::Duration;

use aide::generate::GenContext;
use aide::openapi::Operation;
use aide::operation::{OperationInput, ParamLocation};
use axum::extract::FromRequestParts;
use base::TopicName;
use bytes::Bytes;
use futures_util::future::join_all;
use http::request::Parts;
use http::{HeaderName, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serve::http::codes::{self, MISDIRECTED, UNREACHABLE};
use serve::http::openapi::{add_parameters_of, add_problems};
use serve::http::{Problem, ProblemJson};
use tokio::net::TcpStream;

use super::Admin;
use super::json::UnreachableJson;
use crate::Broker;
use crate::admin::AdminRefusal;

/// Says which broker shall answer, for itself only.
static FOR: HeaderName = HeaderName::from_static("x-carillon-for");
/// For an answer that needs no waiting.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(3);
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Every topic, group or client of a broker.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Of whom a call asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Cluster,
    /// Another broker asks, and asks the others itself.
    Here,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "it is only described")]
struct Headers {
    /// Name of the broker that shall answer for itself only; for calls between brokers.
    #[serde(rename = "X-Carillon-For")]
    answerer: Option<String>,
}

/// What became of a call to another broker.
pub(super) enum Asked<T> {
    Answered(T),
    /// It says no.
    Refused(Problem),
    Unreachable(String),
}

impl FromRequestParts<Admin> for Scope {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Problem> {
        let Some(name) = parts.headers.get(&FOR) else { return Ok(Self::Cluster) };
        let here = admin.broker.name();
        if name.as_bytes() == here.as_bytes() {
            return Ok(Self::Here);
        }
        let name = String::from_utf8_lossy(name.as_bytes());
        let detail =
            format!("this is broker {here}, and {name:?} was asked: is http.listen reachable from other brokers?");
        Err(Problem::new(MISDIRECTED, detail).field("X-Carillon-For").value(&*name))
    }
}

impl OperationInput for Scope {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        add_parameters_of::<Headers>(context, operation, ParamLocation::Header);
        add_problems(operation, &[MISDIRECTED]);
    }
}

impl<T> Asked<T> {
    fn and_then<U>(self, read: impl FnOnce(T) -> Asked<U>) -> Asked<U> {
        match self {
            Self::Answered(answer) => read(answer),
            Self::Refused(problem) => Asked::Refused(problem),
            Self::Unreachable(reason) => Asked::Unreachable(reason),
        }
    }

    /// The answer, or why there is none.
    pub fn or_problem(self, broker: &str) -> Result<T, Problem> {
        match self {
            Self::Answered(answer) => Ok(answer),
            Self::Refused(problem) => Err(problem),
            Self::Unreachable(reason) => {
                let detail = format!("broker {broker}, whose answer this needs, cannot be reached: {reason}");
                Err(Problem::new(UNREACHABLE, detail).field("broker").value(broker))
            }
        }
    }
}

/// What all that were asked said.
pub(super) struct All<T> {
    /// By the brokers' names.
    pub answers: Vec<(Arc<str>, T)>,
    pub refused: Vec<(Arc<str>, Problem)>,
    pub unreachable: Vec<UnreachableJson>,
}

impl<T> All<T> {
    /// Whoever does not have what is looked for has said all there is to say. One that refuses for another reason has
    /// not, and is named with those that did not answer.
    pub fn named(mut self) -> Self {
        let (absent, refused) =
            self.refused.into_iter().partition(|(_, problem)| problem.kind == StatusCode::NOT_FOUND);
        self.refused = absent;
        for (broker, problem) in refused {
            self.leave_out(&broker, problem.detail);
        }
        self
    }

    pub fn leave_out(&mut self, broker: &str, reason: impl Into<String>) {
        self.unreachable.push(UnreachableJson { broker: broker.into(), reason: reason.into() });
    }
}

impl Broker {
    pub(super) fn name(&self) -> &Arc<str> {
        self.shared().peers.name()
    }

    /// The other brokers, by name.
    pub(super) fn others(&self) -> Vec<Arc<cluster::Broker>> {
        let table = self.shared().peers.table();
        table.brokers().filter(|broker| broker.name != *self.name()).cloned().collect()
    }

    pub(super) fn other(&self, name: &str) -> Option<Arc<cluster::Broker>> {
        self.others().into_iter().find(|broker| *broker.name == *name)
    }

    /// The other brokers that have a topic of this name, by name.
    pub(super) fn holders(&self, topic: &str) -> Vec<Arc<cluster::Broker>> {
        let Ok(topic) = TopicName::parse(topic) else { return Vec::new() };
        let mut others = self.others();
        others.retain(|broker| broker.catalog.topics.contains_key(&topic));
        others
    }

    /// Whom to ask for what they have, too: nobody when another broker asks, and else those that have the topic, if one
    /// is named.
    pub(super) fn to_ask(&self, scope: Scope, topic: Option<&str>) -> Vec<Arc<cluster::Broker>> {
        match (scope, topic) {
            (Scope::Here, _) => Vec::new(),
            (Scope::Cluster, Some(topic)) => self.holders(topic),
            (Scope::Cluster, None) => self.others(),
        }
    }

    /// Whom a call about a topic goes to that is not here: the one that keeps it, if order is kept in it.
    pub(super) fn holder(&self, topic: &str, scope: Scope) -> Option<Arc<cluster::Broker>> {
        if scope == Scope::Here || !matches!(self.describe_topic(topic), Err(AdminRefusal::TopicNotHere { .. })) {
            return None;
        }
        let holders = self.holders(topic);
        let table = self.shared().peers.table();
        let keeper =
            TopicName::parse(topic).ok().and_then(|topic| table.keeper(&topic).map(|keeper| keeper.name.clone()));
        let is_keeper = |holder: &&Arc<cluster::Broker>| Some(&holder.name) == keeper.as_ref();
        holders.iter().find(is_keeper).or(holders.first()).cloned()
    }

    /// Asks all of these at once, each for itself only.
    pub(super) async fn ask_all<T: DeserializeOwned>(
        &self,
        brokers: &[Arc<cluster::Broker>],
        method: Method,
        path: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> All<T> {
        let asked = join_all(brokers.iter().map(|broker| ask(broker, method.clone(), path, body, within))).await;
        let mut all = All { answers: Vec::new(), refused: Vec::new(), unreachable: Vec::new() };
        for (broker, asked) in brokers.iter().zip(asked) {
            let name = broker.name.clone();
            match asked {
                Asked::Answered(answer) => all.answers.push((name, answer)),
                Asked::Refused(problem) => all.refused.push((name, problem)),
                Asked::Unreachable(reason) => all.leave_out(&name, reason),
            }
        }
        all
    }
}

/// Asks one broker, for itself only. `path` is one below `/api/v1`, with its query.
pub(super) async fn ask<T: DeserializeOwned>(
    broker: &cluster::Broker,
    method: Method,
    path: &str,
    body: &impl Serialize,
    within: Duration,
) -> Asked<T> {
    let asked = ask_bytes(broker, method, path, body, within).await;
    asked.and_then(|answer| read(&answer, broker.node.http.as_deref().unwrap_or_default()))
}

/// A path, with the query that this server was asked.
pub(super) fn with_query(path: &str, asked: &Uri) -> String {
    format!("{path}?{}", asked.query().unwrap_or_default())
}

/// As [`ask`], for what is no JSON.
pub(super) async fn ask_bytes(
    broker: &cluster::Broker,
    method: Method,
    path: &str,
    body: &impl Serialize,
    within: Duration,
) -> Asked<Bytes> {
    let Some(address) = broker.node.http.as_deref() else {
        return Asked::Unreachable("it has no admin API: http.listen is empty".into());
    };
    let body = match method {
        Method::GET | Method::DELETE => Bytes::new(),
        _ => serde_json::to_vec(body).unwrap_or_default().into(),
    };
    let called = tokio::time::timeout(within, call(address, &broker.name, method, path, body)).await;
    match called {
        Err(_) => Asked::Unreachable(format!("no answer from {address} within {} s", within.as_secs())),
        Ok(Err(error)) => Asked::Unreachable(format!("{address}: {error}")),
        Ok(Ok((status, body))) => judge(status, body, address),
    }
}

fn read<T: DeserializeOwned>(body: &[u8], address: &str) -> Asked<T> {
    // Who has nothing to say says nothing.
    let body = if body.is_empty() { b"null" } else { body };
    match serde_json::from_slice(body) {
        Ok(answer) => Asked::Answered(answer),
        Err(error) => Asked::Unreachable(format!("{address}: its answer cannot be read: {error}")),
    }
}

fn judge(status: StatusCode, body: Bytes, address: &str) -> Asked<Bytes> {
    if status.is_success() {
        return Asked::Answered(body);
    }
    let problem = serde_json::from_slice::<ProblemJson>(&body).ok();
    let known = problem.and_then(|problem| Some((codes::of(&problem.code)?, problem)));
    match known {
        Some((code, problem)) if code != MISDIRECTED && !status.is_server_error() => {
            let refused = Problem::new(code, problem.detail);
            let refused = problem.field.into_iter().fold(refused, |refused, field| refused.field(field));
            let refused = problem.value.into_iter().fold(refused, |refused, value| refused.value(value));
            Asked::Refused(problem.limit.into_iter().fold(refused, |refused, limit| refused.limit(limit)))
        }
        Some((_, problem)) => Asked::Unreachable(format!("{address}: {}", problem.detail)),
        None => Asked::Unreachable(format!("{address}: it answers {status}")),
    }
}

/// One call on a connection of its own: operators make few.
async fn call(
    address: &str,
    broker: &str,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await??;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(format!("/api/v1{path}"))
        .header(http::header::HOST, address)
        .header(http::header::CONNECTION, "close")
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(&FOR, broker)
        .body(Full::new(body))?;
    let answer = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok((head.status, body))
    };
    // What a connection says when it ends is said by the answer, too.
    let driver = async {
        let _is_over = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = driver => unreachable!("it waits for ever"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use serve::http::codes::{TOPIC_NOT_FOUND, WRITES_DISABLED};

    use super::*;

    /// What becomes of an answer: what was said, the code of a refusal, or why nothing was.
    fn became(status: StatusCode, body: &[u8]) -> Result<Value, String> {
        let judged = judge(status, Bytes::copy_from_slice(body), "there:8080");
        match judged.and_then(|answer| read(&answer, "there:8080")) {
            Asked::Answered(answer) => Ok(answer),
            Asked::Refused(problem) => {
                Err(format!("refused: {} {:?} {:?}", problem.code, problem.field, problem.value))
            }
            Asked::Unreachable(reason) => Err(reason),
        }
    }

    fn problem(code: codes::Code) -> (StatusCode, Vec<u8>) {
        let body = json!({
            "type": "", "title": "", "status": code.status.as_u16(), "detail": "why", "instance": "", "code": code.word,
            "field": "topic", "value": "t", "limit": null, "request_id": "",
        });
        (code.status, body.to_string().into_bytes())
    }

    #[test]
    fn a_refusal_is_passed_on_and_whoever_cannot_answer_counts_as_away() {
        assert_eq!(became(StatusCode::OK, b"{\"a\": 1}"), Ok(json!({"a": 1})));
        assert_eq!(became(StatusCode::NO_CONTENT, b""), Ok(Value::Null));
        let (status, body) = problem(TOPIC_NOT_FOUND);
        let refused = "refused: topic_not_found Some(\"topic\") Some(String(\"t\"))";
        assert_eq!(became(status, &body), Err(refused.into()));
        // Another broker was reached, or this one has troubles of its own: neither says anything about what was asked.
        for code in [MISDIRECTED, WRITES_DISABLED, codes::INTERNAL] {
            let (status, body) = problem(code);
            assert_eq!(became(status, &body), Err("there:8080: why".into()), "{code:?}");
        }
        for (status, body, reason) in [
            (StatusCode::OK, "<html>", "there:8080: its answer cannot be read"),
            (StatusCode::NOT_FOUND, "<html>", "there:8080: it answers 404"),
            (StatusCode::BAD_GATEWAY, "", "there:8080: it answers 502"),
        ] {
            let said = became(status, body.as_bytes()).unwrap_err();
            assert!(said.starts_with(reason), "{said}");
        }
    }

    #[test]
    fn whoever_refuses_is_named_unless_it_does_not_have_what_is_looked_for() {
        let refused = |broker: &str, code| (Arc::from(broker), Problem::new(code, "why"));
        let all = All::<()> {
            answers: Vec::new(),
            refused: vec![refused("b", codes::MESSAGE_NOT_FOUND), refused("c", codes::OVERLOADED)],
            unreachable: vec![UnreachableJson { broker: "d".into(), reason: "it is paused".into() }],
        };
        let all = all.named();
        let names: Vec<_> = all.unreachable.iter().map(|silent| (&*silent.broker, &*silent.reason)).collect();
        assert_eq!(names, [("d", "it is paused"), ("c", "why")]);
        assert_eq!(all.refused, [refused("b", codes::MESSAGE_NOT_FOUND)]);
    }
}
