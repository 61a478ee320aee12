//! Groups that are far behind: what they get has left the tail cache long ago, and is read from the disk ahead of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::limits::READ_AHEAD_OF_ALL_BYTES_MAX;
use client::{Filter, NewMessage, SimpleConsumer};
use proto::v2::Code;
use tests::cluster::{GROUP, Node};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::process::{BESIDE, MIB, held_by, memory_of};
use super::raw::{Connection, send_request};
use super::{DONE_WITHIN, INVISIBLE, LIMIT, TOPIC, broker, connect, send_in_order, until};

const BEHIND: &str = "behind";
/// Of each message of the flood.
const FLOOD_BYTES: usize = 16 * 1024;
const AHEAD_MAX: usize = READ_AHEAD_OF_ALL_BYTES_MAX as usize;

/// Stores `count` messages of `bytes` each, in turns for each of `keys` message groups; 0: without.
async fn store(node: &Node, count: usize, keys: usize, bytes: usize) {
    let producer = connect(node).await.producer(&[BEHIND]).await.expect("a producer");
    let messages = (0..count).map(|number| {
        let mut body = number.to_string().into_bytes();
        body.resize(bytes, b' ');
        let message = NewMessage::new(BEHIND, body);
        if keys == 0 { message } else { message.message_group(format!("key-{}", number % keys)) }
    });
    let messages: Vec<NewMessage> = messages.collect();
    for some in messages.chunks(MIB / 2 / bytes) {
        for sent in producer.send_all(some.to_vec()).await.expect("it is taken") {
            sent.expect("it is stored");
        }
    }
}

/// At most `batch` of the next messages of `consumer`, by their numbers; none when there was no room for the answer, or
/// they were on their way.
async fn take(consumer: &SimpleConsumer, batch: usize) -> Vec<usize> {
    let Ok(received) = consumer.receive(batch, INVISIBLE, Duration::from_secs(1)).await else { return Vec::new() };
    let number = |body: &[u8]| String::from_utf8_lossy(body).trim_end().parse().expect("a number");
    let numbers = received.iter().map(|message| number(&message.body)).collect();
    if !received.is_empty() {
        for acknowledged in consumer.ack_all(&received).await.expect("acks are served") {
            acknowledged.expect("it was handed out");
        }
    }
    numbers
}

/// What is read ahead, after a look at all that is limited.
async fn ahead_of(node: &Node, before: usize) -> usize {
    let ahead = node.metric("carillon_memory_bytes", "pool=\"read_ahead\"").await as usize;
    let limit = node.metric("carillon_memory_limit_bytes", "pool=\"read_ahead\"").await as usize;
    assert!(ahead <= limit && limit == AHEAD_MAX, "{ahead} of {limit}");
    let (held, resident) = (held_by(node).await, memory_of(node));
    assert!(held <= LIMIT, "{held}");
    assert!(resident < before + LIMIT + AHEAD_MAX + BESIDE, "from {before} to {resident} for {held} and {ahead}");
    ahead
}

/// Sends as fast as it can, many at a time, until told to stop: how much of it was taken, and how much was not.
async fn flood(node: &Node, must_stop: &AtomicBool) -> (usize, usize) {
    let connection = Connection::open(&node.address(), 1 << 20).await;
    let (mut calls, mut taken, mut refused, mut number) = (JoinSet::new(), 0, 0, 0);
    loop {
        while calls.len() < 100 && !must_stop.load(Ordering::Relaxed) {
            let id = format!("flood-{number}");
            let mut call = connection
                .call("SendMessage", "flood", &send_request(TOPIC, &id, vec![b'x'; FLOOD_BYTES]))
                .await
                .expect("it stays");
            calls.spawn(async move { call.code().await.expect("every call is answered") });
            number += 1;
        }
        let Some(answer) = calls.join_next().await else { return (taken, refused) };
        match answer.expect("no panic") {
            Code::Ok => taken += 1,
            Code::TooManyRequests => refused += 1,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_group_far_behind_catches_up_in_order_while_another_client_floods() {
    const MESSAGES: usize = 1_200;
    const KEYS: usize = 100;
    let cluster = broker(&[]).await;
    let node = &cluster.brokers[0];
    node.create_topic(BEHIND, "fifo", 4).await;
    store(node, MESSAGES, KEYS, 8192).await;
    let before = memory_of(node);
    let consumer = connect(node).await.simple_consumer(GROUP, BEHIND, Filter::All).await.expect("a consumer");
    let must_stop = AtomicBool::new(false);
    let catches_up = async {
        let (mut next, mut count, mut most_ahead) = (BTreeMap::<usize, usize>::new(), 0, 0);
        for turn in 0.. {
            if count == MESSAGES {
                break;
            }
            for number in take(&consumer, 32).await {
                let expected = next.entry(number % KEYS).or_insert(number % KEYS);
                assert_eq!(number, *expected, "in order, and once");
                *expected += KEYS;
                count += 1;
            }
            // Pages of metrics take longer than a receive.
            if most_ahead == 0 || turn % 4 == 0 {
                most_ahead = most_ahead.max(ahead_of(node, before).await);
            }
        }
        must_stop.store(true, Ordering::Relaxed);
        most_ahead
    };
    let live = |number: usize| format!("live-{number}");
    let ((taken, refused), most_ahead, ()) = timeout(DONE_WITHIN, async {
        tokio::join!(flood(node, &must_stop), catches_up, send_in_order(node, (0..100).map(live)))
    })
    .await
    .expect("all of it is handed out");
    println!("{taken} of the flood taken, {refused} refused, at most {most_ahead} bytes ahead");
    assert!(most_ahead > 0, "it was behind the tail cache");
    assert!(taken > 0, "the flood is taken in part at least");
    let stored = async || node.metric("rocketmq_messages_in_total", TOPIC).await as usize == taken + 100;
    until("what was said to be taken is there", stored).await;
}

#[tokio::test]
async fn many_groups_far_behind_read_ahead_no_more_than_there_is_room_for_and_all_get_everything() {
    /// Each would read 8 MiB ahead, if there was room.
    const GROUPS: usize = 10;
    const MESSAGES: usize = 80;
    let cluster = broker(&[]).await;
    let node = &cluster.brokers[0];
    let name = |number: usize| format!("behind-{number}");
    for number in 0..GROUPS {
        node.create("groups", &serde_json::json!({ "name": name(number) })).await;
    }
    node.create_topic(BEHIND, "normal", 4).await;
    store(node, MESSAGES, 0, MIB / 8).await;
    let (before, client) = (memory_of(node), connect(node).await);
    let mut consumers = Vec::new();
    for number in 0..GROUPS {
        let consumer = client.simple_consumer(&name(number), BEHIND, Filter::All).await.expect("a consumer");
        consumers.push((consumer, BTreeSet::new()));
    }
    let all: BTreeSet<usize> = (0..MESSAGES).collect();
    let mut most_ahead = 0;
    let take_turns = async {
        while consumers.iter().any(|(_, taken)| *taken != all) {
            // What is ahead of all of them is there once each has begun.
            let batch = if most_ahead > AHEAD_MAX / 2 { 32 } else { 1 };
            for (consumer, taken) in consumers.iter_mut().filter(|(_, taken)| *taken != all) {
                for number in take(consumer, batch).await {
                    assert!(taken.insert(number), "{number} came twice");
                }
            }
            most_ahead = most_ahead.max(ahead_of(node, before).await);
        }
    };
    assert!(timeout(DONE_WITHIN, take_turns).await.is_ok(), "somebody does not get everything");
    println!("at most {most_ahead} bytes ahead");
    assert!(most_ahead > AHEAD_MAX / 2, "there was more to read than there is room: {most_ahead}");
    until("all that was read ahead is given back", async || ahead_of(node, before).await == 0).await;
}
