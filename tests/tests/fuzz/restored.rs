//! A store that was restored from a backup is asked about what it gave out after that: it has the key of these handles, and
//! knows nothing of what they name.

use std::fs;
use std::path::Path;
use std::time::Duration;

use base::Timestamp;
use client::{Client, Code, Error, Filter, NewMessage, Options, Resolution, SimpleConsumer};
use tests::cluster::{GROUP, Node};

const INVISIBLE: Duration = Duration::from_secs(30);
const POLLING: Duration = Duration::from_secs(10);
/// The year 2100.
const LATER: Timestamp = Timestamp(4_102_444_800_000);

/// Files of a directory without folders.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("it is new");
    for entry in fs::read_dir(from).expect("it is there") {
        let path = entry.expect("it can be read").path();
        fs::copy(&path, to.join(path.file_name().expect("a file"))).expect("a copy");
    }
}

async fn connect(node: &Node) -> Client {
    Client::connect(&node.address(), Options::default()).await.expect("the broker is there")
}

async fn consumer(client: &Client, topic: &str) -> SimpleConsumer {
    client.simple_consumer(GROUP, topic, Filter::All).await.expect("a consumer")
}

/// Refused for what was asked, and not for a fault of the server. An acknowledgement of what nobody knows may be taken.
fn assert_orderly<T: std::fmt::Debug>(what: &str, result: Result<T, Error>) {
    let is_fine = match &result {
        Ok(_) => true,
        Err(error) => error.code().is_some_and(|code| (40_000..50_000).contains(&(code as i32))),
    };
    assert!(is_fine, "{what}: {result:?}");
}

#[tokio::test]
async fn handles_that_a_backup_does_not_know_are_refused_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut broker = Node::broker(directory.path(), "data", "broker-a", &[], &[]);
    let (data, backup) = (directory.path().join("data"), directory.path().join("backup"));
    broker.start().await;
    for (topic, kind) in super::TOPICS {
        broker.create_topic(topic, kind, 1).await;
    }
    {
        let client = connect(&broker).await;
        for topic in ["plain", "orders"] {
            consumer(&client, topic).await.receive(1, INVISIBLE, Duration::from_millis(1)).await.expect("an answer");
        }
    }
    broker.kill().await;
    copy(&data, &backup);

    broker.start().await;
    let client = connect(&broker).await;
    let producer = client.producer(&["plain", "orders", "later", "deals"]).await.expect("a producer");
    let (mut plain, mut ordered) = (Vec::new(), Vec::new());
    for round in 0..20 {
        producer.send(NewMessage::new("plain", "x".repeat(1000))).await.expect("it is taken");
        producer.send(NewMessage::new("orders", "x").message_group(format!("g{round}"))).await.expect("it is taken");
        plain.extend(consumer(&client, "plain").await.receive(1, INVISIBLE, POLLING).await.expect("an answer"));
        ordered.extend(consumer(&client, "orders").await.receive(1, INVISIBLE, POLLING).await.expect("an answer"));
    }
    assert!(plain.len() > 10 && ordered.len() > 10, "{} and {} came", plain.len(), ordered.len());
    let sent = producer.send(NewMessage::new("later", "x").deliver_at(LATER)).await.expect("it is taken");
    let recall = sent.recall_handle.expect("a delayed message has one");
    let prepared = producer.send_prepared(NewMessage::new("deals", "x")).await.expect("it is taken");
    broker.kill().await;

    fs::remove_dir_all(&data).expect("it is there");
    copy(&backup, &data);
    broker.start().await;
    let client = connect(&broker).await;
    let producer = client.producer(&["plain", "later", "deals"]).await.expect("a producer");
    for (topic, received) in [("plain", plain), ("orders", ordered)] {
        let consumer = consumer(&client, topic).await;
        for mut message in received {
            assert_orderly("ack", consumer.ack(&message).await);
            assert_orderly("change", consumer.change_invisible(&mut message, INVISIBLE).await);
            assert_orderly("bury", consumer.forward_to_dead_letters(&message, 16).await);
        }
    }
    let ended = producer.end(&prepared, Resolution::Commit).await;
    assert_eq!(ended.expect_err("nobody knows it").code(), Some(Code::InvalidTransactionId));
    let recalled = producer.recall("later", &recall).await;
    assert_eq!(recalled.expect_err("nobody knows it").code(), Some(Code::MessageNotFound));

    super::assert_quiet(&[&broker]);
    let consumer = consumer(&client, "plain").await;
    producer.send(NewMessage::new("plain", "after")).await.expect("it is taken");
    assert_eq!(super::receive(&consumer, 1).await, ["after"], "nothing that was acknowledged before it existed");
    assert!(broker.terminate().await.success());
}
