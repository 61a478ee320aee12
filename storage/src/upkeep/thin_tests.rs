use std::time::Duration;

use base::{Timestamp, TopicId, TopicName};

use super::super::aged_tests::Aged;
use super::{Policy, Thinned};
use crate::request::Request;
use crate::salvage::Alone;
use crate::verify::{Finding, directory};
use crate::view::catalog::{TopicKind, TopicSpec};

/// The fleeting topic's messages are out of their time, those of "orders" are not.
const NOW: Timestamp = Timestamp(1_010_000);

fn thin(aged: &mut Aged) -> Option<Thinned> {
    let crate::store::Recovered { writer, timer, upkeep, .. } = &mut aged.recovered;
    upkeep.thin(&mut Alone { writer, timer }, &Policy::default(), NOW).unwrap()
}

/// Two checkpoints lie behind segments in which one message of eight is wanted.
fn mixed() -> Aged {
    let mut aged = Aged::new();
    let spec = TopicSpec {
        retention: Some(Duration::from_secs(1)),
        ..TopicSpec::new(TopicName::parse("fleeting").unwrap(), TopicKind::Fifo, 1, Timestamp(1))
    };
    aged.commit(Request::CreateTopic(spec));
    for _ in 0..2 {
        for number in 0..80 {
            match number % 8 {
                0 => aged.send("g"),
                _ => drop(aged.send_to(TopicId(1), "g")),
            }
        }
        aged.checkpoint();
    }
    aged.checkpoint();
    aged
}

#[test]
fn indexes_of_thinned_segments_are_verified_as_others_are() {
    let mut aged = mixed();
    while thin(&mut aged).is_some() {}
    aged.checkpoint();
    aged.checkpoint();
    let verified = directory(&aged.disk).unwrap();
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
fn what_was_thinned_is_not_thinned_again_however_often_the_store_starts() {
    let mut aged = mixed();
    let mut thinned = 0;
    // Each checkpoint lets the younger segments in.
    for _ in 0..3 {
        while let Some(done) = thin(&mut aged) {
            assert!(done.after < done.before, "{done:?}");
            thinned += 1;
        }
        aged.checkpoint();
    }
    assert!(thinned >= 5, "{thinned} segments were thinned");
    aged.restart().unwrap();
    aged.checkpoint();
    assert_eq!(thin(&mut aged), None);
    // Everything that is wanted is there.
    for offset in 0..aged.placed.len() as u64 {
        assert_eq!(aged.fetch(offset).expect("wanted").ok(), Some(5000), "offset {offset}");
    }
}
