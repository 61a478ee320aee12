//! `carillon log` on the data directory of a real server: running, stopped, and damaged.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Output;

use client::{Client, NewMessage, Options};
use serde_json::{Value, json};
use tests::server::{Server, carillon};

const SEGMENT: &str = "00000000000000000000.log";
const MESSAGES: u64 = 20;

/// A directory in which a server has stored messages of the groups "g0", "g1" … in one FIFO queue, and was killed.
async fn killed(data: &Path) {
    let mut server = started(data).await;
    let producer = Client::connect(&server.grpc(), Options::default()).await.expect("the server is there");
    let producer = producer.producer(&["orders"]).await.expect("the server is there");
    for number in 0..MESSAGES {
        let message = NewMessage::new("orders", format!("body {number} {}", "x".repeat(1000)));
        producer.send(message.message_group(format!("g{number}"))).await.expect("the server is there");
    }
    server.kill().await;
}

async fn started(data: &Path) -> Server {
    let mut server = Server::new(data, &["--topics", "orders:fifo:1"]);
    server.start().await;
    server
}

async fn log(verb: &str, data: &Path, flags: &[&str]) -> Output {
    carillon(&[&["log", verb, data.to_str().expect("temporary directories have plain names")], flags].concat()).await
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every file with its content.
fn content(data: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let entries = std::fs::read_dir(data).expect("it is there").map(|entry| entry.expect("it is there"));
    let mut all: Vec<_> = entries.map(|entry| (entry.file_name(), bytes(&entry.path()))).collect();
    all.sort();
    all
}

#[expect(clippy::disallowed_methods, reason = "a test that looks behind the server's back")]
fn bytes(file: &Path) -> Vec<u8> {
    std::fs::read(file).expect("it is there")
}

/// One record of a dump, whose message has this offset.
async fn message(data: &Path, offset: u64) -> Value {
    let dump = log("dump", data, &["--json", "--bodies"]).await;
    let lines =
        stdout(&dump).lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect::<Vec<_>>();
    let is_it = |line: &Value| line["kind"] == "message" && line["offset"] == json!(offset);
    lines.into_iter().find(is_it).expect("it was dumped")
}

fn flip(data: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(data.join(SEGMENT)).expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is there");
    file.write_all_at(&[byte[0] ^ 1], at).expect("it is there");
    file.sync_all().expect("a healthy disk");
}

#[tokio::test]
async fn a_sound_store_is_verified_and_dumped_and_not_touched() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    killed(&data).await;
    let before = content(&data);

    let verified = log("verify", &data, &["--json"]).await;
    assert_eq!(verified.status.code(), Some(0), "{}", stderr(&verified));
    let document: Value = serde_json::from_str(&stdout(&verified)).expect("JSON");
    assert_eq!((&document["sound"], &document["segments"][0]["bodies"]), (&json!(true), &json!(MESSAGES)));
    let said = log("verify", &data, &[]).await;
    assert!(stdout(&said).lines().last().is_some_and(|line| line.starts_with("sound: 1 segments, ")), "{said:?}");

    let seventh = message(&data, 7).await;
    assert_eq!((&seventh["topic"], &seventh["message_group"]), (&json!("orders"), &json!("g7")));
    assert!(seventh["body"].as_str().is_some_and(|body| body.starts_with("body 7 ")), "{seventh}");
    let position = seventh["position"].as_u64().expect("a number");
    let (from, to) = ((position - 64).to_string(), position.to_string());
    let few = log("dump", &data, &["--from", &from, "--to", &to]).await;
    let text = stdout(&few);
    let kinds: Vec<_> = text.lines().filter_map(|line| line.trim_start().split(' ').nth(1)).collect();
    assert_eq!(kinds, ["segment", "batch", "message"], "{text}");
    assert!(text.contains("message_group=g7") && !text.contains("body 7"), "{text}");
    assert!(content(&data) == before, "a file was changed");
}

#[tokio::test]
async fn a_flipped_byte_in_the_middle_is_named_with_its_range_queue_offset_and_message_group() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    killed(&data).await;
    let position = message(&data, 7).await["position"].as_u64().expect("a number");
    flip(&data, position + 600);
    let before = content(&data);

    let verified = log("verify", &data, &["--json"]).await;
    assert_eq!(verified.status.code(), Some(1), "{}", stderr(&verified));
    let document: Value = serde_json::from_str(&stdout(&verified)).expect("JSON");
    let hole = &document["damaged"][0];
    assert_eq!((&hole["from"], &hole["batches"]), (&json!(position - 64), &json!(1)), "{document:#}");
    let loss = json!([{"topic": "orders", "queue": 0, "first": 7, "next": 8, "message_groups": ["g7"],
        "elsewhere_possible": false}]);
    assert_eq!(hole["losses"], loss, "{document:#}");
    let said = log("verify", &data, &[]).await;
    assert!(stdout(&said).contains("  orders queue 0 offset 7, message group g7"), "{}", stdout(&said));
    assert!(stderr(&said).contains("1 damaged ranges"), "{}", stderr(&said));
    let dump = log("dump", &data, &[]).await;
    assert!(stdout(&dump).lines().any(|line| line.starts_with(&format!("{} damaged ", position - 64))));
    assert!(content(&data) == before, "a file was changed");

    // What was said is what the server does.
    let mut server = started(&data).await;
    let shown = server.administer(&["tail", "orders", "--from", "earliest", "--no-follow", "--format", "%o\\n"]).await;
    let left: Vec<String> = (0..MESSAGES).filter(|offset| *offset != 7).map(|offset| offset.to_string()).collect();
    assert_eq!(shown.lines().collect::<Vec<_>>(), left);
    server.kill().await;
}

#[tokio::test]
async fn a_directory_in_use_and_one_that_is_not_there_are_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let mut server = started(&data).await;
    for verb in ["verify", "dump"] {
        let refused = log(verb, &data, &[]).await;
        assert_eq!(refused.status.code(), Some(4), "{verb}");
        assert!(stderr(&refused).contains("a server uses "), "{verb}: {}", stderr(&refused));
        let missing = directory.path().join("nowhere");
        assert_eq!(log(verb, &missing, &[]).await.status.code(), Some(3), "{verb}");
        assert!(!missing.exists(), "{verb} made a directory");
    }
    server.kill().await;
}
