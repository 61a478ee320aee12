//! A name server as the only address that a client knows: every call gets to a broker that can answer it.

use std::time::Duration;

use base::{Clock, SystemClock};
use client::{Filter, NewMessage, Resolution};
use proto::v2::Code;
use tests::cluster::{Cluster, GROUP};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::calls::Caller;
use super::clients::{connect, next};
use super::{EXPIRY, queues_of, until_registered};

const ASKED_WITHIN: Duration = Duration::from_secs(30);
const HOUR_MS: u64 = 3_600_000;

/// One name server and two brokers. One topic is on one of them only, and messages of the others are on the one that they were
/// sent to, so it matters who is asked.
async fn cluster() -> Cluster {
    let settings = ["topics.auto_create=false", "transactions.check_after=1s", "transactions.check_every=1s"];
    let cluster = Cluster::start_with(1, 2, &[EXPIRY], &settings).await;
    let (a, b) = (&cluster.brokers[0], &cluster.brokers[1]);
    for broker in [a, b] {
        broker.create_topic("both", "normal", 2).await;
    }
    a.create_topic("paid", "transaction", 2).await;
    a.create_topic("steps", "fifo", 2).await;
    b.create_topic("later", "delay", 2).await;
    b.create_topic("plain", "normal", 2).await;
    until_registered(&[a, b]).await;
    let names = &cluster.nameservers[0];
    super::until_routes(&[names], "steps", &queues_of(&[a], 2)).await;
    for topic in ["paid", "later", "plain"] {
        super::until_routes(&[names], topic, &queues_of(&[a, b], 2)).await;
    }
    cluster
}

#[tokio::test]
async fn messages_are_sent_received_and_settled_through_a_name_server() {
    let cluster = cluster().await;
    let client = connect(&cluster.nameservers[0]).await;
    for topic in ["both", "plain", "steps"] {
        let producer = client.producer(&[topic]).await.expect("a producer");
        let consumer = client.simple_consumer("readers", topic, Filter::All).await.expect("a consumer");
        // Of several frames there and back, and of one.
        for size in [3 << 20, 10] {
            let message = NewMessage::new(topic, vec![b'x'; size]);
            let message = if topic == "steps" { message.message_group("order-1") } else { message };
            let sent = producer.send(message).await.expect("it is taken");
            let mut received = next(&consumer).await;
            assert_eq!((&received.message_id, received.body.len(), received.attempt), (&sent.message_id, size, 1));
            consumer.change_invisible(&mut received, Duration::ZERO).await.expect("it is ours");
            let again = next(&consumer).await;
            assert_eq!((&again.message_id, again.attempt), (&sent.message_id, 2), "{topic}");
            consumer.ack(&again).await.expect("it is ours");
        }
        let unwanted = NewMessage::new(topic, "unwanted");
        let unwanted = if topic == "steps" { unwanted.message_group("order-1") } else { unwanted };
        producer.send(unwanted).await.expect("it is taken");
        let received = next(&consumer).await;
        consumer.forward_to_dead_letters(&received, 3).await.expect("it is ours");
        producer.close().await.expect("a goodbye is heard");
        consumer.close().await.expect("a goodbye is heard");
    }
    // All of them were acknowledged or put away where they were.
    for (broker, letters) in cluster.brokers.iter().map(|broker| (broker, broker.get("/api/v1/groups/readers"))) {
        let group = letters.await.json();
        let topics = group["topics"].as_array().expect("topics of a group");
        let open = topics.iter().filter(|topic| topic["lag_messages"] != 0).count();
        assert_eq!(open, 0, "{}: {group}", broker.name());
    }
}

#[tokio::test]
async fn delayed_messages_and_transactions_go_through_a_name_server() {
    let cluster = cluster().await;
    let client = connect(&cluster.nameservers[0]).await;
    let (told, mut orphans) = mpsc::channel(16);
    let producer = client.producer_with_checks(&["paid"], told).await.expect("a producer");
    let due = client.simple_consumer("readers", "later", Filter::All).await.expect("a consumer");
    let paid = client.simple_consumer("readers", "paid", Filter::All).await.expect("a consumer");

    let far = SystemClock.now().plus_ms(HOUR_MS);
    let sent = producer.send(NewMessage::new("later", "recalled").deliver_at(far)).await.expect("it is taken");
    let handle = sent.recall_handle.expect("delayed messages can be recalled");
    assert_eq!(producer.recall("later", &handle).await.expect("it waits"), sent.message_id);
    let near = SystemClock.now().plus_ms(100);
    producer.send(NewMessage::new("later", "due").deliver_at(near)).await.expect("it is taken");
    let message = next(&due).await;
    assert_eq!(message.body, "due");
    due.ack(&message).await.expect("it is ours");

    let rolled_back = producer.send_prepared(NewMessage::new("paid", "rolled back")).await.expect("it is taken");
    producer.end(&rolled_back, Resolution::Rollback).await.expect("it is prepared");
    let committed = producer.send_prepared(NewMessage::new("paid", "committed")).await.expect("it is taken");
    producer.end(&committed, Resolution::Commit).await.expect("it is prepared");
    let message = next(&paid).await;
    assert_eq!(message.message_id, committed.message_id);
    paid.ack(&message).await.expect("it is ours");

    // The broker asks on the stream that the name server passes on.
    let undecided = producer.send_prepared(NewMessage::new("paid", "undecided")).await.expect("it is taken");
    let asked = async {
        loop {
            let orphan = orphans.recv().await.expect("the producer lives");
            // On a slow machine it is asked about the others too.
            if orphan.message.message_id == undecided.message_id {
                break orphan;
            }
        }
    };
    let orphan = timeout(ASKED_WITHIN, asked).await.expect("it is asked about");
    producer.end(&orphan.transaction, Resolution::Commit).await.expect("it is prepared");
    let message = next(&paid).await;
    assert_eq!(message.message_id, undecided.message_id);
    paid.ack(&message).await.expect("it is ours");
}

#[tokio::test]
async fn what_a_broker_refuses_comes_through_a_name_server_as_it_is() {
    let cluster = cluster().await;
    let (names, a, b) = (&cluster.nameservers[0], &cluster.brokers[0], &cluster.brokers[1]);
    let caller = Caller::new(names);
    assert_eq!(caller.heartbeat("readers").await, Ok(()));
    assert_eq!(caller.heartbeat("not a name").await, Err(Code::IllegalConsumerGroup));
    assert_eq!(Caller::without_client_id(names).route("both").await, Err(Code::ClientIdRequired));
    assert_eq!(caller.route("nowhere").await, Err(Code::TopicNotFound));
    assert_eq!(caller.recall("later", "made up").await, Err(Code::BadRequest));
    assert_eq!(caller.commit("paid", "made up").await, Err(Code::InvalidTransactionId));
    // Members of a standard group poll brokers, and of an ordered one queues.
    let whole = |queue: super::Queue| (queue.0, queue.1, -1, queue.3);
    let brokers: Vec<_> = queues_of(&[a, b], 1).into_iter().map(whole).collect();
    assert_eq!(caller.assignment("both", "readers").await, Ok(brokers));
    assert_eq!(caller.assignment("steps", "readers").await, Ok(queues_of(&[a], 2)));
}

#[tokio::test]
async fn a_name_server_without_brokers_says_so_and_goes_on_when_one_comes() {
    let mut cluster = Cluster::prepare(1, 1, &[EXPIRY], &[]);
    cluster.nameservers[0].start().await;
    let error = super::clients::try_route(&cluster.nameservers[0], "orders").await.expect_err("nobody is there");
    assert!(error.is_retryable(), "{error}");
    cluster.brokers[0].start().await;
    cluster.brokers[0].create_topic("orders", "normal", 1).await;
    let there = queues_of(&[&cluster.brokers[0]], 1);
    until_registered(&[&cluster.brokers[0]]).await;
    super::until_routes(&[&cluster.nameservers[0]], "orders", &there).await;
}

#[tokio::test]
async fn every_broker_hears_that_a_client_is_there_and_that_it_leaves() {
    let cluster = Cluster::start(1, 3, &[EXPIRY]).await;
    let brokers: Vec<_> = cluster.brokers.iter().collect();
    for broker in &brokers {
        broker.create_topic("orders", "normal", 1).await;
    }
    until_registered(&brokers).await;
    let caller = Caller::new(&cluster.nameservers[0]);
    let path = format!("/api/v1/clients/{}", caller.client_id());
    let until_all_say = async |status: u16| {
        for broker in &brokers {
            super::until("a broker has heard of it", async || broker.get(&path).await.status == status).await;
        }
    };
    assert_eq!(caller.heartbeat(GROUP).await, Ok(()));
    until_all_say(200).await;
    assert_eq!(caller.leave(GROUP).await, Ok(()));
    until_all_say(404).await;
}
