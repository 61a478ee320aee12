//! Retention of a real server: what a topic says of itself, what goes, and what is counted of it.

use std::time::Duration;

use client::{Client, Filter, NewMessage, Options};
use serde_json::Value;
use tests::server::{Server, carillon};
use tokio::time::{interval, timeout};

const WITHIN: Duration = Duration::from_secs(60);
const QUICKLY: [&str; 8] = [
    "--set",
    "storage.log.segment_size=1MiB",
    "--set",
    "storage.checkpoint_every=10ms",
    "--set",
    "storage.retain_every=10ms",
    "--topics",
    "brief:normal:1,orders:fifo:2",
];
/// Created once: what a start is told of must be as it was.
const PLAIN: [&str; 5] = ["topic", "create", "plain", "--queues", "1"];
const BODY_BYTES: usize = 32 << 10;

async fn json(server: &Server, verb: &[&str]) -> Value {
    let text = server.administer(&[verb, &["--json"]].concat()).await;
    serde_json::from_str(&text).expect("JSON")
}

async fn connect(server: &Server) -> Client {
    Client::connect(&server.grpc(), Options::default()).await.expect("the server is there")
}

/// What a group has not read in time, as the server says.
async fn expired(server: &Server) -> u64 {
    let group = json(server, &["group", "describe", "slow"]).await;
    group["topics"][0]["expired_unread"].as_u64().expect("a number")
}

/// The refusal of a verb that must fail.
async fn refused(server: &Server, verb: &[&str]) -> String {
    let output = carillon(&[verb, &["--server", &server.http()]].concat()).await;
    assert!(!output.status.success(), "{verb:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn what_a_group_did_not_read_in_time_goes_and_is_counted_for_good() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::new(&directory.path().join("data"), &QUICKLY);
    server.start().await;
    server.administer(&["topic", "update", "brief", "--retention", "1s"]).await;
    let client = connect(&server).await;
    let consumer = client.simple_consumer("slow", "brief", Filter::All).await.expect("a consumer");
    let producer = client.producer(&["brief"]).await.expect("a producer");
    // First contact.
    consumer.receive(1, WITHIN, Duration::from_millis(1)).await.expect("nothing yet");
    for _ in 0..128 {
        producer.send(NewMessage::new("brief", vec![7; BODY_BYTES])).await.expect("a healthy disk");
    }
    let group = json(&server, &["group", "describe", "slow"]).await;
    let expires = group["topics"][0]["oldest_expires_in_ms"].as_u64().expect("something is unread");
    assert!(expires <= 1_000, "{expires}");
    let counted = async {
        let mut look = interval(Duration::from_millis(100));
        loop {
            look.tick().await;
            if expired(&server).await > 0 {
                break;
            }
        }
    };
    let done = timeout(WITHIN, counted).await;
    assert!(done.is_ok(), "nothing has expired; the server's log:\n{}", server.log());
    let topic = json(&server, &["topic", "describe", "brief"]).await;
    assert!(topic["queues"][0]["first"].as_u64() > Some(0), "{topic}");
    let before = expired(&server).await;
    server.kill().await;
    server.start().await;
    assert!(expired(&server).await >= before, "it is forgotten with the process");
    server.kill().await;
}

/// The value of a series whose labels include these.
fn value(page: &str, family: &str, labels: &[&str]) -> Option<f64> {
    let is_it = |line: &&str| {
        let rest = line.strip_prefix(family);
        rest.is_some_and(|rest| rest.starts_with('{') && labels.iter().all(|label| rest.contains(label)))
    };
    page.lines().find(is_it).and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok())
}

#[tokio::test]
async fn what_the_store_has_is_shown_and_what_is_not_known_is_absent() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::new(&directory.path().join("data"), &QUICKLY);
    server.start().await;
    server.administer(&PLAIN).await;
    let client = connect(&server).await;
    let producer = client.producer(&["plain"]).await.expect("a producer");
    for _ in 0..128 {
        producer.send(NewMessage::new("plain", vec![7; BODY_BYTES])).await.expect("a healthy disk");
    }
    let sealed = |page: &str| value(page, "carillon_topic_size_bytes", &["topic=\"plain\""]).is_some();
    let shown = async {
        let mut look = interval(Duration::from_millis(100));
        loop {
            look.tick().await;
            let page = server.page("/metrics").await;
            if sealed(&page) && value(&page, "carillon_checkpoint_age_seconds", &[]).is_some() {
                return page;
            }
        }
    };
    let page = timeout(WITHIN, shown).await.expect("the first segments are sealed");
    let of = |family: &str, labels: &[&str]| {
        value(&page, family, labels).unwrap_or_else(|| panic!("no {family}{labels:?} in:\n{page}"))
    };
    let positions = ["first", "applied", "committed", "durable", "appended"]
        .map(|name| of("carillon_log_position_bytes", &[&format!("position=\"{name}\"")]));
    assert!(positions.is_sorted() && positions[0] > 0.0 && positions[4] > 128.0 * BODY_BYTES as f64, "{positions:?}");
    assert!(of("carillon_topic_size_bytes", &["topic=\"plain\""]) >= BODY_BYTES as f64);
    assert_eq!(value(&page, "carillon_topic_size_bytes", &["topic=\"brief\""]), None, "nothing is known of it");
    assert_eq!(of("carillon_log_segments", &["state=\"active\""]), 1.0);
    assert!(of("carillon_log_segments", &["state=\"sealed\""]) >= 1.0);
    assert!(
        of("rocketmq_storage_size_bytes", &["storage_type=\"local\""])
            >= of("carillon_log_bytes", &["state=\"sealed\""])
    );
    assert!(of("carillon_disk_total_bytes", &[]) >= of("carillon_disk_free_bytes", &[]));
    assert_eq!(value(&page, "carillon_disk_headroom_seconds", &[]), None, "it is too early to say");
    assert!(of("carillon_recovery_duration_seconds", &["phase=\"total\""]) >= 0.0);
    assert_eq!(of("carillon_recovery_truncated_bytes", &[]), 0.0);
    assert_eq!(of("carillon_store_failures_total", &["operation=\"sync\"", "kind=\"io\""]), 0.0);
    assert!(of("carillon_thread_busy_seconds_total", &["thread=\"upkeep\""]) > 0.0);
    assert!(of("rocketmq_storage_message_reserve_time_milliseconds", &[]) >= 0.0);
    server.kill().await;
}

#[tokio::test]
async fn a_topic_is_changed_while_it_is_read() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::new(&directory.path().join("data"), &QUICKLY);
    server.start().await;
    server.administer(&PLAIN).await;
    let client = connect(&server).await;
    let consumer = client.simple_consumer("reader", "plain", Filter::All).await.expect("a consumer");
    let producer = client.producer(&["plain"]).await.expect("a producer");
    consumer.receive(1, WITHIN, Duration::from_millis(1)).await.expect("nothing yet");
    let update = ["topic", "update", "plain", "--queues", "3", "--retention", "30d", "--retention-size", "10GiB"];
    server.administer(&update).await;
    let mut sent: Vec<String> = Vec::new();
    for _ in 0..9 {
        sent.push(producer.send(NewMessage::new("plain", "x")).await.expect("a healthy disk").message_id);
    }
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let batch = consumer.receive(16, WITHIN, Duration::from_secs(20)).await.expect("messages");
        assert!(!batch.is_empty(), "{} of {} came: those in new queues do not", received.len(), sent.len());
        received.extend(batch.into_iter().map(|message| message.message_id));
    }
    sent.sort();
    received.sort();
    assert_eq!(received, sent);

    let topic = json(&server, &["topic", "describe", "plain"]).await;
    let retention = &topic["retention"];
    assert_eq!((&retention["time"], &retention["size"]), (&"30d".into(), &"10GiB".into()));
    server.administer(&["topic", "update", "plain", "--retention", "default", "--retention-size", "none"]).await;
    server.kill().await;
    server.start().await;
    let topic = json(&server, &["topic", "describe", "plain"]).await;
    let retention = &topic["retention"];
    assert_eq!((&retention["time"], &retention["size"]), (&"3d".into(), &Value::Null));
    assert_eq!((&retention["time_is_default"], topic["queues"].as_array().map(Vec::len)), (&true.into(), Some(3)));
    server.kill().await;
}

#[tokio::test]
async fn a_change_that_cannot_be_names_field_value_and_limit() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::new(&directory.path().join("data"), &QUICKLY);
    server.start().await;
    server.administer(&PLAIN).await;
    for (verb, words) in [
        (&["topic", "update", "plain", "--queues", "0"][..], &["queues", "0", "1024"][..]),
        (&["topic", "update", "orders", "--queues", "1"], &["queues", "1", "2"]),
        (&["topic", "update", "orders", "--queues", "4"], &["queues", "message group"]),
        (&["topic", "update", "plain", "--retention", "72ms"], &["retention.time", "72", "1000"]),
        (&["topic", "update", "plain", "--retention-size", "1KiB"], &["retention.size", "1024", "1048576"]),
        (&["topic", "create", "other", "--retention", "10ms"], &["retention.time", "10", "1000"]),
        (&["topic", "update", "nowhere", "--retention", "1d"], &["nowhere", "does not exist"]),
        (&["topic", "update", "plain"], &["nothing to change"]),
    ] {
        let refusal = refused(&server, verb).await;
        assert!(words.iter().all(|word| refusal.contains(word)), "{verb:?}: {refusal}");
    }
    server.administer(&["topic", "create", "kept", "--retention", "30d"]).await;
    server.administer(&["topic", "create", "kept", "--retention", "30d"]).await;
    let refusal = refused(&server, &["topic", "create", "kept", "--retention", "1d"]).await;
    assert!(["retention.time", "30d", "1d"].iter().all(|word| refusal.contains(word)), "{refusal}");
    server.kill().await;
}
