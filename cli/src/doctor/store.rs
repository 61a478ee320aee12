//! The store of a directory that no server uses: what a start would find, and how long its disk lasts.

use std::path::Path;

use base::{ByteSize, Clock, SystemClock, Timestamp};
use storage::disk::real::{self, RealDisk};
use storage::log::walk::{self, Step, Walked};
use storage::threads::ReserveRule;

use super::{Finding, Level, Remedy, store_files};
use crate::values::rfc3339;

/// A log that was written so far ahead of this clock: its timers would wait.
const AHEAD_MS: u64 = 2_000;
const DAY_MS: u64 = 24 * 3600 * 1000;
/// Until the disk is full, at the pace so far.
const DAYS_LEFT_MIN: u64 = 7;
/// A shorter history says nothing about the pace.
const HISTORY_MS_MIN: u64 = DAY_MS;

pub fn reserve(text: &str) -> Result<ReserveRule, String> {
    broker::server::parse_reserve(text).map_err(|error| error.to_string())
}

pub fn space(directory: &Path, rule: ReserveRule) -> Finding {
    let space = match real::space(directory) {
        Ok(space) => space,
        Err(error) => return Finding::new("disk space", Level::Unknown, error.to_string()),
    };
    let reserve = match rule {
        ReserveRule::Percent(percent) => space.total / 100 * u64::from(percent),
        ReserveRule::Bytes(bytes) => bytes,
    };
    let (level, advice) = match space.free {
        free if free < reserve => (Level::Critical, "; new messages are refused"),
        free if free < reserve.saturating_mul(2) => (Level::Warning, "; less than twice the reserve"),
        _ => (Level::Ok, ""),
    };
    let of = |bytes: u64| ByteSize(bytes >> 20 << 20);
    let detail = format!("{} free of {}, {} in reserve{advice}", of(space.free), of(space.total), of(reserve));
    Finding::new("disk space", level, detail)
}

/// What a start would find. Changes nothing.
pub fn look(disk: &RealDisk) -> Vec<Finding> {
    let mut history: Option<(Timestamp, Timestamp)> = None;
    let start = storage::verify::start_of(disk);
    let walked = start.and_then(|start| {
        walk::walk(disk, start.as_ref(), &mut |step| {
            if let Step::Batch(found) = step {
                let at = found.header.stored_at;
                history = Some((history.map_or(at, |(first, _)| first), at));
            }
        })
    });
    let walked = match walked {
        Ok(walked) => walked,
        Err(error) => return vec![Finding::new("store", Level::Critical, error.to_string())],
    };
    let now = SystemClock.now();
    let beside = match store_files::look(disk) {
        Ok(beside) => beside,
        Err(error) => return vec![Finding::new("store", Level::Critical, error.to_string())],
    };
    let mut findings = match beside.is_nothing_left {
        // What is quarantined, nobody can tell from what has expired.
        true => vec![store_files::remains(disk, &beside)],
        false => vec![store(&walked), damage(&walked), store_files::finding(&beside)],
    };
    findings.push(clock(history, now));
    let free = storage::disk::Disk::space(disk).map_or(0, |space| space.free);
    findings.push(retention(history, walked.report.bytes, free));
    findings.extend(prepared(&walked));
    findings
}

fn store(walked: &Walked) -> Finding {
    if let Some(refusal) = &walked.refusal {
        return Finding::new("store", Level::Critical, format!("a server does not start with it: {refusal}"));
    }
    if walked.segments == 0 {
        return Finding::new("store", Level::Ok, "empty: a start makes a new one");
    }
    let report = &walked.report;
    let mut detail = format!("readable, {} batches in {} segments", report.batches, walked.segments);
    if let Some((position, bytes)) = report.torn {
        detail += &format!("; a start cuts off a torn tail of {bytes} bytes at {position}, acknowledged to nobody");
    }
    Finding::new("store", Level::Ok, detail)
}

fn damage(walked: &Walked) -> Finding {
    let ranges: Vec<_> =
        walked.report.quarantined.iter().map(|range| format!("{}..{}", range.start, range.end)).collect();
    match ranges.is_empty() {
        true => Finding::new("damage", Level::Ok, "nothing is quarantined"),
        false => {
            let detail = format!("quarantined: {}; `carillon log verify` says whom it hits", ranges.join(", "));
            Finding::new("damage", Level::Critical, detail)
        }
    }
}

fn clock(history: Option<(Timestamp, Timestamp)>, now: Timestamp) -> Finding {
    let ahead_ms = history.map_or(0, |(_, newest)| newest.ms_since(now));
    let detail = rfc3339(now);
    match ahead_ms > AHEAD_MS {
        false => Finding::new("clock", Level::Ok, detail),
        true => {
            let detail =
                format!("{detail}, {} s behind the newest batch: timers wait until it is reached", ahead_ms / 1000);
            Finding::new("clock", Level::Warning, detail)
        }
    }
}

/// What is kept for longer than the log has been there may fill the disk.
fn retention(history: Option<(Timestamp, Timestamp)>, bytes: u64, free: u64) -> Finding {
    let span_ms = history.map_or(0, |(first, newest)| newest.ms_since(first));
    let kept = format!("{} in the log", ByteSize(bytes));
    if span_ms < HISTORY_MS_MIN {
        return Finding::new("retention", Level::Ok, kept);
    }
    let bytes_per_day = (u128::from(bytes) * u128::from(DAY_MS) / u128::from(span_ms)).max(1);
    let days = u64::try_from(u128::from(free) / bytes_per_day).unwrap_or(u64::MAX);
    let level = if days < DAYS_LEFT_MIN { Level::Warning } else { Level::Ok };
    Finding::new(
        "retention",
        level,
        format!("{kept}; at its pace so far the disk is full in {days} days, unless messages expire before"),
    )
}

fn prepared(walked: &Walked) -> Option<Finding> {
    let names = walked.prepared.clone();
    (!names.is_empty()).then(|| {
        let detail = format!("{} files for later segments are left; a start removes them", names.len());
        Finding { remedy: Some(Remedy::RemovePrepared(names)), ..Finding::new("left over", Level::Ok, detail) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_from_the_future_and_a_disk_that_is_soon_full_are_warnings() {
        let at = |days: u64| Timestamp(1_800_000_000_000 + days * DAY_MS);
        assert_eq!(clock(Some((at(0), at(1))), at(1)).level, Level::Ok);
        assert_eq!(clock(Some((at(0), at(1))), at(0)).level, Level::Warning);
        assert_eq!(retention(Some((at(0), at(10))), 10 << 30, 100 << 30).level, Level::Ok);
        assert_eq!(retention(Some((at(0), at(10))), 10 << 30, 5 << 30).level, Level::Warning);
        assert_eq!(retention(None, 0, 0).level, Level::Ok);
    }
}
