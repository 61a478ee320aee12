//! What operators' tools ask a running server: monitoring plug-ins, and shells that complete a line.

use std::process::Stdio;
use std::time::Duration;

use client::{Client, Filter, NewMessage, Options};
use tests::process::CARILLON;
use tests::server::{Server, carillon};
use tokio::process::Command;
use tokio::time::timeout;

const ENDED_WITHIN: Duration = Duration::from_secs(30);

/// The line and the exit code.
async fn check(server: &Server, words: &[&str]) -> (String, Option<i32>) {
    let output = carillon(&[&["check", "--server", &server.http()], words].concat()).await;
    (String::from_utf8_lossy(&output.stdout).trim_end().to_owned(), output.status.code())
}

#[tokio::test]
async fn a_monitoring_system_is_told_what_is_wrong_with_a_broker() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::new(&directory.path().join("data"), &["--topics", "orders:fifo:1,later:delay:1"]);
    server.start().await;
    server.administer(&["group", "create", "billing"]).await;
    let ready = check(&server, &[]).await;
    assert!(ready.0.starts_with("CARILLON READY OK - ") && ready.1 == Some(0), "{ready:?}");
    let fine = check(&server, &["lag"]).await;
    assert!(fine.0.starts_with("CARILLON LAG OK - ") && fine.1 == Some(0), "{fine:?}");
    let fine = check(&server, &["dlq"]).await;
    assert_eq!(fine, ("CARILLON DLQ OK - no dead letters | worst=0;1;1000;0 all=0;;;0".into(), Some(0)));

    let client = Client::connect(&server.grpc(), Options::default()).await.expect("the server is there");
    let consumer = client.simple_consumer("billing", "orders", Filter::All).await.expect("a consumer");
    consumer.receive(1, Duration::from_secs(30), Duration::from_millis(1)).await.expect("an answer");
    let producer = client.producer(&["orders", "later"]).await.expect("a producer");
    for _ in 0..3 {
        producer.send(NewMessage::new("orders", "x").message_group("g")).await.expect("it is taken");
    }
    let due = base::Timestamp(u64::MAX >> 24);
    producer.send(NewMessage::new("later", "x").deliver_at(due)).await.expect("it is taken");

    for (thresholds, level, code) in [
        (&["-w", "3"][..], "WARNING", 1),
        (&["-w", "1", "--critical", "2"], "CRITICAL", 2),
        (&["-w", "4", "-c", "5"], "OK", 0),
    ] {
        let (line, exit) = check(&server, &[&["lag", "--group", "billing"], thresholds].concat()).await;
        assert!(line.starts_with(&format!("CARILLON LAG {level} - billing on orders: 3 messages")), "{line}");
        assert_eq!(exit, Some(code), "{line}");
    }
    let (line, code) = check(&server, &["lag", "--group", "nobody"]).await;
    assert!(line.starts_with("CARILLON LAG UNKNOWN - ") && code == Some(3), "{line}");
    let (line, code) = check(&server, &["timers"]).await;
    let expected = "CARILLON TIMERS OK - none is overdue, 1 messages are pending | overdue=0s;5;60;0 pending=1;;;0";
    assert_eq!((line.as_str(), code), (expected, Some(0)));
    let (line, code) = check(&server, &["disk", "-c", "100%"]).await;
    assert!(line.starts_with("CARILLON DISK CRITICAL - ") && line.contains(" | free=") && code == Some(2), "{line}");
    let (line, code) = check(&server, &["timers", "--warning", "5"]).await;
    assert_eq!(
        (line.as_str(), code),
        ("CARILLON TIMERS UNKNOWN - --warning of timers takes a time such as 5s", Some(3))
    );

    server.administer(&["node", "drain", "--timeout", "0s"]).await;
    let draining = check(&server, &["ready"]).await;
    assert!(draining.0.starts_with("CARILLON READY CRITICAL - ") && draining.1 == Some(2), "{draining:?}");
    server.kill().await;
    assert_eq!(check(&server, &["ready"]).await.1, Some(2), "a server that has gone is not ready");
    assert_eq!(check(&server, &["lag"]).await.1, Some(3), "nothing is known of it");
}

/// What bash offers at the end of a line.
async fn offered(server: &str, line: &str) -> Vec<String> {
    let binary = CARILLON.path();
    let folder = binary.parent().expect("it lies in a folder");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    // As readline does it: words, which of them is being typed, and the function that was registered.
    let script = r#"
        source <(carillon completion bash) || exit 1
        line=$1
        read -ra COMP_WORDS <<< "$line"
        [[ $line == *' ' ]] && COMP_WORDS+=('')
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9
        function=$(complete -p carillon | sed 's/.* -F \([^ ]*\) .*/\1/')
        $function carillon "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut command = Command::new("bash");
    command.args(["--norc", "--noprofile", "-c", script, "bash", line]);
    command.env("PATH", path).env("CARILLON_SERVER", server).env("XDG_CONFIG_HOME", "/dev/null");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(ENDED_WITHIN, command.output()).await.expect("it ends").expect("bash is there");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{line:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().to_owned()).collect()
}

#[tokio::test]
async fn bash_completes_verbs_and_the_names_that_a_server_has() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::new(&directory.path().join("data"), &["--topics", "orders:fifo:1,offers,mails"]);
    server.start().await;
    server.administer(&["group", "create", "billing"]).await;
    let http = server.http();
    let here = http.strip_prefix("http://").expect("as it was made");
    assert_eq!(offered(here, "carillon topic desc").await, ["describe"]);
    assert_eq!(offered(here, "carillon topic describe o").await, ["offers", "orders"]);
    assert_eq!(offered(here, "carillon topic describe or").await, ["orders"]);
    assert_eq!(offered(here, "carillon receive orders --consumer-group ").await, ["billing"]);
    assert!(offered(here, "carillon topic create o").await.iter().all(|name| name.is_empty()), "a new name is new");
    // Quietly nothing, where nobody answers.
    assert!(offered("127.0.0.1:1", "carillon topic describe o").await.iter().all(|name| name.is_empty()));
    // The line says which server it is for, in words as bash parts them.
    let line = format!("carillon --server {} topic describe m", here.replace(':', " : "));
    assert_eq!(offered("127.0.0.1:1", &line).await, ["mails"]);
    server.kill().await;
}
