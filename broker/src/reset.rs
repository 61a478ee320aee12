//! Resets: a group goes on at another place of a topic, with consumers online too.
//!
//! What becomes of it is the log's to say: one batch of `Seek` records, one for each queue. Each begins a generation of its
//! queue, so what was out is out no more, late acknowledgements do nothing, and attempts and order begin anew. A running
//! subscription hears of it from the log (`subscription::operated`).

use base::{QueueIndex, QueueOffset, Timestamp};
use storage::record::{Fact, FilterSpec};
use storage::request::{Change, Lane, Request};
use storage::view::catalog::{GroupSpec, Topic};
use storage::view::progress::Progress;

use crate::admin::AdminRefusal;
use crate::broker::Broker;
use crate::look_up::check_queue;
use crate::shared::{Shared, store_refusal};
use crate::subscription::task::start_of;

/// What to reset, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    pub topic: String,
    /// None: all of them.
    pub queue: Option<u16>,
    pub to: ResetTo,
}

/// Where a group goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResetTo {
    /// What is stored still.
    Earliest,
    /// What comes from now on.
    Latest,
    /// The first message that became visible then, or later.
    Time(Timestamp),
    /// Within one queue.
    Offset(u64),
    /// So many offsets further in each queue, at most to its end.
    Skip(u64),
    /// Where another group is: everything below is acknowledged there.
    Group(String),
}

/// What a reset does, or would do, to a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueReset {
    pub queue: QueueIndex,
    /// Everything below was acknowledged.
    pub old: QueueOffset,
    pub new: QueueOffset,
    /// Messages that were acknowledged, and come again.
    pub repeated: u64,
    /// Messages that were not acknowledged, and do not come any more.
    pub skipped: u64,
}

impl Broker {
    /// Resets a group, or, when it is `dry`, only says what would become of it. Durable when it is answered.
    pub async fn reset(&self, group: &str, reset: &Reset, is_dry: bool) -> Result<Vec<QueueReset>, AdminRefusal> {
        let shared = self.shared();
        let group = shared.group_to_operate(group)?;
        let topic = shared.topic_to_operate(&reset.topic)?;
        check_queue(&topic, reset.queue)?;
        let plan = shared.plan(&group, &topic, reset)?;
        if is_dry {
            return Ok(plan);
        }
        let request = Request::Changes(shared.seeks(&group, &topic, &plan).into_iter().collect());
        let done = shared.submit(Lane::Request, request).await;
        done.map_err(|error| AdminRefusal::Refused(store_refusal(&error)))?;
        tracing::info!(group = %group.name, topic = %topic.spec.name, to = ?reset.to, "a group was reset");
        Ok(plan)
    }
}

impl Shared {
    fn plan(&self, group: &GroupSpec, topic: &Topic, reset: &Reset) -> Result<Vec<QueueReset>, AdminRefusal> {
        if reset.queue.is_none() && topic.queues.len() > 1 && matches!(reset.to, ResetTo::Offset(_)) {
            let problem = "counts within one queue: name it";
            return Err(AdminRefusal::IllegalValue { field: "queue", value: "null".into(), problem });
        }
        let reader = self.store.reader();
        let others = match &reset.to {
            ResetTo::Group(name) => self.floors_of(name, topic)?,
            _ => Vec::new(),
        };
        let progress = reader.progress_if_any(group.id, topic.spec.id);
        let start = start_of(topic, group.created_at);
        let queues = topic.queues.iter().zip(start);
        let queues = queues.filter(|(_, (queue, _))| reset.queue.is_none_or(|only| only == queue.0));
        queues
            .map(|(entries, (queue, start))| {
                let bounds = entries.bounds();
                let progress = progress.as_ref().map(|progress| progress.lock());
                let progress = progress.as_deref().filter(|progress| progress.is_subscribed());
                let old = progress.map_or(start, |progress| progress.floor(queue)).max(bounds.first).min(bounds.next);
                let new = match &reset.to {
                    ResetTo::Earliest => bounds.first,
                    ResetTo::Latest => bounds.next,
                    ResetTo::Time(time) => entries.offset_at(*time),
                    ResetTo::Offset(offset) if (bounds.first.0..=bounds.next.0).contains(offset) => {
                        QueueOffset(*offset)
                    }
                    ResetTo::Offset(value) => {
                        let (min, max) = (bounds.first.0, bounds.next.0);
                        return Err(AdminRefusal::OutOfRange { field: "to.offset", value: *value, min, max });
                    }
                    ResetTo::Skip(count) => QueueOffset(old.0.saturating_add(*count)),
                    ResetTo::Group(_) => others.get(usize::from(queue.0)).copied().unwrap_or(old),
                };
                let new = new.max(bounds.first).min(bounds.next);
                let unread_below = |offset: QueueOffset| match progress {
                    Some(progress) => progress.unread_below(queue, offset),
                    None => offset.0.saturating_sub(old.0),
                };
                let unread_above = unread_below(bounds.next).saturating_sub(unread_below(new));
                let repeated = (bounds.next.0 - new.0).saturating_sub(unread_above);
                Ok(QueueReset { queue, old, new, repeated, skipped: unread_below(new) })
            })
            .collect()
    }

    /// Where the group is that another one shall follow, by queue. No two groups are locked at a time.
    fn floors_of(&self, name: &str, topic: &Topic) -> Result<Vec<QueueOffset>, AdminRefusal> {
        let group = self.group_to_operate(name)?;
        let progress = self.store.reader().progress_if_any(group.id, topic.spec.id);
        let progress = progress.as_ref().map(|progress| progress.lock());
        let Some(progress) = progress.as_deref().filter(|progress| progress.is_subscribed()) else {
            let problem = "is a group that has not read this topic";
            return Err(AdminRefusal::IllegalValue { field: "to.group", value: name.into(), problem });
        };
        Ok(topic.queues.iter().map(|queue| progress.floor(queue.id().queue)).collect())
    }

    /// The records of a plan. A group that never read the topic begins with its first contact, or that would say later
    /// where it starts.
    fn seeks(&self, group: &GroupSpec, topic: &Topic, plan: &[QueueReset]) -> Vec<Change> {
        let (group_id, topic_id) = (group.id, topic.spec.id);
        let progress = self.store.reader().progress_if_any(group_id, topic_id);
        let progress = progress.as_ref().map(|progress| progress.lock());
        let progress: Option<&Progress> = progress.as_deref();
        let mut changes = Vec::with_capacity(plan.len() + 1);
        if !progress.is_some_and(Progress::is_subscribed) {
            let start = start_of(topic, group.created_at);
            let filter = FilterSpec { is_sql: false, expression: "*".into() };
            changes.push(Change::Fact(Fact::Subscribe { group: group_id, topic: topic_id, start, filter }));
        }
        changes.extend(plan.iter().map(|QueueReset { queue, new, .. }| {
            let known = progress.map_or(0, |progress| progress.generation(*queue));
            let (queue, to, generation) = (*queue, *new, known.saturating_add(1));
            Change::Fact(Fact::Seek { group: group_id, topic: topic_id, queue, to, generation })
        }));
        changes
    }
}
