//! What index files answer.

use base::{QueueIndex, QueueOffset, Timestamp, TopicId};

use super::*;
use crate::checkpoint::old_store::{OldStore, Q, SEGMENT_BYTES, TOPIC};
use crate::disk::Disk;
use crate::hash::Lookup;
use crate::log::segment;
use crate::view::queue::Entry;

const ID: QueueId = QueueId { topic: TOPIC, queue: Q };

/// Entries of sealed segments, as the index files have them.
fn sealed_entries(store: &mut OldStore) -> Vec<Entry> {
    let sealed = store.with_queue(|queue| queue.kept().sealed);
    let mut out = Vec::new();
    let index = store.parts().writer.views().index.clone();
    index.read(ID, QueueOffset(0), usize::try_from(sealed.0).expect("few"), &mut out).expect("sound files");
    out
}

fn named(index: &Sealed, hash: u64) -> Vec<LogPosition> {
    let all = index.indexes().clone();
    all.iter().flat_map(|of| index.named(of, hash).expect("sound files")).collect()
}

#[test]
fn a_message_is_found_by_offset_key_id_group_and_time() {
    let mut store = OldStore::grown();
    let entries = sealed_entries(&mut store);
    assert!(entries.len() > 15, "three segments of messages of 8 KiB each");
    let hash_key = *store.parts().reader.hash_key();
    let index = store.parts().writer.views().index.clone();
    for (number, entry) in entries.iter().enumerate() {
        let at = [entry.pointer().position];
        let by_key = named(&index, hash_key.lookup(TOPIC, Lookup::Key, &format!("key {number}")));
        let by_id = named(&index, hash_key.lookup(TOPIC, Lookup::Id, &format!("id {number}")));
        assert_eq!((&by_key[..], &by_id[..]), (&at[..], &at[..]), "message {number}");
        let offset = QueueOffset(number as u64);
        store.with_queue(|queue| {
            assert_eq!(queue.entry(offset), Some(*entry));
            assert_eq!(queue.offset_at(entry.visible_since), offset);
            assert_eq!(queue.offset_at(Timestamp(entry.visible_since.0 + 1)), offset.next());
        });
    }
    let group = hash_key.message_group("a");
    let members = |from: u64, until: usize, max: usize| {
        let until = QueueOffset(until as u64);
        let of = Members { hash_key: &hash_key, id: ID, group_hash: group, from: QueueOffset(from), until };
        let mut found = Vec::new();
        let looked = index.members(&of, max, &mut found);
        assert!(looked.error.is_none(), "{looked:?}");
        (found.into_iter().map(|(offset, entry)| (offset.0, entry)).collect::<Vec<_>>(), looked.to.0)
    };
    let all: Vec<_> = (0..).zip(entries.iter().copied()).collect();
    let count = entries.len();
    assert_eq!(members(0, count, 1_000), (all.clone(), count as u64));
    assert_eq!(members(0, count, 3), (all[..3].to_vec(), 3));
    assert_eq!(members(5, count, 9), (all[5..14].to_vec(), 14), "across a border of segments");
    assert_eq!(members(5, 7, 9), (all[5..7].to_vec(), 7));
    assert!(named(&index, hash_key.lookup(TOPIC, Lookup::Key, "id 1")).is_empty(), "an id is no key");
    assert!(named(&index, hash_key.lookup(TopicId(7), Lookup::Id, "id 1")).is_empty(), "another topic's");
}

#[test]
fn a_path_leads_over_all_segments_and_around_those_that_went() {
    let mut store = OldStore::grown();
    let entries = sealed_entries(&mut store);
    let index = store.parts().writer.views().index.clone();
    let all = index.indexes().clone();
    let stretches: Vec<_> = all.iter().map(|of| of.stretch(ID).expect("sound").expect("it has some")).collect();
    assert_eq!(stretches.len(), 3);
    assert!(stretches.windows(2).all(|two| two[0].end() == two[1].first), "{stretches:?}");
    // Across a border, and from the midst.
    let from = stretches[1].first.0 as usize - 2;
    let mut out = Vec::new();
    index.read(ID, QueueOffset(from as u64), 5, &mut out).expect("sound files");
    assert_eq!(out, entries[from..from + 5]);
    let mut nobody = Vec::new();
    index.read(QueueId { topic: TOPIC, queue: QueueIndex(5) }, QueueOffset(0), 0, &mut nobody).expect("sound files");
    assert!(nobody.is_empty());

    index.remove(all[0].base());
    let first = stretches[1].first.0 as usize;
    let mut out = Vec::new();
    index.read(ID, QueueOffset(0), entries.len(), &mut out).expect("sound files");
    assert!(out[..first].iter().all(Entry::is_lost), "what no index has is lost");
    assert_eq!(out[first..], entries[first..]);
}

#[test]
fn the_index_of_a_segment_with_a_hole_has_lost_entries_and_names_the_hole() {
    let mut store = OldStore::grown();
    let entries = sealed_entries(&mut store);
    let hit = entries[4].pointer();
    let name = segment::name(LogPosition(0));
    assert!(hit.position.0 < SEGMENT_BYTES);
    assert!(store.disk.flip(&name, hit.position.0 + 100, 3));
    store.disk.remove(&super::name(LogPosition(0))).expect("it is there");
    store.open().expect("the index is made anew");
    let after = sealed_entries(&mut store);
    let lost: Vec<usize> = (0..after.len()).filter(|number| after[*number].is_lost()).collect();
    assert_eq!(lost, [4]);
    assert!(entries.iter().zip(&after).all(|(was, is)| was == is || is.is_lost()));
    let index = store.parts().writer.views().index.find(LogPosition(0)).expect("made anew");
    let [hole] = &index.summary().holes[..] else { panic!("{:?}", index.summary()) };
    assert!(hole.contains(&hit.position));
}

#[test]
fn an_index_file_is_a_function_of_its_segment() {
    let mut store = OldStore::grown();
    let before = store.meaning();
    let bases: Vec<LogPosition> = store.parts().writer.views().index.indexes().iter().map(|of| of.base()).collect();
    let summaries = |store: &mut OldStore| -> Vec<Summary> {
        store.parts().writer.views().index.indexes().iter().map(|of| of.summary().clone()).collect()
    };
    let were = summaries(&mut store);
    for base in bases {
        store.disk.remove(&name(base)).expect("it is there");
    }
    store.open().expect("they are made anew");
    assert_eq!(summaries(&mut store), were);
    assert_eq!(store.meaning(), before);
}

#[test]
fn a_damaged_index_gives_nothing_and_then_everything_again() {
    let mut store = OldStore::grown();
    let entries = sealed_entries(&mut store);
    let base = LogPosition(0);
    let file = store.disk.content(&name(base)).expect("it is there");
    for block in 1..file.len() as u64 / 4096 {
        assert!(store.disk.flip(&name(base), block * 4096 + 1, 0));
    }
    let mut out = Vec::new();
    assert_eq!(store.with_queue(|queue| queue.read(QueueOffset(0), 3, &mut out)), QueueOffset(0));
    assert!(out.is_empty(), "nothing is made up");
    assert_eq!(store.parts().upkeep.mend_indexes().expect("room"), 1);
    assert_eq!(sealed_entries(&mut store), entries);
}
