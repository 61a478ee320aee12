//! The client against a server in memory, over the loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by ending")]

mod fake;

use std::time::Duration;

use base::{Clock, SystemClock, Timestamp};
use client::{Client, Code, Error, Filter, NewMessage, Options, Resolution, SimpleConsumer};
use fake::Fake;
use proto::v2;
use tokio::sync::mpsc;

const INVISIBLE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

fn with_server<F: Future<Output = ()>>(story: impl FnOnce(Fake, Client) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let fake = Fake::default();
        let client = Client::connect(&fake.serve().await, Options::default()).await.unwrap();
        story(fake, client).await;
    });
}

async fn consumer(client: &Client) -> SimpleConsumer {
    client.simple_consumer("g", "t", Filter::All).await.unwrap()
}

#[test]
fn a_message_arrives_as_it_was_sent_and_is_settled() {
    with_server(|fake, client| async move {
        let producer = client.producer(&["t"]).await.unwrap();
        let message =
            NewMessage::new("t", "body").tag("tag").key("k1").key("k2").property("p", "v").message_group("mg");
        let sent = producer.send(message).await.unwrap();
        assert_eq!((sent.message_id.len(), sent.offset.0, &sent.recall_handle), (34, 0, &None));

        let consumer = consumer(&client).await;
        let got = consumer.receive(32, INVISIBLE, POLL).await.unwrap();
        let [message] = &got[..] else { panic!("{got:?}") };
        assert_eq!((message.message_id.as_str(), &message.body[..]), (sent.message_id.as_str(), &b"body"[..]));
        assert_eq!((message.tag.as_deref(), message.message_group.as_deref()), (Some("tag"), Some("mg")));
        assert_eq!((&message.keys[..], message.attempt), (&["k1".to_owned(), "k2".to_owned()][..], 1));
        assert_eq!(message.properties["p"], "v");
        consumer.ack(message).await.unwrap();
        assert_eq!(consumer.ack(message).await.expect_err("settled").code(), Some(Code::InvalidReceiptHandle));
        assert!(consumer.receive(32, INVISIBLE, Duration::ZERO).await.unwrap().is_empty());
        assert_eq!(fake.state().acked, 1);
    });
}

#[test]
fn many_messages_go_in_one_call_and_are_settled_in_one() {
    with_server(|fake, client| async move {
        let producer = client.producer(&["t"]).await.unwrap();
        let sent = producer.send_all((0..5).map(|n| NewMessage::new("t", format!("{n}"))).collect()).await.unwrap();
        let offsets: Vec<_> = sent.into_iter().map(|sent| sent.unwrap().offset.0).collect();
        assert_eq!(offsets, [0, 1, 2, 3, 4]);
        let consumer = consumer(&client).await;
        let mut got = consumer.receive(32, INVISIBLE, POLL).await.unwrap();
        got[4].receipt_handle = "wrong".into();
        let results = consumer.ack_all(&got).await.unwrap();
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 4);
        assert_eq!(results[4].as_ref().expect_err("wrong handle").code(), Some(Code::InvalidReceiptHandle));
        assert_eq!(fake.state().acked, 4);
    });
}

#[test]
fn refusals_are_told_with_their_code() {
    with_server(|_, client| async move {
        let producer = client.producer(&["t"]).await.unwrap();
        let error = producer.send(NewMessage::new("t", "")).await.expect_err("it has no body");
        assert_eq!(error.code(), Some(Code::MessageBodyEmpty));
        let results = producer.send_all(vec![NewMessage::new("t", ""), NewMessage::new("t", "x")]).await.unwrap();
        assert!(results.iter().all(Result::is_err), "{results:?}");
        let missing = client.simple_consumer("g", "missing", Filter::All).await.expect_err("no such topic");
        assert_eq!(missing.code(), Some(Code::TopicNotFound));
    });
}

#[test]
fn a_message_given_back_comes_again_and_a_changed_handle_is_followed() {
    with_server(|fake, client| async move {
        let producer = client.producer(&["t"]).await.unwrap();
        producer.send(NewMessage::new("t", "x")).await.unwrap();
        let consumer = consumer(&client).await;
        let mut message = consumer.receive(1, INVISIBLE, POLL).await.unwrap().remove(0);
        consumer.change_invisible(&mut message, INVISIBLE).await.unwrap();
        assert!(message.receipt_handle.ends_with('+'), "{message:?}");
        consumer.change_invisible(&mut message, Duration::ZERO).await.unwrap();
        let again = consumer.receive(1, INVISIBLE, POLL).await.unwrap().remove(0);
        assert_eq!(again.attempt, 2);
        consumer.forward_to_dead_letters(&again, 2).await.unwrap();
        let state = fake.state();
        assert_eq!((state.dead.len(), state.leased.len()), (1, 0));
    });
}

#[test]
fn a_delayed_message_can_be_recalled_once() {
    with_server(|_, client| async move {
        let producer = client.producer(&["t"]).await.unwrap();
        let due = SystemClock.now().plus_ms(3_600_000);
        let sent = producer.send(NewMessage::new("t", "x").deliver_at(due)).await.unwrap();
        let handle = sent.recall_handle.unwrap();
        assert_eq!(producer.recall("t", &handle).await.unwrap(), sent.message_id);
        assert_eq!(producer.recall("t", &handle).await.expect_err("gone").code(), Some(Code::MessageNotFound));
        let past = producer.send(NewMessage::new("t", "x").deliver_at(Timestamp(1))).await;
        assert!(past.is_ok());
    });
}

#[test]
fn a_transaction_is_seen_when_committed_and_checks_reach_the_producer() {
    with_server(|fake, client| async move {
        let (orphans, mut asked) = mpsc::channel(1);
        let producer = client.producer_with_checks(&["t"], orphans).await.unwrap();
        let consumer = consumer(&client).await;
        let dropped = producer.send_prepared(NewMessage::new("t", "dropped")).await.unwrap();
        producer.end(&dropped, Resolution::Rollback).await.unwrap();
        let forgotten = producer.send_prepared(NewMessage::new("t", "kept")).await.unwrap();
        assert!(consumer.receive(1, INVISIBLE, Duration::ZERO).await.unwrap().is_empty());

        let (stream, message) = {
            let state = fake.state();
            (state.streams[0].clone(), state.prepared[&forgotten.transaction_id].clone())
        };
        let recover = v2::RecoverOrphanedTransactionCommand {
            message: Some(message),
            transaction_id: forgotten.transaction_id.clone(),
        };
        let command = v2::telemetry_command::Command::RecoverOrphanedTransactionCommand(recover);
        stream.send(Ok(v2::TelemetryCommand { status: None, command: Some(command) })).await.unwrap();
        let orphan = asked.recv().await.unwrap();
        assert_eq!((&orphan.message.body[..], &orphan.transaction.topic[..]), (&b"kept"[..], "t"));
        producer.end(&orphan.transaction, Resolution::Commit).await.unwrap();
        let got = consumer.receive(1, INVISIBLE, POLL).await.unwrap();
        assert_eq!(&got[0].body[..], b"kept");
        let unknown = producer.end(&dropped, Resolution::Commit).await.expect_err("ended");
        assert_eq!(unknown.code(), Some(Code::InvalidTransactionId));
    });
}

#[test]
fn each_client_beats_under_its_own_id_and_says_goodbye() {
    with_server(|fake, client| async move {
        let producer = client.producer(&["t"]).await.unwrap();
        let consumer = consumer(&client).await;
        while fake.state().clients.len() < 2 {
            tokio::task::yield_now().await;
        }
        let ids = [producer.client_id().to_owned(), consumer.client_id().to_owned()];
        assert!(ids.iter().all(|id| fake.state().clients.contains(id)));
        producer.close().await.unwrap();
        consumer.close().await.unwrap();
        assert_eq!(fake.state().goodbyes, 2);
    });
}

#[test]
fn nobody_there_is_unreachable_and_may_be_tried_again() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Client::connect(&endpoint, Options::default()).await.expect_err("nobody listens");
        assert!(matches!(error, Error::Unreachable { .. }) && error.is_retryable(), "{error}");
    });
}
