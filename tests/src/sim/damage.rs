//! Bits that flip below the proved part of the log: found, named and contained, never served as something else.

use std::collections::HashSet;

use base::{Chance, LogPosition, QueueOffset};
use storage::log::batch::{HEADER_BYTES, Header};
use storage::record::Pointer;
use storage::store::Recovered;

use super::Tally;
use super::oracle::{Fate, Kind, must};
use super::snapshot::Snapshot;
use super::world::World;

/// A batch that a later one proves.
#[derive(Clone)]
pub(super) struct Proved {
    pub position: LogPosition,
    pub file: String,
    pub offset: u64,
    pub length: u64,
}

pub fn run(seed: u64, is_loud: bool) -> Tally {
    let mut world = World::new(seed, is_loud);
    world.begin();
    let steps = 40 + world.chance.below(60);
    for _ in 0..steps {
        match world.chance.below(10) {
            0..=1 => world.poll(),
            2..=3 => world.settle(),
            4 => world.advance(),
            5 => world.cold(),
            6 => world.ask_timer(),
            7 => world.end_transaction(),
            _ => world.send(),
        }
        world.timer_due();
        world.pump();
        world.commit(3);
        world.pump();
    }
    world.commit(usize::MAX);
    world.running.as_mut().expect("the process lives").writer.mark().expect("a healthy disk");
    let proved = proved(&world);
    let count = 1 + world.chance.below(3);
    // The first batch holds the store's identity; without it there is no store, which has a test of its own.
    let hit: Vec<usize> = (0..count).map(|_| 1 + world.chance.below(proved.len() as u64 - 1) as usize).collect();
    for index in &hit {
        let batch = &proved[*index];
        let byte = batch.offset + world.chance.below(batch.length);
        let bit = world.chance.below(8) as u8;
        must!(world.disk.flip(&batch.file, byte, bit), "the batch lies inside its file");
    }
    let damaged: Vec<_> = {
        // The same bit twice is no damage.
        let found = hit.iter().filter(|index| hit.iter().filter(|other| other == index).count() == 1);
        found.map(|index| proved[*index].position).collect()
    };
    check(&mut world, &damaged);
    world.tally
}

/// Starts the store again, whose log has lost what lies at `damaged`. The rest must be as it was.
pub(super) fn check(world: &mut World, damaged: &[LogPosition]) {
    let segments: Vec<_> = {
        let running = world.running.as_ref().expect("the process lives");
        let all = running.writer.log().segments().load_full();
        let whole = all.iter().filter(|segment| segment.thin.is_none());
        whole.map(|segment| segment.header.base..segment.header.end()).collect()
    };
    world.running = None;
    world.oracle.may_lose = true;
    let recovered = world.open(&world.disk.clone(), Chance::new(1));
    let recovered = recovered.unwrap_or_else(|error| panic!("damage to the log alone: {error}"));
    for position in damaged {
        let is_named = recovered.report.quarantined.iter().any(|hole| hole.contains(position));
        must!(is_named, "the damaged batch at {position} is not named: {:?}", recovered.report);
    }
    let messages = world.pointers();
    // Retention lets others go, and thinning what nobody wants of those that stay.
    let is_kept = |pointer: &Pointer| segments.iter().any(|segment| segment.contains(&pointer.position));
    for (id, pointer) in messages.iter().filter(|(_, pointer)| is_kept(pointer)) {
        let is_lost = recovered.report.quarantined.iter().any(|hole| hole.contains(&pointer.position));
        let fetched = recovered.reader.fetch(*pointer);
        match fetched {
            Ok(stored) => must!(stored.body == super::oracle::body_of(*id), "message {id} came back altered"),
            Err(error) => must!(is_lost && error.is_lost(), "message {id} lies in no hole, yet: {error}"),
        }
        let message = &world.oracle.messages[id];
        if let (false, Some((queue, offset)), Fate::Stored) = (is_lost, message.slot, message.fate) {
            let catalog = recovered.reader.catalog();
            let queue = catalog.topic_by_id(message.topic).and_then(|topic| topic.queue(queue));
            if queue.is_some_and(|queue| offset < queue.bounds().first) {
                continue;
            }
            let entry = queue.and_then(|queue| queue.entry(offset));
            // When the topic's own record is gone, so are its queues; that is counted.
            let orphans = recovered.writer.views().orphans;
            let is_same = match entry.filter(|entry| !entry.is_lost()) {
                Some(entry) => entry.pointer() == *pointer,
                // The body is there, but what made it visible is not; it is lost by name, or waits again.
                None => message.kind != Kind::Visible,
            };
            must!(is_same || orphans > 0, "message {id} was at {queue:?} {offset} and is not");
        }
    }
    check_ended_once(world, &recovered);
    // New messages get places that nobody has acknowledged.
    let mut writer = recovered.writer;
    let snapshot = Snapshot::of(writer.views(), &recovered.timer);
    for pair in &world.oracle.pairs {
        let catalog = recovered.reader.catalog();
        let Some(topic) = catalog.topic_by_id(pair.topic) else { continue };
        let progress = recovered.reader.progress(pair.group, pair.topic);
        for (number, queue) in topic.queues.iter().enumerate() {
            let slot = (base::QueueIndex(number as u16), queue.bounds().next);
            must!(
                !progress.lock().is_acknowledged(slot),
                "the next message at {slot:?} of {:?} is acknowledged already",
                pair.topic
            );
            let is_leased = progress.lock().leases().any(|(_, lease)| {
                lease.entries.iter().any(|entry| (entry.queue, entry.offset) >= slot && entry.queue == slot.0)
            });
            must!(!is_leased, "the next message at {slot:?} of {:?} is leased already", pair.topic);
        }
    }
    writer.mark().expect("a healthy disk");
    drop(writer);
    let again =
        world.open(&world.disk.clone(), Chance::new(2)).unwrap_or_else(|error| panic!("the second time: {error}"));
    must!(
        again.report.quarantined == recovered.report.quarantined,
        "another damage the second time: {:?}",
        again.report
    );
    let second = Snapshot::of(again.writer.views(), &again.timer);
    if let Some(difference) = snapshot.difference(&second) {
        panic!("two recoveries of a damaged disk differ: {difference}");
    }
}

/// What is visible waits for nothing any more, and nothing waits in two places: whatever damage took, it is not published
/// a second time.
fn check_ended_once(world: &World, recovered: &Recovered) {
    let catalog = recovered.reader.catalog();
    let mut visible = HashSet::new();
    for pair in &world.oracle.pairs {
        let Some(topic) = catalog.topic_by_id(pair.topic) else { continue };
        for queue in &topic.queues {
            let bounds = queue.bounds();
            let entries = (bounds.first.0..bounds.next.0).filter_map(|offset| queue.entry(QueueOffset(offset)));
            visible.extend(entries.filter(|entry| !entry.is_lost()).map(|entry| entry.pointer().position));
        }
    }
    let transactions = recovered.reader.transactions().lock();
    let prepared = transactions.iter().map(|prepared| prepared.pointer.position);
    let mut waiting = HashSet::new();
    let timers = recovered.timer.timers().all().expect("its runs can be read");
    for origin in timers.iter().map(|timer| timer.pointer.position).chain(prepared) {
        must!(waiting.insert(origin), "what lies at {origin} waits in two places");
        must!(!visible.contains(&origin), "what lies at {origin} is visible, and waits to become so again");
    }
}

/// Every batch below what the newest one proves, found without the recovery's help.
pub(super) fn proved(world: &World) -> Vec<Proved> {
    let running = world.running.as_ref().expect("the process lives");
    let mut all = Vec::new();
    let mut durable = LogPosition(0);
    let segments = running.writer.log().segments().load_full();
    for segment in segments.iter().filter(|segment| segment.thin.is_none()) {
        let file = storage::log::segment::name(segment.header.base);
        let content = world.disk.content(&file).expect("listed");
        let mut at = segment.first();
        loop {
            let offset = segment.offset(at);
            let start = usize::try_from(offset).expect("small");
            let Some(bytes) = content.get(start..start + HEADER_BYTES) else { break };
            let Some(header) = Header::decode(bytes.try_into().expect("as long"), segment.seed) else { break };
            let length = HEADER_BYTES as u64 + u64::from(header.length);
            all.push(Proved { position: at, file: file.clone(), offset, length });
            durable = durable.max(header.durable());
            at = at.plus(header.total());
        }
    }
    all.retain(|batch| batch.position < durable);
    all
}
