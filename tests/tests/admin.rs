//! The admin API of servers that run: its description, what it does with nonsense, and what operators do with it.

#[path = "admin/clients.rs"]
mod clients;
#[path = "admin/described.rs"]
mod described;
#[path = "admin/fuzz.rs"]
mod fuzz;
#[path = "admin/lists.rs"]
mod lists;
#[path = "admin/reset.rs"]
mod reset;
#[path = "admin/whole.rs"]
mod whole;

use std::time::Duration;

use client::{Filter, NewMessage, Producer, SimpleConsumer};
use serde_json::{Value, json};
use tests::cluster::{Cluster, GROUP, Node};
use tests::description::Description;
use tests::http;
use tests::wait::{KNOWN_WITHIN, LOOK_EVERY, until};
use tokio::time::{interval, timeout};

/// Whether one connection was ended by an operator.
async fn has_cut(broker: &Node) -> bool {
    let page = broker.get("/metrics").await.body;
    let mut lines = page.lines().filter(|line| line.starts_with("carillon_connections_closed_total"));
    lines.any(|line| line.contains("reason=\"operator\"") && line.ends_with(" 1"))
}

/// A broker that has a little of everything, and what it is called.
struct Scene {
    cluster: Cluster,
    message_id: String,
    /// Held, so that there are clients.
    _producer: Producer,
    consumer: SimpleConsumer,
}

impl Scene {
    /// `orders` with one message of the key `k`, read by nobody so far, and a client of each kind.
    async fn start() -> Self {
        let cluster = Cluster::start(1, 1, &[]).await;
        let broker = &cluster.brokers[0];
        broker.create_topic("orders", "normal", 2).await;
        broker.create_topic("steps", "fifo", 1).await;
        let client = client::Client::connect(&broker.address(), client::Options::default()).await.expect("it is there");
        let producer = client.producer(&["orders"]).await.expect("a producer");
        let message = NewMessage::new("orders", b"body".to_vec()).key("k");
        let sent = producer.send(message).await.expect("it is taken");
        let consumer = client.simple_consumer(GROUP, "orders", Filter::All).await.expect("a consumer");
        Self { message_id: sent.message_id, _producer: producer, consumer, cluster }
    }

    fn broker(&self) -> &Node {
        &self.cluster.brokers[0]
    }

    /// Something that a name in a path may be.
    fn known(&self, path: &str, name: &str) -> String {
        match (path.split('/').nth(3).unwrap_or_default(), name) {
            ("topics" | "routes", _) => "orders".into(),
            ("groups", _) => GROUP.into(),
            ("messages", _) => self.message_id.clone(),
            ("nodes", _) => self.broker().name().into(),
            ("clients", _) => self.consumer.client_id().into(),
            other => panic!("the scene has nothing for {other:?} in {path}"),
        }
    }
}
