//! What is said of the files beside the log.

use super::*;
use crate::upkeep::aged_tests::{Aged, open};
use crate::verify::{Verified, directory};

/// Verifies, and holds it to having changed nothing.
fn verify(aged: &Aged) -> Verified {
    let before = aged.disk.operations();
    let verified = directory(&aged.disk).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(aged.disk.operations(), before, "nothing was changed");
    verified
}

fn finding<'a>(verified: &'a Verified, name: &str) -> &'a Finding {
    let found = verified.beside.files.iter().find(|file| file.name == name);
    &found.unwrap_or_else(|| panic!("{name} is not listed: {:?}", verified.beside)).finding
}

/// Tables of the newest checkpoint.
fn tables(aged: &Aged) -> Vec<[String; 2]> {
    let newest = aged.recovered.upkeep.newest().unwrap();
    let names = |(kind, table): (table::Kind, TableRef)| {
        [checkpoint::data_name(kind, table.number), checkpoint::copy_name(kind, table.number)]
    };
    newest.tables().map(names).collect()
}

fn numbers(aged: &Aged) -> [u64; 2] {
    let numbers = checkpoint::numbers(&aged.names());
    [numbers[0], numbers[1]]
}

#[test]
fn every_file_of_a_sound_store_is_listed_as_sound() {
    let aged = Aged::new();
    let verified = verify(&aged);
    assert!(verified.is_whole() && verified.unknown.is_empty(), "{verified:?}");
    let listed: Vec<&String> = verified.beside.files.iter().map(|file| &file.name).collect();
    let names = aged.names();
    let expected: Vec<&String> =
        names.iter().filter(|name| matches!(Kind::of(name), Kind::Index | Kind::Manifest | Kind::Table)).collect();
    assert_eq!(listed, expected);
    assert!(verified.beside.files.iter().all(|file| matches!(file.finding, Finding::Sound) && file.bytes > 0));
    assert!(listed.len() > 10, "{listed:?}");
}

#[test]
fn a_damaged_index_a_missing_one_and_half_of_a_pair_are_made_anew_and_lose_nothing() {
    let mut aged = Aged::new();
    let indexes: Vec<String> = aged.names().into_iter().filter(|name| Kind::of(name) == Kind::Index).collect();
    assert!(aged.disk.flip(&indexes[0], 5000, 1));
    aged.disk.remove(&indexes[1]).unwrap();
    let [data, copy] = tables(&aged).remove(0);
    assert!(aged.disk.flip(&copy, 4100, 1));
    let verified = verify(&aged);
    assert!(verified.is_sound() && !verified.is_whole());
    let block_one =
        |finding: &Finding| matches!(finding, Finding::Anew(FileFlaw::Table(TableError::Damaged { block: 1, .. })));
    assert!(block_one(finding(&verified, &indexes[0])), "{verified:?}");
    assert!(matches!(finding(&verified, &indexes[1]), Finding::Anew(FileFlaw::Missing)));
    assert!(matches!(finding(&verified, &data), Finding::Sound));
    assert!(block_one(finding(&verified, &copy)));
    assert_eq!(verified.beside.checkpoint, Some(numbers(&aged)[0]), "half of a pair is enough");
    // What was said is what a start does.
    aged.restart().unwrap();
    aged.recovered.upkeep.scrub(u64::MAX);
    aged.recovered.upkeep.mend_indexes().unwrap();
    assert!(verify(&aged).is_whole());
}

#[test]
fn a_checkpoint_without_a_sound_half_of_a_table_gives_way_to_the_one_before() {
    let aged = Aged::new();
    let before = numbers(&aged);
    let older = checkpoint::read_manifest(&aged.disk, before[1]).unwrap();
    let is_shared =
        |name: &String| older.tables().any(|(kind, table)| *name == checkpoint::data_name(kind, table.number));
    let mine = tables(&aged).into_iter().find(|names| !is_shared(&names[0])).unwrap();
    mine.iter().for_each(|name| assert!(aged.disk.flip(name, 4100, 1)));
    let verified = verify(&aged);
    assert_eq!(verified.beside.checkpoint, Some(before[1]));
    assert!(verified.is_sound() && !verified.is_whole());
    let newest = finding(&verified, &checkpoint::manifest_name(before[0]));
    assert!(matches!(newest, Finding::Anew(FileFlaw::Unusable { table }) if *table == mine[0]), "{newest:?}");
    let opened = open(&aged.disk).unwrap();
    assert_eq!(opened.upkeep.newest().unwrap().number, before[1]);
}

#[test]
fn without_any_checkpoint_and_without_the_beginning_of_the_log_the_store_is_unsound() {
    let aged = Aged::new();
    numbers(&aged).iter().for_each(|number| assert!(aged.disk.flip(&checkpoint::manifest_name(*number), 60, 1)));
    // The log still has everything.
    let verified = verify(&aged);
    assert!(verified.is_sound() && verified.beside.refusal.is_none(), "{verified:?}");
    aged.disk.remove(&segment::name(LogPosition(0))).unwrap();
    let verified = verify(&aged);
    let refusal = verified.beside.refusal.clone().unwrap();
    assert!(!verified.is_sound() && refusal.contains("its checksum is wrong"), "{refusal}");
    let newest = finding(&verified, &checkpoint::manifest_name(numbers(&aged)[0]));
    assert!(matches!(newest, Finding::Damaged(FileFlaw::Manifest(ManifestError::Damaged))));
    assert!(verified.beside.strays().is_empty(), "who knows what an unreadable manifest names");
    assert!(open(&aged.disk).is_err());
}

#[test]
fn what_no_manifest_names_is_stray_and_another_version_is_not_verified() {
    let aged = Aged::new();
    let (stray, later) = (checkpoint::data_name(table::Kind::Queues, 999), checkpoint::manifest_name(999));
    aged.disk.create(&stray, 10).unwrap();
    assert!(matches!(finding(&verify(&aged), &stray), Finding::Stray));
    assert!(verify(&aged).is_whole());
    assert_eq!(verify(&aged).beside.strays(), [stray]);
    let mut manifest = aged.recovered.upkeep.newest().unwrap().encode();
    manifest.truncate(manifest.len() - 4);
    manifest[checkpoint::MAGIC.len()] += 1;
    let crc = crc32c::crc32c(&manifest);
    manifest.extend_from_slice(&crc.to_le_bytes());
    aged.disk.create(&later, 0).unwrap().write_at(&manifest, 0).unwrap();
    let verified = verify(&aged);
    assert!(matches!(finding(&verified, &later), Finding::Version(_)), "{verified:?}");
    assert!(!verified.is_sound() && open(&aged.disk).is_err());
}
