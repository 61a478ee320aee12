//! The sending side: lanes that send stamped messages at a pace.

use std::time::{Duration, Instant};

use client::{Code, Error, NewMessage, Producer};

use super::engine::{Pace, Run};
use crate::runtime;

/// After an error, so that a server in trouble is not asked in a tight loop.
pub const PAUSE: Duration = Duration::from_millis(10);

/// Sends call after call until the window ends. `make` builds the messages of a call from its number and the time it
/// counts from.
pub async fn lane(
    producer: &Producer,
    run: &Run,
    pace: &Pace,
    batch: usize,
    make: &impl Fn(u64, Instant) -> Vec<NewMessage>,
) {
    loop {
        let (number, from) = pace.turn().await;
        let _under_way = run.sending();
        if runtime::now() >= run.window.end {
            return;
        }
        let messages = make(number, from);
        let left = runtime::now();
        match call(producer, messages).await {
            Ok(()) => run.sent(from, left, batch),
            // What is offered at a rate is offered whether it is taken or not.
            Err(error) if error.code() == Some(Code::TooManyRequests) => {
                run.refused(left, batch);
                if !pace.is_open() {
                    runtime::wait(PAUSE).await;
                }
            }
            Err(error) => {
                run.tally.borrow_mut().error("send", &error);
                runtime::wait(PAUSE).await;
            }
        }
    }
}

/// One call; the first error of its messages is that of the call.
pub async fn call(producer: &Producer, mut messages: Vec<NewMessage>) -> Result<(), Error> {
    if messages.len() == 1
        && let Some(message) = messages.pop()
    {
        return producer.send(message).await.map(|_| ());
    }
    producer.send_all(messages).await?.into_iter().collect::<Result<Vec<_>, _>>().map(|_| ())
}

/// The group of a key, as messages carry it.
pub fn group(key: u32) -> String {
    format!("key-{key}")
}
