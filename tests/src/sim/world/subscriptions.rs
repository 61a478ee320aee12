//! Drives the subscriptions: the only place that knows the interface of their core.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base::{Backoff, GroupName, QueueIndex, TopicId, TopicName};
use broker::api::{FilterKind, FilterText};
use broker::filter::Filter;
use broker::subscription::core::Core;
use broker::subscription::{self, Effect, Event, Now, Poll, Queues, Settings, Settle, Verdict};
use storage::message::StoredMessage;
use storage::record::Pointer;
use storage::request::{AppendError, Change, Done, Request};
use storage::store::FetchError;
use storage::view::catalog::{TopicKind, TopicSpec};

use super::super::oracle::{Hold, Until, must};
use super::queues::Watched;
use super::scene::{CLIENTS, PAIRS, TAGS};
use super::{Append, Asked, Hand, Owner, Sub, World, say};

/// Deliveries of a subscription that nobody has settled.
pub(super) const IN_FLIGHT_MAX: u64 = 64;

impl World {
    pub(super) fn start_cores(&mut self) {
        let now = self.now();
        let running = self.running.as_mut().expect("the process lives");
        for (index, pair) in self.oracle.pairs.iter().enumerate() {
            let key = subscription::Pair { group: pair.group, topic: pair.topic };
            let settings = Settings {
                is_ordered: pair.is_ordered,
                attempts_max: pair.attempts_max,
                backoff: Backoff::Steps(vec![Duration::from_secs(1)]),
                invisible: Duration::from_secs(30),
                in_flight_max: IN_FLIGHT_MAX as usize,
            };
            let progress = running.reader.progress(pair.group, pair.topic);
            let spec = progress.lock().filter.clone().expect("subscribed in the beginning");
            let filter = Filter::of(&spec, running.reader.hash_key());
            let topic = running.reader.catalog().topic_by_id(pair.topic).expect("topics of pairs stay").clone();
            let first = ((running.reader.term().0 << 40) + 1).max(self.next_batch[index]);
            let queues = Queues { topic, hash_key: *running.reader.hash_key() };
            let source = Watched { queues, look_ups: self.look_ups.clone() };
            let mut core = Core::new(key, settings, filter, Box::new(source), progress, first, now);
            core.keep(self.keeping);
            core.read_ahead_within(self.room.clone());
            let (polls, settles, leased_at) = (HashMap::new(), HashMap::new(), HashMap::new());
            let sub = Sub { core, polls, settles, appends: HashMap::new(), leased_at };
            running.subs.push(sub);
        }
    }

    /// Lets every subscription and the timer do what is due, until nothing more follows.
    pub fn pump(&mut self) {
        let late = self.running.as_mut().map(|running| std::mem::take(&mut running.fetches));
        for (index, ticket, pointers) in late.unwrap_or_default() {
            self.bring(index, ticket, &pointers);
        }
        for _ in 0..50 {
            let mut is_quiet = true;
            for index in 0..self.running.as_ref().map_or(0, |running| running.subs.len()) {
                let now = self.now();
                let presence = &self.presence;
                let warm_from = self.running.as_ref().expect("the process lives").reader.warm_from();
                let core = &mut self.running.as_mut().expect("the process lives").subs[index].core;
                core.warm_from(warm_from);
                let effects = core.finish(now, presence);
                let wake = core.next_wake();
                must!(
                    wake.is_none_or(|wake| wake > now.tick),
                    "pair {index} wants to wake at {wake:?}, it is {} already",
                    now.tick
                );
                let made = self.next_batch[index]..core.next_batch();
                self.next_batch[index] = made.end;
                let leased_at = &mut self.running.as_mut().expect("the process lives").subs[index].leased_at;
                leased_at.extend(made.rev().take(64).map(|batch| (batch, now)));
                self.oracle.pass(now.tick, &self.presence.told_dead.borrow());
                self.presence.told_dead.borrow_mut().clear();
                is_quiet &= effects.is_empty();
                for effect in effects {
                    self.effect(index, effect);
                }
            }
            if is_quiet {
                self.oracle.pairs.iter_mut().for_each(|pair| pair.on_its_way = 0);
                return;
            }
        }
        panic!("the subscriptions never come to rest");
    }

    pub(super) fn effect(&mut self, index: usize, effect: Effect) {
        let now = self.now();
        match effect {
            Effect::Deliver { poll, batch, messages, bodies, .. } => {
                self.check_bodies(index, &messages, bodies);
                self.delivered(index, poll, batch, &messages);
            }
            Effect::Fetch { ticket, pointers, .. } => self.fetch(index, ticket, pointers),
            Effect::Empty { poll } | Effect::Refuse { poll, .. } => {
                // Cancelled polls may still be refused; nobody listens.
                self.run().subs[index].polls.remove(&poll);
            }
            Effect::Settled { settle, result } => self.settled(index, settle, result.is_ok()),
            Effect::Append { ticket, changes } => {
                say!(self, "pair {index}: append {ticket} {changes:?}");
                self.check_append(index, &changes);
                self.run().subs[index].appends.insert(ticket, Append { changes: changes.clone(), is_old: false });
                if !self.is_well && self.chance.one_in(40) {
                    let refused = AppendError::InboxFull { what: "the simulated inbox", max: 0 };
                    self.append_answered(index, ticket, Err(refused));
                } else {
                    self.submit(Owner::Core(index, ticket), Request::Changes(changes.into()));
                }
            }
            Effect::Seen(..) => {}
            Effect::NeedDeadLetterTopic => {
                let name = GroupName::parse(PAIRS[index].0).expect("legal");
                let name = TopicName::dead_letters_of(&name);
                let existing = self.run().reader.catalog().topic(&name).map(|topic| topic.spec.id);
                match existing {
                    Some(id) => self.dead_letter_topic(index, Ok(id)),
                    None => {
                        let (kind, created_at) = (TopicKind::DeadLetter, now.wall);
                        let spec = TopicSpec::new(name, kind, 1, created_at);
                        self.submit(Owner::DeadLetterTopic(index), Request::CreateTopic(spec));
                    }
                }
            }
        }
    }

    /// Bodies that a subscription wants ahead come at once, later, or not at all.
    fn fetch(&mut self, index: usize, ticket: u64, pointers: Vec<Pointer>) {
        let now = self.now();
        if self.is_well || self.chance.one_in(2) {
            self.bring(index, ticket, &pointers);
        } else if self.chance.one_in(2) {
            self.run().fetches.push((index, ticket, pointers));
        } else {
            self.run().subs[index].core.handle(Event::Fetched(ticket, Vec::new()), now);
        }
    }

    fn bring(&mut self, index: usize, ticket: u64, pointers: &[Pointer]) {
        let now = self.now();
        let running = self.run();
        let bodies = pointers.iter().map(|pointer| running.reader.fetch(*pointer).ok()).collect();
        running.subs[index].core.handle(Event::Fetched(ticket, bodies), now);
    }

    /// What was fetched ahead is what would be read now.
    fn check_bodies(&self, index: usize, messages: &[subscription::Handout], bodies: Vec<Option<StoredMessage>>) {
        let reader = &self.running.as_ref().expect("the process lives").reader;
        must!(messages.len() == bodies.len(), "{} bodies for {} messages", bodies.len(), messages.len());
        for (message, ahead) in messages.iter().zip(bodies) {
            let Some(ahead) = ahead else { continue };
            let read = reader.fetch(message.entry.pointer());
            let slot = (message.receipt.queue, message.receipt.offset);
            if self.oracle.is_passed(index, slot) && read.as_ref().is_err_and(FetchError::is_lost) {
                // It expired on its way.
                continue;
            }
            must!(read.is_ok_and(|read| read == ahead), "the body of {:?} is that of another", message.receipt);
        }
    }

    fn check_append(&mut self, index: usize, changes: &[Change]) {
        let settles = &self.running.as_ref().expect("the process lives").subs[index].settles;
        let claims = |slot| {
            let of_slot = settles.values().filter(|asked| asked.slot() == slot);
            of_slot.map(|asked| claim_of(&asked.settle)).collect::<Vec<_>>()
        };
        self.tally.dead_letters += self.oracle.check_append(index, changes, &claims);
    }

    /// What the log said to an append of a subscription.
    pub(super) fn append_answered(&mut self, index: usize, ticket: u64, result: Result<Done, AppendError>) {
        let now = self.now();
        let append = self.run().subs[index].appends.remove(&ticket).expect("answers are to what is under way");
        match &result {
            Ok(_) => self.oracle.appended(index, &append.changes, append.is_old),
            Err(AppendError::Failed(_)) => self.oracle.maybe_appended(index, &append.changes),
            Err(_) => {}
        }
        self.run().subs[index].core.handle(Event::Answer(ticket, result), now);
    }

    pub(super) fn dead_letter_topic(&mut self, index: usize, topic: Result<TopicId, AppendError>) {
        let now = self.now();
        if let Ok(topic) = topic {
            let group = self.oracle.pairs[index].group;
            self.oracle.pairs.iter_mut().filter(|pair| pair.group == group).for_each(|pair| pair.letters = Some(topic));
        }
        self.run().subs[index].core.dead_letter_topic(topic, now);
    }

    /// New messages may be there, or an operator may have changed progress: the topic rings for both.
    pub(super) fn ring(&mut self) {
        let now = self.now();
        self.run().subs.iter_mut().for_each(|sub| sub.core.handle(Event::Ring, now));
    }

    pub(super) fn next_batch_of(&self, index: usize) -> u64 {
        self.running.as_ref().expect("the process lives").subs[index].core.next_batch()
    }

    /// A queue was sought: what is under way was asked for before. Gives the number of the next batch.
    pub(super) fn note_sought(&mut self, index: usize, queue: QueueIndex) -> u64 {
        let sub = &mut self.run().subs[index];
        sub.settles
            .values_mut()
            .filter(|asked| asked.settle.receipt.queue == queue)
            .for_each(|asked| asked.is_old = true);
        sub.appends.values_mut().for_each(|append| append.is_old = true);
        sub.core.next_batch()
    }

    pub(super) fn delivered(&mut self, index: usize, poll: u64, batch: u64, messages: &[subscription::Handout]) {
        let now = self.now();
        let running = self.running.as_mut().expect("the process lives");
        let Some((client, invisible)) = running.subs[index].polls.remove(&poll) else {
            say!(self, "pair {index}: batch {batch} for a poll that is gone");
            running.subs[index].core.handle(Event::Unwritten(batch), now);
            return;
        };
        // What expired on its way has no body any more, and goes to nobody.
        let is_gone = |message: &subscription::Handout| {
            self.oracle.is_passed(index, (message.receipt.queue, message.receipt.offset))
                && running.reader.fetch(message.entry.pointer()).is_err_and(|error| error.is_lost())
        };
        let messages: Vec<_> = messages.iter().filter(|message| !is_gone(message)).cloned().collect();
        let messages = messages.as_slice();
        if messages.is_empty() {
            running.subs[index].core.handle(Event::Unwritten(batch), now);
            return;
        }
        let slots: Vec<_> = messages.iter().map(|m| (m.receipt.queue, m.receipt.offset, m.receipt.attempt)).collect();
        say!(self, "pair {index}: batch {batch} for {client}: {slots:?}");
        self.oracle.deliver(&running.reader, index, &client, batch, messages, now.tick);
        let started = running.subs[index].leased_at.get(&batch).copied().unwrap_or(now);
        let receipts = messages.iter().map(|message| (message.receipt.queue, message.receipt.offset));
        let overtaken: Vec<_> = receipts.filter(|slot| self.oracle.is_overtaken(index, *slot, batch)).collect();
        let pair = &mut self.oracle.pairs[index];
        *pair.copies.entry(batch).or_default() += 1;
        for message in messages {
            let slot = (message.receipt.queue, message.receipt.offset);
            // A repeated delivery does not prolong its lease, and one that an operator overtook has none.
            let is_new = pair.holds.get(&slot).is_none_or(|hold| hold.batch != batch);
            if is_new && !overtaken.contains(&slot) {
                let Now { wall, tick } = started;
                let until = match invisible {
                    Some(invisible) => {
                        let ms = u64::try_from(invisible.as_millis()).expect("small");
                        Until::Tick { tick: tick + ms, wall: wall.plus_ms(ms) }
                    }
                    None if pair.is_ordered => Until::Alive { from: tick + 60_000, end: u64::MAX },
                    None => Until::Alive { from: tick + 60_000, end: tick + base::limits::RENEWED_LEASE_MS_MAX },
                };
                pair.holds.insert(slot, Hold { batch, client: client.clone(), may_end: false, until });
            }
            self.hands.push(Hand { pair: index, client: client.clone(), receipt: message.receipt });
        }
        // Some replies are not written to their end.
        if self.chance.one_in(12) && !self.is_well {
            self.unwritten(index, batch);
        }
    }

    pub(super) fn unwritten(&mut self, index: usize, batch: u64) {
        say!(self, "pair {index}: batch {batch} was not written");
        let now = self.now();
        let pair = &mut self.oracle.pairs[index];
        let copies = pair.copies.entry(batch).or_insert(1);
        *copies = copies.saturating_sub(1);
        if *copies == 0 {
            let settles = &self.running.as_ref().expect("the process lives").subs[index].settles;
            for (slot, hold) in pair.holds.iter_mut().filter(|(_, hold)| hold.batch == batch) {
                let is_certain = !hold.may_end && settles.values().all(|asked| asked.slot() != *slot);
                pair.attempts.uncounted(*slot, is_certain);
                hold.may_end = true;
            }
        }
        self.run().subs[index].core.handle(Event::Unwritten(batch), now);
    }

    fn settled(&mut self, index: usize, id: u64, is_ok: bool) {
        let asked = self.run().subs[index].settles.remove(&id).expect("settles are answered once");
        let (slot, settle) = (asked.slot(), &asked.settle);
        say!(self, "pair {index}: {:?} of {slot:?} in batch {}: ok {is_ok}", settle.verdict, settle.receipt.batch);
        let is_unknown = self.run().writer.log().failure().is_some();
        let is_alone = self.run().subs[index].settles.values().all(|other| other.slot() != slot);
        let wall_set_at = self.oracle.wall_set_at;
        let pair = &mut self.oracle.pairs[index];
        if !is_ok {
            // Whoever has the handle has had the message.
            pair.attempts.claimed(slot, settle.receipt.attempt);
            if is_unknown {
                pair.forget_wait(slot);
            }
            if let Some(hold) = pair.holds.get_mut(&slot).filter(|_| is_unknown) {
                hold.may_end = true;
            }
            return;
        }
        if asked.is_old || pair.is_void(slot.0, settle.receipt.batch) {
            // It was about a delivery from before a seek, and has no effect.
            return;
        }
        let hold = pair.holds.get(&slot).filter(|hold| hold.batch == settle.receipt.batch);
        let (is_own, is_certain) = (hold.is_some(), hold.is_some_and(|hold| !hold.may_end));
        match settle.verdict {
            Verdict::Ack => {
                pair.acked.insert(slot);
                pair.holds.remove(&slot);
            }
            Verdict::Forward => {
                if is_certain && is_alone && !pair.acked.contains(&slot) {
                    pair.forwarded.insert(slot);
                }
                pair.acked.insert(slot);
                pair.holds.remove(&slot);
            }
            Verdict::Return { after, .. } => {
                let after_ms = u64::try_from(after.as_millis()).expect("small");
                pair.put_off(slot, asked.at, after_ms, wall_set_at, is_certain);
                if is_own {
                    pair.holds.remove(&slot);
                }
            }
        }
    }

    pub(super) fn poll_as(&mut self, pair: usize, which: usize, messages_max: usize, invisible: Option<Duration>) {
        let now = self.now();
        let (client, language) = CLIENTS[which];
        self.presence.away.remove(client);
        self.next_poll += 1;
        let id = self.next_poll;
        let earlier = self.attempts.get(&(pair, which)).filter(|_| self.chance.one_in(3)).cloned();
        let attempt: Arc<str> = earlier.unwrap_or_else(|| format!("attempt {id}").into());
        self.attempts.insert((pair, which), attempt.clone());
        let attempt_id = (!self.chance.one_in(4)).then_some(attempt);
        let client: Arc<str> = client.into();
        let until = now.tick + *self.chance.pick(&[0, 1_000, 20_000]);
        say!(self, "pair {pair}: poll {id} of {client} for {messages_max}, {invisible:?}, {attempt_id:?}");
        let bytes_max = base::limits::RECEIVE_BYTES_MAX;
        let poll = Poll { client: client.clone(), language, messages_max, bytes_max, invisible, attempt_id, until };
        let sub = &mut self.run().subs[pair];
        sub.polls.insert(id, (client, invisible));
        sub.core.handle(Event::Poll(id, poll), now);
    }

    pub(super) fn settle_with(&mut self, hand: Hand, verdict: Verdict) {
        let now = self.now();
        let Hand { pair: index, client, receipt } = hand;
        self.next_poll += 1;
        let id = self.next_poll;
        let slot = (receipt.queue, receipt.offset);
        let settle = Settle { client, receipt, verdict };
        let pair = &mut self.oracle.pairs[index];
        // Handles from before a seek count for nothing.
        let may_count = !pair.is_void(slot.0, receipt.batch);
        if !matches!(verdict, Verdict::Return { .. }) && may_count {
            // What was refused once may have been asked for twice.
            pair.acked_maybe.insert(slot);
        }
        pair.attempts.claimed(slot, receipt.attempt);
        let sub = &mut self.run().subs[index];
        sub.settles.insert(id, Asked { settle: settle.clone(), at: now, is_old: false });
        sub.core.handle(Event::Settle(id, settle), now);
    }

    pub(super) fn cancel_poll(&mut self) {
        let now = self.now();
        let index = self.chance.below(PAIRS.len() as u64) as usize;
        let Some(id) = self.run().subs[index].polls.keys().min().copied() else { return };
        say!(self, "pair {index}: poll {id} is cancelled");
        let sub = &mut self.run().subs[index];
        sub.polls.remove(&id);
        sub.core.handle(Event::CancelPoll(id), now);
    }

    pub(super) fn says_good_bye(&mut self, client: &str) {
        say!(self, "{client} says good-bye");
        let now = self.now();
        self.presence.away.insert(client.into());
        for pair in &mut self.oracle.pairs {
            pair.holds.values_mut().filter(|hold| &*hold.client == client).for_each(|hold| hold.may_end = true);
        }
        for sub in &mut self.run().subs {
            sub.core.handle(Event::ClientGone(client.into()), now);
        }
    }

    pub(super) fn filter(&mut self) {
        let now = self.now();
        let index = self.chance.below(2) as usize;
        let tags: Option<Vec<u8>> = match self.chance.below(3) {
            0 => None,
            1 => Some(vec![0, 1]),
            _ => Some(vec![1, 2]),
        };
        let names =
            tags.as_ref().map(|tags| tags.iter().map(|tag| TAGS[usize::from(*tag)]).collect::<Vec<_>>().join("||"));
        let text = FilterText { kind: FilterKind::Tag, expression: names.unwrap_or_else(|| "*".into()) };
        let key = *self.run().reader.hash_key();
        let (filter, spec) = Filter::parse(&text, &key).expect("legal");
        say!(self, "pair {index}: filter {:?}", spec.expression);
        self.oracle.pairs[index].filters.push(tags);
        self.run().subs[index].core.handle(Event::FilterChanged(filter, spec), now);
    }
}

/// How many attempts a settle says were used.
fn claim_of(settle: &Settle) -> u32 {
    match settle.verdict {
        Verdict::Return { is_suspended: true, .. } => settle.receipt.attempt - 1,
        Verdict::Return { .. } | Verdict::Ack | Verdict::Forward => settle.receipt.attempt,
    }
}
