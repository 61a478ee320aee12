//! Requests that begin and do not end.

use bytes::Bytes;
use proto::v2::{self, Code};
use tests::cluster::{Cluster, Node};
use tests::http;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::process::{BESIDE, MIB, held_by, memory_of, refusals};
use super::raw::{Call, Connection, framed, prefix};
use super::{LIMIT, MEMORY, TOPIC, broker, send_in_order, until};

const CONNECTIONS: usize = 24;
const CALLS: usize = 6;

/// Each connection begins many large messages, sends all but the last byte of each, and waits.
async fn flood_with_halves(node: &Node) -> (Vec<Connection>, Vec<Call>, usize) {
    let mut floods = JoinSet::new();
    for number in 0..CONNECTIONS {
        let address = node.address();
        floods.spawn(async move {
            let connection = Connection::open(&address, 1 << 20).await;
            let (mut open, mut refused) = (Vec::new(), 0);
            for _ in 0..CALLS {
                let mut call = connection.begin("SendMessage", &format!("half-{number}")).await.expect("it is served");
                let half = [&prefix(4 * MIB)[..], &vec![0; 4 * MIB - 1]].concat();
                if call.write(Bytes::from(half)).await {
                    open.push(call);
                    continue;
                }
                assert_eq!(call.code().await, Some(Code::TooManyRequests), "refused by an ordinary reply");
                refused += 1;
            }
            (connection, open, refused)
        });
    }
    let (mut connections, mut open, mut refused) = (Vec::new(), Vec::new(), 0);
    while let Some(flood) = floods.join_next().await {
        let (connection, of_one, refused_of_one) = flood.expect("no panic");
        connections.push(connection);
        open.extend(of_one);
        refused += refused_of_one;
    }
    (connections, open, refused)
}

async fn hold_against_halves(node: &Node, broker: &Node) {
    send_in_order(node, (0..10).map(|number| format!("before-{number}"))).await;
    let before = memory_of(node);
    let (connections, open, refused) = flood_with_halves(node).await;
    let taken = open.len();
    assert!(refused > 0 && taken > 0, "{taken} taken, {refused} refused");
    assert!(taken * 4 * MIB <= LIMIT, "{taken} of 4 MiB are held");
    assert!(refusals(node, "share").await + refusals(node, "memory").await >= refused as u64);
    let (held, resident) = (held_by(node).await, memory_of(node));
    assert!(held <= LIMIT, "{held}");
    assert!(resident < before + LIMIT + BESIDE, "from {before} to {resident} for {held}");
    send_in_order(node, (0..50).map(|number| format!("meanwhile-{number}"))).await;
    drop((open, connections));
    until("what clients that left had begun is given back", async || held_by(node).await < MIB).await;
    assert_eq!(broker.metric("rocketmq_messages_in_total", TOPIC).await, 60.0);
}

#[tokio::test]
async fn bodies_that_stop_half_way_hold_no_more_than_the_limit_and_others_are_served() {
    let cluster = broker(&[]).await;
    hold_against_halves(&cluster.brokers[0], &cluster.brokers[0]).await;
}

#[tokio::test]
async fn a_name_server_holds_no_more_than_its_limit_either() {
    let cluster = Cluster::start_with(1, 1, &[MEMORY], &["storage.tail_cache=1MiB"]).await;
    let (names, broker) = (&cluster.nameservers[0], &cluster.brokers[0]);
    broker.create_topic(TOPIC, "normal", 4).await;
    until("the broker is known", async || names.get("/api/v1/brokers").await.body.contains(broker.name())).await;
    hold_against_halves(names, broker).await;
}

/// A connection has its share in large requests that do not end: it may still send small ones, until there are too many.
/// Then a change of a delivery's time is refused with the handle that its client has.
async fn settle_beside_what_does_not_end(node: &Node) {
    const LARGE: usize = 9;
    let connection = Connection::open(&node.address(), 1 << 20).await;
    let mut open = Vec::new();
    for length in std::iter::repeat_n(4 * MIB, LARGE) {
        let mut call = connection.begin("SendMessage", "settling").await.expect("it is served");
        assert!(call.write(Bytes::copy_from_slice(&prefix(length))).await);
        open.push(call);
    }
    until("it has its share", async || refusals(node, "share").await == 1).await;
    let heartbeat = v2::HeartbeatRequest { client_type: v2::ClientType::Producer.into(), ..Default::default() };
    let mut call = connection.call("Heartbeat", "settling", &heartbeat).await.expect("it is served");
    assert_eq!(call.code().await, Some(Code::Ok), "what is small gets through");
    for (length, count) in [(12 << 10, 900), (1, 8)] {
        for _ in 0..count {
            let mut call = connection.begin("AckMessage", "settling").await.expect("it is served");
            assert!(call.write(Bytes::copy_from_slice(&prefix(length))).await);
            open.push(call);
        }
        // Whatever it is answered, those before it have been taken or refused by then.
        let mut call = connection.call("Heartbeat", "settling", &heartbeat).await.expect("it is served");
        assert!(call.code().await.is_some());
    }
    let mut last = open.pop().expect("it was pushed");
    assert_eq!(last.code().await, Some(Code::TooManyRequests), "twice its share, and no more");
    let handle = "a handle".to_owned();
    let change = v2::ChangeInvisibleDurationRequest { receipt_handle: handle.clone(), ..Default::default() };
    let mut call = connection.call("ChangeInvisibleDuration", "settling", &change).await.expect("it is served");
    let reply: v2::ChangeInvisibleDurationResponse = call.reply().await.expect("an ordinary reply");
    let code = reply.status.as_ref().map(v2::Status::code);
    assert_eq!((code, reply.receipt_handle), (Some(Code::TooManyRequests), handle));
    let other = Connection::open(&node.address(), 1 << 20).await;
    let mut call = other.call("Heartbeat", "another", &heartbeat).await.expect("it is served");
    assert_eq!(call.code().await, Some(Code::Ok), "others have their own");
}

#[tokio::test]
async fn a_client_with_its_share_may_still_settle_and_keeps_its_handle_when_it_may_not() {
    let cluster = Cluster::start_with(1, 1, &[MEMORY], &[MEMORY]).await;
    let (names, broker) = (&cluster.nameservers[0], &cluster.brokers[0]);
    until("the broker is known", async || names.get("/api/v1/brokers").await.body.contains(broker.name())).await;
    settle_beside_what_does_not_end(broker).await;
    settle_beside_what_does_not_end(names).await;
}

#[tokio::test]
async fn a_refused_change_of_a_delivery_repeats_its_handle_at_brokers_and_name_servers() {
    /// So large that three of them leave no room for a fourth one.
    const BODY: usize = LIMIT / 4;
    let cluster = Cluster::start_with(1, 1, &[MEMORY], &[MEMORY]).await;
    for node in [&cluster.nameservers[0], &cluster.brokers[0]] {
        let mut begun = Vec::new();
        for number in 1..=3 {
            let connection = Connection::open(&node.address(), 1 << 20).await;
            let mut call = connection.begin("SendMessage", "beginner").await.expect("it is served");
            assert!(call.write(Bytes::copy_from_slice(&prefix(BODY))).await);
            begun.push((connection, call));
            until("what was announced is held", async || held_by(node).await >= number * BODY).await;
        }
        let connection = Connection::open(&node.address(), 1 << 20).await;
        let mut call = connection.begin("ChangeInvisibleDuration", "refused").await.expect("it is served");
        let (receipt_handle, message_id) = ("its handle".to_owned(), "x".repeat(BODY - 1000));
        let request = v2::ChangeInvisibleDurationRequest { receipt_handle, message_id, ..Default::default() };
        assert!(call.write(framed(&request).slice(..1000)).await);
        let reply: v2::ChangeInvisibleDurationResponse = call.reply().await.expect("it is answered");
        assert_eq!(reply.status.expect("a status").code(), Code::TooManyRequests, "{}", node.name());
        assert_eq!(reply.receipt_handle, "its handle", "{}", node.name());
    }
}

#[tokio::test]
async fn streams_that_never_end_take_nothing_and_stop_nobody() {
    let cluster = broker(&[]).await;
    let node = &cluster.brokers[0];
    send_in_order(node, ["before".to_owned()].into_iter()).await;
    let before = memory_of(node);
    let mut streams = JoinSet::new();
    // A message of 4 GiB; one of 1 KiB with no end behind it; elements of Telemetry without a pause, and one too long.
    for (method, beginning) in [
        ("SendMessage", vec![0, 255, 255, 255, 255]),
        ("SendMessage", prefix(1024).to_vec()),
        ("Heartbeat", prefix(0).to_vec()),
        ("Telemetry", prefix(20_000).to_vec()),
        ("Telemetry", prefix(MIB).to_vec()),
    ] {
        for number in 0..4 {
            let (address, beginning) = (node.address(), beginning.clone());
            streams.spawn(async move {
                let connection = Connection::open(&address, 1 << 20).await;
                let mut written = 0;
                while written < 32 * MIB {
                    let Some(mut call) = connection.begin(method, &format!("endless-{number}")).await else { return };
                    // Zeros are empty elements, once a beginning is complete.
                    let mut is_taken = call.write(Bytes::from(beginning.clone())).await;
                    while is_taken && written < 32 * MIB {
                        is_taken = call.write(Bytes::from(vec![0; 256 * 1024])).await;
                        written += 256 * 1024;
                    }
                    written += 256 * 1024;
                }
            });
        }
    }
    send_in_order(node, (0..50).map(|number| format!("meanwhile-{number}"))).await;
    let mut most = 0;
    while let Some(ended) = streams.join_next().await {
        ended.expect("no panic");
        most = most.max(memory_of(node));
    }
    assert!(most < before + LIMIT + BESIDE, "from {before} to {most}");
    until("all of it is given back", async || held_by(node).await < MIB).await;
}

#[tokio::test]
async fn http_bodies_that_do_not_end_are_within_the_limit_too() {
    let cluster = broker(&[]).await;
    let node = &cluster.brokers[0];
    let before = memory_of(node);
    let mut posts = JoinSet::new();
    for number in 0..60 {
        let address = node.http();
        posts.spawn(async move {
            let stream = TcpStream::connect(&address).await.expect("the server is there");
            let (mut reader, mut writer) = stream.into_split();
            // Half of them say how much will come.
            let length = if number % 2 == 0 { "Content-Length: 8388608" } else { "Transfer-Encoding: chunked" };
            let head = format!("POST /api/v1/topics HTTP/1.1\r\nHost: {address}\r\n{length}\r\n\r\n");
            writer.write_all(head.as_bytes()).await.expect("it listens");
            let piece = if number % 2 == 0 {
                vec![b' '; 65_536]
            } else {
                [b"10000\r\n", &vec![b' '; 65_536][..], b"\r\n"].concat()
            };
            let mut answer = [0; 12];
            for _ in 0..100 {
                tokio::select! {
                    biased;
                    read = reader.read_exact(&mut answer) => {
                        // Closed while it was sent: what it said may be lost.
                        let _is_there = read;
                        break;
                    }
                    written = writer.write_all(&piece) => if written.is_err() { break },
                }
            }
            (reader, writer, String::from_utf8_lossy(&answer).into_owned())
        });
    }
    let (mut open, mut refused) = (Vec::new(), 0);
    while let Some(post) = posts.join_next().await {
        let (reader, writer, answer) = post.expect("no panic");
        refused += usize::from(answer == "HTTP/1.1 429");
        open.push((reader, writer));
    }
    assert!(refused > 0, "60 bodies of 8 MiB are no more than 64 MiB");
    assert!(held_by(node).await <= LIMIT);
    let resident = memory_of(node);
    assert!(resident < before + LIMIT + BESIDE, "from {before} to {resident}");
    assert_eq!(http::get(&node.http(), "/livez").await.status, 200);
    send_in_order(node, (0..20).map(|number| format!("meanwhile-{number}"))).await;
    drop(open);
    until("all of it is given back", async || held_by(node).await < MIB).await;
}
