//! The end of a log, cut and garbled at every block and every byte, and held to what may become of it.
//!
//! What recovery has to find follows from which batches are still what they were, by [`Story::expected`]: ten lines that
//! know nothing of windows, searches or zeros.

use super::batch::HEADER_BYTES;
use super::recovery::{self, Report};
use super::segment;
use super::*;
use crate::disk::sim::SimDisk;

const BLOCK: usize = LOG_BLOCK_BYTES as usize;
/// Ten blocks of groups, and the header.
const SEGMENT_BYTES: usize = 11 * BLOCK;
const OPTIONS: LogOptions = LogOptions { segment_bytes: SEGMENT_BYTES as u64, commit: CommitRule::OnSync };

/// The only record of a mark.
const MARK: [u8; 8] = [18, 0, 0, 0, 0, 0, 0, 0];

/// One batch as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Batch {
    position: LogPosition,
    records: Vec<u8>,
    /// Where its group starts: what lies below was synced before it was written.
    group: LogPosition,
}

impl Batch {
    fn end(&self) -> LogPosition {
        self.position.plus((HEADER_BYTES + self.records.len()) as u64)
    }

    fn segment(&self) -> usize {
        self.position.0 as usize / SEGMENT_BYTES
    }

    /// Its bytes in one of the segments' contents.
    fn of<'a>(&self, segments: &'a [Vec<u8>]) -> &'a [u8] {
        let base = self.segment() * SEGMENT_BYTES;
        &segments[self.segment()][self.position.0 as usize - base..self.end().0 as usize - base]
    }
}

/// A log, and what was written to it. All of its groups were synced.
struct Story {
    disk: SimDisk,
    batches: Vec<Batch>,
    segments: Vec<Vec<u8>>,
}

/// What an opening found: positions and records of its batches.
type Found = Vec<(LogPosition, Vec<u8>)>;

/// `identity` is what a new store's own id comes from.
fn open(disk: &SimDisk, identity: u64) -> (Log, Report, Found) {
    let mut found = Vec::new();
    let mut visit = |batch: recovery::Found<'_>| {
        // What a recovery itself has written says nothing.
        if batch.records != MARK {
            found.push((batch.header.position, batch.records.to_vec()));
        }
    };
    let opened = recovery::open(Arc::new(disk.clone()), OPTIONS, None, Chance::new(identity), &mut visit);
    let (log, report) = opened.unwrap_or_else(|error| panic!("the log opens: {error}"));
    (log, report, found)
}

/// One synced group of batches with so many bytes.
fn append(log: &mut Log, chance: &mut Chance, sizes: &[usize]) -> Vec<Batch> {
    let mut group = Group::default();
    let mut written = Vec::new();
    for size in sizes {
        let records: Vec<u8> = (0..*size).map(|_| chance.next_u64().to_le_bytes()[0]).collect();
        group.open();
        let at = group.record(|out| out.extend_from_slice(&records));
        group.close();
        written.push((at - HEADER_BYTES as u64, records));
    }
    let group = log.write(group, false).expect("space and power").start;
    log.sync().expect("a healthy disk");
    let batch = |(at, records)| Batch { position: group.plus(at), records, group };
    written.into_iter().map(batch).collect()
}

impl Story {
    fn write(disk: SimDisk, identity: u64, groups: &[&[usize]]) -> Self {
        let mut chance = Chance::new(identity);
        let (mut log, _, _) = open(&disk, identity);
        let batches: Vec<Batch> = groups.iter().flat_map(|sizes| append(&mut log, &mut chance, sizes)).collect();
        let bases = log.segments().load().iter().map(|segment| segment.header.base).collect::<Vec<_>>();
        let segments = bases.iter().map(|base| disk.content(&segment::name(*base)).expect("it is there")).collect();
        Self { disk, batches, segments }
    }

    /// Groups of one block and of several, with batches inside a block and over the edges of blocks. The last one is
    /// proved by nothing; before it, each by the next.
    fn one_segment(disk: SimDisk, identity: u64) -> Self {
        Self::write(disk, identity, &[&[2, 2], &[30, 4500, 300], &[1], &[100, 4100, 20, 20], &[8, 8000, 50]])
    }

    /// The last groups of a segment, and those that follow in the next one.
    fn two_segments(disk: SimDisk, identity: u64) -> Self {
        let story =
            Self::write(disk, identity, &[&[16_000], &[100, 4100, 20], &[9_000, 40], &[10, 20], &[4500, 2], &[77]]);
        assert_eq!(story.segments.len(), 2, "the groups fill more than one segment");
        story
    }

    /// Which batches must be found on a disk with these contents, and which ranges named.
    fn expected(&self, segments: &[Vec<u8>]) -> (Vec<&Batch>, Vec<std::ops::Range<LogPosition>>) {
        let is_sound = |batch: &&Batch| batch.of(segments) == batch.of(&self.segments);
        let (mut found, mut holes) = (Vec::new(), Vec::new());
        let mut rest = &self.batches[..];
        while let Some((bad, later)) = rest.split_first() {
            if is_sound(&bad) {
                found.push(bad);
                rest = later;
                continue;
            }
            let is_proved = bad.segment() + 1 < segments.len()
                || later.iter().filter(is_sound).any(|proof| proof.group > bad.position);
            if !is_proved {
                break;
            }
            let is_here = |batch: &&Batch| batch.segment() == bad.segment();
            let next = later.iter().take_while(is_here).find(is_sound);
            let segment_end = LogPosition(((bad.segment() + 1) * SEGMENT_BYTES) as u64);
            holes.push(bad.position..next.map_or(segment_end, |next| next.position));
            let skipped = later.iter().position(|batch| Some(batch) == next);
            rest = &later[skipped.unwrap_or_else(|| later.iter().take_while(is_here).count())..];
        }
        (found, holes)
    }

    /// The blocks of the last groups, without headers of segments.
    fn last(&self, groups: usize) -> Vec<usize> {
        let mut starts: Vec<_> = self.batches.iter().map(|batch| batch.group.0 as usize).collect();
        starts.dedup();
        let end = self.batches.last().expect("something was written").end().0.next_multiple_of(LOG_BLOCK_BYTES);
        let blocks = (starts[starts.len() - groups]..end as usize).step_by(BLOCK);
        blocks.filter(|at| at % SEGMENT_BYTES > 0).collect()
    }

    /// Replaces bytes from a position on and holds two recoveries, a third one, and one after another group, to it.
    /// Gives how many batches are there.
    fn hold(&self, what: &str, changes: &[(usize, &[u8])]) -> usize {
        let mut segments = self.segments.clone();
        let disk = self.disk.image();
        for (at, bytes) in changes {
            let (number, within) = (at / SEGMENT_BYTES, at % SEGMENT_BYTES);
            segments[number][within..within + bytes.len()].copy_from_slice(bytes);
            let name = segment::name(LogPosition((number * SEGMENT_BYTES) as u64));
            disk.overwrite(&name, within as u64, bytes);
        }
        let (expected, holes) = self.expected(&segments);
        let twin = disk.image();
        let (log, report, found) = open(&disk, 3);
        let is_same = |found: &Found| {
            found.len() == expected.len()
                && found.iter().zip(&expected).all(|(a, b)| a.0 == b.position && a.1 == b.records)
        };
        let positions: Vec<_> = found.iter().map(|(position, _)| *position).collect();
        let wanted: Vec<_> = expected.iter().map(|batch| batch.position).collect();
        assert!(is_same(&found), "{what}: found {positions:?}, expected {wanted:?}");
        assert_eq!(report.quarantined, holes, "{what}");
        assert!(report.torn.is_none() || expected.len() < self.batches.len(), "{what}: nothing was torn: {report:?}");
        drop(log);

        let (log, again, found_by_twin) = open(&twin, 3);
        assert!(
            is_same(&found_by_twin) && again == report,
            "{what}: two recoveries of one disk: {report:?}, {again:?}"
        );
        drop(log);
        let (mut log, again, found) = open(&disk, 3);
        assert!(is_same(&found), "{what}: found otherwise once it was mended");
        assert_eq!((again.torn, &again.quarantined), (None, &holes), "{what}: once it was mended");

        let new = append(&mut log, &mut Chance::new(9), &[33]);
        drop(log);
        disk.restart();
        let (_, again, mut found) = open(&disk, 3);
        assert_eq!(again.quarantined, holes, "{what}: once the log went on");
        assert_eq!(found.pop(), Some((new[0].position, new[0].records.clone())), "{what}: once the log went on");
        assert!(is_same(&found), "{what}: found otherwise once the log went on");
        found.len()
    }

    /// What may stand in each of the blocks instead of what was written.
    fn rubbish(&self, blocks: &[usize]) -> Vec<[Vec<u8>; 4]> {
        let other = Self::one_segment(SimDisk::new(1), 2);
        let of = |at: &usize| {
            let (number, within) = (at / SEGMENT_BYTES, at % SEGMENT_BYTES);
            let mut chance = Chance::new(*at as u64);
            // The old content; garbage; an older group of the same file; the same place in another store's file.
            [
                vec![0; BLOCK],
                (0..BLOCK).map(|_| chance.next_u64().to_le_bytes()[0]).collect(),
                self.segments[number][BLOCK..2 * BLOCK].to_vec(),
                other.segments[0][within..within + BLOCK].to_vec(),
            ]
        };
        blocks.iter().map(of).collect()
    }
}

type Disk = fn() -> SimDisk;
const DISKS: [(&str, Disk); 2] =
    [("device reads", || SimDisk::new(1)), ("no device reads", || SimDisk::new(1).without_device_reads())];

/// Both kinds of logs on both kinds of disks.
fn stories() -> impl Iterator<Item = (String, Story)> {
    DISKS.into_iter().flat_map(|(name, disk)| {
        [
            (format!("one segment, {name}"), Story::one_segment(disk(), 1)),
            (format!("two segments, {name}"), Story::two_segments(disk(), 1)),
        ]
    })
}

#[test]
fn the_last_groups_cut_at_every_byte_leave_what_lies_before() {
    for (name, story) in stories() {
        for at in story.last(4).into_iter().flat_map(|block| block..block + BLOCK) {
            // The cut ends with its file: the next one was made when all of this one was synced.
            let end = (at / SEGMENT_BYTES + 1) * SEGMENT_BYTES;
            story.hold(&format!("{name}: cut at {at}"), &[(at, &vec![0; end - at])]);
        }
    }
}

#[test]
fn one_flipped_bit_anywhere_in_the_last_groups_takes_its_batch_and_what_was_not_synced() {
    for (name, story) in stories() {
        for at in story.last(4).into_iter().flat_map(|block| block..block + BLOCK) {
            let byte = story.segments[at / SEGMENT_BYTES][at % SEGMENT_BYTES];
            story.hold(&format!("{name}: bit {} of {at}", at % 8), &[(at, &[byte ^ 1 << (at % 8)])]);
        }
    }
}

#[test]
fn any_two_blocks_of_the_last_groups_may_be_rubbish() {
    for (name, story) in stories() {
        let blocks = story.last(4);
        let rubbish = story.rubbish(&blocks);
        for (first, at) in blocks.iter().enumerate() {
            for (second, other) in blocks.iter().enumerate().skip(first) {
                for kind in 0..16 {
                    let changes: [(usize, &[u8]); 2] =
                        [(*at, &rubbish[first][kind % 4]), (*other, &rubbish[second][kind / 4])];
                    story.hold(&format!("{name}: {at} and {other} are rubbish of kind {kind}"), &changes);
                }
            }
        }
    }
}

#[test]
fn every_way_to_tear_the_last_write_leaves_what_was_acknowledged_before_it() {
    for (name, story) in stories() {
        let blocks = story.last(1);
        let rubbish = story.rubbish(&blocks);
        for choice in 0..5_u32.pow(blocks.len() as u32) {
            // Each block is one of four kinds of rubbish, or what was written.
            let kind = |number: usize| (choice / 5_u32.pow(number as u32) % 5) as usize;
            let chosen = |(number, at): (usize, &usize)| Some((*at, &rubbish[number].get(kind(number))?[..]));
            let changes: Vec<(usize, &[u8])> = blocks.iter().enumerate().filter_map(chosen).collect();
            let recovered = story.hold(&format!("{name}: torn as {choice}"), &changes);
            let acknowledged = story.batches.iter().filter(|batch| (batch.group.0 as usize) < blocks[0]).count();
            assert!(recovered >= acknowledged, "{name}: torn as {choice}: {recovered} of {acknowledged} batches");
        }
    }
}
