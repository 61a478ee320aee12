//! Clients that ask for much and take nothing.

use std::collections::BTreeSet;

use base::limits::CALL_BYTES;
use proto::v2::{self, Code};
use tests::cluster::{Cluster, GROUP, Node};
use tests::http;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::process::{BESIDE, MIB, held_by, memory_of, refusals};
use super::raw::{Call, Connection, framed, narrow, send_request};
use super::{DONE_WITHIN, LIMIT, MEMORY, TOPIC, broker, send_in_order, take_all, until};

const MESSAGES: usize = 36;
const READERS: usize = 6;
const POLLS: usize = 6;

fn poll() -> v2::ReceiveMessageRequest {
    let name = |name: &str| Some(v2::Resource { name: name.into(), ..Default::default() });
    let duration = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    v2::ReceiveMessageRequest {
        group: name(GROUP),
        message_queue: Some(v2::MessageQueue { topic: name(TOPIC), ..Default::default() }),
        filter_expression: Some(v2::FilterExpression { r#type: v2::FilterType::Tag.into(), expression: "*".into() }),
        batch_size: 32,
        invisible_duration: duration(600),
        long_polling_timeout: duration(5),
        ..Default::default()
    }
}

/// Stores more than the server may hold for its clients.
async fn fill(address: &str) -> BTreeSet<String> {
    let connection = Connection::open(address, 1 << 20).await;
    let mut names = BTreeSet::new();
    for number in 0..MESSAGES {
        let id = format!("large-{number}");
        let request = send_request(TOPIC, &id, vec![b'x'; 4 * MIB - 1024]);
        let whole = framed(&request);
        let mut call = connection.begin("SendMessage", "filler").await.expect("the connection stays");
        assert!(call.write(whole).await, "one at a time is taken");
        call.body.send_data(bytes::Bytes::new(), true).expect("it is open");
        assert_eq!(call.code().await, Some(Code::Ok));
        names.insert(id);
    }
    names
}

#[tokio::test]
async fn readers_that_take_nothing_hold_no_more_than_the_limit_and_are_left_with_nothing_lost() {
    let cluster = broker(&[]).await;
    let node = &cluster.brokers[0];
    let names = timeout(DONE_WITHIN, fill(&node.address())).await.expect("it is stored");
    let before = memory_of(node);
    let mut readers: Vec<(Connection, Vec<Call>)> = Vec::new();
    let mut open = Vec::new();
    for number in 0..READERS {
        // Half of them take what a small window lets through, the others not a byte.
        let mut connection = match number % 2 {
            0 => Connection::open(&node.address(), 65_535).await,
            _ => Connection::open_narrow(&node.address(), 1 << 30).await,
        };
        let mut calls = Vec::new();
        for _ in 0..POLLS {
            calls.push(connection.call("ReceiveMessage", &format!("reader-{number}"), &poll()).await.expect("served"));
        }
        if number % 2 == 1 {
            // The first answer shows that the calls have left.
            open.push(calls[0].answered().await.expect("an answer"));
            connection.pause();
        }
        readers.push((connection, calls));
    }
    until("they are refused more", async || refusals(node, "share").await + refusals(node, "memory").await > 0).await;
    let (held, resident) = (held_by(node).await, memory_of(node));
    assert!(held <= LIMIT, "{held}");
    assert!(resident < before + LIMIT + BESIDE, "from {before} to {resident} for {held}");
    send_in_order(node, (0..20).map(|number| format!("meanwhile-{number}"))).await;
    // They are left, and what they did not take is there for others.
    until("what waited for them is given back", async || held_by(node).await < MIB).await;
    let closed = node.metric("carillon_connections_closed_total", "reason=\"stalled\"").await;
    assert!(closed >= 2.0, "both kinds: {closed}");
    // What fits into the socket of one that is paused was handed to it whole, for all that the server can know.
    let repeated = take_all(node, names).await;
    assert!(repeated <= READERS / 2, "what was not taken has used no attempt: {repeated}");
    drop((open, readers));
}

#[tokio::test]
async fn readers_of_http_hold_no_more_than_the_limit_either() {
    const READERS: usize = 40;
    let cluster = broker(&[]).await;
    let node = &cluster.brokers[0];
    let names = timeout(DONE_WITHIN, fill(&node.address())).await.expect("it is stored");
    let before = memory_of(node);
    let name = names.first().expect("there are some");
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..READERS {
        let address = node.http();
        let mut stream = narrow(&address).await;
        let head = format!("GET /api/v1/messages/{name}/body HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("it listens");
        let mut status = [0; 12];
        timeout(DONE_WITHIN, stream.read_exact(&mut status)).await.expect("an answer").expect("its beginning");
        match &status {
            b"HTTP/1.1 200" => open.push(stream),
            b"HTTP/1.1 429" => refused += 1,
            _ => panic!("{}", String::from_utf8_lossy(&status)),
        }
    }
    assert!(refused > 0, "{READERS} answers of 4 MiB are no more than 64 MiB");
    let (held, resident) = (held_by(node).await, memory_of(node));
    assert!(held >= open.len() * 3 * MIB && held <= LIMIT, "{held} for {}", open.len());
    assert!(resident < before + LIMIT + BESIDE, "from {before} to {resident} for {held}");
    assert_eq!(http::get(&node.http(), "/readyz").await.status, 200);
    assert!(open.len() > READERS / 8, "there is room for more than {}", open.len());
    // They are left after a while in which they take nothing.
    until("what waited for them is given back", async || held_by(node).await < MIB).await;
    let closed = node.metric("carillon_connections_closed_total", "reason=\"stalled\"").await;
    assert!(closed >= open.len() as f64, "{closed}");
}

/// Small answers are held like large ones.
async fn hold_what_is_not_taken(node: &Node) {
    const CALLS: usize = 200;
    let connection = Connection::open(&node.address(), 0).await;
    let route = v2::QueryRouteRequest {
        topic: Some(v2::Resource { name: TOPIC.into(), ..Default::default() }),
        ..Default::default()
    };
    let mut open = Vec::new();
    for _ in 0..CALLS {
        let mut call = connection.call("QueryRoute", "reader", &route).await.expect("it is served");
        // There is an answer, and no window for it.
        open.push((call.answered().await.expect("an answer"), call));
    }
    let held = held_by(node).await;
    assert!(held >= CALLS * CALL_BYTES, "{held} for {CALLS}");
    drop((open, connection));
    until("it is given back", async || held_by(node).await < CALLS * CALL_BYTES).await;
}

#[tokio::test]
async fn answers_are_paid_for_until_they_are_taken() {
    let cluster = Cluster::start_with(1, 1, &[MEMORY], &[MEMORY]).await;
    let (names, broker) = (&cluster.nameservers[0], &cluster.brokers[0]);
    broker.create_topic(TOPIC, "normal", 4).await;
    until("the route is known", async || names.get(&format!("/api/v1/routes/{TOPIC}")).await.status == 200).await;
    hold_what_is_not_taken(broker).await;
    hold_what_is_not_taken(names).await;
}
