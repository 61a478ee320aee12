//! Recalls and ends of transactions, which come to any node.

use base::{Clock, SystemClock};
use client::{Filter, NewMessage};
use proto::v2::Code;
use tests::cluster::Cluster;

use super::calls::Caller;
use super::clients::{connect, next};
use super::{EXPIRY, queues_of, until, until_routes};

const HOUR_MS: u64 = 3_600_000;

#[tokio::test]
async fn handles_find_their_way_to_the_broker_that_gave_them_out() {
    let mut cluster = Cluster::start(1, 3, &[EXPIRY]).await;
    let (holder, others) = cluster.brokers.split_first_mut().expect("three brokers");
    holder.create_topic("later", "delay", 1).await;
    holder.create_topic("paid", "transaction", 1).await;
    let names = &cluster.nameservers[0];
    until_routes(&[names, holder, &others[0], &others[1]], "paid", &queues_of(&[holder, &others[0], &others[1]], 1))
        .await;

    let client = connect(holder).await;
    let producer = client.producer(&["later", "paid"]).await.expect("a producer");
    let consumer = client.simple_consumer("readers", "paid", Filter::All).await.expect("a consumer");
    let far = SystemClock.now().plus_ms(HOUR_MS);
    let mut sent = Vec::new();
    for _ in 0..4 {
        let delayed = producer.send(NewMessage::new("later", "far").deliver_at(far)).await.expect("it is taken");
        let prepared = producer.send_prepared(NewMessage::new("paid", "order")).await.expect("it is taken");
        sent.push((delayed, prepared));
    }
    let (lost, sent) = sent.split_last().expect("four");
    let handle = |delayed: &client::Sent| delayed.recall_handle.clone().expect("a delayed message has one");
    for ((delayed, prepared), node) in sent.iter().zip([names, &others[0], &others[1]]) {
        let caller = Caller::new(node);
        let recalled = caller.recall("later", &handle(delayed)).await;
        assert_eq!(recalled, Ok(delayed.message_id.clone()), "{}", node.name());
        let again = caller.recall("later", &handle(delayed)).await;
        assert_eq!(again, Caller::new(holder).recall("later", &handle(delayed)).await, "{}", node.name());
        assert!(again.is_err(), "it was taken back already");
        assert_eq!(caller.commit("paid", &prepared.transaction_id).await, Ok(()), "{}", node.name());
        let message = next(&consumer).await;
        assert_eq!(message.message_id, prepared.message_id);
        consumer.ack(&message).await.expect("it is ours");
    }

    // While the holder is down nobody knows what becomes of it, whether or not it is still in the table.
    let (delayed, prepared) = lost;
    holder.kill().await;
    let nodes = [names, &others[0], &others[1]];
    until("the name server knows that it is away", async || {
        names.metric("carillon_nameserver_brokers", "state=\"registered\"").await == 2.0
    })
    .await;
    for is_forgotten in [false, true] {
        if is_forgotten {
            until_routes(&nodes, "paid", &queues_of(&[&others[0], &others[1]], 1)).await;
        }
        for node in nodes {
            let caller = Caller::new(node);
            let name = node.name();
            assert_eq!(caller.recall("later", &handle(delayed)).await, Err(Code::HaNotAvailable), "{name}");
            assert_eq!(caller.commit("paid", &prepared.transaction_id).await, Err(Code::HaNotAvailable), "{name}");
        }
    }

    holder.start().await;
    until_routes(&[names, holder, &others[0], &others[1]], "paid", &queues_of(&[holder, &others[0], &others[1]], 1))
        .await;
    let caller = Caller::new(&others[1]);
    assert_eq!(caller.recall("later", &handle(delayed)).await, Ok(delayed.message_id.clone()));
    assert_eq!(caller.commit("paid", &prepared.transaction_id).await, Ok(()));
    let consumer = connect(holder).await.simple_consumer("readers", "paid", Filter::All).await.expect("a consumer");
    assert_eq!(next(&consumer).await.message_id, prepared.message_id);
}
