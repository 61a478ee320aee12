//! Clients of one node: the library that speaks to nobody but the node it was given.

use std::time::Duration;

use client::{Client, Error, Filter, NewMessage, Options, Received, SimpleConsumer};
use tests::cluster::{GROUP, Node};
use tokio::time::timeout;

pub const INVISIBLE: Duration = Duration::from_secs(30);
const POLLING: Duration = Duration::from_secs(5);
const RECEIVED_WITHIN: Duration = Duration::from_secs(30);

pub async fn connect(node: &Node) -> Client {
    let options = Options { request_timeout: Duration::from_secs(10), ..Options::default() };
    Client::connect(&node.address(), options).await.expect("the node is there")
}

/// The next message of a topic, which has to come.
pub async fn next(consumer: &SimpleConsumer) -> Received {
    let look = async {
        loop {
            let messages = consumer.receive(1, INVISIBLE, POLLING).await;
            if let Some(message) = messages.expect("the node answers").pop() {
                return message;
            }
        }
    };
    timeout(RECEIVED_WITHIN, look).await.expect("a message comes")
}

pub async fn send(node: &Node, topic: &str, body: &str) {
    let producer = connect(node).await.producer(&[topic]).await.expect("a producer");
    producer.send(NewMessage::new(topic, body.to_owned())).await.expect("it is taken");
}

pub async fn send_ordered(node: &Node, topic: &str, body: &str, message_group: &str) {
    let producer = connect(node).await.producer(&[topic]).await.expect("a producer");
    let message = NewMessage::new(topic, body.to_owned()).message_group(message_group);
    producer.send(message).await.expect("it is taken");
}

/// The body of the next message, which is acknowledged.
pub async fn take(node: &Node, topic: &str) -> String {
    let consumer = connect(node).await.simple_consumer(GROUP, topic, Filter::All).await.expect("a consumer");
    let message = next(&consumer).await;
    consumer.ack(&message).await.expect("it was handed out");
    String::from_utf8(message.body.to_vec()).expect("text")
}

pub async fn round_trip(node: &Node, topic: &str, body: &str) {
    send(node, topic, body).await;
    assert_eq!(take(node, topic).await, body);
}

/// A consumer asks for the route first.
pub async fn try_route(node: &Node, topic: &str) -> Result<(), Error> {
    connect(node).await.simple_consumer(GROUP, topic, Filter::All).await.map(drop)
}
