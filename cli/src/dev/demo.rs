//! `carillon dev --demo`: a small shop on the server's own port, so that topics, groups and metrics have something to show.
//!
//! Speaks gRPC as any client does, from a thread of its own. Every order goes through its steps in sequence; some fail and
//! are tried again, a few end as dead letters; each gets a reminder some seconds later.

use std::cell::Cell;
use std::time::Duration;

use base::{Clock, SystemClock};
use broker::admin::{Backoff, GroupOrder, NewGroup};
use client::{Client, Error, Filter, NewMessage, Options, Producer, Received, SimpleConsumer};
use tokio::sync::watch;

use crate::exit::Failure;
use crate::runtime;
use crate::values::{TopicSpec, TopicType};

const ORDERS: &str = "demo-orders";
const REMINDERS: &str = "demo-reminders";
const BILLING: &str = "demo-billing";
const MAILING: &str = "demo-mailing";
const STEPS: [&str; 5] = ["created", "paid", "shipped", "received", "done"];
const STEP_EVERY: Duration = Duration::from_millis(100);
const REMINDER_AFTER_MS: u64 = 5_000;
const INVISIBLE: Duration = Duration::from_secs(30);
const POLLING: Duration = Duration::from_secs(5);
/// After an error, before the next try.
const PAUSE: Duration = Duration::from_secs(1);
/// One order of so many fails its first two attempts at being paid; one of so many never succeeds.
const FAILING_ONE_IN: u64 = 10;
const LOST_ONE_IN: u64 = 50;

/// Topics that the demo needs.
pub fn topics() -> [TopicSpec; 2] {
    [(ORDERS, TopicType::Fifo), (REMINDERS, TopicType::Delay)].map(|(name, topic_type)| TopicSpec {
        name: name.into(),
        topic_type,
        queues: 4,
    })
}

/// Groups that the demo needs: few attempts and short waits, so that failures show within seconds.
pub fn groups() -> [NewGroup; 2] {
    [BILLING, MAILING].map(|name| NewGroup {
        name: name.into(),
        order: GroupOrder::Auto,
        attempts_max: Some(3),
        backoff: Some(Backoff::Steps(vec![Duration::from_secs(1), Duration::from_secs(2)])),
        invisible: None,
    })
}

/// A demo under way. Ends when dropped.
pub struct Demo {
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Demo {
    /// Starts against the server on `grpc`, which must be ready.
    pub fn start(grpc: &str) -> Result<Self, Failure> {
        let (stop, mut stopped) = watch::channel(false);
        let endpoint = grpc.to_owned();
        let work = async move {
            tokio::select! {
                result = shop(&endpoint) => if let Err(error) = result {
                    tracing::error!(%error, "the demo has ended");
                },
                // Both a stop and a sender that has gone end it.
                _ = stopped.changed() => {}
            }
        };
        let thread = runtime::thread("demo", move || runtime::block_on(work))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the demo ended by a panic");
        }
    }
}

async fn shop(endpoint: &str) -> Result<(), Error> {
    let client = Client::connect(endpoint, Options::default()).await?;
    let producer = client.producer(&[ORDERS, REMINDERS]).await?;
    let billing = client.simple_consumer(BILLING, ORDERS, Filter::All).await?;
    let mailing = client.simple_consumer(MAILING, REMINDERS, Filter::All).await?;
    tokio::join!(sell(&producer), consume(&billing, is_paid), consume(&mailing, |_| true));
    Ok(())
}

/// Orders go through their steps side by side: each tick takes a new one in and moves the last ones on.
async fn sell(producer: &Producer) {
    let newest = Cell::new(0_u64);
    loop {
        newest.set(newest.get() + 1);
        for (step, name) in (0..).zip(STEPS) {
            let Some(order) = newest.get().checked_sub(step).filter(|order| *order > 0) else { break };
            report(producer.send(step_of(order, name)).await.map(drop)).await;
            runtime::wait(STEP_EVERY).await;
        }
        let text = format!("ask about order {}", newest.get());
        let due = SystemClock.now().plus_ms(REMINDER_AFTER_MS);
        let reminder = NewMessage::new(REMINDERS, text).key(newest.get().to_string()).deliver_at(due);
        report(producer.send(reminder).await.map(drop)).await;
    }
}

fn step_of(order: u64, step: &str) -> NewMessage {
    let body = format!("{{\"order\": {order}, \"step\": \"{step}\"}}");
    let message = NewMessage::new(ORDERS, body).key(order.to_string()).tag(step);
    message.property("order", order.to_string()).message_group(format!("order-{order}"))
}

/// Takes messages and acknowledges those of which `is_fine` says so; the others come again.
async fn consume(consumer: &SimpleConsumer, is_fine: impl Fn(&Received) -> bool) {
    loop {
        let messages = match consumer.receive(16, INVISIBLE, POLLING).await {
            Ok(messages) => messages,
            Err(error) => {
                report(Err(error)).await;
                continue;
            }
        };
        for mut message in messages {
            let settled = match is_fine(&message) {
                true => consumer.ack(&message).await,
                false => consumer.change_invisible(&mut message, PAUSE).await,
            };
            report(settled).await;
        }
    }
}

/// Payment fails now and then, and for some orders always.
fn is_paid(message: &Received) -> bool {
    let order = message.keys.first().and_then(|key| key.parse::<u64>().ok()).unwrap_or(0);
    let is_payment = message.tag.as_deref() == Some("paid");
    let is_lost = order.is_multiple_of(LOST_ONE_IN);
    let is_failing = order.is_multiple_of(FAILING_ONE_IN) && message.attempt < 3;
    !(is_payment && (is_lost || is_failing))
}

async fn report(result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "demo");
        runtime::wait(PAUSE).await;
    }
}
