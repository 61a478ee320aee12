//! Dead letters: each death that was committed is one entry of the group's dead-letter queue, and nothing else is.

use std::collections::BTreeSet;

use base::{QueueOffset, TopicId};
use broker::subscription::Slot;
use storage::record::{DeadLetterReason, Fact, Pointer, Why};
use storage::request::Change;

use super::{Id, Oracle, must};

/// Deaths of one message in one group.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deaths {
    sure: u32,
    maybe: u32,
}

/// A message that dies with an append.
#[derive(Debug, Clone, Copy)]
struct Death {
    letters: TopicId,
    id: Id,
    slot: Slot,
    attempts: u32,
    reason: DeadLetterReason,
}

impl Oracle {
    /// What a subscription wants appended says what was counted. `claims`: what settles under way say of a message.
    /// Gives the number of dead letters.
    pub fn check_append(&self, index: usize, changes: &[Change], claims: &dyn Fn(Slot) -> Vec<u32>) -> u64 {
        let pair = &self.pairs[index];
        for change in changes {
            match change {
                Change::Fact(Fact::Settle { retries, .. }) => {
                    for retry in retries {
                        let slot = (retry.queue, retry.offset);
                        pair.attempts.check_appended(slot, retry.attempts, &claims(slot));
                    }
                }
                Change::Fact(Fact::Lease { entries, .. }) => {
                    for entry in entries {
                        pair.attempts.check_leased((entry.queue, entry.offset), entry.attempt);
                    }
                }
                _ => {}
            }
        }
        let deaths = self.deaths_in(index, changes);
        for death in &deaths {
            pair.attempts.check_appended(death.slot, death.attempts, &claims(death.slot));
            let (id, is_forced) = (death.id, death.reason != DeadLetterReason::Attempts);
            let (attempts, max) = (death.attempts, pair.attempts_max);
            must!(is_forced || attempts >= max, "U4: message {id} is a dead letter after {attempts} of {max} attempts");
            must!(!pair.dead.contains(&death.slot), "U4: message {id} ({:?}) dies twice", death.slot);
        }
        deaths.len() as u64
    }

    /// An append is committed. `is_old`: a queue of it was sought after it was asked for.
    pub fn appended(&mut self, index: usize, changes: &[Change], is_old: bool) {
        for death in self.deaths_in(index, changes) {
            self.deaths.entry((death.letters, death.id)).or_default().sure += 1;
            self.pairs[index].dead.insert(death.slot);
            self.died(index, death.id, death.slot, death.reason);
        }
        let attempts = &mut self.pairs[index].attempts;
        for change in changes {
            match change {
                Change::Fact(Fact::Settle { retries, .. }) => {
                    for retry in retries {
                        attempts.returned((retry.queue, retry.offset), retry.attempts, is_old);
                    }
                }
                Change::Fact(Fact::Lease { entries, .. }) => {
                    entries.iter().for_each(|entry| attempts.leased((entry.queue, entry.offset), entry.attempt));
                }
                _ => {}
            }
        }
    }

    /// Nobody knows whether an append is committed.
    pub fn maybe_appended(&mut self, index: usize, changes: &[Change]) {
        for death in self.deaths_in(index, changes) {
            self.deaths.entry((death.letters, death.id)).or_default().maybe += 1;
            self.pairs[index].dead_maybe.insert(death.slot);
        }
        let attempts = &mut self.pairs[index].attempts;
        for change in changes {
            match change {
                Change::Fact(Fact::Settle { retries, .. }) => {
                    retries.iter().for_each(|retry| attempts.unknown((retry.queue, retry.offset), retry.attempts));
                }
                Change::Fact(Fact::Lease { entries, .. }) => {
                    entries.iter().for_each(|entry| attempts.unknown((entry.queue, entry.offset), entry.attempt));
                }
                _ => {}
            }
        }
    }

    /// Every dead letter is a death that was committed, and the reverse.
    pub fn check_dead_letters(&self) {
        for key in self.dead_letters.keys().chain(self.deaths.keys()) {
            let found = self.dead_letters.get(key).copied().unwrap_or(0);
            let Deaths { sure, maybe } = self.deaths.get(key).copied().unwrap_or_default();
            let (topic, id) = key;
            must!(found <= sure + maybe, "message {id} is in {topic:?} {found} times and died {sure} + {maybe} times");
            must!(found >= sure || self.may_lose, "message {id} died {sure} times and is in {topic:?} {found} times");
        }
    }

    /// A recovery shows which deaths came to be.
    pub(super) fn know_deaths(&mut self) {
        let found = &self.dead_letters;
        for (key, deaths) in &mut self.deaths {
            *deaths = Deaths { sure: found.get(key).copied().unwrap_or(0), maybe: 0 };
        }
    }

    /// Which messages become dead letters by an append: its acks say where they are.
    fn deaths_in(&self, index: usize, changes: &[Change]) -> Vec<Death> {
        let mut settled = BTreeSet::new();
        for change in changes {
            let Change::Fact(Fact::Settle { acks, .. }) = change else { continue };
            for range in acks {
                let offsets = range.first.0..range.first.0 + range.count;
                settled.extend(offsets.map(|offset| (range.queue, QueueOffset(offset))));
            }
        }
        let topic = self.pairs[index].topic;
        let mut take = |origin: &Pointer| {
            let id = *self.by_origin.get(&origin.position)?;
            let slot = settled.iter().find(|slot| self.message_at(topic, **slot) == Some(id)).copied();
            let slot = slot.unwrap_or_else(|| panic!("message {id} becomes a dead letter and stays where it is"));
            settled.remove(&slot);
            Some((id, slot))
        };
        let mut deaths = Vec::new();
        for change in changes {
            let Change::Publish { origin, head, why: Why::DeadLetter { attempts, reason, .. } } = change else {
                continue;
            };
            if let Some((id, slot)) = take(origin) {
                deaths.push(Death { letters: head.topic, id, slot, attempts: *attempts, reason: *reason });
            }
        }
        deaths
    }
}
