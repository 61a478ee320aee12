//! Looking at the messages of a topic without consuming them, queue by queue: all of them, or those of a message group or tag.

use std::sync::Arc;

use base::limits::{LOOK_UP_ENTRIES_MAX, READ_ENTRIES_MAX};
use base::{QueueIndex, QueueOffset};
use storage::hash::HashKey;
use storage::lookup::{self, Gaps, Wanted};
use storage::reads::{Asker, Urgency};
use storage::record::Pointer;
use storage::view::catalog::Topic;
use storage::view::progress::Slot;
use storage::view::queue::{Entry, Queue};

use crate::admin::*;
use crate::api::Delivery;
use crate::broker::Broker;
use crate::look_up::{PAGE_BYTES_MAX, check_queue, unreadable_warning, warnings};
use crate::receive::unreadable;

/// Bodies are fetched in steps, so that a page of large ones ends before it fills the memory.
const STEP: usize = 32;

impl Broker {
    /// A page of a topic's messages: those of the queues from `start` on, of later queues from `from` on. What is lost to
    /// damage is left out, and told.
    pub async fn peek(
        &self,
        topic: &str,
        queue: Option<u16>,
        from: PeekFrom,
        start: Option<Slot>,
        filter: PeekFilter,
        limit: usize,
    ) -> Result<PeekedPage, AdminRefusal> {
        let topic = self.shared().topic_to_operate(topic)?;
        check_queue(&topic, queue)?;
        let hash_key = *self.shared().store.reader().hash_key();
        let (mut page, mut gaps) =
            (PeekedPage { messages: Vec::new(), next: start, warnings: Vec::new() }, Gaps::default());
        let (mut bytes_left, mut unread) = (PAGE_BYTES_MAX, 0);
        loop {
            let walk = Walk::new(&topic, queue, from, page.next, &filter, &hash_key);
            let room = limit - page.messages.len();
            // All that is there needs no search.
            let walked = match filter == PeekFilter::default() {
                true => walk.run(room),
                false => self.shared().look_up(move |_| walk.run(room)).await?,
            };
            let (is_stuck, is_short) = (!walked.gaps.is_empty(), walked.entries.len() < room);
            gaps.add(walked.gaps);
            page.next = walked.next;
            for step in walked.entries.chunks(STEP) {
                let pointers: Vec<Pointer> = step.iter().map(|(_, entry)| entry.pointer()).collect();
                let stored = self.shared().fetch_all(Asker::LookUp, Urgency::Live, &pointers).await;
                for ((slot, entry), stored) in step.iter().zip(stored.map_err(AdminRefusal::Refused)?) {
                    let stored = match stored {
                        Err(error) if error.is_lost() => {
                            tracing::error!(%error, topic = %topic.spec.name, queue = slot.0.0, offset = slot.1.0,
                                "a message is lost to damage and is not shown");
                            unread += 1;
                            continue;
                        }
                        stored => stored.map_err(|error| AdminRefusal::Refused(unreadable(&error)))?,
                    };
                    // At least one message is shown, however large.
                    if !page.messages.is_empty() && stored.body.len() > bytes_left {
                        page.next = Some(*slot);
                        return Ok(page.told(&gaps, unread));
                    }
                    let peeked = self.shared().peeked(&topic, *slot, entry, stored);
                    // Hashes may agree by chance.
                    if filter.is_let_through(&peeked.message) {
                        bytes_left = bytes_left.saturating_sub(peeked.message.body.len());
                        page.messages.push(peeked);
                    }
                }
            }
            // What was lost made room for more.
            if page.next.is_none() || page.messages.len() >= limit || is_stuck || is_short {
                return Ok(page.told(&gaps, unread));
            }
        }
    }
}

impl PeekedPage {
    fn told(self, gaps: &Gaps, unread: usize) -> Self {
        let mut warnings = warnings(gaps);
        warnings.extend(unreadable_warning(unread));
        Self { warnings, ..self }
    }
}

impl PeekFilter {
    pub fn is_let_through(&self, message: &Delivery) -> bool {
        let is = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
        is(&self.message_group, &message.message_group) && is(&self.tag, &message.tag)
    }
}

/// Entries of a topic that a filter may let through, queue by queue.
struct Walk {
    queues: Vec<Arc<Queue>>,
    from: PeekFrom,
    start: Option<(QueueIndex, QueueOffset)>,
    group_hash: Option<u64>,
    tag_hash: Option<u32>,
    hash_key: HashKey,
}

#[derive(Default)]
struct Walked {
    entries: Vec<(Slot, Entry)>,
    next: Option<Slot>,
    gaps: Gaps,
}

impl Walk {
    fn new(
        topic: &Topic,
        queue: Option<u16>,
        from: PeekFrom,
        start: Option<(QueueIndex, QueueOffset)>,
        filter: &PeekFilter,
        hash_key: &HashKey,
    ) -> Self {
        let group_hash = filter.message_group.as_ref().map(|group| hash_key.message_group(group));
        let only = group_hash.filter(|_| topic.spec.kind.has_fixed_queues() && !topic.queues.is_empty());
        // The messages of a message group are in one queue, as long as there are always so many.
        let only = only.map(|hash| hash % topic.queues.len() as u64);
        let is_walked = |of: &Arc<Queue>| {
            let number = of.id().queue;
            queue.is_none_or(|queue| queue == number.0)
                && only.is_none_or(|only| only == u64::from(number.0))
                && start.is_none_or(|(first, _)| number >= first)
        };
        let queues = topic.queues.iter().filter(|queue| is_walked(queue)).cloned().collect();
        let tag_hash = filter.tag.as_ref().map(|tag| hash_key.tag(tag));
        Self { queues, from, start, group_hash, tag_hash, hash_key: *hash_key }
    }

    fn run(&self, limit: usize) -> Walked {
        let mut walked = Walked::default();
        // Without a filter all that is not lost is wanted, so the limit is bound enough.
        let is_filtered = self.group_hash.is_some() || self.tag_hash.is_some();
        let mut left = if is_filtered { LOOK_UP_ENTRIES_MAX } else { usize::MAX };
        for queue in &self.queues {
            let number = queue.id().queue;
            let at = match (self.start, self.from) {
                (Some((of, offset)), _) if of == number => offset,
                (_, PeekFrom::Earliest) => queue.bounds().first,
                (_, PeekFrom::Latest) => queue.bounds().next,
                (_, PeekFrom::Offset(offset)) => offset,
                (_, PeekFrom::Time(time)) => queue.offset_at(time),
            };
            let next = match self.group_hash {
                Some(group_hash) => self.members(queue, group_hash, at, limit, &mut walked),
                None => self.all(queue, at, limit, &mut left, &mut walked),
            };
            if let Some(next) = next {
                walked.next = Some((number, next));
                return walked;
            }
        }
        walked
    }

    /// Gives where to go on in this queue; none at its end.
    fn members(
        &self,
        queue: &Queue,
        group_hash: u64,
        mut at: QueueOffset,
        limit: usize,
        walked: &mut Walked,
    ) -> Option<QueueOffset> {
        loop {
            let room = limit - walked.entries.len();
            if room == 0 {
                return (at < queue.bounds().next).then_some(at);
            }
            let until = QueueOffset(u64::MAX);
            let wanted = Wanted { group_hash, from: at, until, max: room, walked_max: LOOK_UP_ENTRIES_MAX };
            let members = lookup::members(&self.hash_key, queue, &wanted);
            let is_stuck = !members.gaps.is_empty();
            walked.gaps.add(members.gaps);
            let number = queue.id().queue;
            let wanted = members.entries.into_iter().filter(|(_, entry)| self.may_match(entry));
            walked.entries.extend(wanted.map(|(offset, entry)| ((number, offset), entry)));
            // Where nothing could be read nothing more is, either: the next page tries again.
            match members.next {
                Some(next) if next > at && !is_stuck => at = next,
                next => return next,
            }
        }
    }

    fn all(
        &self,
        queue: &Queue,
        mut at: QueueOffset,
        limit: usize,
        left: &mut usize,
        walked: &mut Walked,
    ) -> Option<QueueOffset> {
        let mut entries = Vec::new();
        while walked.entries.len() < limit && *left > 0 {
            entries.clear();
            at = queue.read(at, READ_ENTRIES_MAX.min(*left), &mut entries);
            if entries.is_empty() {
                break;
            }
            *left -= entries.len();
            for entry in &entries {
                if walked.entries.len() >= limit {
                    break;
                }
                if self.may_match(entry) {
                    walked.entries.push(((queue.id().queue, at), *entry));
                }
                at = at.next();
            }
        }
        (at < queue.bounds().next).then_some(at)
    }

    fn may_match(&self, entry: &Entry) -> bool {
        !entry.is_lost() && self.tag_hash.is_none_or(|hash| hash == entry.tag_hash)
    }
}
