//! Everything that a log means, in a form that can be compared: two stores with equal snapshots answer alike.

use std::collections::{BTreeMap, BTreeSet};

use base::{GroupId, QueueOffset, Timestamp, TopicId};
use storage::record::ScheduleSpec;
use storage::timer::TimerCore;
use storage::view::Views;
use storage::view::catalog::{GroupSpec, TopicSpec};
use storage::view::progress::Progress;
use storage::view::queue::{Bounds, Entry};
use storage::view::timers::Timer;
use storage::view::transactions::Transactions;

use super::oracle::must;

#[derive(Debug, Clone, PartialEq)]
struct Queue {
    bounds: Bounds,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    topics: BTreeMap<TopicId, (TopicSpec, Vec<Queue>)>,
    groups: BTreeMap<GroupId, GroupSpec>,
    next_ids: (TopicId, GroupId),
    /// What was dropped, and when.
    buried: BTreeSet<(String, Timestamp)>,
    schedules: BTreeMap<String, ScheduleSpec>,
    progress: BTreeMap<(GroupId, TopicId), Progress>,
    transactions: Transactions,
    /// None: they lie on a disk that has lost its power.
    timers: Option<Vec<Timer>>,
}

impl Snapshot {
    pub fn of(views: &Views, timer: &TimerCore) -> Self {
        let catalog = views.catalog.load();
        let mut topics = BTreeMap::new();
        for topic in catalog.topics() {
            let queues = topic.queues.iter().map(|queue| {
                let bounds = queue.bounds();
                let mut entries = Vec::new();
                let mut from = bounds.first;
                while from < bounds.next {
                    queue.read(from, 4096, &mut entries);
                    let end = QueueOffset(bounds.first.0 + entries.len() as u64);
                    must!(end > from, "entries of {:?} from {from} on cannot be read", queue.id());
                    from = end;
                }
                Queue { bounds, entries }
            });
            topics.insert(topic.spec.id, (topic.spec.clone(), queues.collect()));
        }
        // A pair that was only looked at has progress that says nothing.
        let progress = views.progress.lock();
        let progress = progress.iter().map(|(pair, shared)| (*pair, shared.lock().clone()));
        let timers = timer.timers().all().ok().map(|mut timers| {
            timers.sort_unstable_by_key(|timer| (timer.pointer.position, timer.due));
            timers
        });
        let buried_topics = catalog.buried_topics().map(|(name, kind, at)| (format!("topic {name} {kind:?}"), at));
        let buried_groups = catalog.buried_groups().map(|(name, at)| (format!("group {name}"), at));
        Self {
            topics,
            buried: buried_topics.chain(buried_groups).collect(),
            groups: catalog.groups().map(|group| (group.id, GroupSpec::clone(group))).collect(),
            next_ids: (catalog.next_topic(), catalog.next_group()),
            schedules: catalog.schedules().map(|spec| (spec.name.to_string(), spec.clone())).collect(),
            progress: progress.filter(|(_, progress)| *progress != Progress::default()).collect(),
            transactions: views.transactions.lock().clone(),
            timers,
        }
    }

    /// What differs, named; none when nothing does.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let is_same = self.timers.is_none() || other.timers.is_none() || self.timers == other.timers;
        let parts = [
            ("topics", self.topics == other.topics),
            ("groups", self.groups == other.groups),
            ("next ids", self.next_ids == other.next_ids),
            ("buried", self.buried == other.buried),
            ("schedules", self.schedules == other.schedules),
            ("transactions", self.transactions == other.transactions),
            ("timers", is_same),
        ];
        let mut unequal: Vec<String> =
            parts.iter().filter(|(_, is_equal)| !is_equal).map(|(name, _)| (*name).to_owned()).collect();
        for pair in self.progress.keys().chain(other.progress.keys()) {
            let (one, two) = (self.progress.get(pair), other.progress.get(pair));
            if one != two {
                unequal.push(format!("progress of {pair:?}: {one:?} / {two:?}"));
                break;
            }
        }
        for (id, (_, queues)) in &self.topics {
            let others = other.topics.get(id).map_or(&[][..], |(_, queues)| queues);
            if let Some((one, two)) = queues.iter().zip(others).find(|(one, two)| one != two) {
                unequal.push(format!("a queue of {id}: {:?} / {:?}", one.bounds, two.bounds));
                let at = one.entries.iter().zip(&two.entries).find(|(one, two)| one != two);
                unequal.push(format!("{at:?}"));
            }
        }
        if !is_same {
            unequal.push(format!("{:?} / {:?}", self.timers, other.timers));
        }
        (!unequal.is_empty()).then(|| unequal.join("; "))
    }
}
