//! Very many messages that have failed.

use std::path::Path;
use std::time::Duration;

use base::{
    Backoff, Clock, GroupId, GroupName, GroupOrder, QueueIndex, QueueOffset, SystemClock, Timestamp, TopicName,
};
use storage::record::{Fact, RetryEntry};
use storage::request::{Change, Done, Request};
use storage::view::catalog::{GroupSpec, TopicKind, TopicSpec};

use crate::resources::memory;
use crate::store::Store;

const QUEUES: u16 = 8;
const PER_RECORD: u64 = 1000;

pub fn measure(directory: &Path, count: u64) {
    println!("empty: {}", memory());
    let mut store = Store::open(directory);
    let name = TopicName::parse("topic").expect("a name");
    let spec = TopicSpec::new(name, TopicKind::Normal, QUEUES, Timestamp(1));
    let Done::Topic { spec: topic, .. } = store.ask(Request::CreateTopic(spec)) else { panic!("no topic") };
    let group = GroupSpec {
        id: GroupId(0),
        name: GroupName::parse("group").expect("a name"),
        order: GroupOrder::Never,
        attempts_max: 16,
        backoff: Backoff::Steps(vec![Duration::from_secs(1)]),
        invisible: Duration::from_secs(60),
        created_at: Timestamp(1),
        changed_at: Timestamp(1),
        is_dropped: false,
    };
    let Done::Group { spec: group, .. } = store.ask(Request::CreateGroup(group)) else { panic!("no group") };
    println!("nothing has failed: {}", memory());
    let began = SystemClock.monotonic_ms();
    for record in 0..count / PER_RECORD {
        let queue = QueueIndex((record % u64::from(QUEUES)) as u16);
        let first = record / u64::from(QUEUES) * PER_RECORD;
        let entry = |offset| RetryEntry {
            queue,
            offset: QueueOffset(offset),
            attempts: 1 + (offset % 16) as u32,
            next_visible: Timestamp(1_800_000_000_000 + offset * 7),
        };
        let retries = (first..first + PER_RECORD).map(entry).collect();
        let settle = Fact::Settle { group: group.id, topic: topic.id, acks: Vec::new(), retries };
        store.submit(Request::one(Change::Fact(settle)));
    }
    store.settle();
    println!("{count} have failed, {} ms: {}", SystemClock.monotonic_ms() - began, memory());
    store.store.stop();
    drop(store);
    println!("stopped: {}", memory());
    let store = Store::open(directory);
    let known = store.store.reader().progress(group.id, topic.id).lock().retries().count();
    println!("started again with {known}: {}", memory());
    store.store.stop();
}
