//! Drain: a broker that is about to go takes no new messages, and finishes what is out.
//!
//! N1. Routes lead elsewhere from the first moment. Sends are still taken for as long as a client may go by its old route:
//!     official clients ask for routes every 30 s.
//! N2. Where there is no other broker, sends are refused at once: nothing would be won.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::duration::ms;
use cluster::State;

use crate::broker::Broker;
use crate::refusal::Refusal;
use crate::shared::Shared;

/// Official clients ask for routes every 30 s, and some need a moment for it.
const GRACE: Duration = Duration::from_secs(35);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often it is looked whether this broker may be written to, for name servers.
const STATE_EVERY: Duration = Duration::from_millis(500);
const NEVER: u64 = u64::MAX;

/// Whether this broker is drained, and from when on it refuses messages, by the monotonic clock.
#[derive(Debug)]
pub struct Drain {
    refuses_from: AtomicU64,
}

impl Default for Drain {
    fn default() -> Self {
        Self { refuses_from: AtomicU64::new(NEVER) }
    }
}

/// How far a drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Messages are refused, and none is handed out and not settled.
    pub is_quiet: bool,
    pub in_flight: u64,
    /// For how long messages are taken still.
    pub takes_for: Duration,
}

impl Drain {
    pub fn is_on(&self) -> bool {
        self.refuses_from.load(Ordering::Acquire) != NEVER
    }

    /// Ok for as long as messages are taken. `tick` is asked for only while a drain is on.
    pub fn check(&self, tick: impl FnOnce() -> u64) -> Result<(), Refusal> {
        match self.refuses_from.load(Ordering::Acquire) {
            NEVER => Ok(()),
            from if tick() < from => Ok(()),
            _ => Err(Refusal::Draining),
        }
    }
}

impl Shared {
    /// What others are told of this broker.
    pub fn state(&self) -> State {
        let reserve = self.store.reserve();
        if self.drain.is_on() {
            State::Draining
        } else if self.store.failure().is_some() || reserve.free < reserve.reserve {
            State::ReadOnly
        } else {
            State::Ready
        }
    }

    fn drained(&self) -> Drained {
        let from = self.drain.refuses_from.load(Ordering::Acquire);
        let left = if from == NEVER { 0 } else { from.saturating_sub(self.clock.monotonic_ms()) };
        let in_flight = self.subscriptions.in_flight();
        let is_quiet = self.drain.is_on() && left == 0 && in_flight == 0 && self.store.inbox_depth().0 == 0;
        Drained { is_quiet, in_flight, takes_for: Duration::from_millis(left) }
    }

    fn has_others(&self) -> bool {
        let table = self.peers.table();
        table.brokers().any(|broker| broker.name != *self.peers.name() && broker.node.state == State::Ready)
    }
}

impl Broker {
    /// Drains until nothing is out any more, or `timeout` is over; it stays drained either way. `grace`: how long messages
    /// are taken still; none = as long as official clients may need to go elsewhere.
    pub async fn drain(&self, timeout: Duration, grace: Option<Duration>) -> Drained {
        let shared = self.shared();
        let grace = grace.unwrap_or_else(|| if shared.has_others() { GRACE } else { Duration::ZERO });
        let from = shared.clock.monotonic_ms().saturating_add(ms(grace)).min(NEVER - 1);
        // A second call does not begin anew.
        let _is_first = shared.drain.refuses_from.compare_exchange(NEVER, from, Ordering::AcqRel, Ordering::Acquire);
        shared.peers.tell_state(shared.state());
        tracing::info!(?grace, "draining: new messages go elsewhere");
        let quiet = async {
            while !shared.drained().is_quiet {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let _is_quiet = tokio::time::timeout(timeout, quiet).await;
        shared.drained()
    }

    /// Takes messages again.
    pub fn resume(&self) {
        let shared = self.shared();
        if shared.drain.refuses_from.swap(NEVER, Ordering::AcqRel) != NEVER {
            tracing::info!("the drain is over: messages are taken again");
        }
        shared.peers.tell_state(shared.state());
    }
}

/// Keeps name servers told whether this broker may be written to.
pub async fn tell_state(shared: std::sync::Arc<Shared>) {
    loop {
        shared.peers.tell_state(shared.state());
        tokio::time::sleep(STATE_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_until_the_grace_is_over() {
        let drain = Drain::default();
        assert_eq!((drain.is_on(), drain.check(|| u64::MAX)), (false, Ok(())));
        drain.refuses_from.store(100, Ordering::Release);
        assert_eq!((drain.is_on(), drain.check(|| 99), drain.check(|| 100)), (true, Ok(()), Err(Refusal::Draining)));
    }
}
