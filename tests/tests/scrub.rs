//! Files of a real server that are damaged while it runs: what the scrub mends, what it names, and that the rest is served.

#[path = "faults/http.rs"]
mod http;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::{Client, Filter, NewMessage, Options};
use serde_json::{Value, json};
use tests::server::{Server, carillon};
use tokio::time::{interval, timeout};

const WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const MESSAGES: u64 = 60;
const BODY_BYTES: usize = 100_000;
const SEGMENT_BYTES: u64 = 1 << 20;
/// The last one that is sealed.
const DAMAGED_SEGMENT: u64 = 4;
const TOPICS: [&str; 4] = ["--topics", "orders:fifo:1", "--set", "storage.log.segment_size=1MiB"];
/// A round takes ten seconds and more: what is damaged when it has just begun is met before it ends. The one after it would
/// begin ten minutes later. No checkpoint comes between.
const SCRUBBED: [&str; 4] = ["--set", "storage.verify_rate=512KiB/s", "--set", "storage.checkpoint_every=1h"];

fn path(data: &Path) -> &str {
    data.to_str().expect("temporary directories have plain names")
}

fn server(data: &Path) -> Server {
    Server::new(data, &[&TOPICS[..], &SCRUBBED[..]].concat())
}

async fn connect(server: &Server) -> Client {
    Client::connect(&server.grpc(), Options::default()).await.expect("the server is there")
}

/// A store with sealed segments and checkpoints behind them, of a group that has read nothing yet, and of a server that was
/// killed. Every message has a message group of its own.
async fn aged(data: &Path) {
    let mut server = server(data);
    server.start().await;
    let client = connect(&server).await;
    let consumer = client.simple_consumer("readers", "orders", Filter::All).await.expect("a consumer");
    // First contact.
    consumer.receive(1, WITHIN, Duration::from_millis(1)).await.expect("nothing yet");
    let producer = client.producer(&["orders"]).await.expect("a producer");
    for number in 0..MESSAGES {
        let message = NewMessage::new("orders", body(number)).message_group(format!("g{number}"));
        producer.send(message).await.expect("a healthy disk");
    }
    server.kill().await;
    // Who finds something to put in order takes checkpoints too.
    let stray = data.join("queues-00000000000000000999.table");
    drop(OpenOptions::new().create_new(true).write(true).open(&stray).expect("a new file"));
    carillon(&["doctor", "--fix", path(data)]).await;
    assert!(!stray.exists(), "a stray file was left");
    let (is_whole, document) = verify(data).await;
    assert!(is_whole, "{document:#}");
}

fn body(number: u64) -> String {
    format!("{number} {}", "x".repeat(BODY_BYTES))
}

async fn verify(data: &Path) -> (bool, Value) {
    let output = carillon(&["log", "verify", "--json", path(data)]).await;
    (output.status.success(), serde_json::from_slice(&output.stdout).expect("JSON"))
}

/// The first message in a segment: its offset and position.
async fn first_in(data: &Path, segment: u64) -> (u64, u64) {
    let dump = carillon(&["log", "dump", "--json", path(data)]).await;
    let lines = String::from_utf8(dump.stdout).expect("JSON");
    let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let messages = records.filter(|record| record["kind"] == "message");
    let mut places =
        messages.map(|record| (record["offset"].as_u64(), record["position"].as_u64().expect("every record has one")));
    let found = places.find(|(_, position)| position / SEGMENT_BYTES == segment);
    found.and_then(|(offset, position)| Some((offset?, position))).expect("there is one in every segment")
}

/// One bit, on the disk when it returns: the server reads past the page cache.
fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is there");
    file.write_all_at(&[byte[0] ^ 1], at).expect("it is there");
    file.sync_all().expect("a healthy disk");
}

#[expect(clippy::disallowed_methods, reason = "a test that damages what the server wrote")]
fn remove(file: &Path) {
    std::fs::remove_file(file).expect("it is there");
}

fn index(data: &Path, segment: u64) -> PathBuf {
    data.join(format!("{:020}.index", segment * SEGMENT_BYTES))
}

/// The newest file whose name begins and ends so.
fn newest(data: &Path, begins: &str, ends: &str) -> PathBuf {
    let entries = std::fs::read_dir(data).expect("it is there");
    let names = entries.map(|entry| entry.expect("it is there").file_name().into_string().expect("ours"));
    data.join(names.filter(|name| name.starts_with(begins) && name.ends_with(ends)).max().expect("there is one"))
}

/// Waits until the metric has reached a value.
async fn reaches(server: &Server, name: &str, value: f64) {
    let reached = async {
        let mut look = interval(LOOK_EVERY);
        while http::metric(server, name).await < value {
            look.tick().await;
        }
    };
    let done = timeout(WITHIN, reached).await;
    assert!(done.is_ok(), "{name} does not come to {value}; the server's log:\n{}", server.log());
}

/// Waits until the log has a line with all of these.
async fn says(server: &Server, words: &[&str]) {
    let said = async {
        let mut look = interval(LOOK_EVERY);
        while !server.log_from(0).lines().any(|line| words.iter().all(|word| line.contains(word))) {
            look.tick().await;
        }
    };
    assert!(timeout(WITHIN, said).await.is_ok(), "{words:?} is not said; the server's log:\n{}", server.log());
}

async fn is_there(file: &Path) {
    let made = async {
        let mut look = interval(LOOK_EVERY);
        while !file.exists() {
            look.tick().await;
        }
    };
    assert!(timeout(WITHIN, made).await.is_ok(), "{} is not made anew", file.display());
}

/// The numbers of what a group gets; each must have the body that was sent.
async fn received(server: &Server, count: u64) -> BTreeSet<u64> {
    let consumer = connect(server).await.simple_consumer("readers", "orders", Filter::All).await.expect("a consumer");
    let mut numbers = BTreeSet::new();
    while (numbers.len() as u64) < count {
        let batch = consumer.receive(16, WITHIN, Duration::from_secs(20)).await.expect("messages");
        assert!(!batch.is_empty(), "{} of {count} came; the server's log:\n{}", numbers.len(), server.log());
        for message in batch {
            let text = String::from_utf8(message.body.to_vec()).expect("text");
            let number = text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
            assert!(text == body(number), "{number} has another body");
            numbers.insert(number);
            consumer.ack(&message).await.expect("the server is there");
        }
    }
    numbers
}

#[tokio::test]
async fn what_is_damaged_under_a_running_server_is_mended_or_named_and_the_rest_is_served() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    aged(&data).await;
    let (lost, position) = first_in(&data, DAMAGED_SEGMENT).await;
    let mut server = server(&data);
    server.start().await;
    assert_eq!(http::metric(&server, "carillon_quarantined_bytes").await, 0.0);

    flip(&data.join(format!("{:020}.log", DAMAGED_SEGMENT * SEGMENT_BYTES)), position % SEGMENT_BYTES + 600);
    let copy = newest(&data, "catalog-", ".copy");
    // In the first block behind the header.
    [&copy, &index(&data, 1)].into_iter().for_each(|file| flip(file, 4_200));
    remove(&index(&data, 2));

    // The segment, two indexes, and half of a table.
    reaches(&server, "carillon_store_failures_total{kind=\"checksum\",operation=\"read\"", 4.0).await;
    reaches(&server, "carillon_quarantined_bytes", BODY_BYTES as f64).await;
    let named = format!("orders queue 0 offsets {lost}..{} (1 message groups)", lost + 1);
    says(&server, &["damaged and quarantined", &named]).await;
    for segment in [1, 2] {
        let number = format!("\"segment\":{}", segment * SEGMENT_BYTES);
        says(&server, &["an index file is damaged and will be made anew", &number]).await;
    }
    is_there(&index(&data, 2)).await;
    for page in ["/livez", "/readyz"] {
        assert_eq!(http::status(&server, page).await, 200, "{page}");
    }

    let all_but_it: BTreeSet<u64> = (0..MESSAGES).filter(|number| *number != lost).collect();
    assert_eq!(received(&server, MESSAGES - 1).await, all_but_it);
    let tail = ["tail", "orders", "--from", "earliest", "--no-follow", "--format", "%o\\n"];
    let shown = server.administer(&tail).await;
    assert_eq!(shown.lines().map(|line| line.parse().expect("an offset")).collect::<BTreeSet<u64>>(), all_but_it);

    server.kill().await;
    let (is_whole, document) = verify(&data).await;
    assert!(!is_whole);
    assert_eq!(document["damaged"].as_array().map(Vec::len), Some(1), "{document:#}");
    let losses = json!([{"topic": "orders", "queue": 0, "first": lost, "next": lost + 1,
        "message_groups": [format!("g{lost}")], "elsewhere_possible": false}]);
    assert_eq!(document["damaged"][0]["losses"], losses, "{document:#}");
    let files = document["files"].as_array().expect("a list");
    let unsound: Vec<_> = files.iter().filter(|file| file["state"] != "sound").collect();
    assert!(unsound.is_empty() && files.len() > 10, "{unsound:#?}");
    let looked = carillon(&["doctor", path(&data)]).await;
    assert_eq!(looked.status.code(), Some(2), "{looked:?}");
    let said = String::from_utf8_lossy(&looked.stdout).into_owned();
    let range = format!("quarantined: {}..{}", document["damaged"][0]["from"], document["damaged"][0]["to"]);
    assert!(said.contains(&range), "{range:?} is not said: {said}");
}

#[tokio::test]
async fn an_index_file_that_is_gone_before_a_start_is_made_anew() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    aged(&data).await;
    remove(&index(&data, 0));
    let (is_whole, document) = verify(&data).await;
    assert!(!is_whole, "{document:#}");
    let mut server = server(&data);
    server.start().await;
    assert!(index(&data, 0).exists(), "a server that is ready can read everything");
    assert_eq!(received(&server, MESSAGES).await, (0..MESSAGES).collect());
    server.kill().await;
    let (is_whole, document) = verify(&data).await;
    assert!(is_whole, "{document:#}");
}
