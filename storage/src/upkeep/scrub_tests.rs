//! What a scrub finds, and what comes of it.

use super::super::aged_tests::Aged;
use super::*;

fn found(aged: &mut Aged) -> Vec<Damage> {
    aged.scrub(1 << 20).into_iter().flat_map(|scrubbed| scrubbed.found).collect()
}

#[test]
fn a_sound_store_is_read_in_small_steps_and_nothing_is_found_or_changed() {
    let mut aged = Aged::new();
    let before = aged.disk.operations();
    let steps = aged.scrub(8 << 10);
    assert!(steps.iter().all(|step| step.found.is_empty()), "{steps:?}");
    // A group is 8 KiB, and blocks are read whole: no step reads much more than it may.
    assert!(steps.iter().all(|step| step.bytes <= 16 << 10), "{steps:?}");
    let bytes: u64 = steps.iter().map(|step| step.bytes).sum();
    let sealed = 6 * (60 << 10);
    assert!(bytes > sealed, "{bytes} bytes were read, and sealed segments alone have {sealed}");
    assert_eq!(aged.disk.operations(), before);
    assert_eq!(aged.scrub(1 << 30).len(), 1, "the next round is read in one step");
}

#[test]
fn damage_of_a_sealed_segment_is_named_once_and_the_next_checkpoint_remembers_it() {
    let mut aged = Aged::new();
    let pointer = aged.placed[3].pointer;
    assert!(aged.disk.flip(&segment::name(LogPosition(0)), pointer.position.0 + 500, 3));
    let found_now = found(&mut aged);
    let [Damage::Hole { range, lost }] = &found_now[..] else { panic!("{found_now:?}") };
    assert!(range.contains(&pointer.position) && range.end <= aged.placed[4].pointer.position, "{range:?}");
    let hash = aged.recovered.reader.hash_key().message_group("g3");
    let fourth = Lost { topic: TopicId(0), queue: QueueIndex(0), offsets: 3..4, message_groups: vec![hash] };
    assert_eq!(*lost, [fourth]);
    assert!(found(&mut aged).is_empty(), "it is no news");
    assert!(matches!(aged.fetch(3), Some(Err(error)) if error.is_lost()));
    aged.send("g0");
    aged.checkpoint();
    let holes = vec![range.clone()];
    assert_eq!(aged.recovered.upkeep.newest().unwrap().holes, holes);
    aged.restart().unwrap();
    assert_eq!(aged.recovered.upkeep.holes(), holes);
    assert!(found(&mut aged).is_empty(), "it is no news after a restart either");
}

#[test]
fn a_damaged_index_is_made_anew() {
    let mut aged = Aged::new();
    let name = index::name(LogPosition(0));
    let sound = aged.disk.content(&name).unwrap();
    assert!(aged.disk.flip(&name, 5000, 0));
    let found_now = found(&mut aged);
    assert!(matches!(found_now[..], [Damage::Index { segment: LogPosition(0) }]), "{found_now:?}");
    assert_eq!(aged.recovered.upkeep.mend_indexes().unwrap(), 1);
    assert!(found(&mut aged).is_empty());
    assert_eq!(aged.disk.content(&name).unwrap().len(), sound.len());
    assert!(matches!(aged.fetch(3), Some(Ok(5000))));
}

#[test]
fn a_damaged_half_of_a_pair_is_made_anew_from_the_other_one() {
    for which in [".table", ".copy"] {
        let mut aged = Aged::new();
        let name = aged.names().into_iter().find(|name| name.starts_with("catalog-") && name.ends_with(which)).unwrap();
        let sound = aged.disk.content(&name).unwrap();
        assert!(aged.disk.flip(&name, 4100, 0));
        let found_now = found(&mut aged);
        assert!(matches!(&found_now[..], [Damage::Table { name: of }] if *of == name), "{found_now:?}");
        assert_eq!(aged.disk.content(&name).unwrap(), sound);
        assert!(!aged.recovered.upkeep.is_adrift());
    }
}

#[test]
fn after_both_halves_are_damaged_the_next_checkpoint_holds_everything() {
    let mut aged = Aged::new();
    let newest = aged.recovered.upkeep.newest().unwrap().clone();
    for (kind, table) in newest.tables() {
        for name in [checkpoint::data_name(kind, table.number), checkpoint::copy_name(kind, table.number)] {
            assert!(aged.disk.flip(&name, 4100, 0));
        }
    }
    let found_now = found(&mut aged);
    assert!(!found_now.is_empty() && found_now.iter().all(|found| matches!(found, Damage::Pair { .. })));
    assert!(aged.recovered.upkeep.is_adrift());
    aged.checkpoint();
    let next = aged.recovered.upkeep.newest().unwrap().clone();
    for (kind, table) in next.tables() {
        let is_new = newest.tables().all(|(_, old)| old.number != table.number);
        assert!(is_new, "table {} of {kind:?} is one of the damaged", table.number);
    }
    aged.restart().unwrap();
    assert_eq!(aged.recovered.upkeep.newest().unwrap().number, next.number);
    assert!(matches!(aged.fetch(3), Some(Ok(5000))));
}

#[test]
fn a_damaged_manifest_is_written_anew() {
    let mut aged = Aged::new();
    let number = aged.recovered.upkeep.newest().unwrap().number;
    assert!(aged.disk.flip(&checkpoint::manifest_name(number), 50, 0));
    let found_now = found(&mut aged);
    assert!(matches!(found_now[..], [Damage::Manifest { .. }]), "{found_now:?}");
    assert!(found(&mut aged).is_empty());
    aged.restart().unwrap();
    assert_eq!(aged.recovered.upkeep.newest().unwrap().number, number);
}
