//! What clients were told, and whether a delivery contradicts it.
//!
//! Pure: load tasks report each step as they take it, `now` included. A step is reported before its call and, when the
//! server said OK, after it; a call that failed may have taken effect or not, and both are right.
//!
//! L1. What was acknowledged as sent is delivered: nothing is left in `owed` at the end.
//! L2. What was acknowledged as consumed is never delivered again.
//! L3. A message has one place (queue and offset) for ever: nothing is stored or fires twice.
//! L4. A delayed message is never early, a recalled one never delivered.
//! L5. A prepared message is not delivered before its commit is under way, and never after a rollback.
//! L6. Messages of one key are delivered in the order they were sent in, each only when those before it are settled.
//! L7. What was stored and became visible stays readable at its place, consumed or not, as long as its topic keeps it.

use std::collections::{BTreeMap, HashMap};

use base::Timestamp;
use client::{Received, Resolution};
use tests::messages::name_of;

/// What becomes of a message, as far as it is known.
#[derive(Debug, Default)]
struct Fate {
    is_stored: bool,
    /// A recall or rollback is under way or done: need not come any more.
    is_withdrawn: bool,
    /// Must not come any more.
    is_retired: bool,
    /// Half of a transaction; none of its commits is under way.
    is_hidden: bool,
    due: Option<Timestamp>,
    place: Option<(u16, u64)>,
    /// Acks that are under way, or were not answered: they may have taken effect.
    acks_open: u32,
    is_acked: bool,
    /// Somebody looked, and it was there.
    is_seen: bool,
    /// What was reported, for the message of a failure.
    story: Vec<(Timestamp, String)>,
}

/// The messages of one key, by their number.
#[derive(Debug, Default)]
struct Key {
    /// Sent or delivered and not acknowledged as consumed.
    open: BTreeMap<u64, ()>,
    /// The highest number that was delivered.
    reached: Option<u64>,
}

/// All messages of one data directory. A message is known by its body.
#[derive(Debug, Default)]
pub struct Ledger {
    fates: HashMap<String, Fate>,
    keys: HashMap<String, Key>,
    violations: Vec<String>,
}

/// `key/number` of an ordered message's name, `o/KEY/NUMBER`.
fn key_of(name: &str) -> Option<(&str, u64)> {
    let (key, number) = name.strip_prefix("o/")?.rsplit_once('/')?;
    Some((key, number.parse().ok()?))
}

impl Ledger {
    pub fn sending(&mut self, name: &str, due: Option<Timestamp>, now: Timestamp) {
        self.step(name, now, "send").due = due;
    }

    pub fn stored(&mut self, name: &str, now: Timestamp) {
        let fate = self.step(name, now, "sent");
        fate.is_stored = true;
        let is_open = !fate.is_acked;
        if let (Some((key, number)), true) = (key_of(name), is_open) {
            self.keys.entry(key.to_owned()).or_default().open.insert(number, ());
        }
    }

    pub fn preparing(&mut self, name: &str, now: Timestamp) {
        self.step(name, now, "prepare").is_hidden = true;
    }

    pub fn prepared(&mut self, name: &str, now: Timestamp) {
        self.step(name, now, "prepared").is_stored = true;
    }

    pub fn ending(&mut self, name: &str, resolution: Resolution, now: Timestamp) {
        let fate = self.step(name, now, &format!("end with {resolution:?}"));
        match resolution {
            Resolution::Commit => fate.is_hidden = false,
            Resolution::Rollback => fate.is_withdrawn = true,
        }
    }

    pub fn ended(&mut self, name: &str, resolution: Resolution, now: Timestamp) {
        let fate = self.step(name, now, &format!("ended with {resolution:?}"));
        fate.is_retired |= resolution == Resolution::Rollback;
    }

    pub fn recalling(&mut self, name: &str, now: Timestamp) {
        self.step(name, now, "recall").is_withdrawn = true;
    }

    pub fn recalled(&mut self, name: &str, is_refused: bool, now: Timestamp) {
        let fate = self.step(name, now, if is_refused { "recall refused" } else { "recalled" });
        fate.is_withdrawn = !is_refused;
        fate.is_retired = !is_refused;
    }

    pub fn acking(&mut self, name: &str, now: Timestamp) {
        self.step(name, now, "ack").acks_open += 1;
    }

    pub fn ack_refused(&mut self, name: &str, why: &str, now: Timestamp) {
        self.step(name, now, &format!("ack refused: {why}")).acks_open -= 1;
    }

    pub fn acked(&mut self, name: &str, now: Timestamp) {
        let fate = self.step(name, now, "acked");
        fate.is_acked = true;
        if let Some((key, number)) = key_of(name)
            && let Some(key) = self.keys.get_mut(key)
        {
            key.open.remove(&number);
        }
    }

    /// Anything else that belongs to the story of a message.
    pub fn note(&mut self, name: &str, what: &str, now: Timestamp) {
        self.step(name, now, what);
    }

    /// One reply, with messages in its order.
    pub fn received(&mut self, batch: &[Received], now: Timestamp) {
        let names: Vec<_> = batch.iter().map(name_of).collect();
        for (message, name) in batch.iter().zip(&names) {
            self.check_message(message, name, now);
        }
        let mut keys: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (key, number) in names.iter().filter_map(|name| key_of(name)) {
            keys.entry(key).or_default().push(number);
        }
        for (key, numbers) in keys {
            self.check_order(key, &numbers);
        }
    }

    fn check_message(&mut self, message: &Received, name: &str, now: Timestamp) {
        if !self.fates.contains_key(name) {
            self.violations.push(format!("{name} was delivered and never sent"));
        }
        let place = (message.queue.0, message.offset.0);
        let fate = self.step(name, now, &format!("delivered from {place:?}, attempt {}", message.attempt));
        let known = *fate.place.get_or_insert(place);
        let wrong = if known != place {
            Some("L3: it has two places")
        } else if fate.is_acked {
            Some("L2: it was acknowledged")
        } else if fate.is_retired {
            Some("L4, L5: it was recalled or rolled back")
        } else if fate.is_hidden {
            Some("L5: it was not committed")
        } else if fate.due.is_some_and(|due| now < due) {
            Some("L4: it is early")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            self.violate(name, wrong);
        }
    }

    fn check_order(&mut self, key: &str, numbers: &[u64]) {
        let name = |number: &u64| format!("o/{key}/{number}");
        let last = *numbers.last().expect("a key is listed with a number");
        let mut wrong = Vec::new();
        if !numbers.is_sorted_by(|a, b| a < b) {
            wrong.push((name(&last), format!("L6: the batch has {numbers:?} of its key")));
        }
        let order = self.keys.entry(key.to_owned()).or_default();
        for number in numbers {
            // What came for the first time after a later one was overtaken, however its send was answered.
            let is_new = !order.open.contains_key(number);
            if is_new && order.reached.is_some_and(|reached| *number < reached) {
                wrong.push((name(number), format!("L6: {:?} of its key came before", order.reached)));
            }
            order.open.insert(*number, ());
        }
        let before: Vec<_> = order.open.range(..last).map(|(number, ())| *number).collect();
        for number in before.into_iter().filter(|number| !numbers.contains(number)) {
            if self.fates.get(&name(&number)).is_some_and(|fate| fate.acks_open > 0) {
                // Its ack was not answered; that others follow shows that it took effect, so it must not come again.
                order.open.remove(&number);
                self.fates.get_mut(&name(&number)).expect("it was just found").is_acked = true;
            } else {
                wrong.push((name(&last), format!("L6: {number} of its key is not settled")));
                wrong.push((name(&number), format!("L6: {last} of its key was delivered before it was settled")));
            }
        }
        order.reached = order.reached.max(Some(last));
        for (name, wrong) in wrong {
            self.violate(&name, &wrong);
        }
    }

    /// Somebody who looks at everything found it.
    pub fn seen(&mut self, name: &str, place: (u16, u64), now: Timestamp) {
        let fate = self.step(name, now, &format!("seen at {place:?}"));
        let known = *fate.place.get_or_insert(place);
        let wrong = if known != place || fate.is_seen {
            Some("L3: it has two places")
        } else if fate.is_retired || fate.is_hidden {
            Some("L4, L5: it is visible")
        } else {
            None
        };
        fate.is_seen = true;
        if let Some(wrong) = wrong {
            self.violate(name, wrong);
        }
    }

    /// Everything was looked at, and everything is due: what was not seen is gone (L7).
    pub fn unseen(&mut self) {
        let is_gone = |fate: &Fate| fate.is_stored && !fate.is_withdrawn && !fate.is_hidden && !fate.is_seen;
        let gone = self.fates.iter().filter(|(_, fate)| is_gone(fate));
        let told = gone.map(|(name, fate)| told(name, "L7: it is not there any more", fate));
        self.violations.extend(told.collect::<Vec<_>>());
    }

    /// What has to come and be settled yet.
    pub fn owed(&self) -> usize {
        self.fates.values().filter(|fate| is_owed(fate)).count()
    }

    /// How many were acknowledged as sent, and as consumed.
    pub fn counts(&self) -> (usize, usize) {
        let stored = self.fates.values().filter(|fate| fate.is_stored).count();
        (stored, self.fates.values().filter(|fate| fate.is_acked).count())
    }

    /// Everything that went wrong so far. `is_over`: what is still owed is lost (L1).
    pub fn verdict(&self, is_over: bool) -> Vec<String> {
        let mut verdict = self.violations.clone();
        if is_over {
            let owed = self.fates.iter().filter(|(_, fate)| is_owed(fate));
            verdict.extend(owed.map(|(name, fate)| told(name, "L1: it is lost, or does not settle", fate)));
        }
        verdict
    }

    fn step(&mut self, name: &str, now: Timestamp, what: &str) -> &mut Fate {
        let fate = self.fates.entry(name.to_owned()).or_default();
        fate.story.push((now, what.to_owned()));
        fate
    }

    fn violate(&mut self, name: &str, wrong: &str) {
        let fate = self.fates.entry(name.to_owned()).or_default();
        self.violations.push(told(name, wrong, fate));
    }
}

fn is_owed(fate: &Fate) -> bool {
    fate.is_stored && !fate.is_withdrawn && !fate.is_hidden && !fate.is_acked && fate.acks_open == 0
}

fn told(name: &str, wrong: &str, fate: &Fate) -> String {
    let story: Vec<_> = fate.story.iter().map(|(at, what)| format!("  {} {what}", at.0)).collect();
    format!("{name}: {wrong}; due {:?}\n{}", fate.due, story.join("\n"))
}
