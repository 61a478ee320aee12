//! The command as a process, against a server in memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by ending")]

#[path = "../../client/tests/fake/mod.rs"]
mod fake;

use std::process::{Command, Output};

use fake::Fake;
use serde_json::Value;

/// A server for as long as this lives; the command runs in other processes meanwhile.
struct Server {
    fake: Fake,
    endpoint: String,
    _stop: tokio::sync::oneshot::Sender<()>,
}

fn serve() -> Server {
    let fake = Fake::default();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (told, endpoint) = std::sync::mpsc::sync_channel(1);
    let served = fake.clone();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            told.send(served.serve().await).unwrap();
            let _is_dropped_at_the_end = stopped.await;
        });
    };
    std::thread::Builder::new().name("fake".into()).spawn(work).unwrap();
    Server { fake, endpoint: endpoint.recv().unwrap(), _stop: stop }
}

fn carillon(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.env_remove("CARILLON_SERVER").env_remove("CARILLON_GRPC").stdin(std::process::Stdio::null());
    // Contexts of whoever runs the tests are none of theirs.
    command.env("XDG_CONFIG_HOME", "/dev/null");
    command.args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn code(arguments: &[&str]) -> Option<i32> {
    carillon(arguments).status.code()
}

#[test]
fn what_is_sent_is_received() {
    let server = serve();
    let grpc = ["--grpc", &server.endpoint];
    let sent = stdout(&carillon(&[&["send", "t", "hello", "--key", "k", "--count", "2", "-q"], &grpc[..]].concat()));
    let ids: Vec<_> = sent.lines().collect();
    assert!(ids.len() == 2 && ids.iter().all(|id| id.len() == 34), "{sent}");

    let looked = ["receive", "t", "--consumer-group", "g", "--nack", "--json"];
    let looked: Value = serde_json::from_str(&stdout(&carillon(&[&looked, &grpc[..]].concat()))).unwrap();
    assert_eq!((&looked["body"], &looked["attempt"]), (&Value::from("hello"), &Value::from(1)));
    let taken = ["receive", "t", "--consumer-group", "g", "--count", "2", "--format", "%k=%b\\n"];
    assert_eq!(stdout(&carillon(&[&taken, &grpc[..]].concat())), "k=hello\nk=hello\n");
    assert_eq!(server.fake.state().acked, 2);
}

#[test]
fn exit_codes_say_what_happened() {
    let server = serve();
    let grpc = server.endpoint.as_str();
    assert_eq!(code(&["receive", "missing", "--consumer-group", "g", "--grpc", grpc]), Some(3));
    assert_eq!(code(&["send", "t", "", "--grpc", grpc]), Some(4));
    assert_eq!(code(&["send", "t", "x", "--grpc", "nonsense:port"]), Some(2));
    assert_eq!(code(&["topc"]), Some(2));
    assert_eq!(code(&["topic", "list", "--server", "127.0.0.1:1"]), Some(6));
    assert_eq!(code(&["send", "t", "x", "--grpc", "127.0.0.1:1"]), Some(6));
    let wrong = carillon(&["dev", "--ephemeral", "--set", "storage.log.flsh=sync"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("did you mean storage.log.flush?"));
}

/// Runs a scenario briefly and gives its report.
fn bench(server: &Server, scenario: &[&str]) -> Value {
    let common = ["--no-create", "--grpc", &server.endpoint, "--json", "--duration", "300ms", "--warmup", "100ms"];
    let output = carillon(&[&["bench"], scenario, &common[..]].concat());
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["errors"], serde_json::json!({}), "{report:#}");
    report
}

#[test]
fn sending_is_measured_in_closed_and_open_loop() {
    let server = serve();
    let closed = bench(&server, &["send", "--in-flight", "4", "--batch", "2", "--connections", "2", "--threads", "2"]);
    assert!(closed["messages"].as_u64().unwrap() > 10, "{closed:#}");
    let open = bench(&server, &["send", "--rate", "200", "--keys", "3"]);
    let rate = open["rate"].as_f64().unwrap();
    assert!((100.0..300.0).contains(&rate), "{open:#}");
}

#[test]
fn a_backlog_is_consumed_to_its_end() {
    let server = serve();
    let report = bench(&server, &["receive", "--count", "500", "--ack-batch", "1", "--in-flight", "2"]);
    assert_eq!((&report["settled"], &report["not_received"]), (&Value::from(500), &Value::from(0)), "{report:#}");
    assert_eq!(server.fake.state().acked, 500);
}

#[test]
fn what_is_sent_on_the_way_arrives_and_is_timed() {
    let server = serve();
    let report = bench(&server, &["e2e", "--rate", "300"]);
    assert_eq!(report["not_received"], Value::from(0), "{report:#}");
    assert!(report["deliver_us"]["p50"].as_u64().is_some_and(|us| us < 1_000_000), "{report:#}");
}

#[test]
fn delayed_messages_are_never_early_and_their_lateness_is_told() {
    let server = serve();
    for form in [&["--preload"][..], &[]] {
        let flags = [&["timer", "--rate", "200", "--lead", "200ms", "--in-flight", "4"], form].concat();
        let report = bench(&server, &flags);
        assert_eq!((&report["early"], &report["not_received"]), (&Value::from(0), &Value::from(0)), "{report:#}");
        assert!(report["deliver_us"]["count"].as_u64().unwrap() > 20, "{report:#}");
    }
}

#[test]
fn the_order_of_every_key_is_checked() {
    let server = serve();
    let report = bench(&server, &["order", "--keys", "5", "--rate", "300", "--batch", "2", "--threads", "2"]);
    assert_eq!((&report["out_of_order"], &report["not_received"]), (&Value::from(0), &Value::from(0)), "{report:#}");
    assert!(report["messages"].as_u64().unwrap() > 20, "{report:#}");
}
