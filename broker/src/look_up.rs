//! Looking messages up by key and by id. All of it is read on the store's read pool.

use std::ops::ControlFlow;
use std::sync::Arc;

use base::limits::LOOK_UP_TOPICS_MAX;
use base::{LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId, TopicName};
use hashbrown::HashMap;
use storage::hash::Lookup;
use storage::lookup::{Body, Gaps, Query, State};
use storage::threads::Finder;
use storage::view::catalog::{Catalog, Topic};
use storage::view::progress::Slot;
use tokio::sync::oneshot;

use crate::admin::*;
use crate::broker::Broker;
use crate::receive::delivery_of;
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::subscription::{Event, Pair, Seen};

/// Bodies of one page; at least one message is shown, however large.
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Broker {
    /// Messages with a key or an id, newest first, whatever has become of them.
    pub async fn find(&self, find: Find) -> Result<FoundPage, AdminRefusal> {
        let topics = self.shared().topics_to_search(find.topic.as_deref())?;
        self.shared().look_up(move |finder| search(finder, &find, &topics, &|_| true).page()).await
    }

    /// Messages of a topic that have a key and are in its queues, newest first. `queue`, `from`: only there, and from there
    /// on.
    pub async fn find_visible(
        &self,
        find: Find,
        filter: PeekFilter,
        queue: Option<u16>,
        from: PeekFrom,
    ) -> Result<FoundPage, AdminRefusal> {
        let topic = self.shared().topic_to_operate(find.topic.as_deref().unwrap_or_default())?;
        if topic.spec.kind.is_derived() {
            let problem = "bodies in a topic of this kind are found by key in the topic that they were sent to";
            let (FindBy::Key(value) | FindBy::Id(value)) = find.by;
            return Err(AdminRefusal::NotHere { field: "key", value, problem });
        }
        check_queue(&topic, queue)?;
        let is_wanted = move |found: &FoundMessage| {
            let MessageState::Visible { queue: at, offset, since } = found.state else { return false };
            let is_from = match from {
                PeekFrom::Earliest => true,
                PeekFrom::Latest => false,
                PeekFrom::Offset(first) => offset >= first,
                PeekFrom::Time(time) => since >= time,
            };
            is_from && queue.is_none_or(|queue| queue == at.0) && filter.is_let_through(&found.message)
        };
        self.shared().look_up(move |finder| search(finder, &find, &[topic], &is_wanted).page()).await
    }

    /// The newest message with this id, where it is, and how groups stand to it.
    pub async fn find_one(&self, id: &str, topic: Option<&str>) -> Result<FoundMessage, AdminRefusal> {
        let topics = self.shared().topics_to_search(topic)?;
        let name = topic.and(topics.first()).map(|topic| topic.spec.name.clone());
        let by = FindBy::Id(id.to_owned());
        let find = Find { by, topic: None, from: None, to: None, limit: 1, below: None };
        let looked = self.shared().look_up(move |finder| {
            let mut searched = search(finder, &find, &topics, &|_| true);
            let Some(found) = searched.found.pop() else { return Err(warnings(&searched.gaps)) };
            let topic = topics.into_iter().find(|topic| topic.spec.name == found.message.topic);
            let topic = topic.expect("found in one that was searched");
            let dead = dead_letters(finder, &topic, &found);
            Ok((found, topic, dead))
        });
        match looked.await? {
            Ok((mut found, topic, dead)) => {
                if let MessageState::Visible { queue, offset, .. } = found.state {
                    found.groups = Some(self.shared().standings(&topic, (queue, offset), &dead).await);
                }
                Ok(found)
            }
            Err(gaps) if gaps.is_empty() => Err(AdminRefusal::MessageNotFound { id: id.to_owned(), topic: name }),
            Err(gaps) => Err(AdminRefusal::Incomplete { gaps: gaps.join("; ") }),
        }
    }
}

impl Shared {
    /// Runs on a read thread of the store.
    pub async fn look_up<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Finder) -> T + Send + 'static,
    ) -> Result<T, AdminRefusal> {
        let busy = || AdminRefusal::Refused(Refusal::Overloaded { limit: "look-ups that wait for the disk" });
        let (sender, receiver) = oneshot::channel();
        if !self.store.look_up(move |finder| drop(sender.send(look(finder)))) {
            return Err(busy());
        }
        receiver.await.map_err(|_| busy())
    }

    /// The one that is named, or all that bodies are sent to.
    fn topics_to_search(&self, name: Option<&str>) -> Result<Vec<Arc<Topic>>, AdminRefusal> {
        if let Some(name) = name {
            return self.topic_to_operate(name).map(|topic| vec![topic]);
        }
        let catalog = self.store.reader().catalog();
        let is_sent_to = |topic: &&Arc<Topic>| !topic.spec.name.is_derived();
        let topics: Vec<_> = catalog.topics().filter(is_sent_to).cloned().collect();
        if topics.len() > LOOK_UP_TOPICS_MAX {
            return Err(AdminRefusal::TopicNeeded { topics: topics.len(), max: LOOK_UP_TOPICS_MAX });
        }
        Ok(topics)
    }

    /// How every group that reads the topic stands to a message of it, by name.
    async fn standings(
        &self,
        topic: &Topic,
        slot: Slot,
        dead: &HashMap<base::GroupId, QueueOffset>,
    ) -> Vec<GroupMessageState> {
        let reader = self.store.reader();
        let groups: Vec<_> = reader.catalog().groups().cloned().collect();
        let mut standings = Vec::new();
        for group in groups {
            let Some(progress) = reader.progress_if_any(group.id, topic.spec.id) else { continue };
            let pair = Pair { group: group.id, topic: topic.spec.id };
            let (is_done, retry, lease) = {
                let progress = progress.lock();
                if !progress.is_subscribed() {
                    continue;
                }
                let has_it = |lease: &storage::view::progress::Lease| {
                    lease.entries.iter().find(|entry| (entry.queue, entry.offset) == slot).map(|entry| entry.attempt)
                };
                let mut leases = progress.leases();
                let lease =
                    leases.find_map(|(_, lease)| has_it(lease).map(|attempt| (lease.client.to_string(), attempt)));
                (progress.is_acknowledged(slot), progress.retry(slot), lease)
            };
            let mut standing = GroupMessageState {
                group: group.name.clone(),
                state: Standing::Ready,
                attempts: retry.map_or(0, |retry| retry.attempts),
                client: None,
                next_try: None,
                dead_letter: dead.get(&group.id).copied(),
            };
            if is_done {
                let is_dead = standing.dead_letter.is_some();
                standing.state = if is_dead { Standing::DeadLetter } else { Standing::Acknowledged };
            } else if let Some((client, attempt)) = lease {
                (standing.state, standing.attempts, standing.client) = (Standing::InFlight, attempt, Some(client));
            } else if let Some(seen) = self.seen(pair, slot).await {
                standing.attempts = seen.attempts;
                if let Some(client) = seen.client {
                    (standing.state, standing.client) = (Standing::InFlight, Some(client.to_string()));
                } else if let Some(at) = seen.waits_until {
                    (standing.state, standing.next_try) = (Standing::RetryWait, Some(self.now().wall_at(at)));
                }
            } else if let Some(retry) = retry.filter(|retry| retry.next_visible > self.now().wall) {
                (standing.state, standing.next_try) = (Standing::RetryWait, Some(retry.next_visible));
            }
            standings.push(standing);
        }
        standings.sort_unstable_by(|a, b| a.group.cmp(&b.group));
        standings
    }

    /// What a running subscription has in memory of a message.
    async fn seen(&self, pair: Pair, slot: Slot) -> Option<Seen> {
        let inbox = self.subscriptions.get(pair)?;
        let (sender, receiver) = oneshot::channel();
        inbox.push(Event::Look(slot, sender));
        receiver.await.ok().flatten()
    }
}

pub fn check_queue(topic: &Topic, queue: Option<u16>) -> Result<(), AdminRefusal> {
    match queue.filter(|queue| topic.queue(QueueIndex(*queue)).is_none()) {
        None => Ok(()),
        Some(queue) => {
            let (topic, queues) = (topic.spec.name.clone(), topic.spec.queues);
            Err(AdminRefusal::QueueNotFound { topic, queue, queues })
        }
    }
}

/// What a search came to.
struct Searched {
    found: Vec<FoundMessage>,
    next: Option<LogPosition>,
    gaps: Gaps,
}

impl Searched {
    fn page(self) -> FoundPage {
        FoundPage { messages: self.found, next: self.next, warnings: warnings(&self.gaps) }
    }
}

/// One page of what is asked for.
fn search(finder: &Finder, find: &Find, topics: &[Arc<Topic>], is_wanted: &dyn Fn(&FoundMessage) -> bool) -> Searched {
    let ids: Vec<TopicId> = topics.iter().map(|topic| topic.spec.id).collect();
    let (what, text) = match &find.by {
        FindBy::Key(key) => (Lookup::Key, key),
        FindBy::Id(id) => (Lookup::Id, id),
    };
    let stored = find.from.unwrap_or(Timestamp::ZERO)..=find.to.unwrap_or(Timestamp::MAX);
    let query = Query { topics: &ids, what, text, below: find.below, stored };
    let (mut found, mut gaps, mut bytes_left) = (Vec::new(), Gaps::default(), PAGE_BYTES_MAX);
    let looked = finder.find(&query, &mut |body| {
        let is_full = found.len() >= find.limit || (!found.is_empty() && body.message.body.len() > bytes_left);
        if is_full {
            return ControlFlow::Break(());
        }
        let topic = topics.iter().find(|topic| topic.spec.id == body.message.topic);
        let topic = topic.expect("a body is of a topic that was asked for");
        let size = body.message.body.len();
        let message = found_message(finder, body, topic, &mut gaps);
        if is_wanted(&message) {
            bytes_left = bytes_left.saturating_sub(size);
            found.push(message);
        }
        ControlFlow::Continue(())
    });
    gaps.add(looked.gaps);
    Searched { found, next: looked.next, gaps }
}

fn found_message(finder: &Finder, body: Body, topic: &Topic, gaps: &mut Gaps) -> FoundMessage {
    let state = match finder.state(&body, topic, gaps) {
        State::Visible(place) => MessageState::Visible { queue: place.queue, offset: place.offset, since: place.since },
        State::Scheduled { due } => MessageState::Scheduled { due },
        State::Prepared => MessageState::Prepared,
        State::RolledBack => MessageState::RolledBack,
        State::Expired => MessageState::Expired,
        State::Ended => MessageState::Ended,
        State::Unknown => MessageState::Unknown,
    };
    let position = body.pointer.position;
    let mut message = delivery_of(topic.spec.name.clone(), body.message);
    message.stored_at = body.stored_at;
    if let MessageState::Visible { queue, offset, .. } = state {
        (message.queue, message.offset) = (queue, offset);
    }
    FoundMessage { message, position, state, groups: None }
}

/// Where a message is among the dead letters of groups that are done with it.
fn dead_letters(finder: &Finder, topic: &Topic, message: &FoundMessage) -> HashMap<base::GroupId, QueueOffset> {
    let MessageState::Visible { queue, offset, .. } = message.state else { return HashMap::new() };
    let catalog: Arc<Catalog> = finder.reader().catalog().clone();
    let mut found = HashMap::new();
    for group in catalog.groups() {
        let Some(dead) = catalog.topic(&TopicName::dead_letters_of(&group.name)) else { continue };
        let progress = finder.reader().progress_if_any(group.id, topic.spec.id);
        let is_done = progress.is_some_and(|progress| progress.lock().is_acknowledged((queue, offset)));
        // Where it cannot be found out, it is shown as acknowledged, which it is.
        if is_done && let Some(place) = finder.published(dead.spec.id, message.position, &mut Gaps::default()) {
            found.insert(group.id, place.offset);
        }
    }
    found
}

/// What could not be looked through, for people.
pub fn warnings(gaps: &Gaps) -> Vec<String> {
    let mut warnings = Vec::new();
    if !gaps.indexes.is_empty() {
        let files: Vec<&str> = gaps.indexes.iter().map(|error| error.name()).collect();
        warnings.push(format!(
            "these index files cannot be read, what they lead to is left out; damaged ones are being made anew: {}",
            files.join(", ")
        ));
    }
    if !gaps.segments.is_empty() {
        let count = gaps.segments.len();
        warnings.push(format!("{count} of the newest segments cannot be read, what is in them is left out"));
    }
    warnings.extend(unreadable_warning(gaps.bodies.len()));
    warnings
}

pub fn unreadable_warning(count: usize) -> Option<String> {
    (count > 0).then(|| format!("{count} messages that may be among these cannot be read, and are left out"))
}
