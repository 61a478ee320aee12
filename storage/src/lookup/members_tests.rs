//! Entries of a message group, over sealed segments and newer ones.

use base::QueueOffset;

use super::tests::{send, wanted};
use super::*;
use crate::checkpoint::old_store::{OldStore, Q, TOPIC};
use crate::record::Fact;
use crate::request::{BodyKind, Change, Request};

#[test]
fn members_of_a_message_group_come_in_order_across_the_border_and_from_an_offset_on() {
    let mut store = OldStore::grown();
    let mut expected = Vec::new();
    for number in 0..9 {
        let next = store.with_queue(|queue| queue.bounds().next);
        send(&mut store, &format!("x{number}"), BodyKind::Visible);
        expected.push(next);
        if number % 2 == 0 {
            store.fill_segments(1);
        }
        if number < 5 {
            store.seal_all();
        }
    }
    let hash_key = *store.parts().reader.hash_key();
    let group = hash_key.message_group("b");
    let offsets = |store: &mut OldStore, from, max| {
        let wanted = wanted(group, from, max);
        let members = store.with_queue(|queue| members(&hash_key, queue, &wanted));
        assert!(members.gaps.is_empty());
        (members.entries.into_iter().map(|(offset, _)| offset).collect::<Vec<_>>(), members.next)
    };
    let sealed = store.with_queue(|queue| queue.kept().sealed);
    assert!(expected[2] < sealed && sealed < expected[7], "{sealed} {expected:?}");
    assert_eq!(offsets(&mut store, 0, 100), (expected.clone(), None));
    for (number, offset) in expected.iter().enumerate() {
        assert_eq!(offsets(&mut store, offset.0, 100).0, expected[number..]);
        assert_eq!(offsets(&mut store, offset.0 + 1, 100).0, expected[number + 1..]);
    }
    let (mut next, mut seen) = (Some(QueueOffset(0)), Vec::new());
    while let Some(from) = next {
        let (mut some, go_on) = offsets(&mut store, from.0, 2);
        assert!(some.len() <= 2 && go_on.is_none_or(|go_on| go_on > from));
        seen.append(&mut some);
        next = go_on;
    }
    assert_eq!(seen, expected);
    for until in 0..=expected[8].0 + 1 {
        for walked_max in [1, usize::MAX] {
            let mut wanted = Wanted { until: QueueOffset(until), walked_max, ..wanted(group, 0, 2) };
            let mut seen = Vec::new();
            loop {
                let found = store.with_queue(|queue| members(&hash_key, queue, &wanted));
                seen.extend(found.entries.into_iter().map(|(offset, _)| offset));
                let Some(next) = found.next else { break };
                assert!(next > wanted.from && next.0 < until, "{next} of {wanted:?}");
                wanted.from = next;
            }
            let below = expected.partition_point(|offset| offset.0 < until);
            assert_eq!(seen, expected[..below], "below {until}, {walked_max} walked at a time");
        }
    }
    let nobody = store.with_queue(|queue| members(&hash_key, queue, &wanted(77, 0, 9)));
    assert!(nobody.entries.is_empty() && nobody.next.is_none());
    store.commit(Request::one(Change::Fact(Fact::Purge { topic: TOPIC, queue: Q, below: expected[3] }))).expect("room");
    assert_eq!(offsets(&mut store, 0, 100).0, expected[3..]);
}
