//! What clients of the cluster were told, and whether a delivery contradicts it.
//!
//! Pure: clients report each step as they take it, `now` included. A step is reported before its call and, when a
//! server said OK, after it; a call that failed may have taken effect or not, and both are right. A message that was
//! sent several times, because nobody answered, may be there as often: each of its places is a copy with a fate of
//! its own.
//!
//! L1. What a broker acknowledged as sent, every group gets from that broker: nothing is left in `owed` at the end.
//! L2. What was acknowledged as consumed never comes again from its place.
//! L3. There are no more copies of a message than it was sent.
//! L4. A delayed message is never early, a recalled one never comes.
//! L5. A prepared message does not come before its commit is under way, never after a rollback, and is asked about
//!     until it ends.
//! L6. Messages of one key come in the order they were sent in, without a gap, each when those before it are settled.
//! L7. What somebody holds of an ordered topic is given to nobody else before its lease ends.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use base::Timestamp;
use client::Resolution;

/// Broker, queue and offset.
pub type Place = (u8, u16, u64);
/// Of the story of a key, around the message that is told about.
const NEIGHBOURS: u64 = 2;

/// What happened to a message. Small: a storm of an hour has millions of these.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    Send(u8),
    Sent(u8),
    SendFailed(u8),
    End(Resolution),
    Ended(Resolution),
    EndFailed,
    AskedAbout(u8),
    Recall,
    Recalled,
    RecallRefused,
    RecallFailed,
    Delivered(u8, Place, u32),
    Ack(u8, Place),
    Acked(u8, Place),
    AckRefused(u8, Place),
    AckFailed(u8, Place),
    GivenBack(u8, Place),
    Forgotten(u8, Place),
}

/// What becomes of a message, as far as it is known.
#[derive(Debug, Default)]
struct Fate {
    /// Sends that may have taken effect.
    sends: usize,
    /// Brokers that have acknowledged it.
    stored_on: Vec<u8>,
    due: Option<Timestamp>,
    /// A recall or rollback is under way or done: need not come any more.
    is_withdrawn: bool,
    /// Must not come any more.
    is_retired: bool,
    /// Half of a transaction; none of its commits is under way.
    is_hidden: bool,
    copies: Vec<Copy>,
    story: Vec<(Timestamp, Step)>,
}

/// A message at a place, for a group.
#[derive(Debug)]
struct Copy {
    group: u8,
    place: Place,
    /// Of the last delivery.
    attempt: u32,
    /// An ack of this attempt was begun and not refused: it may have taken effect.
    acked_attempt: Option<u32>,
    is_acked: bool,
    /// Not sooner does its lease end; none when it was given back.
    leased_until: Option<Timestamp>,
}

/// The messages of one key for one group.
#[derive(Debug, Default)]
struct Lane {
    /// Delivered and not known to be settled, by place; with their numbers.
    open: BTreeMap<(u16, u64), u64>,
    /// The number that comes next for the first time.
    next: u64,
    newest: Option<(u16, u64)>,
}

/// A message that was handed out, as it is told to the ledger.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub name: String,
    pub place: Place,
    pub attempt: u32,
    /// The lease that was asked for, from when it was asked for: it ends then, or later.
    pub leased_until: Timestamp,
}

/// What was counted.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub messages: usize,
    pub stored: usize,
    pub deliveries: usize,
    pub redeliveries: usize,
    /// Sent again because nobody had answered, and stored both times.
    pub copies: usize,
    pub acked: usize,
    pub recalled: usize,
    pub ended: usize,
}

/// All messages of one cluster, by their names.
pub struct Ledger {
    began: Timestamp,
    groups: u8,
    fates: HashMap<String, Fate>,
    lanes: HashMap<(u8, String), Lane>,
    violations: Vec<String>,
    counts: Counts,
}

/// `KEY` and `NUMBER` of an ordered message's name, `o/KEY/NUMBER`.
fn key_of(name: &str) -> Option<(&str, u64)> {
    let (key, number) = name.strip_prefix("o/")?.rsplit_once('/')?;
    Some((key, number.parse().ok()?))
}

impl Ledger {
    /// Each of so many groups gets every message.
    pub fn new(groups: u8, now: Timestamp) -> Self {
        let (fates, lanes, violations) = Default::default();
        Self { began: now, groups, fates, lanes, violations, counts: Counts::default() }
    }

    /// Sends of a key never overlap, and each is repeated until it is acknowledged: then the next begins.
    pub fn sending(&mut self, name: &str, broker: u8, due: Option<Timestamp>, now: Timestamp) {
        let fate = self.step(name, Step::Send(broker), now);
        fate.sends += 1;
        fate.due = due;
    }

    pub fn preparing(&mut self, name: &str, broker: u8, now: Timestamp) {
        self.sending(name, broker, None, now);
        self.fates.get_mut(name).expect("it was just begun").is_hidden = true;
    }

    pub fn stored(&mut self, name: &str, broker: u8, now: Timestamp) {
        let fate = self.step(name, Step::Sent(broker), now);
        fate.stored_on.push(broker);
    }

    /// `is_refused`: a server's word that nothing was stored.
    pub fn send_failed(&mut self, name: &str, broker: u8, is_refused: bool, now: Timestamp) {
        let fate = self.step(name, Step::SendFailed(broker), now);
        fate.sends -= usize::from(is_refused);
    }

    pub fn ending(&mut self, name: &str, resolution: Resolution, now: Timestamp) {
        let fate = self.step(name, Step::End(resolution), now);
        match resolution {
            Resolution::Commit => fate.is_hidden = false,
            Resolution::Rollback => fate.is_withdrawn = true,
        }
    }

    pub fn ended(&mut self, name: &str, resolution: Resolution, now: Timestamp) {
        let fate = self.step(name, Step::Ended(resolution), now);
        fate.is_retired |= resolution == Resolution::Rollback;
    }

    pub fn recalling(&mut self, name: &str, now: Timestamp) {
        self.step(name, Step::Recall, now).is_withdrawn = true;
    }

    /// A copy that a failed send left somewhere is not recalled.
    pub fn recalled(&mut self, name: &str, now: Timestamp) {
        let fate = self.step(name, Step::Recalled, now);
        fate.is_retired = fate.sends == 1;
    }

    pub fn recall_refused(&mut self, name: &str, now: Timestamp) {
        self.step(name, Step::RecallRefused, now).is_withdrawn = false;
    }

    /// Anything else that belongs to the story of a message.
    pub fn note(&mut self, name: &str, step: Step, now: Timestamp) {
        self.step(name, step, now);
    }

    pub fn acking(&mut self, group: u8, delivery: &Delivery, now: Timestamp) {
        let fate = self.step(&delivery.name, Step::Ack(group, delivery.place), now);
        if let Some(copy) = fate.copy(group, delivery.place) {
            copy.acked_attempt = copy.acked_attempt.max(Some(delivery.attempt));
        }
    }

    pub fn ack_refused(&mut self, group: u8, delivery: &Delivery, now: Timestamp) {
        let fate = self.step(&delivery.name, Step::AckRefused(group, delivery.place), now);
        if let Some(copy) = fate.copy(group, delivery.place)
            && copy.acked_attempt == Some(delivery.attempt)
        {
            copy.acked_attempt = None;
        }
    }

    pub fn acked(&mut self, group: u8, delivery: &Delivery, now: Timestamp) {
        let fate = self.step(&delivery.name, Step::Acked(group, delivery.place), now);
        if let Some(copy) = fate.copy(group, delivery.place) {
            copy.is_acked = true;
        }
        self.settled(group, delivery);
    }

    pub fn giving_back(&mut self, group: u8, delivery: &Delivery, now: Timestamp) {
        let fate = self.step(&delivery.name, Step::GivenBack(group, delivery.place), now);
        if let Some(copy) = fate.copy(group, delivery.place) {
            copy.leased_until = None;
        }
    }

    fn settled(&mut self, group: u8, delivery: &Delivery) {
        if let Some((key, _)) = key_of(&delivery.name)
            && let Some(lane) = self.lanes.get_mut(&(group, key.to_owned()))
        {
            lane.open.remove(&(delivery.place.1, delivery.place.2));
        }
    }

    /// One reply, with messages in its order.
    pub fn received(&mut self, group: u8, batch: &[Delivery], now: Timestamp) {
        for delivery in batch {
            self.check_delivery(group, delivery, now);
        }
        let mut keys: BTreeMap<&str, Vec<(u64, &Delivery)>> = BTreeMap::new();
        for delivery in batch {
            if let Some((key, number)) = key_of(&delivery.name) {
                keys.entry(key).or_default().push((number, delivery));
            }
        }
        for (key, deliveries) in keys {
            self.check_order(group, key, &deliveries);
        }
    }

    fn check_delivery(&mut self, group: u8, delivery: &Delivery, now: Timestamp) {
        let Delivery { name, place, attempt, .. } = delivery;
        if !self.fates.contains_key(name) {
            self.violations.push(format!("{name:?} was delivered and never sent"));
        }
        let fate = self.step(name, Step::Delivered(group, *place, *attempt), now);
        let (sends, is_early) = (fate.sends, fate.due.is_some_and(|due| now < due));
        let mut wrong = Vec::new();
        let is_new = fate.copy(group, *place).is_none();
        if is_new {
            let (acked_attempt, leased_until) = (None, None);
            fate.copies.push(Copy {
                group,
                place: *place,
                attempt: *attempt,
                acked_attempt,
                is_acked: false,
                leased_until,
            });
        }
        let copies = fate.copies.iter().filter(|copy| copy.group == group).count();
        if is_new && copies > sends {
            wrong.push(format!("L3: {copies} copies of what was sent {sends} times"));
        }
        let copy = fate.copy(group, *place).expect("it was just added");
        if copy.is_acked {
            wrong.push("L2: it was acknowledged".into());
        }
        if key_of(name).is_some() && copy.leased_until.is_some_and(|until| now < until) {
            wrong.push("L7: somebody has it".into());
        }
        copy.leased_until = Some(delivery.leased_until);
        if *attempt > copy.attempt {
            // Handles of earlier attempts settle nothing any more.
            copy.attempt = *attempt;
            copy.acked_attempt = None;
        }
        if fate.is_retired {
            wrong.push("L4, L5: it was recalled or rolled back".into());
        }
        if fate.is_hidden {
            wrong.push("L5: it was not committed".into());
        }
        if is_early {
            wrong.push("L4: it is early".into());
        }
        self.counts.deliveries += 1;
        self.counts.redeliveries += usize::from(!is_new);
        self.counts.copies += usize::from(is_new && copies > 1);
        for wrong in wrong {
            self.violate(name, &wrong);
        }
    }

    fn check_order(&mut self, group: u8, key: &str, batch: &[(u64, &Delivery)]) {
        let lane = self.lanes.entry((group, key.to_owned())).or_default();
        let mut wrong = Vec::new();
        let places: Vec<_> = batch.iter().map(|(_, delivery)| (delivery.place.1, delivery.place.2)).collect();
        let &(_, last) = batch.last().expect("a key is listed with a message");
        if !places.is_sorted_by(|a, b| a.0 == b.0 && a < b) {
            wrong.push((last.name.clone(), format!("L6: the batch has {places:?} of its key")));
        }
        for ((number, delivery), place) in batch.iter().zip(&places) {
            if lane.newest.is_none_or(|newest| *place > newest) {
                lane.newest = Some(*place);
                // Any number up to the next may have been sent twice.
                if *number > lane.next {
                    wrong.push((delivery.name.clone(), format!("L6: {} of its key did not come before", lane.next)));
                }
                lane.next = lane.next.max(number + 1);
            } else if !lane.open.contains_key(place)
                && self.fates.get(&delivery.name).is_some_and(|fate| fate.is_first_delivery(group, delivery.place))
            {
                wrong.push((delivery.name.clone(), format!("L6: {:?} of its key came before", lane.newest)));
            }
            lane.open.insert(*place, *number);
        }
        let end = *places.last().expect("as many as deliveries");
        let before = lane.open.range(..end).filter(|(place, _)| !places.contains(place));
        let before: Vec<_> = before.map(|(place, number)| (*place, *number)).collect();
        for (place, number) in before {
            let name = format!("o/{key}/{number}");
            let copy = self.fates.get_mut(&name).and_then(|fate| fate.copy(group, (last.place.0, place.0, place.1)));
            match copy.filter(|copy| copy.acked_attempt == Some(copy.attempt)) {
                Some(copy) => {
                    // That others follow shows that its ack, which was not answered, took effect: it must not come
                    // again.
                    copy.is_acked = true;
                    lane.open.remove(&place);
                }
                None => wrong.push((last.name.clone(), format!("L6: {number} of its key, at {place:?}, is open"))),
            }
        }
        for (name, wrong) in wrong {
            self.violate(&name, &wrong);
        }
    }

    /// What has to come and be settled yet.
    pub fn owed(&self) -> usize {
        self.fates.values().filter(|fate| fate.is_owed(self.groups)).count()
    }

    pub fn counts(&self) -> Counts {
        let count = |is: &dyn Fn(&Fate) -> bool| self.fates.values().filter(|fate| is(fate)).count();
        Counts {
            messages: self.fates.len(),
            stored: count(&|fate| !fate.stored_on.is_empty()),
            acked: self.fates.values().flat_map(|fate| &fate.copies).filter(|copy| copy.is_acked).count(),
            recalled: count(&|fate| fate.story.iter().any(|(_, step)| matches!(step, Step::Recalled))),
            ended: count(&|fate| fate.story.iter().any(|(_, step)| matches!(step, Step::Ended(_)))),
            ..self.counts
        }
    }

    /// Everything that went wrong so far. `is_over`: what is still owed is lost (L1), and nobody will be asked (L5).
    pub fn verdict(&self, is_over: bool) -> Vec<String> {
        let mut verdict = self.violations.clone();
        if is_over {
            for (name, fate) in &self.fates {
                if fate.is_owed(self.groups) {
                    verdict.push(self.told(name, "L1: it is lost, or does not settle"));
                }
                if fate.is_hidden && !fate.stored_on.is_empty() && !fate.is_withdrawn {
                    verdict.push(self.told(name, "L5: it was never asked about"));
                }
            }
        }
        verdict
    }

    fn step(&mut self, name: &str, step: Step, now: Timestamp) -> &mut Fate {
        let fate = self.fates.entry(name.to_owned()).or_default();
        fate.story.push((now, step));
        fate
    }

    fn violate(&mut self, name: &str, wrong: &str) {
        let told = self.told(name, wrong);
        self.violations.push(told);
    }

    /// With the stories of its neighbours, where it has a key.
    fn told(&self, name: &str, wrong: &str) -> String {
        let mut names = vec![name.to_owned()];
        if let Some((key, number)) = key_of(name) {
            let around = number.saturating_sub(NEIGHBOURS)..=number + NEIGHBOURS;
            names.extend(around.filter(|near| *near != number).map(|near| format!("o/{key}/{near}")));
        }
        let mut told = format!("{name}: {wrong}");
        for name in names {
            let Some(fate) = self.fates.get(&name) else { continue };
            let due = fate.due.map_or(String::new(), |due| format!(", due at {}", due.ms_since(self.began)));
            told += &format!("\n  {name}{due}");
            for (at, step) in &fate.story {
                told += &format!("\n    {:>8} ms {step}", at.ms_since(self.began));
            }
        }
        told
    }
}

impl Fate {
    fn copy(&mut self, group: u8, place: Place) -> Option<&mut Copy> {
        self.copies.iter_mut().find(|copy| copy.group == group && copy.place == place)
    }

    fn is_first_delivery(&self, group: u8, place: Place) -> bool {
        let is_it = |step: &Step| matches!(step, Step::Delivered(to, at, _) if (*to, *at) == (group, place));
        self.story.iter().filter(|(_, step)| is_it(step)).count() == 1
    }

    /// Each group has to have settled what it was given, and have been given what was acknowledged.
    fn is_owed(&self, groups: u8) -> bool {
        if self.is_withdrawn || self.is_hidden {
            return false;
        }
        let is_settled = |copy: &Copy| copy.is_acked || copy.acked_attempt == Some(copy.attempt);
        let came_from =
            |group: u8, broker: u8| self.copies.iter().any(|copy| copy.group == group && copy.place.0 == broker);
        let is_missing = |group: u8| self.stored_on.iter().any(|broker| !came_from(group, *broker));
        !self.copies.iter().all(is_settled) || (0..groups).any(is_missing)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, stored, deliveries, redeliveries, copies, acked, recalled, ended } = self;
        write!(
            f,
            "messages {messages}, acknowledged {stored}, {recalled} of them recalled, transactions ended {ended}; "
        )?;
        write!(
            f,
            "deliveries {deliveries}, {redeliveries} of them again, {copies} of second copies; acknowledged {acked}"
        )
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |(broker, queue, offset): &Place| format!("broker {broker} queue {queue} offset {offset}");
        match self {
            Self::Send(broker) => write!(f, "is sent to broker {broker}"),
            Self::Sent(broker) => write!(f, "broker {broker} has it"),
            Self::SendFailed(broker) => write!(f, "broker {broker} did not take it, or did not say so"),
            Self::End(resolution) => write!(f, "{resolution:?} begins"),
            Self::Ended(resolution) => write!(f, "{resolution:?} is done"),
            Self::EndFailed => write!(f, "it was not ended, or nobody said so"),
            Self::AskedAbout(broker) => write!(f, "broker {broker} asks about it"),
            Self::Recall => write!(f, "recall begins"),
            Self::Recalled => write!(f, "recall is done"),
            Self::RecallRefused => write!(f, "recall was refused"),
            Self::RecallFailed => write!(f, "recall was not answered"),
            Self::Delivered(group, place, attempt) => {
                write!(f, "group {group} gets it from {}, attempt {attempt}", at(place))
            }
            Self::Ack(group, place) => write!(f, "group {group} acknowledges {}", at(place)),
            Self::Acked(group, place) => write!(f, "group {group} has acknowledged {}", at(place)),
            Self::AckRefused(group, place) => write!(f, "group {group} was refused the ack of {}", at(place)),
            Self::AckFailed(group, place) => write!(f, "group {group} was not answered to the ack of {}", at(place)),
            Self::GivenBack(group, place) => write!(f, "group {group} gives {} back", at(place)),
            Self::Forgotten(group, place) => write!(f, "group {group} does nothing with {}", at(place)),
        }
    }
}
