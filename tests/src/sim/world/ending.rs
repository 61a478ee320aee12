//! The end of a run: everything heals, and everybody finishes.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use base::{Clock, QueueIndex};
use broker::subscription::Verdict;

use super::super::oracle::must;
use super::scene::{CLIENTS, PAIRS};
use super::subscriptions::IN_FLIGHT_MAX;
use super::{Hand, World, say};

const BACK_MS: u64 = 7_000;
const LEASE_MS: u64 = 10_000;

impl World {
    /// Heals everything and lets everybody finish: every message must come to its end.
    pub fn finish_well(&mut self) {
        self.disk.set_capacity(u64::MAX);
        self.restart(false);
        self.is_well = true;
        self.look_ups.is_well.store(true, Relaxed);
        say!(self, "everything is well from here on");
        // Leases of clients that live have no end; these say good-bye, and one comes back.
        self.hands.clear();
        for (client, _) in CLIENTS {
            self.says_good_bye(client);
        }
        // Who is far behind has as much in hand as it may have, and what comes back waits for its turn.
        if self.lags().all(|lag| lag < IN_FLIGHT_MAX / 2) {
            self.come_back_in_time();
        }
        for round in 0..200 {
            let next = self.run().timer.timers().next_due();
            self.clock.advance_ms(61_000);
            if let Some(due) = next.filter(|due| *due > self.clock.now()) {
                self.set_wall(due);
            }
            for _ in 0..4 {
                self.timer_due();
                self.pump();
                self.commit(usize::MAX);
            }
            for index in 0..PAIRS.len() {
                self.poll_as(index, 3, 8, Some(Duration::from_secs(60)));
            }
            self.pump();
            self.commit(usize::MAX);
            self.pump();
            for hand in std::mem::take(&mut self.hands) {
                // One lane never works: it must not stop the others, and ends as dead letters.
                let id = self
                    .oracle
                    .message_at(self.oracle.pairs[hand.pair].topic, (hand.receipt.queue, hand.receipt.offset));
                let is_bad = id.is_some_and(|id| self.oracle.messages[&id].lane == u64::from(b'a'));
                let verdict = if is_bad && hand.pair == 1 {
                    Verdict::Return { after: Duration::ZERO, is_suspended: false }
                } else {
                    Verdict::Ack
                };
                self.settle_with(hand, verdict);
            }
            self.pump();
            self.commit(usize::MAX);
            self.pump();
            if round > 5 && self.is_done() {
                break;
            }
        }
        self.clock.advance_ms(6_000);
        self.pump();
        self.commit(usize::MAX);
        let running = self.running.as_ref().expect("the process lives");
        self.oracle.check_end(&running.reader, &running.timer);
        self.restart(false);
        let running = self.running.as_ref().expect("the process lives");
        self.oracle.check_end(&running.reader, &running.timer);
        self.tally.delivered = self.oracle.delivered;
        self.tally.looked_up = self.look_ups.done.load(Relaxed);
        self.tally.halted = self.look_ups.halted.load(Relaxed);
    }

    pub(super) fn is_done(&self) -> bool {
        let running = self.running.as_ref().expect("the process lives");
        self.lags().all(|lag| lag == 0) && running.timer.timers().is_empty() && running.inbox.is_empty()
    }

    /// How many messages each pair has not settled.
    fn lags(&self) -> impl Iterator<Item = u64> {
        let running = self.running.as_ref().expect("the process lives");
        self.oracle.pairs.iter().map(|pair| {
            let catalog = running.reader.catalog();
            let topic = catalog.topic_by_id(pair.topic).expect("topics of pairs stay");
            let progress = running.reader.progress(pair.group, pair.topic);
            let progress = progress.lock();
            let queues = topic.queues.iter().enumerate();
            let lags = queues.map(|(number, queue)| {
                let index = QueueIndex(u16::try_from(number).expect("few"));
                progress.lag(index, queue.bounds().next)
            });
            lags.sum()
        })
    }

    /// While nothing goes wrong, a message that is given back is there for a poll at the very millisecond it may be.
    fn come_back_in_time(&mut self) {
        self.settle_down();
        for index in 0..PAIRS.len() {
            self.poll_as(index, 3, 4, Some(Duration::from_secs(LEASE_MS / 1_000)));
            self.settle_down();
        }
        let now = self.now().tick;
        let mut returned = Vec::new();
        for (number, hand) in std::mem::take(&mut self.hands).into_iter().enumerate() {
            let after = if number.is_multiple_of(2) { BACK_MS } else { LEASE_MS };
            returned.push((now + after, hand.clone()));
            if after == BACK_MS {
                self.settle_with(hand, Verdict::Return { after: Duration::from_millis(BACK_MS), is_suspended: false });
            }
        }
        self.settle_down();
        for at in [now + BACK_MS, now + LEASE_MS] {
            self.clock.advance_ms(at - self.now().tick);
            self.settle_down();
            for _ in 0..32 {
                for index in 0..PAIRS.len() {
                    self.poll_as(index, 2, 32, Some(Duration::from_secs(60)));
                    self.settle_down();
                }
            }
            for (due, hand) in returned.iter().filter(|(due, _)| *due <= at) {
                let Hand { pair, receipt, .. } = hand;
                let slot = (receipt.queue, receipt.offset);
                let is_back = self.oracle.is_back(*pair, slot, receipt.attempt);
                must!(is_back, "{slot:?} of pair {pair} may be delivered since {due}; it is {at}, and it did not come");
            }
        }
        self.hands.clear();
        for (client, _) in CLIENTS {
            self.says_good_bye(client);
        }
    }

    pub fn settle_down(&mut self) {
        for _ in 0..3 {
            self.pump();
            self.commit(usize::MAX);
        }
        self.pump();
    }
}
