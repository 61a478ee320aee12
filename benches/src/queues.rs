//! Very many queues.

use std::path::Path;

use base::{Clock, SystemClock, Timestamp, TopicId, TopicName};
use storage::message::{BodyPart, Envelope, MessageKind};
use storage::record::Head;
use storage::request::{BodyKind, Change, Done, NewBody, Request};
use storage::view::catalog::{TopicKind, TopicSpec};

use crate::resources::memory;
use crate::store::Store;

const QUEUES_PER_TOPIC: u16 = base::limits::TOPIC_QUEUES_MAX;

pub fn measure(directory: &Path, count: u64, messages: u64) {
    println!("empty: {}", memory());
    let mut store = Store::open(directory);
    let topics = count.div_ceil(QUEUES_PER_TOPIC.into());
    let created: Vec<TopicId> = (0..topics).map(|number| create(&mut store, number)).collect();
    println!("{} queues: {}", topics * u64::from(QUEUES_PER_TOPIC), memory());
    let began = SystemClock.monotonic_ms();
    for round in 0..messages {
        // The writer takes the queues of a topic in turn.
        for topic in &created {
            for _ in 0..QUEUES_PER_TOPIC {
                store.submit(Request::one(Change::Body(message(*topic))));
            }
        }
        store.settle();
        println!("{} messages in each, {} ms: {}", round + 1, SystemClock.monotonic_ms() - began, memory());
    }
    store.store.stop();
    drop(store);
    println!("stopped: {}", memory());
    let store = Store::open(directory);
    println!("started again: {}", memory());
    store.store.stop();
}

fn create(store: &mut Store, number: u64) -> TopicId {
    let name = TopicName::parse(&format!("topic-{number}")).expect("a name");
    let spec = TopicSpec::new(name, TopicKind::Normal, QUEUES_PER_TOPIC, Timestamp(1));
    match store.ask(Request::CreateTopic(spec)) {
        Done::Topic { spec, .. } => spec.id,
        other => panic!("{other:?}"),
    }
}

fn message(topic: TopicId) -> NewBody {
    let envelope = Envelope::new(MessageKind::Normal, "id".into(), Timestamp(1), "host".into());
    let head = Head { topic, tag_hash: 0, group_hash: 0, priority: 0 };
    NewBody { head, kind: BodyKind::Visible, part: BodyPart::encode(&envelope, b"body") }
}
