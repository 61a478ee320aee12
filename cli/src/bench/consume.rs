//! The receiving side: loops that poll, hand each message to the scenario, and settle it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use client::{Received, SimpleConsumer};

use super::Receiving;
use super::engine::{Run, all};
use super::stamp::Stamp;
use crate::runtime;

const POLL: Duration = Duration::from_secs(5);
/// After an error, so that a server in trouble is not asked in a tight loop.
const PAUSE: Duration = Duration::from_millis(100);

/// A message in hand, before it is settled.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    pub stamp: Stamp,
    pub at: Instant,
    /// By the wall clock.
    pub at_us: u64,
    pub attempt: u32,
}

/// Polls until the run is stopped. `seen` is called for each message of this run, in the order of delivery.
pub async fn consume(consumer: &SimpleConsumer, run: &Run, receiving: &Receiving, seen: &impl Fn(&Delivery)) {
    let mut stopped = run.stopped();
    loop {
        let asked = runtime::now();
        let poll = consumer.receive(receiving.receive_batch, receiving.invisible, POLL);
        let answer = tokio::select! {
            // A poll may be given up at any time: what it would have brought comes again, and nothing is awaited.
            _ = stopped.wait_for(|is_stopped| *is_stopped) => return,
            answer = poll => answer,
        };
        match answer {
            Ok(messages) => take(consumer, run, receiving, messages, asked, seen).await,
            Err(error) => {
                run.tally.borrow_mut().error("receive", &error);
                runtime::wait(PAUSE).await;
            }
        }
    }
}

async fn take(
    consumer: &SimpleConsumer,
    run: &Run,
    receiving: &Receiving,
    messages: Vec<Received>,
    asked: Instant,
    seen: &impl Fn(&Delivery),
) {
    if messages.is_empty() {
        return;
    }
    let (at, at_us) = (runtime::now(), runtime::wall_us());
    let mut ours = 0;
    for message in &messages {
        match Stamp::read(&message.body).filter(|stamp| stamp.run == run.shared.id) {
            Some(stamp) => {
                seen(&Delivery { stamp, at, at_us, attempt: message.attempt });
                ours += 1;
            }
            None => run.tally.borrow_mut().stale += 1,
        }
    }
    run.tally.borrow_mut().receive_call(at - asked, ours);
    // All acks of a batch are under way at once, as an application with a pool of workers does it.
    all(messages.chunks(receiving.ack_batch).map(|chunk| settle(consumer, run, chunk))).await;
}

async fn settle(consumer: &SimpleConsumer, run: &Run, messages: &[Received]) {
    let from = runtime::now();
    let results = match messages {
        [message] => consumer.ack(message).await.map(|()| vec![Ok(())]),
        _ => consumer.ack_all(messages).await,
    };
    let done = runtime::now();
    let mut tally = run.tally.borrow_mut();
    let results = match results {
        Ok(results) => results,
        Err(error) => return tally.error("ack", &error),
    };
    for (message, result) in messages.iter().zip(results) {
        match result {
            Ok(()) if Stamp::read(&message.body).is_some_and(|stamp| stamp.run == run.shared.id) => {
                tally.ack.record(done - from, 1);
                tally.settled_at = Some(done);
                if run.window.is_measured(done) {
                    tally.ack.messages += 1;
                }
                run.shared.settled.fetch_add(1, Ordering::Relaxed);
            }
            Ok(()) => {}
            Err(error) => tally.error("ack", &error),
        }
    }
}
