//! Bits that flip, and files that vanish, in every kind of file of a store that has grown old.
//!
//! What is derived from the log, and what is kept twice, comes back as it was, and the store lives on to a good end. What
//! was data is lost by name, or the store does not open and says why. Nothing is served as something else.

use base::{Chance, LogPosition};
use storage::checkpoint::{self, Manifest};
use storage::disk::Disk;
use storage::index;
use storage::log::segment;
use storage::store::{OpenError, Recovered};
use storage::table::{BLOCK, Kind};

use super::oracle::{body_of, must};
use super::snapshot::Snapshot;
use super::world::{Quiet, World};
use super::{Tally, damage};

/// Bytes of one copy of a segment's header, and where the second one begins.
const HEADER_BYTES: u64 = 128;
const COPY_AT: u64 = 2048;

/// What happens to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Index,
    IndexGone,
    EveryIndexGone,
    Table,
    Copy,
    HalfGone,
    Pair,
    Newest,
    NewestGone,
    EveryManifest,
    Header,
    Sealed,
    SegmentGone,
    Tail,
    TailBelowDurable,
    NewestSegmentGone,
    /// Runs of timers, both halves; in seeds of their own.
    Runs,
}

const BLOWS: [Blow; 16] = [
    Blow::Index,
    Blow::IndexGone,
    Blow::EveryIndexGone,
    Blow::Table,
    Blow::Copy,
    Blow::HalfGone,
    Blow::Pair,
    Blow::Newest,
    Blow::NewestGone,
    Blow::EveryManifest,
    Blow::Header,
    Blow::Sealed,
    Blow::SegmentGone,
    Blow::Tail,
    Blow::TailBelowDurable,
    Blow::NewestSegmentGone,
];

/// What the store is to make of it.
#[derive(Debug)]
enum Expected {
    /// Everything is as before.
    Same,
    /// A body in a sealed segment is damaged; everything else is as before.
    Body(LogPosition),
    /// What lies there is gone, by name.
    Lost(Vec<LogPosition>),
    Refused(fn(&OpenError) -> bool),
}

/// Files of the damaged store, as they were.
struct Files {
    newest: Manifest,
    older: Manifest,
    segments: Vec<segment::Header>,
    indexes: Vec<String>,
}

pub fn run(seed: u64, is_loud: bool) -> Tally {
    let mut world = World::new(seed, is_loud).growing_old();
    grow(&mut world);
    let blow = BLOWS[usize::try_from(seed / 8 % BLOWS.len() as u64).expect("few")];
    if blow == Blow::TailBelowDurable {
        // What lies behind a checkpoint could be cut off without a trace.
        world.seal_and_checkpoint();
    }
    let files = files(&world);
    let before = {
        let running = world.run();
        Snapshot::of(running.writer.views(), &running.timer)
    };
    let Some(expected) = strike(&mut world, blow, &files) else { return world.tally };
    world.tally.blows.count(blow);
    match expected {
        Expected::Lost(positions) => damage::check(&mut world, &positions),
        Expected::Refused(is_right) => {
            world.running = None;
            let refused = world.open(&world.disk.clone(), Chance::new(1)).err();
            let is_right = refused.as_ref().is_some_and(is_right);
            must!(is_right, "{blow:?} is answered by {refused:?}");
        }
        Expected::Same => live_on(&mut world, (&before, files.newest.number), blow, None),
        Expected::Body(position) => live_on(&mut world, (&before, files.newest.number), blow, Some(position)),
    }
    world.tally
}

/// Damages runs of timers in both halves, before a start. All that waited waits still.
pub fn run_on_timers(seed: u64, is_loud: bool) -> Tally {
    // Of a store that grows old little waits.
    let mut world = World::new(seed, is_loud);
    grow(&mut world);
    let newest = files(&world).newest.number;
    let before = {
        let running = world.run();
        Snapshot::of(running.writer.views(), &running.timer)
    };
    let upkeep = world.run().upkeep.take().expect("upkeep is at home");
    let count = 1 + world.chance.below(3);
    let struck = (0..count).filter(|_| world.strike_run(&upkeep)).count() as u64;
    world.run().upkeep = Some(upkeep);
    world.tally.blows.runs += struck;
    live_on(&mut world, (&before, newest), Blow::Runs, None);
    world.tally
}

/// A store with two checkpoints, sealed segments, and a tail that is in neither.
fn grow(world: &mut World) {
    world.begin();
    let steps = 120 + world.chance.below(200);
    for _ in 0..steps {
        match world.chance.below(16) {
            0..=1 => world.upkeep(),
            2..=4 => world.poll(),
            5..=8 => world.settle(),
            9 => world.advance(),
            10 => world.cold(),
            11 => world.ask_timer(),
            12 => world.end_transaction(),
            _ => world.send(),
        }
        go_on(world);
    }
    for _ in 0..2 {
        for _ in 0..30 {
            world.send();
            go_on(world);
        }
        world.seal_and_checkpoint();
    }
    let steps = world.chance.below(12);
    for _ in 0..steps {
        if world.chance.one_in(2) {
            world.send()
        } else {
            world.settle()
        }
        go_on(world);
    }
    world.settle_down();
    world.run().writer.mark().expect("a healthy disk");
}

fn go_on(world: &mut World) {
    world.timer_due();
    world.pump();
    world.commit(4);
    world.pump();
}

fn files(world: &World) -> Files {
    let names = world.disk.list().expect("power");
    let numbers = checkpoint::numbers(&names);
    let manifest = |number| checkpoint::read_manifest(&world.disk, number).expect("nothing happened yet");
    let [newest, older] = [numbers[0], numbers[1]].map(manifest);
    let running = world.running.as_ref().expect("the process lives");
    // What is left of thinned ones is not what a log can be read from.
    let segments = running.writer.log().segments().load_full();
    let whole = segments.iter().filter(|segment| segment.thin.is_none());
    let segments = whole.map(|segment| segment.header).collect();
    let indexes = running.writer.views().index.indexes();
    Files { newest, older, segments, indexes: indexes.iter().map(|of| index::name(of.base())).collect() }
}

/// Does it. None where the store has no such file.
fn strike(world: &mut World, blow: Blow, files: &Files) -> Option<Expected> {
    let disk = world.disk.clone();
    let is_whole = files.segments[0].base == LogPosition(0) && is_without_gaps(&files.segments);
    let sealed = files.segments.iter().filter(|header| header.end() <= files.newest.replay_from);
    let sealed: Vec<_> = sealed.copied().collect();
    let expected = match blow {
        Blow::Index => {
            let name = pick(world, &files.indexes)?;
            flip(world, &name)
        }
        Blow::IndexGone => remove(&disk, &pick(world, &files.indexes)?),
        Blow::EveryIndexGone => {
            files.indexes.iter().for_each(|name| drop(remove(&disk, name)));
            Expected::Same
        }
        Blow::Table | Blow::Copy | Blow::HalfGone | Blow::Pair => {
            // One half may have rotted before, while the store ran, and nobody has read it since.
            let is_half_sound = |name: &str, (kind, of): &(Kind, checkpoint::TableRef)| {
                checkpoint::Pair::check(&disk, name, *kind, of.number, files.newest.store).is_ok()
            };
            let is_sound = |table: &(Kind, checkpoint::TableRef)| {
                pair(table.0, table.1.number).iter().all(|name| is_half_sound(name, table))
            };
            let tables: Vec<_> = files.newest.tables().filter(is_sound).collect();
            let (kind, table) = pick(world, &tables)?;
            let [data, copy] = pair(kind, table.number);
            match blow {
                Blow::Table => flip(world, &data),
                Blow::Copy => flip(world, &copy),
                Blow::HalfGone if world.chance.one_in(2) => remove(&disk, &data),
                Blow::HalfGone => remove(&disk, &copy),
                _ => {
                    let blocks = [&data, &copy].map(|half| flip_byte(world, half) / BLOCK as u64);
                    // The log has what a run has lost, and each half has what the other one lost in another place.
                    if kind == Kind::Timers || blocks[0] != blocks[1] {
                        return Some(Expected::Same);
                    }
                    let is_in_both = files.older.tables().any(|(_, of)| of.number == table.number);
                    if is_in_both { without_checkpoint(files, is_whole)? } else { Expected::Same }
                }
            }
        }
        Blow::Newest => flip(world, &checkpoint::manifest_name(files.newest.number)),
        Blow::NewestGone => remove(&disk, &checkpoint::manifest_name(files.newest.number)),
        Blow::EveryManifest => {
            for manifest in [&files.newest, &files.older] {
                flip(world, &checkpoint::manifest_name(manifest.number));
            }
            without_checkpoint(files, is_whole)?
        }
        Blow::Runs => panic!("it has seeds of its own"),
        Blow::Header => {
            let is_on_disk = |header: &&segment::Header| disk.content(&segment::name(header.base)).is_some();
            let headers: Vec<_> = files.newest.segments.iter().filter(is_on_disk).copied().collect();
            let header = pick(world, &headers)?;
            let is_there = files.segments.contains(&header);
            let name = segment::name(header.base);
            let is_both = world.chance.one_in(2);
            for at in [0, COPY_AT].into_iter().take(1 + usize::from(is_both)) {
                let (byte, bit) = (at + world.chance.below(HEADER_BYTES), world.chance.below(8) as u8);
                must!(disk.flip(&name, byte, bit), "a header is in its file");
            }
            is_there.then_some(Expected::Same)?
        }
        Blow::Sealed | Blow::Tail | Blow::TailBelowDurable => {
            let from = files.newest.replay_from;
            let batches = damage::proved(world).into_iter();
            let batches = batches.filter(|batch| (batch.position < from) == (blow == Blow::Sealed));
            let batches: Vec<_> = batches.collect();
            let batch = pick(world, &batches)?;
            if blow == Blow::TailBelowDurable {
                return tear_off(world, files);
            }
            let (byte, bit) = (batch.offset + world.chance.below(batch.length), world.chance.below(8) as u8);
            must!(disk.flip(&batch.file, byte, bit), "the batch lies inside its file");
            match blow {
                Blow::Sealed => Expected::Body(batch.position.plus(byte - batch.offset)),
                _ => Expected::Lost(vec![batch.position]),
            }
        }
        Blow::SegmentGone => {
            let header = pick(world, &sealed)?;
            remove(&disk, &segment::name(header.base));
            Expected::Lost(vec![header.base])
        }
        Blow::NewestSegmentGone => {
            let newest = files.segments.last()?;
            // Of what lies behind the checkpoint nobody knows that it was there.
            (files.newest.durable > newest.base).then_some(())?;
            remove(&disk, &segment::name(newest.base));
            Expected::Refused(|error| error.to_string().contains("is missing, and the log went on at"))
        }
    };
    Some(expected)
}

/// The newest segment is cut off below what the checkpoint knows to have been durable.
fn tear_off(world: &mut World, files: &Files) -> Option<Expected> {
    let newest = files.segments.last()?;
    let batches = damage::proved(world);
    let cut: Vec<_> = batches.iter().filter(|batch| batch.position < files.newest.durable).collect();
    let cut: Vec<_> = cut.into_iter().filter(|batch| batch.position > newest.base).collect();
    let first = cut.get(usize::try_from(world.chance.below(cut.len().max(1) as u64)).expect("few"))?;
    let length = usize::try_from(newest.size - first.offset).expect("small");
    world.disk.overwrite(&first.file, first.offset, &vec![0; length]);
    let positions = batches.iter().map(|batch| batch.position);
    let gone = positions.filter(|position| *position >= first.position && *position < files.newest.durable);
    Some(Expected::Lost(gone.collect()))
}

/// Both checkpoints are useless. None where some segments are gone, and the log goes on behind them.
fn without_checkpoint(files: &Files, is_whole: bool) -> Option<Expected> {
    if is_whole {
        return Some(Expected::Same);
    }
    let is_begun = files.segments[0].base == LogPosition(0);
    (!is_begun).then_some(Expected::Refused(
        |error| matches!(error, OpenError::NothingLeft { reasons } if !reasons.is_empty()),
    ))
}

fn is_without_gaps(segments: &[segment::Header]) -> bool {
    segments.windows(2).all(|two| two[0].end() == two[1].base)
}

fn pair(kind: Kind, number: u64) -> [String; 2] {
    [checkpoint::data_name(kind, number), checkpoint::copy_name(kind, number)]
}

fn pick<T: Clone>(world: &mut World, all: &[T]) -> Option<T> {
    (!all.is_empty()).then(|| world.chance.pick(all).clone())
}

fn flip(world: &mut World, name: &str) -> Expected {
    flip_byte(world, name);
    Expected::Same
}

/// Gives which byte it was.
fn flip_byte(world: &mut World, name: &str) -> u64 {
    let length = world.disk.content(name).unwrap_or_else(|| panic!("{name} is there")).len() as u64;
    let (byte, bit) = (world.chance.below(length), world.chance.below(8) as u8);
    must!(world.disk.flip(name, byte, bit), "{name} has {length} bytes");
    byte
}

fn remove(disk: &dyn Disk, name: &str) -> Expected {
    disk.remove(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    disk.sync_directory().expect("power");
    Expected::Same
}

/// Starts the store again and compares. It lives on to its end, in which everything comes to everybody.
fn live_on(world: &mut World, (before, newest): (&Snapshot, u64), blow: Blow, damaged: Option<LogPosition>) {
    let segments = world.run().writer.log().segments().load_full();
    world.stop();
    let recovered = world.open(&world.disk.clone(), Chance::new(1));
    let mut recovered = recovered.unwrap_or_else(|error| panic!("{blow:?} keeps the store from opening: {error}"));
    must!(recovered.report.quarantined.is_empty(), "{blow:?} took something of the log: {:?}", recovered.report);
    mend(&mut recovered, &mut world.tally);
    let after = Snapshot::of(recovered.writer.views(), &recovered.timer);
    if let Some(difference) = before.difference(&after) {
        panic!("otherwise after {blow:?}: {difference}");
    }
    // Retention lets others go, and thinning what nobody wants of those that stay.
    let is_kept = |position| segments.iter().any(|segment| segment.contains(position) && segment.thin.is_none());
    for (id, pointer) in world.pointers().into_iter().filter(|(_, pointer)| is_kept(pointer.position)) {
        let end = pointer.position.plus(pointer.length.into());
        let is_hit = damaged.is_some_and(|at| at >= pointer.position && at < end);
        match recovered.reader.fetch(pointer) {
            // What is around the body stands in the index file too, and is not taken from here.
            Ok(stored) => {
                let is_own = stored.envelope.message_id == id.to_string() && stored.body == body_of(id);
                must!(is_own, "message {id} came back altered");
            }
            Err(error) => must!(is_hit && error.is_lost(), "message {id} is not damaged, yet: {error}"),
        }
    }
    let restored = recovered.upkeep.newest();
    // Of anything that is kept twice or can be made anew, the older checkpoint is not asked.
    if !matches!(blow, Blow::Pair | Blow::Newest | Blow::NewestGone | Blow::EveryManifest) {
        must!(restored.map(|of| of.number) == Some(newest), "{blow:?} cost the newest checkpoint");
    }
    check_pairs(world, restored);
    if damaged.is_none() {
        world.go_on_with(recovered);
        world.finish_well();
    }
}

/// Reads everything that is in index files; what is found to be damaged is made anew.
fn mend(recovered: &mut Recovered, tally: &mut Tally) {
    let indexes = recovered.writer.views().index.indexes().clone();
    for index in indexes.iter() {
        if let Err(error) = index.verify() {
            recovered.writer.views().index.report(index.base(), &error);
        }
    }
    let Recovered { writer, timer, upkeep, .. } = recovered;
    Quiet { writer, timer }.mend(upkeep, tally);
    must!(timer.timers().all().is_ok(), "timers cannot be read after everything was mended");
    for index in recovered.writer.views().index.indexes().iter() {
        index.verify().unwrap_or_else(|error| panic!("an index was not mended: {error}"));
    }
}

/// Every table that was used is there twice again, the same in both.
fn check_pairs(world: &World, restored: Option<&Manifest>) {
    let mut tables = restored.into_iter().flat_map(Manifest::tables);
    // Of runs of timers no more is read than is due.
    while let Some((kind, table)) = tables.find(|(kind, _)| *kind != Kind::Timers) {
        let [data, copy] = pair(kind, table.number).map(|name| world.disk.content(&name));
        must!(data.is_some() && data == copy, "the two halves of {} {} differ", kind.name(), table.number);
    }
}

/// How often what was hit.
#[derive(Debug, Default, Clone, Copy)]
pub struct Blows {
    pub indexes: u64,
    /// While the store runs.
    pub indexes_in_use: u64,
    pub copies_in_use: u64,
    /// Runs of timers in both halves, before a start and while the store runs.
    pub runs: u64,
    pub runs_in_use: u64,
    pub tables: u64,
    pub copies: u64,
    pub pairs: u64,
    pub manifests: u64,
    pub headers: u64,
    pub sealed: u64,
    pub tails: u64,
    pub missing: u64,
}

impl Blows {
    fn count(&mut self, blow: Blow) {
        let counted = match blow {
            Blow::Index => &mut self.indexes,
            Blow::Table => &mut self.tables,
            Blow::Copy => &mut self.copies,
            Blow::Pair => &mut self.pairs,
            Blow::Newest | Blow::EveryManifest => &mut self.manifests,
            Blow::Runs => &mut self.runs,
            Blow::Header => &mut self.headers,
            Blow::Sealed => &mut self.sealed,
            Blow::Tail | Blow::TailBelowDurable => &mut self.tails,
            _ => &mut self.missing,
        };
        *counted += 1;
    }

    pub fn add(&mut self, other: &Self) {
        self.indexes += other.indexes;
        self.indexes_in_use += other.indexes_in_use;
        self.copies_in_use += other.copies_in_use;
        self.runs += other.runs;
        self.runs_in_use += other.runs_in_use;
        self.tables += other.tables;
        self.copies += other.copies;
        self.pairs += other.pairs;
        self.manifests += other.manifests;
        self.headers += other.headers;
        self.sealed += other.sealed;
        self.tails += other.tails;
        self.missing += other.missing;
    }
}
