//! A producer and a consumer of one server, and what they were promised.
//!
//! P1. What was acknowledged as sent comes, once acknowledged as consumed never again.
//! P2. What was refused never comes; what failed otherwise may.

use std::collections::BTreeMap;
use std::time::Duration;

use client::{Client, Error, Filter, NewMessage, Options, Producer, Received, SimpleConsumer};
use tests::server::Server;

use super::Deadline;

pub const TOPIC: &str = "bodies";
pub const TOPIC_SPEC: &str = "bodies:normal:4";
pub const GROUP: &str = "readers";
pub const BODY_BYTES: usize = 32 << 10;
const BATCH: usize = 16;
const INVISIBLE: Duration = Duration::from_secs(10);
const POLLING: Duration = Duration::from_secs(1);

/// What is known of a message, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stored,
    Refused,
    /// Its send failed, and nobody knows.
    Unknown,
    Acked,
}

pub struct Clients {
    producer: Producer,
    consumer: SimpleConsumer,
    fates: BTreeMap<usize, Fate>,
}

/// The body of a message: its number, and what that many bytes are.
fn body(number: usize) -> String {
    let mut body = format!("{number} ");
    body.extend(std::iter::repeat_n(char::from(b'a' + (number % 26) as u8), BODY_BYTES - body.len()));
    body
}

impl Clients {
    pub async fn connect(server: &Server) -> Self {
        let (producer, consumer) = connect(server).await;
        Self { producer, consumer, fates: BTreeMap::new() }
    }

    /// How many were acknowledged as sent.
    pub fn stored(&self) -> usize {
        self.fates.values().filter(|fate| matches!(fate, Fate::Stored | Fate::Acked)).count()
    }

    pub async fn send(&mut self) -> Result<(), Error> {
        self.send_at_once(1).await.pop().map_or(Ok(()), Err)
    }

    /// Sends so many beside each other; gives the errors.
    pub async fn send_at_once(&mut self, count: usize) -> Vec<Error> {
        let first = self.fates.len();
        let send = |number| self.producer.send(NewMessage::new(TOPIC, body(number)));
        let results = futures_util::future::join_all((first..first + count).map(send)).await;
        let mut errors = Vec::new();
        for (number, result) in (first..).zip(results) {
            let fate = match &result {
                Ok(_) => Fate::Stored,
                // The server's own log failed under it: what the disk has is known after a restart.
                Err(error) if error.to_string().contains("writes_disabled") => Fate::Unknown,
                Err(Error::Refused { .. }) => Fate::Refused,
                Err(_) => Fate::Unknown,
            };
            self.fates.insert(number, fate);
            errors.extend(result.err());
        }
        errors
    }

    /// Receives and does not settle.
    pub async fn take(&self, batch: usize) -> Vec<Received> {
        self.receive(batch).await.expect("the server hands out")
    }

    pub async fn receive(&self, batch: usize) -> Result<Vec<Received>, Error> {
        self.consumer.receive(batch, INVISIBLE, POLLING).await
    }

    pub async fn ack(&self, message: &Received) -> Result<(), Error> {
        self.consumer.ack(message).await
    }

    /// Receives and acknowledges until nothing is owed; each message by itself, so that each takes room on the disk.
    pub async fn drain(&mut self, server: &Server) {
        // Connections to a server that was killed are of no use.
        (self.producer, self.consumer) = connect(server).await;
        let deadline = Deadline::new();
        while self.fates.values().any(|fate| *fate == Fate::Stored) {
            let owed = self.fates.values().filter(|fate| **fate == Fate::Stored).count();
            assert!(deadline.is_ahead(), "P1: {owed} messages do not come; the server's log:\n{}", server.log());
            for message in self.take(BATCH).await {
                self.check(&message);
                self.consumer.ack(&message).await.expect("an ack takes no new space");
                self.fates.insert(number_of(&message), Fate::Acked);
            }
        }
    }

    pub async fn nothing_comes(&mut self, server: &Server) {
        (self.producer, self.consumer) = connect(server).await;
        let batch = self.take(BATCH).await;
        batch.iter().for_each(|message| self.check(message));
        assert!(batch.iter().all(|message| self.fates[&number_of(message)] == Fate::Unknown), "P1: all was settled");
    }

    fn check(&self, message: &Received) {
        let number = number_of(message);
        let fate = self.fates.get(&number).copied();
        assert!(matches!(fate, Some(Fate::Stored | Fate::Unknown)), "P1, P2: {number} came and is {fate:?}");
        assert!(message.body == body(number).as_bytes(), "{number} has another body");
    }
}

async fn connect(server: &Server) -> (Producer, SimpleConsumer) {
    let options = Options { request_timeout: Duration::from_secs(20), ..Options::default() };
    let client = Client::connect(&server.grpc(), options).await.expect("the server is there");
    let producer = client.producer(&[TOPIC]).await.expect("the server is there");
    let consumer = client.simple_consumer(GROUP, TOPIC, Filter::All).await.expect("the server is there");
    // First contact: the group gets what is sent from now on.
    (producer, consumer)
}

fn number_of(message: &Received) -> usize {
    let text = String::from_utf8_lossy(&message.body);
    text.split(' ').next().and_then(|number| number.parse().ok()).expect("a body begins with its number")
}
