use super::super::aged_tests::Aged;
use crate::log::{batch, segment, thin};
use crate::verify::{Finding, directory};

#[test]
fn a_thinned_store_is_sound_and_the_indexes_of_thinned_segments_are_verified_too() {
    let mut aged = Aged::mixed();
    while aged.thin().is_some() {}
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
    while aged.thin().is_some() {}
    let names = aged.names();
    let is_thinned = |base: &base::LogPosition| names.contains(&thin::name(base.plus(SEGMENT)));
    let base = names.iter().filter_map(|name| segment::parse_name(name)).find(is_thinned);
    let base = base.expect("a whole segment lies before a thinned one");
    // Its last messages are gone, as if nothing had ever been there.
    let in_it = |placed: &&crate::request::Placed| (base.0..base.0 + SEGMENT).contains(&placed.pointer.position.0);
    let last = aged.placed.iter().rev().find(in_it).expect("it has messages").pointer.position;
    let from = last.since(base) - batch::HEADER_BYTES as u64;
    let zeros = vec![0; (SEGMENT - from) as usize];
    aged.disk.overwrite(&segment::name(base), from, &zeros);
    let verified = directory(&aged.disk).unwrap();
    assert!(!verified.losses.holes.is_empty(), "{verified:?}");
}

#[test]
fn what_was_thinned_is_not_thinned_again_however_often_the_store_starts() {
    let mut aged = Aged::mixed();
    let mut thinned = 0;
    // Each checkpoint lets the younger segments in.
    for _ in 0..3 {
        while let Some(done) = aged.thin() {
            assert!(done.after < done.before, "{done:?}");
            thinned += 1;
        }
        aged.checkpoint();
    }
    assert!(thinned >= 5, "{thinned} segments were thinned");
    aged.restart().unwrap();
    aged.checkpoint();
    assert_eq!(aged.thin(), None);
    // Everything that is wanted is there.
    for offset in 0..aged.placed.len() as u64 {
        assert_eq!(aged.fetch(offset).expect("wanted").ok(), Some(5000), "offset {offset}");
    }
}
