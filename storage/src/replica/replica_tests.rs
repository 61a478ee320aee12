//! Stories of a replica: what it takes, what it gives, what it takes back, and what a start finds.

use super::*;
use crate::disk::sim::SimDisk;
use crate::record::Pointer;

const OPTIONS: LogOptions = LogOptions { segment_bytes: 64 << 10, commit: CommitRule::External };
const MUCH: usize = 1 << 20;

struct Node {
    disk: SimDisk,
    port: ReplicaPort,
}

fn try_open(disk: &SimDisk, seed: u64) -> Result<ReplicaPort, OpenError> {
    let cache = Arc::new(TailCache::new(MUCH));
    ReplicaPort::open(Arc::new(disk.clone()), OPTIONS, Chance::new(seed), cache).map(|(port, _)| port)
}

fn id(term: u64, index: u64) -> BatchId {
    BatchId { term: Term(term), index: BatchIndex(index) }
}

impl Node {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        Self { port: try_open(&disk, seed).expect("a new directory"), disk }
    }

    /// The process ends and starts again; with it the machine, when `power` fails.
    fn restart(self, power: bool) -> Self {
        let Self { disk, port } = self;
        drop(port);
        if power {
            disk.restart()
        } else {
            disk.restart_process()
        }
        Self { port: try_open(&disk, 99).expect("what it vouched for is there"), disk }
    }

    /// One durable group with a batch for each text.
    fn lead(&mut self, term: u64, texts: &[&str]) -> Range<LogPosition> {
        let index = self.port.last().map_or(0, |last| last.index.0 + 1);
        let range = self.port.sequence(id(term, index), group(texts), Timestamp(1)).expect("it follows");
        self.port.sync().expect("a healthy disk");
        range
    }

    /// Everything that `leader` has and this one has not.
    fn follow(&mut self, leader: &Self) {
        loop {
            let next = self.port.last().map_or(0, |last| last.index.0 + 1);
            let piece = leader.port.read(Start::Index(BatchIndex(next)), 8 << 10).expect("no damage");
            let Some(piece) = piece else { break };
            self.port.append(&piece).expect("it follows");
        }
        self.port.sync().expect("a healthy disk");
    }

    fn texts(&self) -> Vec<String> {
        let mut texts = Vec::new();
        let mut next = BatchIndex(0);
        while let Some(piece) = self.port.read(Start::Index(next), 8 << 10).expect("no damage") {
            for batch in piece.batches() {
                let batch = batch.expect("checked when it was read");
                texts.push(format!("{} {}", batch.header.term, String::from_utf8_lossy(batch.records)));
                next = BatchIndex(batch.header.index.0 + 1);
            }
        }
        texts
    }

    /// The content of its log files, by name.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut names: Vec<_> = self.disk.list().expect("power").into_iter().filter(|n| n.ends_with(".log")).collect();
        names.sort();
        names.into_iter().map(|name| (name.clone(), self.disk.content(&name).expect("is there"))).collect()
    }
}

fn group(texts: &[&str]) -> Group {
    let mut group = Group::default();
    for text in texts {
        group.open();
        group.record(|out| out.extend_from_slice(text.as_bytes()));
        group.close();
    }
    group
}

/// Groups of one batch of about two blocks each, over more than one segment.
fn lead_segments(leader: &mut Node) {
    let text = "x".repeat(5000);
    for _ in 0..12 {
        leader.lead(1, &[&text]);
    }
    assert!(leader.files().len() > 1, "the groups fill more than one segment");
}

#[test]
fn batches_are_stored_as_they_are_so_that_the_files_of_replicas_are_equal() {
    let (mut leader, mut follower) = (Node::new(1), Node::new(2));
    leader.lead(1, &["a", "b", "c"]);
    lead_segments(&mut leader);
    leader.lead(3, &["d"]);
    follower.follow(&leader);
    assert_eq!(follower.texts(), leader.texts());
    assert!(follower.files() == leader.files(), "positions, headers and padding agree");
    assert_eq!(follower.port.last(), Some(id(3, 15)));
    let follower = follower.restart(true);
    assert!(follower.files() == leader.files(), "a start changes nothing");
    assert_eq!(follower.texts(), leader.texts());
}

#[test]
fn a_batch_is_found_by_its_position_as_by_its_index() {
    let mut leader = Node::new(1);
    let first = leader.lead(1, &["a", "b"]);
    lead_segments(&mut leader);
    let second = leader.lead(1, &["c", "d"]);
    let start_of = |start| leader.port.read(start, 1).expect("no damage").map(|piece| piece.start);
    assert_eq!(start_of(Start::Position(LogPosition(0))), Some(first.start));
    assert_eq!(start_of(Start::Index(BatchIndex(1))), Some(first.start), "it shares its block with the one before");
    assert_eq!(start_of(Start::Position(second.start)), Some(second.start));
    assert_eq!(start_of(Start::Index(BatchIndex(14))), Some(second.start));
    assert_eq!(start_of(Start::Position(second.start.plus(1))), Some(second.start), "the next one shares its block");
    let base = LogPosition(OPTIONS.segment_bytes);
    assert_eq!(start_of(Start::Position(base)), Some(base.plus(LOG_BLOCK_BYTES)), "behind the header of the segment");
    assert_eq!(start_of(Start::Position(second.end)), None);
    assert_eq!(start_of(Start::Index(BatchIndex(16))), None);
}

#[test]
fn nothing_is_committed_before_somebody_says_so_and_committed_never_goes_back() {
    let mut node = Node::new(1);
    let (a, b) = (node.lead(1, &["a"]), node.lead(1, &["b"]));
    let positions = node.port.positions();
    assert_eq!((positions.durable, positions.committed), (b.end, a.start), "durable, and that is all");
    assert_eq!(node.port.commit(BatchIndex(1)).expect("is there"), b.end);
    assert_eq!(node.port.commit(BatchIndex(0)).expect("is there"), b.end, "P5");
    assert!(matches!(node.port.commit(BatchIndex(2)), Err(CommitError::NotThere { index: BatchIndex(2) })));
    assert_eq!(node.port.positions().committed, b.end);
}

#[test]
fn a_roll_into_the_next_segment_commits_nothing() {
    let mut node = Node::new(1);
    lead_segments(&mut node);
    let first = node.port.log.segments().load()[0].first();
    assert_eq!(node.port.positions().committed, first);
}

#[test]
fn what_is_committed_is_not_taken_back() {
    let mut node = Node::new(1);
    let (_, b) = (node.lead(1, &["a"]), node.lead(1, &["b"]));
    node.lead(1, &["c"]);
    node.port.commit(BatchIndex(1)).expect("is there");
    let error = node.port.truncate(BatchIndex(1)).expect_err("P5");
    assert_eq!(error.to_string(), format!("batch 1 at {} is committed, as is everything below {}", b.start, b.end));
    assert_eq!(node.texts(), ["1 a", "1 b", "1 c"]);
    assert_eq!(node.port.truncate(BatchIndex(2)).expect("not committed"), b.end);
    assert_eq!(node.texts(), ["1 a", "1 b"]);
}

#[test]
fn another_leaders_batches_take_the_place_of_what_was_taken_back() {
    let (mut old, mut new) = (Node::new(1), Node::new(2));
    old.lead(1, &["a"]);
    new.follow(&old);
    let lost = old.lead(1, &["lost", "too"]);
    old.lead(1, &["also"]);
    let mine = new.lead(2, &["kept, and longer than what it replaces"]);
    assert_eq!(lost.start, mine.start);
    let pointer = Pointer { position: lost.start, length: 64 };
    assert!(old.port.cache.get(pointer).is_some());
    assert_eq!(old.port.truncate(BatchIndex(1)).expect("not committed"), lost.start);
    assert!(old.port.cache.get(pointer).is_none(), "the tail cache forgets what was taken back");
    old.follow(&new);
    assert!(old.files() == new.files());
    let old = old.restart(true);
    assert_eq!(old.texts(), ["1 a", "2 kept, and longer than what it replaces"]);
    assert_eq!(old.port.last(), Some(id(2, 2 - 1)));
}

#[test]
fn a_segment_that_a_deposed_leader_began_goes_with_its_batches_and_the_new_leaders_comes() {
    let (mut old, mut new) = (Node::new(1), Node::new(2));
    let text = "x".repeat(5000);
    while old.files().len() == 1 {
        new.follow(&old);
        old.lead(1, &[&text]);
    }
    let index = old.port.last().expect("some").index;
    // What the upkeep thread made ready meanwhile is dropped too.
    let ready = crate::log::allocate(&old.disk, OPTIONS.segment_bytes, 77).expect("space");
    *old.port.log.prepared().lock() = Some(ready);
    assert_eq!(old.port.truncate(index).expect("not committed"), new.port.positions().appended);
    assert!(old.port.log.prepared().lock().is_none());
    assert!(old.files() == new.files());
    new.lead(2, &[&text]);
    old.follow(&new);
    assert_eq!(old.files().len(), 2);
    assert!(old.files() == new.files(), "under the new leader's header");
    let old = old.restart(true);
    assert_eq!(old.texts(), new.texts());
}

#[test]
fn a_recovery_after_any_crash_of_a_truncation_finds_what_was_kept_and_a_beginning_of_the_rest() {
    for fuse in 0..40 {
        let mut node = Node::new(fuse);
        node.lead(1, &["a"]);
        node.lead(1, &["b"]);
        lead_segments(&mut node);
        node.lead(1, &["c", "d"]);
        let before = node.texts();
        node.port.commit(BatchIndex(0)).expect("is there");
        node.disk.crash_after(fuse);
        let is_done = node.port.truncate(BatchIndex(1)).is_ok();
        let mut node = node.restart(true);
        let found = node.texts();
        assert_eq!(found[..], before[..found.len()], "operation {fuse}");
        assert!(!found.is_empty() && (!is_done || found.len() == 1), "operation {fuse}: {}", found.len());
        node.port.truncate(BatchIndex(1)).expect("again");
        node.lead(2, &["other"]);
        let node = node.restart(true);
        assert_eq!(node.texts(), ["1 a", "2 other"], "operation {fuse}");
    }
}

#[test]
fn a_recovery_after_any_crash_of_an_append_finds_what_was_vouched_for_and_the_rest_can_follow() {
    let mut leader = Node::new(1);
    leader.lead(1, &["a", "b"]);
    lead_segments(&mut leader);
    leader.lead(2, &["c", "d", "e"]);
    for fuse in 0..60 {
        let mut follower = Node::new(100 + fuse);
        follower.disk.crash_after(fuse);
        let mut vouched = 0;
        loop {
            let piece = leader.port.read(Start::Index(BatchIndex(vouched)), 40 << 10).expect("no damage");
            let Some(piece) = piece else { break };
            if follower.port.append(&piece).is_err() || follower.port.sync().is_err() {
                break;
            }
            vouched = piece.batches().last().map_or(0, |last| last.expect("checked").header.index.0 + 1);
        }
        let mut follower = follower.restart(true);
        let found = follower.texts();
        assert!(found.len() as u64 >= vouched, "operation {fuse}: {} of {vouched}", found.len());
        follower.follow(&leader);
        assert!(follower.files() == leader.files(), "operation {fuse}");
    }
}

#[test]
fn the_end_of_a_group_that_is_not_all_there_is_taken_back_at_a_start() {
    let (mut leader, mut follower) = (Node::new(1), Node::new(2));
    leader.lead(1, &["a"]);
    let group = leader.lead(1, &["b", "c"]);
    follower.follow(&leader);
    // The second batch of the group was torn; the first one is good, and shares its block.
    follower.disk.flip(&segment::name(LogPosition(0)), group.start.0 + 72 + 64, 0);
    let mut follower = follower.restart(false);
    assert_eq!(follower.texts(), ["1 a"], "P1: or the rest would be written into a block that is relied on");
    follower.follow(&leader);
    assert!(follower.files() == leader.files());
}

#[test]
fn a_truncation_inside_a_block_is_refused() {
    let mut node = Node::new(1);
    node.lead(1, &["a", "b"]);
    let error = node.port.truncate(BatchIndex(1)).expect_err("P1");
    assert!(matches!(error, TruncateError::InsideBlock { index: BatchIndex(1), .. }), "{error}");
    assert_eq!(node.texts(), ["1 a", "1 b"]);
}

#[test]
fn what_does_not_follow_is_refused_and_leaves_nothing() {
    let (mut leader, mut follower, mut stranger) = (Node::new(1), Node::new(2), Node::new(3));
    leader.lead(5, &["a"]);
    follower.follow(&leader);
    leader.lead(5, &["b"]);
    leader.lead(5, &["c"]);
    let read =
        |node: &Node, index| node.port.read(Start::Index(BatchIndex(index)), 1).expect("no damage").expect("some");
    let before = follower.disk.operations();
    let refused = |piece: &Piece, follower: &mut Node| follower.port.append(piece).expect_err("it does not follow");

    assert!(matches!(refused(&read(&leader, 2), &mut follower), AppendError::Misplaced { .. }));
    assert!(matches!(refused(&read(&leader, 0), &mut follower), AppendError::Misplaced { .. }));
    let mut damaged = read(&leader, 1);
    let mut bytes = damaged.bytes.to_vec();
    bytes[64] ^= 1;
    damaged.bytes = bytes.into();
    assert!(
        matches!(refused(&damaged, &mut follower), AppendError::NoBatch(NoBatch { position }) if position == damaged.start)
    );
    let mut half = read(&leader, 1);
    half.bytes = half.bytes.slice(..100);
    assert!(matches!(refused(&half, &mut follower), AppendError::NotWholeBlocks { bytes: 100 }));
    stranger.lead(1, &["a"]);
    stranger.lead(1, &["b"]);
    assert!(matches!(refused(&read(&stranger, 1), &mut follower), AppendError::OtherStore));
    let other = Piece { segment: segment::Header { random: 0, ..read(&leader, 1).segment }, ..read(&leader, 1) };
    assert!(matches!(refused(&other, &mut follower), AppendError::OtherSegment { .. }));
    let early = follower.port.sequence(id(4, 1), group(&["x"]), Timestamp(1)).expect_err("P4");
    assert!(matches!(early, AppendError::TermRetreats { index: BatchIndex(1), last: Term(5), found: Term(4) }));
    let gap = follower.port.sequence(id(5, 2), group(&["x"]), Timestamp(1)).expect_err("P4");
    assert!(matches!(gap, AppendError::OutOfTurn { expected: BatchIndex(1), found: BatchIndex(2) }));

    assert_eq!(follower.disk.operations(), before, "nothing was written");
    follower.follow(&leader);
    assert_eq!(follower.texts(), ["5 a", "5 b", "5 c"]);
}

#[test]
fn damage_to_what_was_vouched_for_is_never_passed_over() {
    let mut node = Node::new(1);
    let a = node.lead(1, &["a"]);
    node.lead(1, &["b"]);
    node.disk.flip(&segment::name(LogPosition(0)), a.start.0 + 64, 0);
    let Node { disk, port } = node;
    drop(port);
    let error = try_open(&disk, 1).err().expect("P6");
    assert!(matches!(&error, OpenError::Lost { ranges } if ranges[..] == [a.clone()]), "{error}");
}

#[test]
fn a_replica_that_was_given_everything_otherwise_begins_anew_behind_it() {
    let (mut leader, mut follower) = (Node::new(1), Node::new(2));
    lead_segments(&mut leader);
    follower.follow(&leader);
    leader.port.purge(id(1, 3)).expect("a healthy disk");
    let piece = leader.port.read(Start::Index(BatchIndex(0)), 1).expect("no damage").expect("some");
    assert_eq!(piece.batches().next().expect("one").expect("good").header.index, BatchIndex(4));
    assert!(matches!(leader.port.truncate(BatchIndex(2)), Err(TruncateError::Purged { purged: BatchIndex(3), .. })));
    for fuse in 0..30 {
        let node = Node { disk: follower.disk.image(), port: try_open(&follower.disk.image(), 1).expect("whole") };
        let mut node = node.restart(false);
        node.disk.crash_after(fuse);
        let is_done = node.port.purge(id(2, 30)).is_ok();
        let mut node = node.restart(true);
        if !is_done && node.port.purged().is_none() {
            assert_eq!(node.texts(), follower.texts(), "operation {fuse}");
            continue;
        }
        assert_eq!((node.port.last(), node.texts().len()), (Some(id(2, 30)), 0), "operation {fuse}");
        node.lead(3, &["new"]);
        let node = node.restart(true);
        assert_eq!((node.port.last(), node.texts()), (Some(id(3, 31)), vec!["3 new".into()]), "operation {fuse}");
    }
}

fn vote(term: u64) -> Vote {
    Vote { term: Term(term), node: term * 10, is_committed: term.is_multiple_of(2) }
}

#[test]
fn a_vote_survives_the_loss_of_power_at_any_moment_and_is_never_half_of_two() {
    for fuse in 0..12 {
        for seed in 0..16 {
            let mut node = Node::new(seed);
            assert_eq!(node.port.vote(), None);
            node.port.save_vote(vote(1)).expect("a healthy disk");
            node.disk.crash_after(fuse);
            let is_saved = node.port.save_vote(vote(2)).is_ok();
            let node = node.restart(true);
            let found = node.port.vote().expect("there was one");
            assert!(found == vote(2) || (!is_saved && found == vote(1)), "operation {fuse}, seed {seed}: {found:?}");
            let node = node.restart(true);
            assert_eq!(node.port.vote(), Some(found), "what was seen once stays");
        }
    }
}

#[test]
fn damage_to_either_slot_loses_no_vote_and_damage_to_both_is_named() {
    for slot in [0, LOG_BLOCK_BYTES] {
        let mut node = Node::new(1);
        node.port.save_vote(vote(1)).expect("a healthy disk");
        node.port.save_vote(vote(2)).expect("a healthy disk");
        node.disk.flip("vote", slot + 20, 0);
        let node = node.restart(false);
        assert_eq!(node.port.vote(), Some(vote(2)), "V1");
        let other = LOG_BLOCK_BYTES - slot;
        node.disk.flip("vote", other + 20, 0);
        let node = node.restart(false);
        assert_eq!(node.port.vote(), Some(vote(2)), "the start before mended the first one");
        for slot in [0, LOG_BLOCK_BYTES] {
            node.disk.flip("vote", slot + 20, 0);
        }
        let error = try_open(&node.disk, 1).err().expect("nobody knows whom it voted for");
        assert!(matches!(error, OpenError::Slots(SlotsError::Damaged { name: "vote" })), "{error}");
    }
}

#[test]
fn after_a_failed_sync_the_vote_file_takes_nothing_and_the_page_cache_is_not_believed() {
    for (syncs, seed) in [0, 1].into_iter().flat_map(|syncs| (0..16).map(move |seed| (syncs, seed))) {
        let mut node = Node::new(seed);
        node.port.save_vote(vote(1)).expect("a healthy disk");
        node.disk.fail_sync_after(syncs);
        node.port.save_vote(vote(2)).expect_err("as asked");
        assert!(matches!(node.port.save_vote(vote(3)), Err(SlotsError::Failed { name: "vote" })));
        let node = node.restart(false);
        let found = node.port.vote();
        let node = node.restart(true);
        assert_eq!(node.port.vote(), found, "V3: what was seen after the start survives the power, seed {seed}");
    }
}
