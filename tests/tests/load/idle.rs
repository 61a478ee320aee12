//! Very many clients that have nothing to do.

use proto::v2::{self, Code};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::cluster::Cluster;
use tests::messages::settings_of_producer;
use tokio::task::JoinSet;

use super::process::{held_by, memory_of};
use super::raw::{Call, Connection, framed};
use super::{LIMIT, TOPIC, broker, send_in_order, until};

const CLIENTS_MAX: u64 = 10_000;
/// Handles of a process that are no clients.
const OTHER_HANDLES: u64 = 500;
const AT_A_TIME: usize = 100;
/// What a connection of HTTP/2 with a Telemetry stream takes, and what the broker knows about the client, in a build without
/// optimization.
const CLIENT_BYTES_MAX: usize = 48 * 1024;

/// As many as handles allow, here and in the server, which inherits the limit.
fn clients() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("up to what is allowed");
    let most = limit.maximum.unwrap_or(u64::MAX).saturating_sub(OTHER_HANDLES);
    usize::try_from(most.min(CLIENTS_MAX)).expect("it fits")
}

/// Settings, their answer, and a heartbeat.
async fn arrive(address: String, number: usize) -> (Connection, Call, h2::RecvStream) {
    let client = format!("idle-{number}");
    let connection = Connection::open(&address, 65_535).await;
    let mut stream = connection.begin("Telemetry", &client).await.expect("it is served");
    stream.body.send_data(framed(&settings_of_producer(TOPIC)), false).expect("it is open");
    let mut answers = stream.answered().await.expect("an answer");
    let answer = answers.data().await.expect("settings").expect("settings");
    answers.flow_control().release_capacity(answer.len()).expect("it came");
    beat(&connection, &client).await;
    (connection, stream, answers)
}

async fn beat(connection: &Connection, client: &str) {
    let heartbeat = v2::HeartbeatRequest { client_type: v2::ClientType::Producer.into(), ..Default::default() };
    let mut call = connection.call("Heartbeat", client, &heartbeat).await.expect("the connection stays");
    assert_eq!(call.code().await, Some(Code::Ok));
}

#[tokio::test]
async fn thousands_of_idle_clients_take_little_and_their_heartbeats_are_answered() {
    let count = clients();
    let cluster = broker(&["grpc.connections_max=20000"]).await;
    let node = &cluster.brokers[0];
    let before = memory_of(node);
    let mut arriving = JoinSet::new();
    let mut there = Vec::with_capacity(count);
    for number in 0..count {
        arriving.spawn(arrive(node.address(), number));
        if arriving.len() >= AT_A_TIME {
            there.push(arriving.join_next().await.expect("some arrive").expect("no panic"));
        }
    }
    while let Some(arrived) = arriving.join_next().await {
        there.push(arrived.expect("no panic"));
    }
    assert_eq!(node.metric("carillon_connections", "protocol=\"grpc\",tls=\"false\"").await as usize, count);
    let of_one = memory_of(node).saturating_sub(before) / count;
    println!("{count} clients take {of_one} bytes each, {} of them by account", held_by(node).await / count);
    assert!(of_one < CLIENT_BYTES_MAX, "{of_one} bytes for each of {count} clients");
    assert!(held_by(node).await < LIMIT);
    for (number, (connection, ..)) in there.iter().enumerate() {
        beat(connection, &format!("idle-{number}")).await;
    }
    send_in_order(node, (0..20).map(|number| format!("meanwhile-{number}"))).await;
    drop(there);
    until("they have left", async || held_by(node).await < 1 << 20).await;
}

/// A huge page of which little is used takes 2 MiB all the same.
#[tokio::test]
async fn servers_take_no_huge_pages() {
    let cluster = Cluster::start(1, 1, &[]).await;
    for node in cluster.nameservers.iter().chain(&cluster.brokers) {
        assert_eq!(node.status("THP_enabled"), "0", "{}", node.name());
    }
}
