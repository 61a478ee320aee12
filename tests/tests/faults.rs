//! Real servers on disks that are full, fail to sync, and are slow.
//!
//! Needs the rights to mount a file system and to trace a process. Without them the stories are passed over, said aloud;
//! where `CI` is set that is a failure.

#[path = "faults/clients.rs"]
mod clients;
#[path = "faults/http.rs"]
mod http;
#[path = "faults/small_disk.rs"]
mod small_disk;
#[path = "faults/tracer.rs"]
mod tracer;

use std::time::Duration;

use base::{Clock, SystemClock};
use client::Code;
use clients::Clients;
use small_disk::SmallDisk;
use tests::server::Server;
use tokio::time::interval;
use tracer::Tracer;

/// What a story waits for comes within this, or it fails.
const WITHIN_MS: u64 = 30_000;
/// How often it is looked whether it has come.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Says why a story is not played; where all of them have to be, it fails.
fn pass_over(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}; in CI every story is played");
    println!("passed over: {why}");
}

/// A moment that is limited: true as long as it is not over.
struct Deadline(u64);

impl Deadline {
    fn new() -> Self {
        Self(SystemClock.monotonic_ms() + WITHIN_MS)
    }

    fn is_ahead(&self) -> bool {
        SystemClock.monotonic_ms() < self.0
    }
}

#[tokio::test]
async fn a_full_disk_refuses_bodies_lets_consumers_drain_and_goes_on_by_itself_when_there_is_room() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let disk = match SmallDisk::mount(&data) {
        Ok(disk) => disk,
        Err(why) => return pass_over(&why),
    };
    disk.fill("ballast", Some(24 << 20));
    let settings = ["--set", "storage.log.segment_size=4MiB", "--set", "storage.disk_reserve=10MiB"];
    let mut server = Server::new(&data, &[&["--topics", clients::TOPIC_SPEC], &settings[..]].concat());
    server.start().await;
    let mut clients = Clients::connect(&server).await;

    let refused = loop {
        assert!(clients.stored() < small_disk::BYTES / clients::BODY_BYTES, "more was stored than the disk has");
        if let Err(refused) = clients.send().await {
            break refused;
        }
    };
    assert_eq!(refused.code(), Some(Code::Forbidden), "{refused}");
    assert!(refused.to_string().contains("disk_full: "), "{refused}");
    assert!(clients.stored() > 100, "{} messages and {refused}", clients.stored());

    // Somebody else takes the reserve too.
    disk.fill("more ballast", None);
    clients.drain(&server).await;
    let refused = clients.send().await.expect_err("the disk is full");
    assert!(refused.to_string().contains("disk_full: "), "{refused}");
    assert_eq!(http::metric(&server, "carillon_store_writable").await, 0.0);

    disk.free("ballast");
    disk.free("more ballast");
    let deadline = Deadline::new();
    let mut look = interval(LOOK_EVERY);
    while let Err(refused) = clients.send().await {
        assert!(deadline.is_ahead(), "there is room again: {refused}; the server's log:\n{}", server.log());
        look.tick().await;
    }
    for _ in 0..50 {
        clients.send().await.expect("there is room");
    }
    // A page of metrics is shared for a second.
    while http::metric(&server, "carillon_store_writable").await < 1.0 {
        assert!(deadline.is_ahead(), "the store is writable and its metric says no");
        look.tick().await;
    }
    clients.drain(&server).await;

    server.kill().await;
    server.start().await;
    clients.nothing_comes(&server).await;
    server.kill().await;
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_taken_reads_go_on_and_a_restart_has_all_that_was_acknowledged() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::new(&directory.path().join("data"), &["--topics", clients::TOPIC_SPEC]);
    server.start().await;
    let mut clients = Clients::connect(&server).await;
    for _ in 0..20 {
        clients.send().await.expect("a healthy disk");
    }
    let held = clients.take(4).await;
    assert!(!held.is_empty(), "something was sent");
    let tracer = match Tracer::attach(server.pid(), "fdatasync:error=EIO").await {
        Ok(tracer) => tracer,
        Err(why) => return pass_over(&why),
    };

    clients.send().await.expect_err("its sync failed");
    for _ in 0..3 {
        let refused = clients.send().await.expect_err("nothing is tried again");
        assert_eq!(refused.code(), Some(Code::Forbidden), "{refused}");
        assert!(refused.to_string().contains("writes_disabled: "), "{refused}");
    }
    for refused in [clients.ack(&held[0]).await, clients.receive(4).await.map(drop)] {
        let refused = refused.expect_err("nothing can be written down");
        assert!(refused.to_string().contains("writes_disabled: "), "{refused}");
    }
    tracer.detach().await;
    let refused = clients.send().await.expect_err("a healthy disk does not mend what was lost").to_string();
    assert!(refused.contains("writes_disabled: "), "{refused}");

    let looked = server.administer(&["tail", clients::TOPIC, "--from", "earliest", "--no-follow", "-q"]).await;
    assert!(looked.lines().count() >= clients.stored(), "{looked}");
    server.administer(&["group", "describe", clients::GROUP]).await;
    assert_eq!(http::metric(&server, "carillon_store_writable").await, 0.0);
    assert_eq!(http::status(&server, "/livez").await, 200, "a restart would not mend the disk");
    assert_eq!(http::status(&server, "/readyz").await, 503);

    server.kill().await;
    server.start().await;
    clients.drain(&server).await;
    clients.send().await.expect("a healthy disk");
    clients.drain(&server).await;
    server.kill().await;
}

#[tokio::test]
async fn a_slow_disk_holds_senders_back_without_taking_memory_and_the_server_stays_alive() {
    const SENDERS: usize = 200;
    const ROUNDS: usize = 4;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let settings = ["--set", "limits.writer_inbox=64", "--set", "storage.tail_cache=1MiB"];
    let topics = ["--topics", clients::TOPIC_SPEC];
    let mut server = Server::new(&directory.path().join("data"), &[&topics[..], &settings[..]].concat());
    server.start().await;
    let mut clients = Clients::connect(&server).await;
    // Buffers and allocators have grown to what this load takes before anything is measured.
    clients.send_at_once(SENDERS).await;
    let before = server.resident_bytes();
    // 300 ms before every sync.
    let tracer = match Tracer::attach(server.pid(), "fdatasync:delay_enter=300000").await {
        Ok(tracer) => tracer,
        Err(why) => return pass_over(&why),
    };

    let mut refused = 0;
    let mut most = 0;
    for _ in 0..ROUNDS {
        let asked = async {
            let began = SystemClock.monotonic_ms();
            assert_eq!(http::status(&server, "/livez").await, 200);
            // New clients open their streams and learn the route. What becomes of their heartbeats is not seen here.
            Clients::connect(&server).await;
            SystemClock.monotonic_ms() - began
        };
        let (errors, took_ms) = tokio::join!(clients.send_at_once(SENDERS), asked);
        assert!(took_ms < 5_000, "the server answered after {took_ms} ms");
        for error in errors {
            assert_eq!(error.code(), Some(Code::TooManyRequests), "{error}");
            refused += 1;
        }
        most = most.max(server.resident_bytes());
    }
    assert!(refused > 0, "a full inbox holds back");
    let grown = most.saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more than {before} while {refused} sends were held back");
    tracer.detach().await;
    clients.drain(&server).await;
    server.kill().await;
}
