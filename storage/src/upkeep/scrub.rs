//! Scrubbing: what is no longer written is read again and again, so that damage is found while something is left to mend it
//! from, or at least named before somebody misses what it took.
//!
//! A round goes through the runs of timers, which nobody has read when a store is opened, and then through sealed segments,
//! index files, and the other tables and the manifests of the kept checkpoints.
//!
//! C1. Where it is only memory knows: a restart begins a new round.
//! C2. A step ends when its bytes are read. Only mending, and the search for what lies behind damage, take longer.
//! C3. Damage of the log is found once: what is known to be a hole is no news.

use std::ops::Range;

use base::{LogPosition, QueueIndex, QueueOffset, TopicId};

use super::{Upkeep, note_hole};
use crate::checkpoint::{self, ManifestFile, Pair};
use crate::index::{self, SegmentIndex};
use crate::log::recovery::Found;
use crate::log::sealed::{self, Reading};
use crate::log::segment::{self, Segment};
use crate::log::thin;
use crate::record;
use crate::table;
use crate::verify;
use crate::view::queue::{Entry, QueueId};

/// What is read, in the order of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Segment(LogPosition),
    Index(LogPosition),
    /// Number, kind, and which half of the pair.
    Table(u64, table::Kind, Half),
    Manifest(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Half {
    Data,
    Copy,
}

/// How far the round has come.
#[derive(Debug, Default)]
pub(super) struct Round {
    are_runs_read: bool,
    done: Option<Unit>,
    under_way: Option<Part>,
}

/// A unit that was begun.
#[derive(Debug)]
struct Part {
    unit: Unit,
    /// Of a segment.
    reading: Option<Reading>,
    /// Bodies with a wrong checksum in sound batches.
    wrong: Vec<Range<LogPosition>>,
    /// Of a table.
    block: u64,
}

/// Messages that damage took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub topic: TopicId,
    pub queue: QueueIndex,
    pub offsets: Range<u64>,
    /// Hashes of their message groups.
    pub message_groups: Vec<u64>,
}

/// What a scrub came by.
#[derive(Debug)]
pub enum Damage {
    /// Of the log: named, and not served any more.
    Hole {
        range: Range<LogPosition>,
        lost: Vec<Lost>,
    },
    /// An index file; [`Upkeep::mend_indexes`] makes it anew.
    Index {
        segment: LogPosition,
    },
    /// Half of a pair, which was made anew.
    Table {
        name: String,
    },
    /// Both halves of a pair. Of a run of timers, [`Upkeep::mend_runs`] makes it anew; otherwise the next checkpoint holds
    /// everything, and is due.
    Pair {
        name: String,
    },
    /// A run of timers of which some was in neither half: rebuilt, with what the log had of it.
    Run {
        number: u64,
        recovered: u64,
        lost: u64,
    },
    Manifest {
        number: u64,
    },
    /// It could not be read; the next round tries again.
    Unread {
        name: String,
    },
}

/// What a step did.
#[derive(Debug, Default)]
pub struct Scrubbed {
    pub bytes: u64,
    /// A round ended.
    pub is_round: bool,
    pub found: Vec<Damage>,
}

impl Upkeep {
    /// Reads about `budget` bytes more of what is no longer written. Ends early at the end of a round.
    pub fn scrub(&mut self, budget: u64) -> Scrubbed {
        let mut scrubbed = Scrubbed::default();
        while scrubbed.bytes < budget {
            let Some(mut part) = self.next_part() else {
                scrubbed.is_round = true;
                self.round = Round::default();
                return scrubbed;
            };
            let left = budget - scrubbed.bytes;
            let is_done = match part.unit {
                Unit::Segment(base) => self.scrub_segment(base, &mut part, left, &mut scrubbed),
                Unit::Index(base) => self.scrub_index(base, &mut part, left, &mut scrubbed),
                Unit::Table(number, kind, half) => {
                    self.scrub_table((kind, number, half), &mut part, left, &mut scrubbed)
                }
                Unit::Manifest(number) => self.scrub_manifest(number, &mut scrubbed),
            };
            match is_done {
                true => self.round = Round { done: Some(part.unit), under_way: None, ..self.round },
                false => self.round.under_way = Some(part),
            }
        }
        scrubbed
    }

    fn next_part(&mut self) -> Option<Part> {
        let units = self.units();
        // What was begun may have gone meanwhile.
        if let Some(part) = self.round.under_way.take().filter(|part| units.contains(&part.unit)) {
            return Some(part);
        }
        let part = |unit| Part { unit, reading: None, wrong: Vec::new(), block: 0 };
        loop {
            let Round { are_runs_read, done, .. } = self.round;
            let is_run = |unit: &Unit| matches!(unit, Unit::Table(_, table::Kind::Timers, _));
            let left =
                units.iter().filter(|unit| is_run(unit) != are_runs_read && done.is_none_or(|done| **unit > done));
            match left.min() {
                Some(unit) => return Some(part(*unit)),
                None if are_runs_read => return None,
                None => self.round = Round { are_runs_read: true, ..Round::default() },
            }
        }
    }

    fn units(&self) -> Vec<Unit> {
        let mut units = Vec::new();
        for segment in self.segments.load().iter().filter(|segment| segment.header.base < self.sealed_to) {
            units.extend([Unit::Segment(segment.header.base), Unit::Index(segment.header.base)]);
        }
        for manifest in &self.kept {
            units.push(Unit::Manifest(manifest.number));
            for (kind, table) in manifest.tables() {
                units.extend([Half::Data, Half::Copy].map(|half| Unit::Table(table.number, kind, half)));
            }
        }
        units
    }

    fn scrub_segment(&mut self, base: LogPosition, part: &mut Part, left: u64, scrubbed: &mut Scrubbed) -> bool {
        let all = self.segments.load_full();
        let Some(at) = all.iter().position(|segment| segment.header.base == base) else { return true };
        let segment = &all[at];
        if let Some(thin) = &segment.thin {
            scrubbed.bytes += thin.bytes();
            match thin.holes() {
                Ok(holes) => self.quarantine(segment, holes, scrubbed),
                // Without its directory nothing of it can be found.
                Err(error) if error.is_damage() => {
                    self.quarantine(segment, vec![segment.header.base..segment.header.end()], scrubbed);
                }
                Err(error) => return self.unread(thin::name(base), &error, scrubbed),
            }
            return true;
        }
        let next_index = sealed::next_index(&all, at);
        let reading = part.reading.get_or_insert_with(|| Reading::new(segment));
        let began = reading.at();
        let wrong = &mut part.wrong;
        let went = reading.go_on(segment, next_index, left, &mut |found| {
            wrong_bodies(&found, wrong);
        });
        // At least one: a budget must come to an end.
        scrubbed.bytes += reading.at().since(began).max(1);
        match went {
            Ok(false) => false,
            Ok(true) => {
                let found = reading.content().holes.iter().chain(part.wrong.iter()).cloned();
                let found: Vec<_> = found.collect();
                self.quarantine(segment, found, scrubbed);
                true
            }
            Err(error) => self.unread(segment::name(base), &error, scrubbed),
        }
    }

    fn unread(&self, name: String, error: &dyn std::fmt::Display, scrubbed: &mut Scrubbed) -> bool {
        tracing::error!(name, %error, "a file cannot be read to be verified");
        scrubbed.found.push(Damage::Unread { name });
        true
    }

    /// Names what is news (C3).
    fn quarantine(&mut self, segment: &Segment, found: Vec<Range<LogPosition>>, scrubbed: &mut Scrubbed) {
        for range in found {
            let is_known = |hole: &Range<LogPosition>| hole.start <= range.start && hole.end >= range.end;
            if self.holes.iter().any(is_known) {
                continue;
            }
            note_hole(&mut self.holes, range.clone());
            let lost = self.lost_in(segment, &range);
            let named = self.name(&lost);
            tracing::error!(
                from = range.start.0,
                to = range.end.0,
                lost = named,
                "bytes of a sealed segment are damaged and quarantined"
            );
            scrubbed.found.push(Damage::Hole { range, lost });
        }
    }

    fn name(&self, lost: &[Lost]) -> String {
        let catalog = self.views.catalog.load();
        let text = |lost: &Lost| {
            let topic = catalog.topic_by_id(lost.topic).map(|topic| topic.spec.name.as_str().to_owned());
            let topic = topic.unwrap_or_else(|| format!("topic number {}", lost.topic));
            let groups = match lost.message_groups.len() {
                0 => String::new(),
                count => format!(" ({count} message groups)"),
            };
            format!("{topic} queue {} offsets {}..{}{groups}", lost.queue, lost.offsets.start, lost.offsets.end)
        };
        lost.iter().map(text).collect::<Vec<_>>().join("; ")
    }

    /// Which messages lie in a part of a segment, as its index and those of later ones know.
    fn lost_in(&self, segment: &Segment, range: &Range<LogPosition>) -> Vec<Lost> {
        let mut lost = Vec::new();
        let mut note = |id: QueueId, offset: u64, entry: &Entry| {
            if !entry.is_lost() && range.contains(&entry.pointer().position) {
                add(&mut lost, id, offset, entry.group_hash);
            }
        };
        let base = segment.header.base;
        for index in self.views.index.indexes().iter().filter(|index| index.base() >= base) {
            if let Err(error) = index.each_pointing_into(range, &mut note) {
                self.views.index.report(index.base(), &error);
            }
        }
        let mut topics = Vec::new();
        self.views.references.lock().into_range(range, &mut |_, topic, _| topics.push(topic));
        let catalog = self.views.catalog.load_full();
        for topic in topics.into_iter().filter_map(|topic| catalog.topic_by_id(topic)) {
            for queue in &topic.queues {
                let mut at = queue.kept().sealed;
                loop {
                    let mut entries = Vec::new();
                    at = queue.read(at, usize::MAX, &mut entries);
                    if entries.is_empty() {
                        break;
                    }
                    entries.iter().zip(at.0..).for_each(|(entry, offset)| note(queue.id(), offset, entry));
                    at = QueueOffset(at.0 + entries.len() as u64);
                }
            }
        }
        lost
    }

    fn scrub_index(&mut self, base: LogPosition, part: &mut Part, left: u64, scrubbed: &mut Scrubbed) -> bool {
        // By its name: who has it open would not see that the file is gone.
        let read = SegmentIndex::open(&*self.disk, base, self.store)
            .and_then(|index| index.verify_from(part.block, blocks(left)));
        match read {
            Ok((next, bytes)) => go_on(part, next, bytes, scrubbed),
            Err(error) if error.is_damage() => {
                self.views.index.report(base, &error);
                scrubbed.bytes += 1;
                scrubbed.found.push(Damage::Index { segment: base });
                true
            }
            Err(error) => self.unread(index::name(base), &error, scrubbed),
        }
    }

    fn scrub_table(
        &mut self,
        (kind, number, half): (table::Kind, u64, Half),
        part: &mut Part,
        left: u64,
        scrubbed: &mut Scrubbed,
    ) -> bool {
        let name = match half {
            Half::Data => checkpoint::data_name(kind, number),
            Half::Copy => checkpoint::copy_name(kind, number),
        };
        let read = Pair::half(&*self.disk, &name, kind, number, self.store)
            .and_then(|table| table.verify_from(part.block, blocks(left)));
        match read {
            Ok((next, bytes)) => return go_on(part, next, bytes, scrubbed),
            Err(error) if !error.is_damage() => return self.unread(name, &error, scrubbed),
            Err(_) => scrubbed.bytes += 1,
        }
        // Reads both halves, and says what is wrong.
        let mended = Pair::open(&*self.disk, kind, number, self.store);
        if kind == table::Kind::Timers {
            // Who has it open reads the files that were there before.
            self.doubtful.runs.insert(number);
        }
        let found = match mended {
            Ok(_) => Damage::Table { name },
            Err(error) if kind == table::Kind::Timers => {
                tracing::error!(%error, "a run of timers and its copy are damaged");
                Damage::Pair { name }
            }
            Err(error) => {
                self.doubtful.has_ledgers |= kind == table::Kind::Ledgers;
                tracing::error!(%error, "a table and its copy are damaged; the next checkpoint holds everything");
                self.is_adrift = true;
                Damage::Pair { name }
            }
        };
        scrubbed.found.push(found);
        true
    }

    /// A manifest is in memory too.
    fn scrub_manifest(&mut self, number: u64, scrubbed: &mut Scrubbed) -> bool {
        scrubbed.bytes += 1;
        let Some(manifest) = self.kept.iter().find(|manifest| manifest.number == number) else { return true };
        match ManifestFile::read(&*self.disk, number) {
            Ok(Ok(read)) if read == *manifest => true,
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                self.unread(checkpoint::manifest_name(number), &error, scrubbed)
            }
            _ => {
                tracing::error!(number, "the manifest of a checkpoint is damaged; it is written anew");
                if let Err(error) = ManifestFile::write(&*self.disk, manifest) {
                    tracing::error!(number, %error, "a damaged manifest could not be written anew");
                }
                scrubbed.found.push(Damage::Manifest { number });
                true
            }
        }
    }
}

fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(table::BLOCK as u64)
}

fn go_on(part: &mut Part, next: Option<u64>, bytes: u64, scrubbed: &mut Scrubbed) -> bool {
    scrubbed.bytes += bytes.max(1);
    part.block = next.unwrap_or(0);
    next.is_none()
}

/// Bodies that were wrong before their batch was written, or whose checksums somebody has mended around them.
fn wrong_bodies(found: &Found<'_>, wrong: &mut Vec<Range<LogPosition>>) {
    let read = record::each(found, &mut |at, framed| {
        if framed.record.has_body() && verify::check_body(framed).is_err() {
            wrong.push(at..at.plus(framed.length.into()));
        }
    });
    if let Err((at, _)) = read {
        wrong.push(at..found.header.position.plus(found.header.total()));
    }
}

/// Neighbours become one.
fn add(lost: &mut Vec<Lost>, id: QueueId, offset: u64, group_hash: u64) {
    let hash = (group_hash != 0).then_some(group_hash);
    let near = |lost: &&mut Lost| (lost.topic, lost.queue, lost.offsets.end) == (id.topic, id.queue, offset);
    match lost.iter_mut().find(near) {
        Some(near) => {
            near.offsets.end += 1;
            near.message_groups.extend(hash.filter(|hash| !near.message_groups.contains(hash)));
        }
        None => lost.push(Lost {
            topic: id.topic,
            queue: id.queue,
            offsets: offset..offset + 1,
            message_groups: hash.into_iter().collect(),
        }),
    }
}

#[cfg(test)]
#[path = "scrub_tests.rs"]
mod tests;
