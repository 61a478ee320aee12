//! More calls than can be done.

use std::collections::BTreeSet;
use std::time::Duration;

use base::limits::{REFUSALS_OF_SPAN, SPAN_MS};
use client::Filter;
use proto::v2::Code;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::process::{BESIDE, LIMIT_AT_REST, held_by, memory_of, refusals};
use super::raw::{Connection, send_request};
use super::{DONE_WITHIN, INVISIBLE, LIMIT, TOPIC, broker, connect, send_in_order, take_all};

#[tokio::test]
async fn a_flood_from_one_connection_is_refused_in_words_and_costs_others_nothing() {
    let cluster = broker(&["limits.writer_inbox=64"]).await;
    let node = &cluster.brokers[0];
    let before = memory_of(node);
    let flood = Connection::open(&node.address(), 1 << 20).await;
    let mut calls = JoinSet::new();
    let began = async {
        let mut acknowledged = BTreeSet::new();
        for number in 0..4000 {
            let id = format!("flood-{number}");
            let call = flood.call("SendMessage", "flood", &send_request(TOPIC, &id, vec![b'x'; 1024])).await;
            let mut call = call.expect("the connection stays");
            calls.spawn(async move { (id, call.code().await.expect("every call is answered")) });
        }
        let mut refused = 0_u64;
        while let Some(answer) = calls.join_next().await {
            match answer.expect("no panic") {
                (id, Code::Ok) => drop(acknowledged.insert(id)),
                (_, Code::TooManyRequests) => refused += 1,
                (id, other) => panic!("{id}: {other:?}"),
            }
        }
        (acknowledged, refused)
    };
    let names = |number: usize| format!("in-order-{number}");
    let ((mut acknowledged, refused), ()) = tokio::join!(began, send_in_order(node, (0..200).map(names)));
    assert!(refused > 0 && !acknowledged.is_empty(), "{refused} refused, {} taken", acknowledged.len());
    assert!(refusals(node, "calls").await + refusals(node, "wait").await >= refused);
    assert_eq!(
        node.metric("carillon_requests_refused_total", "reason=\"overload\",rpc=\"send_message\"").await,
        refused as f64
    );
    assert!(memory_of(node) < before + LIMIT + BESIDE);
    acknowledged.extend((0..200).map(names));
    assert_eq!(take_all(node, acknowledged).await, 0);
    assert!(held_by(node).await < LIMIT_AT_REST);
}

/// A client that repeats at once is refused no more often than a worker has refusals to give.
#[tokio::test]
async fn sends_that_wait_are_refused_to_who_has_many_and_taken_from_who_has_few() {
    // Their number is no limit here.
    let cluster = broker(&["limits.send_wait=1ms", "runtime.workers=1"]).await;
    let node = &cluster.brokers[0];
    let flood = Connection::open(&node.address(), 1 << 20).await;
    let began = tokio::time::Instant::now();
    let floods = async {
        let mut calls = JoinSet::new();
        let (mut number, mut refused) = (0, 0_u64);
        while refused == 0 {
            while calls.len() < 1000 {
                let request = send_request(TOPIC, &format!("flood-{number}"), vec![b'x'; 1024]);
                let mut call = flood.call("SendMessage", "flood", &request).await.expect("the connection stays");
                calls.spawn(async move { call.code().await.expect("every call is answered") });
                number += 1;
            }
            let answer = calls.join_next().await.expect("they are under way").expect("no panic");
            assert!(matches!(answer, Code::Ok | Code::TooManyRequests), "{answer:?}");
            refused += u64::from(answer == Code::TooManyRequests);
        }
        while let Some(answer) = calls.join_next().await {
            refused += u64::from(answer.expect("no panic") == Code::TooManyRequests);
        }
        refused
    };
    let names = (0..200).map(|number| format!("in-order-{number}"));
    let (refused, ()) = tokio::join!(timeout(DONE_WITHIN, floods), send_in_order(node, names));
    let refused = refused.expect("a wait that stands is noticed");
    let spans = u64::try_from(began.elapsed().as_millis()).unwrap() / SPAN_MS + 2;
    assert!(refused <= u64::from(REFUSALS_OF_SPAN) * spans, "{refused} refusals in {spans} spans");
    assert_eq!((refusals(node, "wait").await, refusals(node, "calls").await), (refused, 0));
}

#[tokio::test]
async fn a_consumer_that_never_acks_costs_others_nothing() {
    let cluster = broker(&["groups.in_flight_max=50"]).await;
    let node = &cluster.brokers[0];
    node.create("groups", &serde_json::json!({ "name": "greedy" })).await;
    let names = |number: usize| format!("live-{number}");
    let before = memory_of(node);
    let client = connect(node).await;
    let greedy = client.simple_consumer("greedy", TOPIC, Filter::All).await.expect("a consumer");
    assert!(greedy.receive(1, INVISIBLE, Duration::from_millis(1)).await.expect("served").is_empty());
    let (mut taken, mut empty) = (0, 0);
    let takes = async {
        while empty < 2 {
            let received = greedy.receive(32, INVISIBLE, Duration::from_secs(2)).await;
            let count = received.expect("there is room").len();
            (taken, empty) = (taken + count, if count == 0 { empty + 1 } else { 0 });
        }
    };
    tokio::join!(takes, send_in_order(node, (0..500).map(names)));
    assert_eq!(taken, 50, "groups.in_flight_max");
    assert_eq!(take_all(node, (0..500).map(names).collect()).await, 0);
    assert!(memory_of(node) < before + BESIDE);
    assert!(held_by(node).await < LIMIT_AT_REST);
}
