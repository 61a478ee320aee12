//! `carillon doctor` on directories and servers, well and ill.

use std::os::unix::fs::FileExt;
use std::path::Path;

use client::{Client, NewMessage, Options};
use serde_json::Value;
use tests::server::{Server, carillon};

/// What was found, by check, and the exit code.
async fn doctor(arguments: &[&str]) -> (Vec<(String, String)>, Option<i32>) {
    let output = carillon(&[&["doctor", "--json"], arguments].concat()).await;
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let text = |check: &Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
    let checks = document["checks"].as_array().cloned().unwrap_or_default();
    (checks.iter().map(|check| (text(check, "check"), text(check, "state"))).collect(), output.status.code())
}

/// The state of a check. Others depend on the machine that tests.
fn state<'a>(found: &'a [(String, String)], check: &str) -> Option<&'a str> {
    found.iter().find(|(name, _)| name == check).map(|(_, state)| state.as_str())
}

fn path(data: &Path) -> &str {
    data.to_str().expect("temporary directories have plain names")
}

async fn started(data: &Path) -> Server {
    let mut server = Server::new(data, &["--topics", "orders:fifo:1"]);
    server.start().await;
    server
}

fn names(data: &Path) -> Vec<std::ffi::OsString> {
    let entries = std::fs::read_dir(data).expect("it is there").map(|entry| entry.expect("it is there").file_name());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_stopped_store_is_examined_without_a_trace_and_mended_only_when_asked() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    started(&data).await.kill().await;
    let left_over = data.join("prepared-0000000000000000");
    let file = std::fs::OpenOptions::new().create_new(true).write(true).open(&left_over).expect("a new file");
    drop(file);
    let before = names(&data);

    let (found, _) = doctor(&[path(&data)]).await;
    for check in ["store", "damage", "clock", "retention", "left over"] {
        assert_eq!(state(&found, check), Some("ok"), "{found:?}");
    }
    for check in ["open files", "sync time", "disk space", "port grpc", "port http"] {
        assert!(state(&found, check).is_some(), "{check}: {found:?}");
    }
    assert_eq!(names(&data), before);
    doctor(&[path(&data), "--fix"]).await;
    let kept: Vec<_> = before.into_iter().filter(|name| *name != "prepared-0000000000000000").collect();
    assert_eq!(names(&data), kept);
}

#[tokio::test]
async fn damage_and_a_disk_without_its_reserve_are_critical() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    started(&data).await.kill().await;
    let (found, code) = doctor(&[path(&data), "--reserve", "1000000GiB"]).await;
    assert_eq!((state(&found, "disk space"), code), (Some("critical"), Some(2)), "{found:?}");

    let segment = data.join("00000000000000000000.log");
    let file = std::fs::OpenOptions::new().write(true).open(segment).expect("it is there");
    file.write_all_at(&[0xFF; 8], 4096 + 70).expect("it is there");
    let (found, code) = doctor(&[path(&data)]).await;
    assert_eq!((state(&found, "damage"), code), (Some("critical"), Some(2)), "{found:?}");
}

#[tokio::test]
async fn a_running_server_is_asked_whichever_way_it_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let mut server = started(&data).await;
    let (http, grpc) = (server.http(), server.grpc());
    for arguments in [&[path(&data)][..], &["--server", &http, "--grpc", &grpc]] {
        let (found, _) = doctor(arguments).await;
        for check in ["server", "writable", "port grpc", "clock"] {
            assert_eq!(state(&found, check), Some("ok"), "{arguments:?}: {found:?}");
        }
    }
    server.kill().await;
    let (found, code) = doctor(&["--server", &http, "--grpc", &grpc]).await;
    assert_eq!(
        (state(&found, "server"), state(&found, "port grpc"), code),
        (Some("unknown"), Some("critical"), Some(2))
    );
    assert_eq!(doctor(&[path(&directory.path().join("nowhere"))]).await.1, Some(3));
}

/// A store of three segments and more, killed, and tended by the doctor, who takes checkpoints.
async fn aged(data: &Path) {
    let mut server = Server::new(data, &["--topics", "orders:fifo:1", "--set", "storage.log.segment_size=1MiB"]);
    server.start().await;
    let producer = Client::connect(&server.grpc(), Options::default()).await.expect("the server is there");
    let producer = producer.producer(&["orders"]).await.expect("the server is there");
    for number in 0..40 {
        let message = NewMessage::new("orders", format!("body {number} {}", "x".repeat(100_000)));
        producer.send(message.message_group(format!("g{}", number % 5))).await.expect("the server is there");
    }
    server.kill().await;
    let stray = data.join("queues-00000000000000000999.table");
    drop(std::fs::OpenOptions::new().create_new(true).write(true).open(&stray).expect("a new file"));
    let (found, _) = doctor(&[path(data), "--fix"]).await;
    assert_eq!(state(&found, "checkpoints"), Some("ok"), "{found:?}");
    assert!(!stray.exists(), "a stray file was left");
    let verified = carillon(&["log", "verify", path(data)]).await;
    assert!(verified.status.success(), "{verified:?}");
}

/// Files whose names end, or begin, with this.
fn files(data: &Path, part: &str) -> Vec<std::path::PathBuf> {
    let all = names(data).into_iter().map(|name| name.into_string().expect("ASCII"));
    all.filter(|name| name.ends_with(part) || name.starts_with(part)).map(|name| data.join(name)).collect()
}

fn garble(file: &Path, at: u64) {
    let open = std::fs::OpenOptions::new().write(true).open(file).expect("it is there");
    open.write_all_at(&[0xA5; 8], at).expect("it is there");
}

#[expect(clippy::disallowed_methods, reason = "a test that damages what the server wrote")]
fn remove(file: &Path) {
    std::fs::remove_file(file).expect("it is there");
}

#[tokio::test]
async fn damaged_and_missing_files_beside_the_log_are_a_warning_and_made_anew() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    aged(&data).await;
    let indexes = files(&data, ".index");
    assert!(indexes.len() >= 2, "{indexes:?}");
    garble(&indexes[0], 4200);
    remove(&indexes[1]);
    garble(&files(&data, ".copy")[0], 4200);
    let verified = carillon(&["log", "verify", path(&data)]).await;
    assert_eq!(verified.status.code(), Some(1));
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert_eq!(said.matches("will be made anew").count(), 3, "{said}");
    assert!(said.contains("no message is lost"), "{said}");
    let (found, _) = doctor(&[path(&data)]).await;
    assert_eq!((state(&found, "checkpoints"), state(&found, "store")), (Some("warning"), Some("ok")), "{found:?}");
    let (found, _) = doctor(&[path(&data), "--fix"]).await;
    assert_eq!(state(&found, "checkpoints"), Some("ok"), "{found:?}");
    assert!(carillon(&["log", "verify", path(&data)]).await.status.success());
}

#[tokio::test]
async fn a_store_of_which_no_checkpoint_is_left_is_refused_explained_and_opened_with_what_is_left_when_asked() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    aged(&data).await;
    remove(&data.join("00000000000000000000.log"));
    files(&data, "checkpoint-").iter().for_each(|file| garble(file, 60));
    [".table", ".copy"].iter().for_each(|half| files(&data, half).iter().for_each(|file| garble(file, 4200)));
    let before = names(&data);

    let refused = carillon(&["dev", "--data", path(&data), "--port-grpc", "0", "--port-http", "0"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("`carillon doctor --fix` opens the store"), "{said}");
    assert_eq!(carillon(&["log", "verify", path(&data)]).await.status.code(), Some(1));
    let looked = carillon(&["doctor", path(&data)]).await;
    let said = String::from_utf8_lossy(&looked.stdout).into_owned();
    assert_eq!(looked.status.code(), Some(2), "{said}");
    for part in ["orphaned topics", "number 0 would be recovered-topic-0", "segments from 1048576", "come again"] {
        assert!(said.contains(part), "{part:?} is not said: {said}");
    }
    assert_eq!(names(&data), before, "nothing is done unasked");

    let (found, _) = doctor(&[path(&data), "--fix"]).await;
    assert_eq!(state(&found, "store"), Some("ok"), "{found:?}");
    assert!(carillon(&["log", "verify", path(&data)]).await.status.success());
    let mut server = started(&data).await;
    let tail = ["tail", "recovered-topic-0", "--from", "earliest", "--no-follow", "--format", "%o\\n"];
    let left: Vec<u64> = server.administer(&tail).await.lines().map(|line| line.parse().expect("an offset")).collect();
    let first = left.first().copied().expect("something is left");
    assert!((1..40).contains(&first), "the oldest segment is gone: {left:?}");
    assert_eq!(left, (first..40).collect::<Vec<_>>());
    server.kill().await;
}
