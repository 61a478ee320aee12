//! `carillon doctor` on directories and servers, well and ill.

use std::os::unix::fs::FileExt;
use std::path::Path;

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
