//! All index files of a store: where entries of sealed segments are read, and messages looked up.
//!
//! S1. A path lists the stretches of one queue in ascending order, and every one up to the segment that it was made for.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base::{LogPosition, QueueOffset, Timestamp, TopicId};
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::{SegmentIndex, Stretch};
use crate::hash::HashKey;
use crate::table::TableError;
use crate::view::queue::{Entry, QueueId};

/// Stretches that are remembered for all queues together: 32 B each.
const STRETCHES_MAX: usize = 1 << 18;

/// Where one queue's entries are, as far as somebody has asked.
#[derive(Debug, Clone)]
struct Path {
    stretches: Vec<(LogPosition, Stretch)>,
    /// The base of the newest segment that was looked at.
    through: Option<LogPosition>,
}

#[derive(Debug, Default)]
struct Paths {
    by_queue: HashMap<QueueId, Arc<Path>>,
    stretches: usize,
    /// Raised when a segment goes: paths made before mean nothing.
    generation: u64,
}

/// Shared by everybody who reads queues; the upkeep thread adds and removes.
#[derive(Debug, Default)]
pub struct Sealed {
    /// By base.
    indexes: ArcSwap<Vec<Arc<SegmentIndex>>>,
    /// Paths of queues that are read: a look-up in the directories of many segments is dear.
    paths: Mutex<Paths>,
    /// Segments whose index was found to be damaged and has to be made anew.
    damaged: Mutex<BTreeSet<LogPosition>>,
}

impl Sealed {
    /// Of a store that has sealed nothing.
    pub fn nowhere() -> Self {
        Self::default()
    }

    /// Oldest first.
    pub fn indexes(&self) -> arc_swap::Guard<Arc<Vec<Arc<SegmentIndex>>>> {
        self.indexes.load()
    }

    pub fn find(&self, base: LogPosition) -> Option<Arc<SegmentIndex>> {
        let all = self.indexes.load();
        all.binary_search_by_key(&base, |index| index.base()).ok().map(|at| all[at].clone())
    }

    /// Takes an index in; in place of an older one of the same segment.
    pub(crate) fn add(&self, index: SegmentIndex) {
        let mut all = Vec::clone(&self.indexes.load());
        let is_newest = all.last().is_none_or(|newest| newest.base() < index.base());
        let base = index.base();
        match all.binary_search_by_key(&base, |index| index.base()) {
            Ok(at) => all[at] = Arc::new(index),
            Err(at) => all.insert(at, Arc::new(index)),
        }
        self.indexes.store(Arc::new(all));
        if !is_newest {
            self.forget_paths();
        }
        self.damaged.lock().remove(&base);
    }

    /// Its segment goes.
    pub(crate) fn remove(&self, base: LogPosition) {
        let mut all = Vec::clone(&self.indexes.load());
        all.retain(|index| index.base() != base);
        self.indexes.store(Arc::new(all));
        self.forget_paths();
        self.damaged.lock().remove(&base);
    }

    fn forget_paths(&self) {
        let mut paths = self.paths.lock();
        *paths = Paths { generation: paths.generation + 1, ..Paths::default() };
    }

    /// Segments whose index is to be made anew.
    pub fn damaged(&self) -> Vec<LogPosition> {
        self.damaged.lock().iter().copied().collect()
    }

    /// Somebody read what is not what was written.
    pub fn report(&self, base: LogPosition, error: &TableError) {
        if error.is_damage() {
            tracing::error!(segment = base.0, %error, "an index file is damaged and will be made anew");
            self.damaged.lock().insert(base);
        }
    }

    /// It is made anew, without being known to be damaged.
    pub fn mistrust(&self, base: LogPosition) {
        self.damaged.lock().insert(base);
    }

    fn noted<T>(&self, index: &SegmentIndex, result: Result<T, TableError>) -> Result<T, TableError> {
        result.inspect_err(|error| self.report(index.base(), error))
    }

    /// Adds `count` entries of a queue from `from` on to `out`. What no index has was lost to damage.
    pub fn read(&self, id: QueueId, from: QueueOffset, count: usize, out: &mut Vec<Entry>) -> Result<(), TableError> {
        let path = self.path(id)?;
        let end = from.0 + count as u64;
        let mut at = from.0;
        let mut newest = Timestamp::ZERO;
        let lose = |out: &mut Vec<Entry>, at: &mut u64, to: u64, newest: Timestamp| {
            while *at < to {
                out.push(Entry::lost(newest));
                *at += 1;
            }
        };
        let first = path.stretches.partition_point(|(_, stretch)| stretch.end().0 <= at);
        for (base, stretch) in &path.stretches[first..] {
            if at >= end {
                break;
            }
            lose(out, &mut at, stretch.first.0.min(end), newest);
            let Some(index) = self.find(*base) else { continue };
            if at < end {
                let before = out.len();
                let read = index.entries(*stretch, at - stretch.first.0, end - at, out);
                self.noted(&index, read)?;
                at += (out.len() - before) as u64;
                newest = out.last().map_or(newest, |entry| entry.visible_since);
            }
        }
        lose(out, &mut at, end, newest);
        Ok(())
    }

    /// Where a queue's entries are, in all index files that there are now.
    fn path(&self, id: QueueId) -> Result<Arc<Path>, TableError> {
        let (known, generation) = {
            let paths = self.paths.lock();
            (paths.by_queue.get(&id).cloned(), paths.generation)
        };
        let all = self.indexes.load();
        let newest = all.last().map(|index| index.base());
        if let Some(known) = known.as_ref().filter(|known| known.through == newest) {
            return Ok(known.clone());
        }
        let mut path = known.map_or(Path { stretches: Vec::new(), through: None }, |known| Path::clone(&known));
        let seen = path.through.map_or(0, |through| all.partition_point(|index| index.base() <= through));
        for index in &all[seen..] {
            if let Some(stretch) = self.noted(index, index.stretch(id))? {
                path.stretches.push((index.base(), stretch));
            }
        }
        path.through = newest;
        let path = Arc::new(path);
        let mut paths = self.paths.lock();
        if paths.generation == generation {
            if paths.stretches + path.stretches.len() > STRETCHES_MAX {
                *paths = Paths { generation, ..Paths::default() };
            }
            paths.stretches += path.stretches.len() + 1;
            if let Some(old) = paths.by_queue.insert(id, path.clone()) {
                paths.stretches -= old.stretches.len() + 1;
            }
        }
        Ok(path)
    }

    /// For whom an older segment has to stay: calls `visit` with each stretch of it of which bodies became visible in a sealed
    /// segment behind it, in which topic, and when the newest did.
    pub fn references(
        &self,
        segment: &Range<LogPosition>,
        visit: &mut dyn FnMut(u64, TopicId, Timestamp),
    ) -> Result<(), TableError> {
        for index in self.indexes.load().iter().filter(|index| index.base() >= segment.end) {
            self.noted(index, index.references(segment, visit))?;
        }
        Ok(())
    }

    /// Where records lie that are found by this hash in one segment, in order.
    pub(crate) fn named(&self, index: &SegmentIndex, hash: u64) -> Result<Vec<LogPosition>, TableError> {
        self.noted(index, index.named(hash))
    }

    /// Entries of a message group in the sealed part of a queue from `from` on, below `until`: at most about `max`, added to
    /// `out`. What cannot be read ends it.
    pub(crate) fn members(&self, of: &Members<'_>, max: usize, out: &mut Vec<(QueueOffset, Entry)>) -> Looked {
        let hash = of.hash_key.lookup_group(of.id.topic, of.group_hash);
        let path = match self.path(of.id) {
            Ok(path) => path,
            Err(error) => return Looked { to: of.from, error: Some(error) },
        };
        let until = of.until.0;
        let first = path.stretches.partition_point(|(_, stretch)| stretch.end() <= of.from);
        for (base, stretch) in &path.stretches[first..] {
            if stretch.first.0 >= until {
                break;
            }
            let at = of.from.max(stretch.first);
            if out.len() >= max {
                return Looked { to: at, error: None };
            }
            let Some(index) = self.find(*base) else { continue };
            let room = max - out.len();
            let read = self.noted(&index, index.members(*stretch, at.0 - stretch.first.0, hash, room));
            let members = match read {
                Ok(members) => members,
                Err(error) => return Looked { to: at, error: Some(error) },
            };
            let is_full = members.len() >= room;
            let last = members.last().map(|(offset, _)| *offset);
            let is_its = |(offset, entry): &(u64, Entry)| *offset < until && entry.group_hash == of.group_hash;
            out.extend(members.into_iter().filter(is_its).map(|(offset, entry)| (QueueOffset(offset), entry)));
            if is_full {
                return Looked { to: QueueOffset(last.map_or(until, |last| last + 1).min(until)), error: None };
            }
        }
        Looked { to: of.until, error: None }
    }
}

/// Which entries are looked for.
#[derive(Debug, Clone, Copy)]
pub struct Members<'a> {
    pub hash_key: &'a HashKey,
    pub id: QueueId,
    pub group_hash: u64,
    pub from: QueueOffset,
    pub until: QueueOffset,
}

/// How far a queue was looked through.
#[derive(Debug)]
pub(crate) struct Looked {
    pub to: QueueOffset,
    /// Why it was not further.
    pub error: Option<TableError>,
}
