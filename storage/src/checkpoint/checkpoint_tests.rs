//! What becomes of a store whose checkpoints, or what they need, are damaged.

use base::{QueueOffset, TopicName};

use super::old_store::{GROUP, OldStore, SEGMENT_BYTES};
use super::*;
use crate::disk::Disk;
use crate::log::recovery;
use crate::request::{Done, Request};
use crate::store::OpenError;
use crate::view::catalog::{TopicKind, TopicSpec};

fn newest(store: &mut OldStore) -> Manifest {
    store.parts().upkeep.newest().expect("a checkpoint was taken").clone()
}

fn flip(store: &OldStore, name: &str) {
    let bytes = store.disk.content(name).unwrap_or_else(|| panic!("{name} is there")).len() as u64;
    assert!(store.disk.flip(name, bytes / 2, 3));
}

/// A table that only the newest checkpoint names, and its copy.
fn own_pair(store: &mut OldStore) -> [String; 2] {
    let newest = newest(store);
    let older = read_manifest(&store.disk, newest.number - 1).expect("it is kept");
    let is_own = |number| older.tables().all(|(_, table)| table.number != number);
    let (kind, table) = newest.tables().find(|(_, table)| is_own(table.number)).expect("something has changed");
    [data_name(kind, table.number), copy_name(kind, table.number)]
}

fn refused(store: &mut OldStore) -> String {
    store.open().expect_err("it cannot be opened").to_string()
}

#[test]
fn when_the_newest_manifest_is_damaged_the_older_one_and_the_log_give_the_same() {
    let mut store = OldStore::grown();
    let (before, number) = (store.meaning(), newest(&mut store).number);
    flip(&store, &manifest_name(number));
    store.open().expect("the older checkpoint");
    assert_eq!(newest(&mut store).number, number - 1);
    assert_eq!(store.meaning(), before);
}

#[test]
fn when_both_halves_of_a_table_are_damaged_the_older_checkpoint_is_used() {
    let mut store = OldStore::grown();
    let (before, number) = (store.meaning(), newest(&mut store).number);
    own_pair(&mut store).iter().for_each(|name| flip(&store, name));
    store.open().expect("the older checkpoint");
    assert_eq!(newest(&mut store).number, number - 1);
    assert_eq!(store.meaning(), before);
}

#[test]
fn a_checkpoint_that_could_not_be_used_gives_its_numbers_to_no_other() {
    let mut store = OldStore::grown();
    let unusable = newest(&mut store);
    own_pair(&mut store).iter().for_each(|name| flip(&store, name));
    store.open().expect("the older checkpoint");
    store.send();
    store.checkpoint().expect("room");
    let taken = newest(&mut store);
    assert!(taken.number > unusable.number, "{} / {}", taken.number, unusable.number);
    let older = read_manifest(&store.disk, unusable.number - 1).expect("it is kept");
    let new = taken.tables().filter(|(_, table)| older.tables().all(|(_, of)| of.number != table.number));
    let numbers: Vec<u64> = new.map(|(_, table)| table.number).collect();
    assert!(numbers.iter().all(|number| *number >= unusable.next_table - 1), "{numbers:?} of {}", unusable.next_table);
}

#[test]
fn a_damaged_half_is_made_anew_from_the_other() {
    for half in 0..2 {
        let mut store = OldStore::grown();
        let (before, names) = (store.meaning(), own_pair(&mut store));
        flip(&store, &names[half]);
        store.open().expect("the other half");
        assert_eq!(store.meaning(), before);
        assert_eq!(store.disk.content(&names[0]), store.disk.content(&names[1]), "half {half}");
        flip(&store, &names[1 - half]);
        store.open().expect("the half that was made anew");
        assert_eq!(store.meaning(), before);
    }
}

#[test]
fn with_nothing_left_the_store_says_why_it_does_not_open() {
    let mut store = OldStore::grown();
    let number = newest(&mut store).number;
    [number, number - 1].iter().for_each(|number| flip(&store, &manifest_name(*number)));
    let before = store.meaning();
    let whole = store.disk.image();
    store.open().expect("the log reaches back to its beginning");
    assert_eq!(store.meaning(), before);

    store.disk = whole;
    store.disk.remove(&crate::log::segment::name(LogPosition(0))).expect("it is there");
    let error = store.open().expect_err("neither checkpoint nor beginning");
    assert!(matches!(error, OpenError::NothingLeft { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("checkpoint {number}: its checksum is wrong")), "{text}");
    assert!(text.contains(&format!("checkpoint {}: its checksum is wrong", number - 1)), "{text}");
}

/// Changes bytes of a file whose last four bytes of `length` are its checksum.
fn forge(store: &OldStore, name: &str, length: Option<usize>, at: usize, bytes: &[u8]) {
    let mut content = store.disk.content(name).expect("it is there");
    let end = length.unwrap_or(content.len());
    content[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&content[..end - 4]);
    content[end - 4..end].copy_from_slice(&crc.to_le_bytes());
    store.disk.overwrite(name, 0, &content);
}

#[test]
fn what_another_version_has_written_is_refused_and_not_replaced_by_something_older() {
    let manifest = |store: &mut OldStore| manifest_name(newest(store).number);
    let mut store = OldStore::grown();
    let name = manifest(&mut store);
    forge(&store, &name, None, 8, &7u32.to_le_bytes());
    assert!(refused(&mut store).contains("format version 7; this program reads version 1"));

    let mut store = OldStore::grown();
    let name = manifest(&mut store);
    forge(&store, &name, None, 12, &4u32.to_le_bytes());
    assert!(refused(&mut store).contains("features 0x4 that this program does not know"));

    let mut store = OldStore::grown();
    let names = own_pair(&mut store);
    names.iter().for_each(|name| forge(&store, name, Some(crate::table::BLOCK), 8, &7u32.to_le_bytes()));
    assert!(refused(&mut store).contains("has format version 7; this program reads version 1"));
}

#[test]
fn a_header_that_is_damaged_is_taken_from_the_manifest_and_written_again() {
    let mut store = OldStore::grown();
    let before = store.meaning();
    let headers = newest(&mut store).segments;
    for header in &headers {
        for at in [20, 2048 + 20] {
            assert!(store.disk.flip(&crate::log::segment::name(header.base), at, 3));
        }
    }
    store.open().expect("the manifest has every header");
    assert_eq!(store.meaning(), before);
    assert!(store.parts().report.quarantined.is_empty());
    for header in &headers {
        let content = store.disk.content(&crate::log::segment::name(header.base)).expect("it is there");
        assert_eq!(crate::log::segment::Header::decode(&content[..4096]), Ok(*header));
    }
}

#[test]
fn a_store_whose_newest_segment_is_missing_does_not_open() {
    let mut store = OldStore::grown();
    let base = newest(&mut store).segments.last().expect("there are some").base;
    store.disk.remove(&crate::log::segment::name(base)).expect("it is there");
    let error = store.open().expect_err("the checkpoint knows more");
    assert!(matches!(error, OpenError::Log(recovery::OpenError::NewestMissing { .. })), "{error}");
}

#[test]
fn what_was_durable_and_is_gone_is_named_and_its_numbers_are_not_given_again() {
    let mut store = OldStore::grown();
    store.send();
    store.send();
    store.checkpoint().expect("room");
    let (taken, before) = (newest(&mut store), store.meaning());
    let newest = *taken.segments.last().expect("there are some");
    let from = newest.base.plus(4096);
    store.disk.overwrite(&crate::log::segment::name(newest.base), 4096, &vec![0; SEGMENT_BYTES as usize - 4096]);
    store.open().expect("a hole does not keep a store from opening");
    assert_eq!(store.parts().report.quarantined, [from..taken.durable]);
    assert!(store.parts().writer.log().next_index() > taken.next_index);
    let placed = store.send();
    assert!(placed.pointer.position >= taken.durable);
    // What was acknowledged was in a checkpoint, and is not what comes now.
    let acknowledged = before.is_acknowledged.iter().rposition(|is| *is).expect("some were");
    assert!(placed.offset > QueueOffset(acknowledged as u64), "{placed:?}");
    assert_eq!(store.meaning().is_acknowledged[..=acknowledged], before.is_acknowledged[..=acknowledged]);
}

#[test]
fn a_checkpoint_that_fails_leaves_the_older_ones_and_the_next_one_is_complete() {
    let mut store = OldStore::grown();
    let (before, number) = (store.meaning(), newest(&mut store).number);
    let space = store.disk.space().expect("power");
    for spare in [0, 4_096, 9_000, 20_000] {
        store.disk.set_capacity(space.total - space.free + spare);
        store.checkpoint().expect_err("there is no room");
        assert_eq!(newest(&mut store).number, number);
    }
    store.disk.set_capacity(u64::MAX);
    store.checkpoint().expect("there is room again");
    let taken = newest(&mut store);
    assert!(taken.number > number);
    // Whatever the failed ones had taken from the views is in this one.
    store.open().expect("a sound disk");
    assert_eq!(newest(&mut store).number, taken.number);
    assert_eq!(store.meaning(), before);
    let names = store.disk.list().expect("power");
    assert!(names.iter().all(|name| !name.starts_with(crate::table::TEMPORARY_PREFIX)), "{names:?}");
}

#[test]
fn what_was_dropped_is_remembered_when_the_log_that_says_so_is_not_read_any_more() {
    let mut store = OldStore::new();
    let name = TopicName::parse("gone").expect("legal");
    let group = store.parts().reader.catalog().group_by_id(GROUP).expect("made").name.clone();
    let topic = TopicSpec::new(name.clone(), TopicKind::Delay, 1, Timestamp(1));
    let Ok(Done::Topic { spec, .. }) = store.commit(Request::CreateTopic(topic)) else { panic!("no topic") };
    store.commit(Request::DropTopic(spec.id)).expect("room");
    store.commit(Request::DropGroup(GROUP)).expect("room");
    let buried = |store: &mut OldStore| {
        let catalog = store.parts().reader.catalog();
        (catalog.topic_buried(&name, TopicKind::Delay), catalog.group_buried(&group))
    };
    let before = buried(&mut store);
    assert!(before.0.is_some() && before.1.is_some());
    store.fill_segments(2);
    store.seal_all();
    store.checkpoint().expect("room");
    store.open().expect("a sound checkpoint");
    assert!(newest(&mut store).replay_from > LogPosition(0));
    assert_eq!(buried(&mut store), before);
}
