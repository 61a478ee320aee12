//! Listing pending timers, in order of due time, a page at a time.

use base::{LogPosition, Timestamp, TopicId};

use super::row::{Entry, Key};
use super::run::Run;
use super::{Timer, Timers};
use crate::table::TableError;

/// Rows of one run that are looked at for one page.
const LOOKED_AT: u32 = 64 * 127;

/// Some of the pending timers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub timers: Vec<Timer>,
    /// Where the next page starts. None: this was the last one.
    pub next: Option<(Timestamp, LogPosition)>,
}

impl Timers {
    /// Up to `max` pending timers, of one topic or of all, from this due time and origin on. A page may hold less, and none,
    /// although there are more: only so many rows are looked at.
    pub fn page(&self, from: (Timestamp, LogPosition), topic: Option<TopicId>, max: usize) -> Result<Page, TableError> {
        let from = Key::new(from.0, from.1);
        let mut found: Vec<Entry> = Vec::new();
        // Everything below it is known.
        let mut known = Key::MAX;
        for part in &self.parts {
            let mut entries = part.from(from);
            found.extend(entries.by_ref().take(LOOKED_AT as usize));
            known = entries.next().map_or(known, |entry| entry.row.key.min(known));
        }
        for run in &self.runs {
            known = known_of(run, from, &mut found)?.map_or(known, |key| key.min(known));
        }
        let is_asked_for = |entry: &Entry| {
            let key = entry.row.key;
            let is_stray =
                self.strays.contains(&key.origin()) && self.runs.iter().any(|r| r.source == entry.place.source);
            key < known && topic.is_none_or(|topic| topic == entry.row.topic) && !is_stray
        };
        found.retain(is_asked_for);
        found.sort_unstable_by_key(|entry| entry.row.key);
        let next = found.get(max).map(|entry| entry.row.key).or((known != Key::MAX).then_some(known));
        found.truncate(max);
        let timers = found.iter().map(|entry| entry.row.timer()).collect();
        Ok(Page { timers, next: next.map(|key| (key.due(), key.origin())) })
    }

    /// Everything that waits, in order of due time; for oracles.
    pub fn all(&self) -> Result<Vec<Timer>, TableError> {
        let mut all = Vec::new();
        let mut from = Some((Timestamp::ZERO, LogPosition(0)));
        while let Some(start) = from {
            let page = self.page(start, None, usize::MAX)?;
            all.extend(page.timers);
            from = page.next;
        }
        Ok(all)
    }
}

/// Adds what a run has from a key on; gives the key up to which that is all.
fn known_of(run: &Run, from: Key, found: &mut Vec<Entry>) -> Result<Option<Key>, TableError> {
    let mut row = run.row_before(from);
    let first = found.len();
    // Whole stretches may have ended.
    while row < run.file.count() && found.len() == first {
        row = run.list(row, LOOKED_AT, found)?;
        let kept = found.split_off(first).into_iter().filter(|entry| entry.row.key >= from);
        found.extend(kept);
    }
    if row == run.file.count() { Ok(None) } else { Ok(found.last().map(|entry| entry.row.key.next())) }
}
