//! Load that never asks first: floods, bodies that do not end, readers that do not read, thousands of idle clients,
//! groups far behind. Memory stays within its limit, others are served, and what is refused is told so.

#[path = "load/behind.rs"]
mod behind;
#[path = "load/bodies.rs"]
mod bodies;
#[path = "load/floods.rs"]
mod floods;
#[path = "load/idle.rs"]
mod idle;
#[path = "load/process.rs"]
mod process;
#[path = "load/raw.rs"]
mod raw;
#[path = "load/readers.rs"]
mod readers;

use std::collections::BTreeSet;
use std::time::Duration;

use client::{Client, Filter, NewMessage, Options};
use tests::cluster::{Cluster, GROUP, Node};
use tests::wait::until_within;
use tokio::time::timeout;

/// The smallest limit: what does not hold shows soonest.
const MEMORY: &str = "limits.memory=64MiB";
const LIMIT: usize = 64 << 20;
const TOPIC: &str = "load";
const DONE_WITHIN: Duration = Duration::from_secs(90);
const INVISIBLE: Duration = Duration::from_secs(60);

/// One broker and a topic.
async fn broker(settings: &[&str]) -> Cluster {
    let settings = [&[MEMORY, "storage.tail_cache=1MiB"], settings].concat();
    let cluster = Cluster::start_with(0, 1, &[], &settings).await;
    cluster.brokers[0].create_topic(TOPIC, "normal", 4).await;
    cluster
}

/// Under load it may take its time.
async fn until(what: &str, is_so: impl AsyncFnMut() -> bool) {
    until_within(DONE_WITHIN, what, is_so).await;
}

async fn connect(node: &Node) -> Client {
    let options = Options { request_timeout: Duration::from_secs(20), ..Options::default() };
    Client::connect(&node.address(), options).await.expect("the node is there")
}

/// Sends one after the other, as a client does that waits for its answers: each has to be taken.
async fn send_in_order(node: &Node, names: impl Iterator<Item = String>) {
    let producer = connect(node).await.producer(&[TOPIC]).await.expect("a producer");
    for name in names {
        producer.send(NewMessage::new(TOPIC, name)).await.expect("it is taken");
    }
}

/// Receives and acknowledges until all of `wanted` have come; others may come too. How many were handed out before.
async fn take_all(node: &Node, mut wanted: BTreeSet<String>) -> usize {
    let consumer = connect(node).await.simple_consumer(GROUP, TOPIC, Filter::All).await.expect("a consumer");
    let mut repeated = 0;
    let take = async {
        while !wanted.is_empty() {
            // Refused when there is no room for an answer just now.
            let Ok(received) = consumer.receive(32, INVISIBLE, Duration::from_secs(2)).await else { continue };
            for message in received {
                repeated += usize::from(message.attempt > 1);
                wanted.remove(&message.message_id);
                wanted.remove(&*String::from_utf8_lossy(&message.body));
                consumer.ack(&message).await.expect("it was handed out");
            }
        }
    };
    assert!(timeout(DONE_WITHIN, take).await.is_ok(), "{} messages that were acknowledged do not come", wanted.len());
    repeated
}
