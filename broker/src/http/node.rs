//! Brokers and clients, to operators: who is there, and draining this broker.

use std::sync::Arc;
use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State;
use http::Method;
use schemars::JsonSchema;
use serde::Deserialize;
use serve::http::answers::{Done, Gone};
use serve::http::codes::*;
use serve::http::fields::encode;
use serve::http::openapi::says;
use serve::http::parameters::Nothing;
use serve::http::{Json, Name, Problem, Query};

use super::Admin;
use super::admin::{Answer, Limit, page, paging};
use super::json::{
    ClientJson, DisconnectedJson, DrainJson, DrainedJson, NameserverJson, NodeJson, Page, UnreachableJson,
};
use super::merge;
use super::others::{ANSWER_MAX, All, Asked, Scope, ask};
use crate::Broker;
use crate::membership::ClientDescription;

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nodes {
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Clients {
    /// `producer`, `push`, `simple`, …
    role: Option<String>,
    group: Option<String>,
    language: Option<String>,
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct One {
    /// Name of the broker that is meant; by default the one that is asked.
    node: Option<String>,
}

pub(super) fn routes() -> ApiRouter<Admin> {
    ApiRouter::new()
        .api_route("/nodes", get_with(nodes, says("Brokers, by name.", &[INVALID_CURSOR])))
        .api_route("/nodes/{name}", get_with(node, says("One broker.", &[NODE_NOT_FOUND])))
        .api_route(
            "/node/drain",
            post_with(drain, says("Drains a broker.", &[ILLEGAL_VALUE, NODE_NOT_FOUND, UNREACHABLE])),
        )
        .api_route("/node/resume", post_with(resume, says("Ends a drain.", &[NODE_NOT_FOUND, UNREACHABLE])))
        .api_route("/clients", get_with(clients, says("Clients that are connected, by id.", &[INVALID_CURSOR])))
        .api_route(
            "/clients/{id}",
            get_with(client, says("One client.", &[CLIENT_NOT_FOUND])).delete_with(
                disconnect,
                says("Ends a client's connections, streams and polls; it may come back.", &[CLIENT_NOT_FOUND]),
            ),
        )
}

async fn nodes(State(admin): State<Admin>, Query(asked): Query<Nodes>) -> Answer<Page<NodeJson>> {
    let (limit, cursor) = paging(asked.limit, asked.cursor)?;
    Ok(axum::Json(page(known_nodes(&admin.broker), |node| node.name.as_str(), limit, cursor)))
}

/// Another one is asked itself; what is known of it here has to do when it does not answer.
async fn node(
    State(admin): State<Admin>,
    Name(name): Name,
    scope: Scope,
    Query(Nothing {}): Query<Nothing>,
) -> Answer<NodeJson> {
    let Some(known) = known_nodes(&admin.broker).into_iter().find(|node| node.name == name) else {
        return Err(node_not_found("name", name));
    };
    let Some(other) = admin.broker.other(&name).filter(|_| scope == Scope::Cluster) else {
        return Ok(axum::Json(known));
    };
    let path = format!("/nodes/{}", encode(&name));
    let asked = ask::<NodeJson>(&other, Method::GET, &path, &(), ANSWER_MAX).await;
    Ok(axum::Json(match asked {
        Asked::Answered(node) => NodeJson { here: false, ..node },
        Asked::Refused(problem) => NodeJson { unreachable: Some(problem.detail.into()), ..known },
        Asked::Unreachable(reason) => NodeJson { unreachable: Some(reason), ..known },
    }))
}

fn node_not_found(field: &str, name: String) -> Problem {
    let detail = format!("there is no broker {name:?}, as far as this one knows");
    Problem::new(NODE_NOT_FOUND, detail).field(field).value(name)
}

/// The other broker that a parameter names; none when it is this one.
pub(super) fn meant(admin: &Admin, field: &str, name: Option<String>) -> Result<Option<Arc<cluster::Broker>>, Problem> {
    match name {
        Some(name) if name != **admin.broker.name() => {
            admin.broker.other(&name).map(Some).ok_or_else(|| node_not_found(field, name))
        }
        _ => Ok(None),
    }
}

/// Answers when nothing is out any more, or the time is over. The broker stays drained.
async fn drain(
    State(admin): State<Admin>,
    Query(One { node }): Query<One>,
    Json(asked): Json<DrainJson>,
) -> Answer<DrainedJson> {
    let timeout = within("timeout", asked.timeout.map_or(TIMEOUT_DEFAULT, |time| time.0))?;
    let grace = asked.grace.map(|time| within("grace", time.0)).transpose()?;
    if let Some(other) = meant(&admin, "node", node)? {
        let answered = ask(&other, Method::POST, "/node/drain", &asked, timeout + ANSWER_MAX).await;
        return answered.or_problem(&other.name).map(axum::Json);
    }
    Ok(axum::Json(admin.broker.drain(timeout, grace).await.into()))
}

fn within(field: &'static str, time: Duration) -> Result<Duration, Problem> {
    if time <= TIMEOUT_MAX {
        return Ok(time);
    }
    let (value, max) = (base::duration::format(time), base::duration::format(TIMEOUT_MAX));
    let detail = format!("{field} is {value}; it must be at most {max}");
    Err(Problem::new(ILLEGAL_VALUE, detail).field(field).value(value).limit(max))
}

async fn resume(State(admin): State<Admin>, Query(One { node }): Query<One>) -> Result<Done, Problem> {
    match meant(&admin, "node", node)? {
        Some(other) => {
            let answered = ask(&other, Method::POST, "/node/resume", &(), ANSWER_MAX).await;
            answered.or_problem(&other.name).map(|()| Done)
        }
        None => {
            admin.broker.resume();
            Ok(Done)
        }
    }
}

async fn clients(State(admin): State<Admin>, scope: Scope, Query(asked): Query<Clients>) -> Answer<Page<ClientJson>> {
    let wanted = [asked.role, asked.group, asked.language];
    let (limit, cursor) = paging(asked.limit, asked.cursor)?;
    let others = admin.broker.to_ask(scope, None);
    let all = admin.broker.ask_all::<Page<ClientJson>>(&others, Method::GET, "/clients", &(), ANSWER_MAX).await.named();
    let answers = all.answers.into_iter().flat_map(|(_, page)| page.items);
    let mut clients = merge::by_name(known_clients(&admin.broker).into_iter().chain(answers));
    let fits = |wanted: &Option<String>, value: Option<&str>| match wanted {
        Some(wanted) => value.is_some_and(|value| value.eq_ignore_ascii_case(wanted)),
        None => true,
    };
    let [role, group, language] = wanted;
    clients.retain(|client| {
        let of_group = fits(&group, client.group.as_deref());
        fits(&role, client.role.as_deref()) && of_group && fits(&language, Some(&*client.language))
    });
    Ok(axum::Json(Page {
        unreachable: all.unreachable,
        ..page(clients, |client| client.client_id.as_str(), limit, cursor)
    }))
}

async fn client(
    State(admin): State<Admin>,
    Name(id): Name,
    scope: Scope,
    Query(Nothing {}): Query<Nothing>,
) -> Answer<ClientJson> {
    let mut clients = known_clients(&admin.broker);
    clients.retain(|client| client.client_id == id);
    let path = format!("/clients/{}", encode(&id));
    let others = admin.broker.to_ask(scope, None);
    let all = admin.broker.ask_all(&others, Method::GET, &path, &(), ANSWER_MAX).await.named();
    let answers = all.answers.into_iter().map(|(_, client)| client);
    match merge::by_name(clients.into_iter().chain(answers)).pop() {
        Some(client) => Ok(axum::Json(ClientJson { unreachable: all.unreachable, ..client })),
        None => Err(client_not_found(id, &all.unreachable)),
    }
}

/// On every broker.
async fn disconnect(
    State(admin): State<Admin>,
    Name(id): Name,
    scope: Scope,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Gone<DisconnectedJson>, Problem> {
    let is_known = admin.broker.disconnect(&id);
    let path = format!("/clients/{}", encode(&id));
    let others = admin.broker.to_ask(scope, None);
    let All { answers, unreachable, .. } =
        admin.broker.ask_all::<()>(&others, Method::DELETE, &path, &(), ANSWER_MAX).await.named();
    match is_known || !answers.is_empty() {
        true => Ok(Gone((!unreachable.is_empty()).then_some(DisconnectedJson { unreachable }))),
        false => Err(client_not_found(id, &unreachable)),
    }
}

fn client_not_found(id: String, unreachable: &[UnreachableJson]) -> Problem {
    let without: Vec<_> = unreachable.iter().map(|unreachable| &*unreachable.broker).collect();
    let without = if without.is_empty() { String::new() } else { format!("; {} did not answer", without.join(", ")) };
    let detail = format!("client {id:?} is not connected to any broker that answers{without}");
    Problem::new(CLIENT_NOT_FOUND, detail).field("id").value(id)
}

/// This broker and the others, by their names.
fn known_nodes(broker: &Broker) -> Vec<NodeJson> {
    let shared = broker.shared();
    let peers = &shared.peers;
    let table = peers.table();
    let mut nodes: Vec<_> = table.brokers().filter(|other| other.name != *peers.name()).map(|b| other(b)).collect();
    let told = || broker.own_address().map(|address| address.to_string());
    nodes.push(NodeJson {
        name: peers.name().to_string(),
        here: true,
        state: shared.state().word().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        grpc: broker.config().grpc.advertise.clone().or_else(told),
        http: Some(broker.config().http.listen.clone()).filter(|listen| !listen.is_empty()),
        topics: shared.store.reader().catalog().topics().count(),
        unreachable: None,
        nameservers: peers
            .cluster()
            .nameservers()
            .map(|(address, registered)| NameserverJson { address: address.into(), registered })
            .collect(),
    });
    nodes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    nodes
}

/// Everybody who was heard of lately, by client id.
fn known_clients(broker: &Broker) -> Vec<ClientJson> {
    let shared = broker.shared();
    let tick = shared.now().tick;
    shared.membership.all().into_iter().map(|client| described(client, tick, broker.name())).collect()
}

fn other(broker: &cluster::Broker) -> NodeJson {
    NodeJson {
        name: broker.name.to_string(),
        here: false,
        state: broker.node.state.word().into(),
        version: broker.node.version.to_string(),
        grpc: Some(broker.node.grpc.to_string()),
        http: broker.node.http.as_deref().map(String::from),
        topics: broker.catalog.topics.len(),
        unreachable: None,
        nameservers: Vec::new(),
    }
}

fn described(client: ClientDescription, tick: u64, broker: &str) -> ClientJson {
    let mut topics: Vec<_> = client.topics.iter().map(ToString::to_string).collect();
    topics.sort_unstable();
    ClientJson {
        client_id: client.client_id,
        role: client.kind.map(|kind| kind.word().into()),
        group: client.group.map(|group| group.to_string()),
        topics,
        language: format!("{:?}", client.language),
        version: client.version,
        address: client.address.map(|address| address.to_string()),
        last_seen_ms_ago: tick.saturating_sub(client.last_seen),
        streams: client.streams,
        brokers: vec![broker.into()],
        unreachable: Vec::new(),
    }
}
