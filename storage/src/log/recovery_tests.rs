//! Stories of opening a log: what is cut, what is quarantined, what is refused.

use super::*;
use crate::disk::sim::SimDisk;
use crate::log::CommitRule;
use crate::log::batch::{ALIGNMENT, HEADER_BYTES, MAGIC};
use crate::log::group::Group;

const OPTIONS: LogOptions = LogOptions { segment_bytes: 64 << 10, commit: CommitRule::OnSync };

type Opened = Result<(Log, Report, Vec<String>), OpenError>;

fn try_open(disk: &SimDisk) -> Opened {
    let mut found = Vec::new();
    let mut visit = |batch: Found<'_>| found.push(String::from_utf8_lossy(batch.records).into_owned());
    let (log, report) = open(Arc::new(disk.clone()), OPTIONS, None, Chance::new(3), &mut visit)?;
    Ok((log, report, found))
}

fn reopen(disk: &SimDisk) -> (Log, Report, Vec<String>) {
    try_open(disk).expect("the log opens")
}

/// One synced group with a batch for each text. Gives where it starts.
fn append(log: &mut Log, texts: &[&str]) -> LogPosition {
    let mut group = Group::default();
    for text in texts {
        group.open();
        group.record(|out| out.extend_from_slice(text.as_bytes()));
        group.close();
    }
    let start = log.write(group, false).expect("space and power").start;
    log.sync().expect("a healthy disk");
    start
}

/// A new log with groups ["a0", "a1"] and ["b0", "b1"]. Gives the starts of the two.
fn two_groups() -> (SimDisk, Log, [LogPosition; 2]) {
    let disk = SimDisk::new(1);
    let (mut log, _, _) = reopen(&disk);
    let starts = [append(&mut log, &["a0", "a1"]), append(&mut log, &["b0", "b1"])];
    (disk, log, starts)
}

fn first_file() -> String {
    segment::name(LogPosition(0))
}

/// Where the second batch of a group of two-byte texts starts.
fn second(start: LogPosition) -> LogPosition {
    start.plus((HEADER_BYTES + ALIGNMENT) as u64)
}

#[test]
fn a_torn_tail_is_cut_off_and_reported_and_the_log_goes_on_behind_it() {
    let (disk, log, [_, b]) = two_groups();
    drop(log);
    disk.flip(&first_file(), second(b).0 + 70 - 64, 1);
    let (mut log, report, found) = reopen(&disk);
    assert_eq!(found, ["a0", "a1", "b0"]);
    assert_eq!((report.quarantined.len(), report.batches), (0, 3));
    append(&mut log, &["c"]);
    let (_, report, found) = reopen(&disk);
    assert_eq!(found, ["a0", "a1", "b0", "c"]);
    assert_eq!(report.quarantined, [], "the gap that the cut left inside a block is no damage");
}

#[test]
fn what_is_left_of_a_torn_group_is_zeroed_and_never_comes_back() {
    let (disk, log, [_, b]) = two_groups();
    drop(log);
    disk.flip(&first_file(), b.0 + 5, 1);
    let (log, report, found) = reopen(&disk);
    assert_eq!(found, ["a0", "a1"]);
    assert!(report.torn.is_some_and(|(position, bytes)| position == b && bytes > 0), "{report:?}");
    assert_eq!(log.positions().appended, b);
    assert!(disk.content(&first_file()).expect("is there")[b.0 as usize..].iter().all(|byte| *byte == 0));
}

#[test]
fn damage_below_a_sync_is_quarantined_and_named_and_the_rest_is_served() {
    let (disk, log, [a, b]) = two_groups();
    drop(log);
    disk.flip(&first_file(), a.0 + HEADER_BYTES as u64, 0);
    let (log, report, found) = reopen(&disk);
    assert_eq!(found, ["a1", "b0", "b1"]);
    assert_eq!(report.quarantined, [a..second(a)]);
    assert_eq!(log.next_index(), BatchIndex(4));
    drop(log);
    let (_, again, _) = reopen(&disk);
    assert_eq!(again.quarantined, report.quarantined);
    assert!(again.batches == 3 && b > a);
}

#[test]
fn a_mark_proves_the_group_before_it() {
    for is_marked in [false, true] {
        let (disk, mut log, [_, b]) = two_groups();
        if is_marked {
            append(&mut log, &["mark"]);
        }
        drop(log);
        disk.flip(&first_file(), second(b).0, 0);
        let (_, report, _) = reopen(&disk);
        assert_eq!(!report.quarantined.is_empty(), is_marked, "{report:?}");
    }
}

#[test]
fn the_last_group_garbled_or_cut_at_every_byte_never_takes_anything_else_with_it() {
    let (disk, log, [_, b]) = two_groups();
    drop(log);
    let whole = disk.content(&first_file()).expect("is there");
    let length = 2 * (HEADER_BYTES + ALIGNMENT);
    for cut in 0..length {
        for is_cut in [true, false] {
            let image = disk.image();
            let at = b.0 as usize + cut;
            if is_cut {
                image.overwrite(&first_file(), at as u64, &vec![0; length - cut]);
            } else {
                image.overwrite(&first_file(), at as u64, &[!whole[at]]);
            }
            let (mut log, report, found) = reopen(&image);
            assert_eq!(report.quarantined, [], "byte {cut}");
            assert_eq!(found[..2], ["a0", "a1"], "byte {cut}");
            let rest: Vec<&str> = found[2..].iter().map(String::as_str).collect();
            assert!([&[][..], &["b0"], &["b0", "b1"]].contains(&&rest[..]), "byte {cut}: {rest:?}");
            append(&mut log, &["c"]);
            let (_, report, again) = reopen(&image);
            assert_eq!(report.quarantined, [], "byte {cut}");
            assert_eq!(again[..found.len()], found[..], "byte {cut}");
            assert_eq!(again.last().map(String::as_str), Some("c"), "byte {cut}");
        }
    }
}

#[test]
fn a_proof_that_lies_in_the_torn_tail_outlives_it_wherever_the_power_fails() {
    for seed in 0..64 {
        for operations in 0.. {
            let disk = SimDisk::new(seed);
            let (mut log, _, _) = reopen(&disk);
            let a = append(&mut log, &["a0", "a1"]);
            let b = append(&mut log, &["b0", "b1"]);
            drop(log);
            // The last group is torn, and what is left of it is all that proves that the other one was whole.
            disk.flip(&first_file(), a.0 + HEADER_BYTES as u64, 0);
            disk.flip(&first_file(), b.0, 0);
            disk.crash_after(operations);
            let is_through = try_open(&disk).is_ok();
            disk.restart();
            let (_, report, found) = reopen(&disk);
            assert_eq!(report.quarantined, [a..second(a)], "Y3: seed {seed}, power cut at {operations}");
            assert_eq!(found.first().map(String::as_str), Some("a1"), "Y3: seed {seed}, power cut at {operations}");
            if is_through {
                break;
            }
        }
    }
}

/// Fills the first segment and goes on into the second.
fn two_segments() -> (SimDisk, Vec<LogPosition>) {
    let disk = SimDisk::new(1);
    let (mut log, _, _) = reopen(&disk);
    let text = "x".repeat(5000);
    let starts: Vec<LogPosition> = (0..9).map(|_| append(&mut log, &[&text])).collect();
    assert_eq!(log.segments().load().len(), 2, "the groups fill more than one segment");
    (disk, starts)
}

#[test]
fn damage_in_the_last_batch_of_a_segment_is_named_although_nothing_follows_in_that_file() {
    let (disk, starts) = two_segments();
    let last = *starts.iter().rfind(|start| start.0 < OPTIONS.segment_bytes).expect("the first segment holds some");
    disk.flip(&first_file(), last.0 + 100, 0);
    let (log, report, found) = reopen(&disk);
    assert_eq!(found.len(), 8);
    assert_eq!(report.quarantined, [last..LogPosition(OPTIONS.segment_bytes)]);
    assert_eq!(log.next_index(), BatchIndex(9));
}

#[test]
fn one_copy_of_a_segment_header_is_enough_and_without_both_the_segment_is_quarantined() {
    let (disk, starts) = two_segments();
    disk.flip(&first_file(), 20, 0);
    assert_eq!(reopen(&disk).2.len(), 9);
    disk.flip(&first_file(), 2048 + 20, 0);
    let (log, report, found) = reopen(&disk);
    let in_second = starts.iter().filter(|start| start.0 >= OPTIONS.segment_bytes).count();
    assert_eq!(found.len(), in_second);
    assert_eq!(report.quarantined.len(), 1);
    assert!(report.quarantined[0].contains(&starts[0]));
    assert_eq!(log.next_index(), BatchIndex(9));
}

#[test]
fn the_newest_segment_is_not_written_over_when_its_header_is_damaged() {
    let (disk, _) = two_segments();
    let newest = segment::name(LogPosition(OPTIONS.segment_bytes));
    disk.flip(&newest, 20, 0);
    disk.flip(&newest, 2048 + 20, 0);
    let before = disk.operations();
    assert!(matches!(try_open(&disk).err(), Some(OpenError::NewestDamaged { name }) if name == newest));
    assert_eq!(disk.operations(), before, "nothing on the disk was changed");
}

#[test]
fn another_format_version_is_refused_and_left_alone() {
    let (disk, log, _) = two_groups();
    drop(log);
    let mut block = disk.content(&first_file()).expect("is there")[..128].to_vec();
    block[8..12].copy_from_slice(&(segment::FORMAT_VERSION + 1).to_le_bytes());
    let crc = crc32c::crc32c(&block[..124]);
    block[124..].copy_from_slice(&crc.to_le_bytes());
    disk.overwrite(&first_file(), 0, &block);
    disk.overwrite(&first_file(), 2048, &block);
    let before = disk.operations();
    let found = segment::FORMAT_VERSION + 1;
    assert!(
        matches!(try_open(&disk).err(), Some(OpenError::Version { source: HeaderError::Version { found: f }, .. }) if f == found)
    );
    assert_eq!(disk.operations(), before, "nothing on the disk was changed");
}

/// A log whose last group, "c", was written and not synced: the sync failed. Its process has ended.
fn unsynced_group(disk: SimDisk) -> SimDisk {
    let (mut log, _, _) = reopen(&disk);
    append(&mut log, &["b"]);
    disk.fail_sync_after(0);
    let mut group = Group::default();
    group.open();
    group.record(|out| out.extend_from_slice(b"c"));
    group.close();
    log.write(group, false).expect("only the sync fails");
    log.sync().expect_err("as asked");
    let before = disk.operations();
    let mut group = Group::default();
    group.open();
    group.record(|out| out.extend_from_slice(b"d"));
    group.close();
    assert!(log.write(group, false).is_err(), "L3");
    assert!(log.sync().is_err(), "L3");
    assert_eq!(disk.operations(), before);
    drop(log);
    disk.restart_process();
    disk
}

/// What is found now, and again after another group, "e", and a power cut.
fn found_twice(disk: &SimDisk) -> (Vec<String>, Vec<String>) {
    let (mut log, _, now) = reopen(disk);
    append(&mut log, &["e"]);
    drop(log);
    disk.restart();
    let (_, report, later) = reopen(disk);
    assert_eq!(report.quarantined, []);
    (now, later)
}

#[test]
fn what_a_failed_sync_left_in_the_page_cache_alone_is_not_accepted() {
    let (now, later) = found_twice(&unsynced_group(SimDisk::new(1)));
    assert_eq!((now, later), (vec!["b".into()], vec!["b".into(), "e".into()]), "Y1: the device never had it");
}

#[test]
fn where_the_device_cannot_be_read_what_is_accepted_is_written_again_and_so_made_durable() {
    let (now, later) = found_twice(&unsynced_group(SimDisk::new(1).without_device_reads()));
    assert_eq!(now, ["b", "c"], "the page cache still shows it");
    assert_eq!(later, ["b", "c", "e"], "Y1: what was served once is not lost to the next power cut");
}

#[test]
fn acknowledged_groups_are_not_written_again_when_the_device_has_them() {
    let (disk, log, _) = two_groups();
    drop(log);
    disk.restart_process();
    let before = disk.operations();
    let (_, report, found) = reopen(&disk);
    assert_eq!((found.len(), report.rewritten), (4, 0));
    assert_eq!(disk.operations() - before, 1, "one sync, and not a write that could tear what was acknowledged");
}

#[test]
fn a_torn_group_full_of_what_looks_like_batches_is_searched_once() {
    let disk = SimDisk::new(1);
    let options = LogOptions { segment_bytes: 16 << 20, ..OPTIONS };
    let open_it = || open(Arc::new(disk.clone()), options, None, Chance::new(3), &mut |_| ()).expect("the log opens");
    let (mut log, _) = open_it();
    let start = append(&mut log, &["a"]);
    drop(log);
    // Eight bytes that begin like a header, again and again: an eager search would read the segment for each of them.
    let lure: Vec<u8> = [MAGIC.to_le_bytes(), [0; 4]].concat();
    disk.overwrite(&first_file(), start.0 + LOG_BLOCK_BYTES, &lure.repeat(1 << 20));
    let (_, report) = open_it();
    assert_eq!((report.batches, report.torn.is_some(), report.quarantined.len()), (1, true, 0));
}
