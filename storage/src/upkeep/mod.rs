//! Upkeep: what a store does beside its work, so that it can grow old. Sealing, checkpoints, retention, scrubbing.
//!
//! A core without a clock or a thread of its own: the upkeep thread drives it in servers, the simulation step by step.
//!
//! U1. What a step does is either done or can be done again: a crash between any two operations loses nothing.
//! U2. Nothing is removed that one of the two kept checkpoints needs.

mod checkpoint;
mod figures;
mod merge;
mod retention;
mod runs;
mod scrub;
mod seal;
mod thin;

#[cfg(test)]
pub(crate) mod aged_tests;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use base::{BatchIndex, Chance, LogPosition, Term, Timestamp};
use parking_lot::Mutex;

use crate::checkpoint::{CheckpointError, Manifest, Merge, parse_data_name, parse_manifest_name};
use crate::disk::Disk;
use crate::hash::HashKey;
use crate::index;
use crate::log::{Segments, segment, thin as thin_file};
use crate::position::Positions;
use crate::request::{Done, Request};
use crate::timer::TimerCore;
use crate::view::SharedViews;
use crate::view::queue::QueueId;

pub use figures::{Files, Holdings};
pub use merge::Merged;
pub use retention::{Policy, Retained, RetentionError};
pub use scrub::{Damage, Lost, Scrubbed};
pub use seal::{SealError, open_all};
pub use thin::{ThinError, Thinned};

/// Where the log stands. Everything applied is durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    pub positions: Positions,
    pub next_index: BatchIndex,
    pub term: Term,
    pub stored_at: Timestamp,
}

/// Those who own what upkeep only looks at.
pub trait Owners {
    /// Where the log stands when everything that was asked before is applied and durable, and the timers were told.
    fn standing(&mut self) -> Result<Standing, CheckpointError>;
    /// Does something with the timers, between what their owner does otherwise; returns when it is done.
    fn timers(&mut self, errand: Errand);
    /// Returns when it is committed.
    fn append(&mut self, request: Request) -> Result<Done, CheckpointError>;
    /// Called between the parts of a longer work: others go on meanwhile.
    fn meanwhile(&mut self) {}
}

/// Something to be done with the timers. Must be short: timers that are due wait for it.
pub type Errand = Box<dyn FnOnce(&mut TimerCore) + Send>;

/// Does something with the timers, and gives what came of it.
pub(crate) fn at_timers<T: Send + 'static>(
    owners: &mut dyn Owners,
    errand: impl FnOnce(&mut TimerCore) -> T + Send + 'static,
) -> T {
    let slot = Arc::new(Mutex::new(None));
    let answer = slot.clone();
    owners.timers(Box::new(move |timers| *answer.lock() = Some(errand(timers))));
    slot.lock().take().expect("an errand is done when the call returns")
}

/// Adds a damaged range to those that are known, in place of what it overlaps.
pub(crate) fn note_hole(holes: &mut Vec<Range<LogPosition>>, found: Range<LogPosition>) {
    holes.retain(|known| known.end <= found.start || known.start >= found.end);
    let at = holes.partition_point(|known| known.start < found.start);
    holes.insert(at, found);
}

/// What a recovery leaves for upkeep to go on from.
pub struct Legacy {
    pub store: [u8; 16],
    pub hash_key: HashKey,
    pub segments: Segments,
    pub views: SharedViews,
    /// The checkpoint that was restored, and those that are kept besides, newest last.
    pub kept: Vec<Manifest>,
    /// What was damaged, now and before.
    pub holes: Vec<Range<LogPosition>>,
}

/// The state of upkeep.
pub struct Upkeep {
    disk: Arc<dyn Disk>,
    store: [u8; 16],
    hash_key: HashKey,
    segments: Segments,
    views: SharedViews,
    chance: Chance,
    /// Newest last.
    kept: Vec<Manifest>,
    /// Where the views had come to when the newest checkpoint was begun.
    since: LogPosition,
    /// The first segment without an index in use.
    sealed_to: LogPosition,
    /// Queues that were sealed further since the newest checkpoint.
    queues: BTreeSet<QueueId>,
    /// The newest checkpoint is not to be gone on from: what changed since was taken, and lost.
    is_adrift: bool,
    next_number: u64,
    next_table: u64,
    /// The merge that is under way.
    merge: Option<Merge>,
    /// Tables that are in use and that no checkpoint names yet.
    unnamed: BTreeSet<u64>,
    holes: Vec<Range<LogPosition>>,
    /// Segments that nobody reads any more, and whose files are still there.
    leaving: BTreeSet<LogPosition>,
    /// How far scrubbing has come.
    round: scrub::Round,
    /// What was found to be damaged and is not made anew in its place.
    doubtful: runs::Doubtful,
}

impl Upkeep {
    pub fn new(disk: Arc<dyn Disk>, chance: Chance, legacy: Legacy) -> Self {
        let Legacy { store, hash_key, segments, views, kept, holes } = legacy;
        let names = disk.list().unwrap_or_default();
        for segment in segments.load().iter().filter(|segment| segment.thin.is_some()) {
            let base = segment.header.base;
            // A crash came between the thinned file and the end of the whole one: the index may be of the whole one.
            if names.contains(&segment::name(base)) {
                views.index.mistrust(base);
            }
        }
        let newest = kept.last();
        let first = segments.load().first().map_or(LogPosition(0), |segment| segment.header.base);
        let sealed_to = newest.map_or(first, |newest| newest.replay_from);
        Self {
            store,
            hash_key,
            segments,
            views,
            chance,
            since: sealed_to,
            sealed_to,
            queues: BTreeSet::new(),
            is_adrift: false,
            next_number: Self::unused(&*disk, parse_manifest_name),
            next_table: Self::unused(&*disk, parse_data_name)
                .max(kept.iter().map(|of| of.next_table).max().unwrap_or(1)),
            leaving: Self::left_behind(&*disk, &kept, sealed_to),
            round: scrub::Round::default(),
            doubtful: runs::Doubtful::default(),
            disk,
            merge: None,
            unnamed: BTreeSet::new(),
            holes,
            kept,
        }
    }

    /// A number above those of all files: a checkpoint that could not be used names tables too, and none of them may become
    /// another one.
    fn unused(disk: &dyn Disk, parse: fn(&str) -> Option<u64>) -> u64 {
        let names = disk.list().unwrap_or_default();
        names.iter().filter_map(|name| parse(name)).max().map_or(1, |newest| newest + 1)
    }

    /// Files of segments below `sealed_to` that the newest checkpoint does not name.
    fn left_behind(disk: &dyn Disk, kept: &[Manifest], sealed_to: LogPosition) -> BTreeSet<LogPosition> {
        let (Some(newest), Ok(names)) = (kept.last(), disk.list()) else { return BTreeSet::new() };
        let parse = |name: &String| {
            segment::parse_name(name).or_else(|| index::parse_name(name)).or_else(|| thin_file::parse_name(name))
        };
        let bases = names.iter().filter_map(parse);
        let is_named = |base: &LogPosition| newest.segments.iter().any(|header| header.base == *base);
        bases.filter(|base| *base < sealed_to && !is_named(base)).collect()
    }

    /// The newest checkpoint.
    pub fn newest(&self) -> Option<&Manifest> {
        self.kept.last()
    }

    /// U2: what lies below has two checkpoints behind it, and is needed by neither for what it says.
    fn behind_checkpoints(&self) -> Option<LogPosition> {
        let [older, newer] = self.kept.as_slice() else { return None };
        Some(older.replay_from.min(newer.replay_from))
    }

    /// The next checkpoint holds everything, and is due: of this one something is damaged for good.
    pub fn is_adrift(&self) -> bool {
        self.is_adrift
    }

    /// The newest checkpoint names what is damaged for good, and the next one will not.
    pub fn wants_checkpoint(&self) -> bool {
        self.is_adrift || self.doubtful.is_named
    }

    /// The next checkpoint holds everything, and what was damaged where nothing is any more is forgotten.
    pub(crate) fn begin_anew(&mut self) {
        self.is_adrift = true;
        let all = self.segments.load();
        self.holes.retain(|hole| all.iter().any(|of| hole.start < of.header.end() && hole.end > of.header.base));
    }

    /// What was damaged, as far as it is known.
    pub fn holes(&self) -> &[Range<LogPosition>] {
        &self.holes
    }
}
