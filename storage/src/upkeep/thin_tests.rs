//! Thinning, step by step.

use std::time::Duration;

use base::{Timestamp, TopicId, TopicName};

use super::*;
use crate::disk::sim::SimDisk;
use crate::request::Request;
use crate::salvage::Alone;
use crate::store::Recovered;
use crate::upkeep::aged_tests::{Aged, open};
use crate::view::catalog::{TopicKind, TopicSpec};

const ORDERS: TopicId = TopicId(0);
const BRIEF: TopicId = TopicId(1);

/// Segments of which a quarter is kept for long, and the rest for a second.
fn mixed() -> Aged {
    let disk = SimDisk::new(1);
    let mut aged = Aged { recovered: open(&disk).unwrap(), disk, placed: Vec::new() };
    for (name, retention) in [("orders", None), ("brief", Some(Duration::from_secs(1)))] {
        let spec = TopicSpec::new(TopicName::parse(name).unwrap(), TopicKind::Fifo, 1, Timestamp(1));
        aged.commit(Request::CreateTopic(TopicSpec { retention, ..spec }));
    }
    for _ in 0..2 {
        (0..40).for_each(|number| aged.send_to(if number % 4 == 0 { ORDERS } else { BRIEF }, "g"));
        aged.checkpoint();
    }
    // The older one has all of it behind it too.
    aged.checkpoint();
    aged
}

/// Thins what is worth it; gives how many segments.
fn thin(aged: &mut Aged) -> usize {
    let Recovered { writer, timer, upkeep, .. } = &mut aged.recovered;
    let mut owners = Alone { writer, timer };
    let much_later = Timestamp(2_000_000);
    let mut count = 0;
    while upkeep.thin(&mut owners, &Policy::default(), much_later).unwrap().is_some() {
        count += 1;
    }
    count
}

#[test]
fn a_start_does_not_thin_again_what_was_thinned_before_it() {
    let mut aged = mixed();
    assert!(thin(&mut aged) > 1);
    assert_eq!(thin(&mut aged), 0);
    aged.restart().unwrap();
    assert_eq!(thin(&mut aged), 0);
    let kept = (0..20).filter(|offset| matches!(aged.fetch(*offset), Some(Ok(5000)))).count();
    assert_eq!(kept, 20);
}
