//! The end of a run: everything heals, and everybody finishes.

use std::time::Duration;

use base::{Clock, QueueIndex};
use broker::subscription::Verdict;

use super::scene::{CLIENTS, PAIRS};
use super::{World, say};

impl World {
    /// Heals everything and lets everybody finish: every message must come to its end.
    pub(super) fn finish_well(&mut self) {
        self.disk.set_capacity(u64::MAX);
        self.restart(false);
        self.is_well = true;
        say!(self, "everything is well from here on");
        // Leases of clients that live have no end; these say good-bye, and one comes back.
        self.hands.clear();
        for (client, _) in CLIENTS {
            self.says_good_bye(client);
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
    }

    pub(super) fn is_done(&self) -> bool {
        let running = self.running.as_ref().expect("the process lives");
        let is_settled = self.oracle.pairs.iter().all(|pair| {
            let catalog = running.reader.catalog();
            let topic = catalog.topic_by_id(pair.topic).expect("topics of pairs stay");
            let progress = running.reader.progress(pair.group, pair.topic);
            let progress = progress.lock();
            topic.queues.iter().enumerate().all(|(number, queue)| {
                let index = QueueIndex(u16::try_from(number).expect("few"));
                progress.lag(index, queue.bounds().next) == 0
            })
        });
        is_settled && running.timer.timers().is_empty() && running.inbox.is_empty()
    }
}
