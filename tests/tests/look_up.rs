//! Looking messages up at a real server: over HTTP and on the command line, sealed or not, before and after a restart.

use std::time::Duration;

use base::{Clock, SystemClock};
use client::{Client, Filter, NewMessage, Options, Producer, Resolution};
use serde_json::Value;
use tests::server::{Server, carillon};
use tokio::time::{interval, timeout};

const WITHIN: Duration = Duration::from_secs(60);
const SMALL: [&str; 6] = [
    "--set",
    "storage.log.segment_size=1MiB",
    "--set",
    "storage.checkpoint_every=10ms",
    "--topics",
    "orders:fifo:2,later:delay:1,deals:transaction:1",
];
const BODY_BYTES: usize = 64 << 10;
const FAR_MS: u64 = 3_600_000;

/// Status and body of a GET below the API.
async fn get(server: &Server, path: &str) -> (u16, Value) {
    let page = server.page(&format!("/api/v1{path}")).await;
    let (head, body) = page.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {page}")))
}

/// The items of a list, over all its pages.
async fn list(server: &Server, path: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, page) = get(server, &format!("{path}{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        assert!(page.get("warnings").is_none(), "{page}");
        items.extend(page["items"].as_array().expect("items").clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

fn texts<'a>(items: &'a [Value], field: &str) -> Vec<&'a str> {
    items.iter().map(|item| item[field].as_str().expect("a text")).collect()
}

async fn verb(server: &Server, verb: &[&str]) -> Vec<String> {
    server.administer(verb).await.lines().map(String::from).collect()
}

/// What a test has stored.
struct Stored {
    /// With the key "shared", oldest first.
    shared: Vec<String>,
    /// Of message group "g1", oldest first.
    grouped: Vec<String>,
    scheduled: String,
    recalled: String,
    open: String,
    committed: String,
    rolled_back: String,
}

async fn producer(client: &Client) -> Producer {
    client.producer(&["orders", "later", "deals"]).await.expect("a producer")
}

async fn fill(producer: &Producer, count: usize) {
    for number in 0..count {
        let message =
            NewMessage::new("orders", vec![b'x'; BODY_BYTES]).message_group("other").key(format!("f{number}"));
        producer.send(message).await.expect("a healthy disk");
    }
}

/// Messages in segments that are sealed, and in the newest one.
async fn store(client: &Client) -> Stored {
    let producer = producer(client).await;
    let (mut shared, mut grouped) = (Vec::new(), Vec::new());
    for number in 0..4 {
        for group in ["g1", "g2"] {
            let tag = if number % 2 == 0 { "even" } else { "odd" };
            let message = NewMessage::new("orders", format!("body {number} of {group}")).message_group(group);
            let sent = producer.send(message.key("shared").key(format!("{group} {number}")).tag(tag)).await;
            let id = sent.expect("a healthy disk").message_id;
            shared.push(id.clone());
            if group == "g1" {
                grouped.push(id);
            }
        }
        if number < 3 {
            fill(&producer, 20).await;
        }
    }
    let at = SystemClock.now().plus_ms(FAR_MS);
    let delayed = |key: &str| NewMessage::new("later", "for later").deliver_at(at).key(key);
    let scheduled = producer.send(delayed("l1")).await.expect("a healthy disk");
    let recalled = producer.send(delayed("l2")).await.expect("a healthy disk");
    producer.recall("later", recalled.recall_handle.as_deref().expect("it is delayed")).await.expect("it waits");
    let mut deals = Vec::new();
    for end in [None, Some(Resolution::Commit), Some(Resolution::Rollback)] {
        let transaction = producer.send_prepared(NewMessage::new("deals", "half").key("deal")).await.expect("stored");
        if let Some(end) = end {
            producer.end(&transaction, end).await.expect("it is open");
        }
        deals.push(transaction.message_id.clone());
    }
    let [open, committed, rolled_back] = deals.try_into().expect("three");
    let (scheduled, recalled) = (scheduled.message_id, recalled.message_id);
    Stored { shared, grouped, scheduled, recalled, open, committed, rolled_back }
}

async fn state(server: &Server, id: &str) -> Value {
    let (status, found) = get(server, &format!("/messages/{id}")).await;
    assert_eq!(status, 200, "{found}");
    assert_eq!(found["message_id"], id);
    found
}

async fn check(server: &Server, stored: &Stored) {
    let newest_first: Vec<&str> = stored.shared.iter().rev().map(String::as_str).collect();
    for limit in [3, 100] {
        let found = list(server, &format!("/messages?key=shared&topic=orders&limit={limit}")).await;
        assert_eq!(texts(&found, "message_id"), newest_first);
        assert!(found.iter().all(|found| found["state"] == "visible" && found.get("body").is_none()), "{found:?}");
        let seen = list(server, &format!("/topics/orders/messages?key=shared&limit={limit}")).await;
        assert_eq!(texts(&seen, "message_id"), newest_first);
        let of_group = list(server, &format!("/topics/orders/messages?message_group=g1&limit={limit}")).await;
        assert_eq!(texts(&of_group, "message_id"), stored.grouped);
        let bodies: Vec<String> = (0..4).map(|number| format!("body {number} of g1")).collect();
        assert_eq!(texts(&of_group, "body"), bodies);
        let even = list(server, &format!("/topics/orders/messages?tag=even&message_group=g1&limit={limit}")).await;
        assert_eq!(texts(&even, "message_id"), [stored.grouped[0].as_str(), &stored.grouped[2]]);
        let odd = list(server, &format!("/topics/orders/messages?tag=odd&limit={limit}")).await;
        assert_eq!(odd.len(), 4);
    }
    let third = state(server, &stored.grouped[2]).await;
    let (queue, offset) = (&third["queue"], &third["offset"]);
    let from =
        list(server, &format!("/topics/orders/messages?message_group=g1&queue={queue}&from=offset:{offset}")).await;
    assert_eq!(texts(&from, "message_id"), &stored.grouped[2..]);
    let path = format!("/topics/orders/messages?key=shared&message_group=g1&queue={queue}&from=offset:{offset}");
    assert_eq!(list(server, &path).await.len(), 2);
    let since = third["visible_since"].as_str().expect("it is visible");
    let from = list(server, &format!("/topics/orders/messages?key=shared&message_group=g1&from=time:{since}")).await;
    assert_eq!(from.len(), 2);
    assert!(list(server, "/messages?key=shared&topic=orders&to=2020-01-01T00:00:00Z").await.is_empty());
    assert_eq!(list(server, "/messages?key=shared&from=2020-01-01T00:00:00Z").await.len(), 8, "in all topics");

    assert_eq!(state(server, &stored.scheduled).await["state"], "scheduled");
    assert_eq!(state(server, &stored.recalled).await["state"], "ended");
    assert_eq!(state(server, &stored.open).await["state"], "prepared");
    let committed = state(server, &stored.committed).await;
    assert_eq!((&committed["state"], &committed["offset"]), (&"visible".into(), &0.into()), "{committed}");
    assert_eq!(state(server, &stored.rolled_back).await["state"], "rolled_back");
    let deals = list(server, "/messages?key=deal").await;
    assert_eq!(texts(&deals, "state"), ["rolled_back", "visible", "prepared"]);
    assert_eq!(list(server, "/topics/deals/messages?key=deal").await.len(), 1);

    let body = server.page(&format!("/api/v1/messages/{}/body?topic=orders", stored.grouped[1])).await;
    assert!(
        body.contains("content-type: application/octet-stream") && body.ends_with("\r\n\r\nbody 1 of g1"),
        "{body}"
    );
}

async fn check_verbs(server: &Server, stored: &Stored) {
    let newest_first: Vec<String> = stored.shared.iter().rev().cloned().collect();
    let found = verb(server, &["message", "find", "--key", "shared", "--topic", "orders", "-q"]).await;
    assert_eq!(found, newest_first);
    let found = verb(server, &["message", "find", "--key", "shared", "--from", "-1h", "--count", "3", "-q"]).await;
    assert_eq!(found, newest_first[..3]);
    assert!(verb(server, &["message", "find", "--key", "shared", "--to", "-1h", "-q"]).await.is_empty());
    let table = verb(server, &["message", "find", "--key", "deal"]).await;
    assert!(table.len() == 4 && table[0].starts_with("TIME") && table[3].contains("prepared"), "{table:?}");

    let second = &stored.grouped[1];
    let text = server.administer(&["message", "get", second, "--topic", "orders"]).await;
    assert!(text.contains("visible") && text.contains("shared,g1 1"), "{text}");
    assert_eq!(server.administer(&["message", "get", second, "--body"]).await, "body 1 of g1");
    let json = server.administer(&["message", "get", second, "--body", "--json"]).await;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["body"], &json["state"]), (&"body 1 of g1".into(), &"visible".into()));
    let missing = carillon(&["message", "get", "nobody", "--server", &server.http()]).await;
    assert_eq!(missing.status.code(), Some(3));

    let tail = ["tail", "orders", "--no-follow", "--from", "earliest", "--format", "%i\\n"];
    let of_group = verb(server, &[&tail[..], &["-g", "g1"]].concat()).await;
    assert_eq!(of_group, stored.grouped);
    let by_key = verb(server, &[&tail[..], &["-g", "g1", "--key", "shared", "--count", "3"]].concat()).await;
    assert_eq!(by_key, stored.grouped[..3]);
}

async fn until_sealed(server: &Server) {
    let sealed = async {
        let mut look = interval(Duration::from_millis(50));
        while !has_index(server) {
            look.tick().await;
        }
    };
    assert!(timeout(WITHIN, sealed).await.is_ok(), "nothing was sealed; the server's log:\n{}", server.log());
}

fn indexes(server: &Server) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(server.data()).expect("it is there").map(|entry| entry.expect("a name").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "index")).collect()
}

fn has_index(server: &Server) -> bool {
    indexes(server).len() >= 3
}

#[tokio::test]
async fn messages_are_found_by_key_id_group_and_tag_wherever_they_lie() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::new(&directory.path().join("data"), &SMALL);
    server.start().await;
    let client = Client::connect(&server.grpc(), Options::default()).await.expect("the server is there");
    let stored = store(&client).await;
    check(&server, &stored).await;
    until_sealed(&server).await;
    check(&server, &stored).await;
    check_verbs(&server, &stored).await;
    server.kill().await;
    for path in indexes(&server) {
        #[expect(clippy::disallowed_methods, reason = "a test that takes away what the server wrote")]
        std::fs::remove_file(path).expect("it is there");
    }
    server.start().await;
    check(&server, &stored).await;
    server.kill().await;
}

#[tokio::test]
async fn how_groups_stand_to_a_message_is_told() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::new(&directory.path().join("data"), &["--topics", "jobs:normal:1,orders:fifo:1"]);
    server.start().await;
    let client = Client::connect(&server.grpc(), Options::default()).await.expect("the server is there");
    let producer = client.producer(&["jobs", "orders"]).await.expect("a producer");
    let jobs = client.simple_consumer("workers", "jobs", Filter::All).await.expect("a consumer");
    let orders = client.simple_consumer("billing", "orders", Filter::All).await.expect("a consumer");
    for consumer in [&jobs, &orders] {
        consumer.receive(1, WITHIN, Duration::from_millis(1)).await.expect("nothing yet");
    }
    let mut of_jobs = Vec::new();
    for _ in 0..4 {
        of_jobs.push(producer.send(NewMessage::new("jobs", "x")).await.expect("a healthy disk").message_id);
    }
    let order = NewMessage::new("orders", "x").message_group("g");
    let order = producer.send(order).await.expect("a healthy disk").message_id;
    let standing = async |id: &str| state(&server, id).await["groups"].clone();
    assert_eq!(standing(&of_jobs[0]).await[0]["state"], "ready");

    let mut got = jobs.receive(3, WITHIN, WITHIN).await.expect("three are there");
    assert_eq!(got.len(), 3);
    jobs.ack(&got[0]).await.expect("it is out");
    jobs.forward_to_dead_letters(&got[1], 16).await.expect("it is out");
    let held = standing(&of_jobs[2]).await;
    assert_eq!((&held[0]["group"], &held[0]["state"]), (&"workers".into(), &"in_flight".into()), "{held}");
    assert_eq!((&held[0]["attempts"], &held[0]["client"]), (&1.into(), &jobs.client_id().into()), "{held}");
    jobs.change_invisible(&mut got[2], WITHIN).await.expect("it is out");
    assert_eq!(standing(&of_jobs[0]).await[0]["state"], "acknowledged");
    let dead = standing(&of_jobs[1]).await;
    assert_eq!((&dead[0]["state"], &dead[0]["dead_letter_offset"]), (&"dead_letter".into(), &0.into()), "{dead}");
    let waits = standing(&of_jobs[2]).await;
    assert!(waits[0]["state"] == "retry_wait" && waits[0]["next_try"].is_string(), "{waits}");
    assert_eq!(standing(&of_jobs[3]).await[0]["state"], "ready");

    let got = orders.receive(1, WITHIN, WITHIN).await.expect("it is there");
    assert_eq!(got.len(), 1);
    let held = standing(&order).await;
    assert_eq!((&held[0]["group"], &held[0]["state"]), (&"billing".into(), &"in_flight".into()), "{held}");
    assert_eq!(held[0]["client"], orders.client_id());
    server.kill().await;
}

#[tokio::test]
async fn what_cannot_be_looked_up_is_refused_with_the_field() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::new(&directory.path().join("data"), &SMALL);
    server.start().await;
    for (path, status, code, field) in [
        ("/messages", 400, "invalid_parameter", "key"),
        ("/messages?key=", 400, "invalid_parameter", "key"),
        ("/messages?key=k&from=yesterday", 400, "invalid_parameter", "from"),
        ("/messages?key=k&to=5", 400, "invalid_parameter", "to"),
        ("/messages?key=k&from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", 400, "invalid_parameter", "from"),
        ("/messages?key=k&limit=0", 400, "invalid_parameter", "limit"),
        ("/messages?key=k&cursor=MDo1", 400, "invalid_cursor", "cursor"),
        ("/messages?key=k&topic=nosuch", 404, "topic_not_found", "topic"),
        ("/messages?key=k&queue=1", 400, "invalid_parameter", "queue"),
        ("/messages/nobody", 404, "message_not_found", "id"),
        ("/messages/nobody/body", 404, "message_not_found", "id"),
        ("/messages/nobody?topic=orders", 404, "message_not_found", "id"),
        ("/messages/nobody?topic=nosuch", 404, "topic_not_found", "topic"),
        ("/messages/nobody?key=k", 400, "invalid_parameter", "key"),
        ("/topics/orders/messages?key=", 400, "invalid_parameter", "key"),
        ("/topics/orders/messages?message_group=", 400, "invalid_parameter", "message_group"),
        ("/topics/orders/messages?key=k&from=latest", 400, "invalid_parameter", "from"),
        ("/topics/orders/messages?key=k&from=offset:1", 400, "invalid_parameter", "queue"),
        ("/topics/orders/messages?key=k&queue=7", 422, "illegal_value", "queue"),
        ("/topics/orders/messages?message_group=g&queue=7", 422, "illegal_value", "queue"),
        ("/topics/orders/messages?message_group=g&cursor=PDc", 400, "invalid_cursor", "cursor"),
        ("/topics/orders/messages?key=k&cursor=MDo1", 400, "invalid_cursor", "cursor"),
        ("/topics/orders/messages?sql=a", 400, "invalid_parameter", "sql"),
    ] {
        let (found, problem) = get(&server, path).await;
        let expected = (status, Value::from(code), field);
        assert_eq!(
            (found, problem["code"].clone(), problem["field"].as_str().unwrap_or("")),
            expected,
            "{path}: {problem}"
        );
    }
    server.kill().await;
    let names: Vec<String> = (0..65).map(|number| format!("t{number}:normal:1")).collect();
    let mut server = Server::new(&directory.path().join("many"), &["--topics", &names.join(",")]);
    server.start().await;
    let (status, problem) = get(&server, "/messages/nobody").await;
    assert_eq!((status, &problem["field"], &problem["limit"]), (400, &"topic".into(), &64.into()), "{problem}");
    server.kill().await;
}
