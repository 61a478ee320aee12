//! Questions about undecided transactions, to producers that listen at another broker than the one that holds the
//! message.

use std::time::Duration;

use client::{Client, Filter, Orphan, Producer, Resolution};
use proto::cluster as wire;
use proto::cluster::producers_client::ProducersClient;
use tests::cluster::{Cluster, Node};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::calls::Caller;
use super::clients::{connect, next};
use super::{EXPIRY, all, brokers, queues_of, until_registered, until_routes};

const ASKED_WITHIN: Duration = Duration::from_secs(30);

/// One name server, and brokers that both have these topics.
async fn cluster(topics: &[&str], checks: &str) -> Cluster {
    let settings = ["transactions.check_after=1s", "transactions.check_every=1s", checks];
    let cluster = Cluster::start_with(1, 2, &[EXPIRY], &settings).await;
    for topic in topics {
        cluster.brokers[0].create_topic(topic, "transaction", 1).await;
        until_routes(&all(&cluster), topic, &queues_of(&brokers(&cluster), 1)).await;
    }
    until_registered(&brokers(&cluster)).await;
    cluster
}

/// A producer whose only stream leads to this node.
async fn producer(node: &Node, topic: &str) -> (Client, Producer, mpsc::Receiver<Orphan>) {
    let client = connect(node).await;
    let (told, asked) = mpsc::channel(16);
    let producer = client.producer_with_checks(&[topic], told).await.expect("a producer");
    (client, producer, asked)
}

async fn question(asked: &mut mpsc::Receiver<Orphan>) -> Orphan {
    timeout(ASKED_WITHIN, asked.recv()).await.expect("it is asked").expect("the producer lives")
}

#[tokio::test]
async fn a_producer_is_asked_where_it_listens_and_what_nobody_heard_does_not_count() {
    // Asked once in all.
    let cluster = cluster(&["paid", "marked"], "transactions.checks_max=1").await;
    let (access, holder) = (&cluster.brokers[0], &cluster.brokers[1]);
    let caller = Caller::new(holder);
    let paid = caller.send_half("paid").await.expect("it is taken");
    let marked = caller.send_half("marked").await.expect("it is taken");
    let (_client, _producer, mut asked) = producer(access, "marked").await;
    assert_eq!(question(&mut asked).await.message.message_id, marked);
    // By now the holder has looked for somebody who knows about the other one, and there was nobody.
    let (_client, producer, mut asked) = producer(access, "paid").await;
    let orphan = question(&mut asked).await;
    assert_eq!((&orphan.message.message_id, &*orphan.message.body), (&paid, &b"paid"[..]));
    producer.end(&orphan.transaction, Resolution::Commit).await.expect("its holder ends it");
    let consumer = connect(holder).await.simple_consumer("readers", "paid", Filter::All).await.expect("a consumer");
    assert_eq!(next(&consumer).await.message_id, paid);
    super::until("both were asked about once", async || holder.log().matches("at its check limit").count() == 2).await;
}

#[tokio::test]
async fn nobody_is_asked_elsewhere_while_somebody_listens_where_the_message_is() {
    const TIMES: usize = 5;
    let cluster = cluster(&["paid"], "transactions.checks_max=1000").await;
    let (other, holder) = (&cluster.brokers[0], &cluster.brokers[1]);
    let (_client, _producer, mut asked_there) = producer(other, "paid").await;
    let (_client, producer, mut asked_here) = producer(holder, "paid").await;
    let half = Caller::new(holder).send_half("paid").await.expect("it is taken");
    for _ in 0..TIMES {
        let orphan = question(&mut asked_here).await;
        assert_eq!(orphan.message.message_id, half);
    }
    assert!(asked_there.try_recv().is_err(), "the other one is left alone");
    drop((producer, asked_here));
}

#[tokio::test]
async fn many_that_nobody_knows_about_keep_no_other_from_being_asked_about() {
    // More than are looked at in one round.
    const UNKNOWN: usize = 600;
    let cluster = cluster(&["paid", "marked"], "transactions.checks_max=1000").await;
    let (other, holder) = (&cluster.brokers[0], &cluster.brokers[1]);
    let caller = Caller::new(holder);
    for _ in 0..UNKNOWN {
        caller.send_half("paid").await.expect("it is taken");
    }
    let marked = caller.send_half("marked").await.expect("it is taken");
    let (_client, _producer, mut asked) = producer(holder, "marked").await;
    assert_eq!(question(&mut asked).await.message.message_id, marked);
    // Nor from being asked about elsewhere.
    drop((_client, _producer, asked));
    let (_client, _producer, mut asked) = producer(other, "marked").await;
    assert_eq!(question(&mut asked).await.message.message_id, marked);
}

#[tokio::test]
async fn what_another_broker_asks_is_sent_on_to_nobody_and_what_is_wrong_in_it_is_named() {
    let cluster = cluster(&["paid"], "transactions.checks_max=1000").await;
    let (asked, listening) = (&cluster.brokers[0], &cluster.brokers[1]);
    let (_client, _producer, mut questions) = producer(listening, "paid").await;
    let sought = |topic: &str| wire::Sought { client_id: "nobody".into(), topic: topic.into() };
    let find = async |node: &Node, sought: Vec<wire::Sought>| {
        let mut rpc = ProducersClient::connect(format!("http://{}", node.address())).await.expect("it is there");
        rpc.find(wire::FindRequest { sought }).await.map(|answer| answer.into_inner().listeners)
    };
    let ask = async |node: &Node, topic: &str, command: &'static [u8]| {
        let mut rpc = ProducersClient::connect(format!("http://{}", node.address())).await.expect("it is there");
        let request = wire::AskRequest { sought: Some(sought(topic)), turn: 0, command: command.into() };
        rpc.ask(request).await.map(|answer| answer.into_inner().is_taken)
    };
    let [nobody, another]: [i32; 2] = [wire::Listener::Nobody, wire::Listener::Another].map(i32::from);
    assert_eq!(find(asked, vec![sought("paid")]).await.expect("an answer"), [nobody]);
    assert_eq!(find(listening, vec![sought("other"), sought("paid")]).await.expect("an answer"), [nobody, another]);
    assert!(!ask(asked, "paid", b"").await.expect("an answer"), "nobody listens here");
    assert!(questions.try_recv().is_err(), "and nobody is asked elsewhere");

    let refused = |status: tonic::Status| (status.code(), status.message().to_owned());
    let (code, text) = refused(find(asked, vec![sought("paid"); 257]).await.expect_err("too many"));
    assert_eq!((code, &*text), (tonic::Code::InvalidArgument, "sought has 257 entries, the limit is 256"));
    let (code, text) = refused(find(asked, vec![sought("not a name")]).await.expect_err("no topic"));
    assert!(code == tonic::Code::InvalidArgument && text.starts_with("sought.topic = \"not a name\": "), "{text}");
    let (code, text) = refused(ask(listening, "paid", b"rubbish").await.expect_err("no question"));
    assert!(code == tonic::Code::InvalidArgument && text.starts_with("command cannot be read: "), "{text}");
    assert!(questions.try_recv().is_err(), "nobody is asked what cannot be read");
}
