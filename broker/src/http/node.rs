//! Brokers and clients, to operators: who is there, and draining this broker.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;
use serve::http::answers::Done;
use serve::http::codes::*;
use serve::http::openapi::says;
use serve::http::parameters::Nothing;
use serve::http::{Json, Name, Problem, Query};

use super::Admin;
use super::admin::{Answer, Limit, page, paging};
use super::json::{ClientJson, DrainJson, DrainedJson, NameserverJson, NodeJson, Page};
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

pub(super) fn routes() -> ApiRouter<Admin> {
    ApiRouter::new()
        .api_route("/nodes", get_with(nodes, says("Brokers, by name.", &[INVALID_CURSOR])))
        .api_route("/nodes/{name}", get_with(node, says("One broker.", &[NODE_NOT_FOUND])))
        .api_route("/node/drain", post_with(drain, says("Drains this broker.", &[ILLEGAL_VALUE])))
        .api_route("/node/resume", post_with(resume, says("Ends a drain.", &[])))
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

async fn node(State(admin): State<Admin>, Name(name): Name, Query(Nothing {}): Query<Nothing>) -> Answer<NodeJson> {
    let node = known_nodes(&admin.broker).into_iter().find(|node| node.name == name);
    node.map(axum::Json).ok_or_else(|| {
        let detail = format!("there is no broker {name:?}, as far as this one knows");
        Problem::new(NODE_NOT_FOUND, detail).field("name").value(name)
    })
}

/// Answers when nothing is out any more, or the time is over. The broker stays drained.
async fn drain(
    State(admin): State<Admin>,
    Query(Nothing {}): Query<Nothing>,
    Json(asked): Json<DrainJson>,
) -> Answer<DrainedJson> {
    let timeout = within("timeout", asked.timeout.map_or(TIMEOUT_DEFAULT, |time| time.0))?;
    let grace = asked.grace.map(|time| within("grace", time.0)).transpose()?;
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

async fn resume(State(admin): State<Admin>, Query(Nothing {}): Query<Nothing>) -> Done {
    admin.broker.resume();
    Done
}

async fn clients(State(admin): State<Admin>, Query(asked): Query<Clients>) -> Answer<Page<ClientJson>> {
    let wanted = [asked.role, asked.group, asked.language];
    let (limit, cursor) = paging(asked.limit, asked.cursor)?;
    let mut clients = known_clients(&admin.broker);
    let fits = |wanted: &Option<String>, value: Option<&str>| match wanted {
        Some(wanted) => value.is_some_and(|value| value.eq_ignore_ascii_case(wanted)),
        None => true,
    };
    let [role, group, language] = wanted;
    clients.retain(|client| {
        let of_group = fits(&group, client.group.as_deref());
        fits(&role, client.role.as_deref()) && of_group && fits(&language, Some(&*client.language))
    });
    Ok(axum::Json(page(clients, |client| client.client_id.as_str(), limit, cursor)))
}

async fn client(State(admin): State<Admin>, Name(id): Name, Query(Nothing {}): Query<Nothing>) -> Answer<ClientJson> {
    let client = known_clients(&admin.broker).into_iter().find(|client| client.client_id == id);
    client.map(axum::Json).ok_or_else(|| client_not_found(id))
}

async fn disconnect(
    State(admin): State<Admin>,
    Name(id): Name,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Done, Problem> {
    match admin.broker.disconnect(&id) {
        true => Ok(Done),
        false => Err(client_not_found(id)),
    }
}

fn client_not_found(id: String) -> Problem {
    let detail = format!("client {id:?} is not connected to this broker");
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
    shared.membership.all().into_iter().map(|client| described(client, tick)).collect()
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
        nameservers: Vec::new(),
    }
}

fn described(client: ClientDescription, tick: u64) -> ClientJson {
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
    }
}
