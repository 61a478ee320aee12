//! Thinning, step by step.

use super::*;
use crate::disk::Disk;
use crate::index;
use crate::log::thin as thin_file;
use crate::request::Placed;
use crate::upkeep::aged_tests::Aged;
use crate::verify::{Finding, directory};

/// Thins what is worth it; gives how many segments.
fn thin(aged: &mut Aged) -> usize {
    std::iter::from_fn(|| aged.thin()).count()
}

#[test]
fn a_start_does_not_thin_again_what_was_thinned_before_it() {
    let mut aged = Aged::mixed();
    assert!(thin(&mut aged) > 1);
    assert_eq!(thin(&mut aged), 0);
    aged.restart().unwrap();
    assert_eq!(thin(&mut aged), 0);
    assert_eq!(unreadable(&aged), 0);
}

/// How many of the wanted messages cannot be read.
fn unreadable(aged: &Aged) -> usize {
    (0..aged.placed.len() as u64).filter(|offset| !matches!(aged.fetch(*offset), Some(Ok(5000)))).count()
}

#[test]
fn an_index_is_made_anew_from_a_thinned_segment_of_which_a_record_is_damaged() {
    let mut aged = Aged::mixed();
    assert!(thin(&mut aged) > 1);
    let thinned = thin_file::name(LogPosition(0));
    // In the first record, behind the header of the table and what the segment was.
    assert!(aged.disk.flip(&thinned, 4096 * 3 + 500, 0));
    aged.disk.remove(&index::name(LogPosition(0))).unwrap();
    aged.restart().unwrap();
    assert_eq!(unreadable(&aged), 1);
}

#[test]
fn an_index_of_the_whole_segment_is_made_anew_where_a_crash_left_it_beside_the_thinned_one() {
    let mut aged = Aged::mixed();
    let name = index::name(LogPosition(0));
    let [whole, index_of_whole] = [segment::name(LogPosition(0)), name.clone()].map(|name| {
        let content = aged.disk.content(&name).unwrap();
        (name, content)
    });
    assert!(thin(&mut aged) > 1);
    let index_of_thinned = aged.disk.content(&name).unwrap();
    for (name, content) in [&whole, &index_of_whole] {
        let _is_there = aged.disk.remove(name);
        let file = aged.disk.create(name, content.len() as u64).unwrap();
        file.write_at(content, 0).unwrap();
        file.sync_all().unwrap();
    }
    aged.disk.sync_directory().unwrap();
    aged.restart().unwrap();
    assert_eq!(aged.recovered.upkeep.mend_indexes().unwrap(), 1);
    assert_eq!(aged.disk.content(&name).unwrap().len(), index_of_thinned.len());
    assert!(!aged.names().contains(&whole.0));
    assert_eq!(unreadable(&aged), 0);
}

#[test]
fn a_thinned_store_is_sound_and_the_indexes_of_thinned_segments_are_verified_too() {
    let mut aged = Aged::mixed();
    thin(&mut aged);
    aged.checkpoint();
    aged.checkpoint();
    let verified = directory(&aged.disk).unwrap();
    assert!(verified.is_whole(), "{verified:?}");
    let wrong = verified.beside.files.iter().filter(|file| !matches!(file.finding, Finding::Sound));
    assert_eq!(wrong.map(|file| &file.name).collect::<Vec<_>>(), [""; 0]);
    let thinned = aged.names().into_iter().find(|name| name.ends_with(".thin")).expect("some were thinned");
    let index = thinned.replace(".thin", ".index");
    assert!(aged.disk.flip(&index, 5000, 1));
    let verified = directory(&aged.disk).unwrap();
    let found = verified.beside.files.iter().find(|file| file.name == index).expect("it is listed");
    assert!(matches!(found.finding, Finding::Anew(_)), "{found:?}");
}

#[test]
fn batches_that_are_gone_right_before_a_thinned_segment_are_told_of() {
    const SEGMENT: u64 = 64 << 10;
    let mut aged = Aged::mixed();
    thin(&mut aged);
    let names = aged.names();
    let is_thinned = |base: &LogPosition| names.contains(&thin_file::name(base.plus(SEGMENT)));
    let base = names.iter().filter_map(|name| segment::parse_name(name)).find(is_thinned);
    let base = base.expect("a whole segment lies before a thinned one");
    // Its last messages are gone, as if nothing had ever been there.
    let in_it = |placed: &&Placed| (base.0..base.0 + SEGMENT).contains(&placed.pointer.position.0);
    let last = aged.placed.iter().rev().find(in_it).expect("it has messages").pointer.position;
    let from = last.since(base) - crate::log::batch::HEADER_BYTES as u64;
    let zeros = vec![0; (SEGMENT - from) as usize];
    aged.disk.overwrite(&segment::name(base), from, &zeros);
    let verified = directory(&aged.disk).unwrap();
    assert!(!verified.losses.holes.is_empty(), "{verified:?}");
}
