//! Resets of groups whose consumers are online, and what a restart keeps of them.

use client::Received;

use super::*;

const INVISIBLE: Duration = Duration::from_secs(3600);
const POLLING: Duration = Duration::from_secs(2);

async fn connect(broker: &Node) -> client::Client {
    let options = client::Options { request_timeout: Duration::from_secs(10), ..client::Options::default() };
    client::Client::connect(&broker.address(), options).await.expect("the broker is there")
}

async fn consumer(broker: &Node, topic: &str) -> SimpleConsumer {
    connect(broker).await.simple_consumer(GROUP, topic, Filter::All).await.expect("a consumer")
}

/// Sends bodies 0, 1, …, in one message group where order is kept.
async fn send(broker: &Node, topic: &str, bodies: std::ops::Range<u32>, is_ordered: bool) {
    let producer = connect(broker).await.producer(&[topic]).await.expect("a producer");
    for body in bodies {
        let message = NewMessage::new(topic, body.to_string());
        let message = if is_ordered { message.message_group("key") } else { message };
        producer.send(message).await.expect("it is taken");
    }
}

/// The next `count` messages, which have to come, and no more than that at a time.
async fn take(consumer: &SimpleConsumer, count: usize) -> Vec<Received> {
    let mut taken: Vec<Received> = Vec::new();
    let look = async {
        while taken.len() < count {
            taken.extend(consumer.receive(count - taken.len(), INVISIBLE, POLLING).await.expect("an answer"));
        }
    };
    assert!(timeout(KNOWN_WITHIN, look).await.is_ok(), "only {} of {count} messages come", taken.len());
    taken
}

fn bodies(messages: &[Received]) -> Vec<u32> {
    let body = |message: &Received| std::str::from_utf8(&message.body).ok().and_then(|body| body.parse().ok());
    messages.iter().map(|message| body(message).expect("numbers were sent")).collect()
}

async fn reset(broker: &Node, query: &str, topic: &str, to: Value) -> Value {
    let path = format!("/groups/{GROUP}/reset{query}");
    let (status, done) = broker.call("POST", &path, &json!({"topic": topic, "to": to})).await;
    assert_eq!(status, 200, "{to}: {done}");
    done
}

/// Counts of a reset: old and new offset of the first queue, messages repeated and skipped.
fn counts(done: &Value) -> [u64; 4] {
    let queue = &done["queues"][0];
    [&queue["old"], &queue["new"], &done["repeated"], &done["skipped"]].map(|count| count.as_u64().expect("a count"))
}

#[tokio::test]
async fn a_group_goes_back_while_its_consumer_holds_messages_and_late_acks_do_nothing() {
    for is_ordered in [false, true] {
        let mut cluster = Cluster::start(1, 1, &[]).await;
        let broker = &cluster.brokers[0];
        broker.create_topic("orders", if is_ordered { "fifo" } else { "normal" }, 1).await;
        send(broker, "orders", 0..5, is_ordered).await;
        let online = consumer(broker, "orders").await;
        let taken = take(&online, 4).await;
        for message in &taken[..2] {
            online.ack(message).await.expect("it was handed out");
        }

        let dry = reset(broker, "?dry_run=true", "orders", json!("earliest")).await;
        assert_eq!((counts(&dry), &dry["dry_run"]), ([2, 0, 2, 0], &json!(true)), "ordered: {is_ordered}");
        let again = reset(broker, "?dry_run", "orders", json!("earliest")).await;
        assert_eq!(again, dry, "ordered: {is_ordered}: nothing was done");
        let done = reset(broker, "", "orders", json!("earliest")).await;
        assert_eq!(counts(&done), [2, 0, 2, 0], "ordered: {is_ordered}");

        // OK, and nothing is acknowledged by it: everything comes again, as if for the first time.
        online.ack(&taken[2]).await.expect("late acks are answered OK");
        let anew = take(&online, 5).await;
        assert_eq!(bodies(&anew), [0, 1, 2, 3, 4], "ordered: {is_ordered}");
        assert!(anew.iter().all(|message| message.attempt == 1), "ordered: {is_ordered}: attempts start anew");
        online.ack(&anew[0]).await.expect("it was handed out");
        // Of the delivery before: nothing happens to the one that is out now.
        online.ack(&taken[3]).await.expect("late acks are answered OK");

        let group = broker.call("GET", &format!("/groups/{GROUP}"), &Value::Null).await.1;
        assert_eq!(group["topics"][0]["lag_messages"], 4, "ordered: {is_ordered}: {group}");

        cluster.brokers[0].kill().await;
        cluster.brokers[0].start().await;
        let broker = &cluster.brokers[0];
        let group = broker.call("GET", &format!("/groups/{GROUP}"), &Value::Null).await.1;
        assert_eq!(group["topics"][0]["lag_messages"], 4, "ordered: {is_ordered}: {group}");
        let done = reset(broker, "", "orders", json!({"offset": 3})).await;
        assert_eq!(counts(&done), [1, 3, 0, 2], "ordered: {is_ordered}");
        let after = consumer(broker, "orders").await;
        assert_eq!(bodies(&take(&after, 2).await), [3, 4], "ordered: {is_ordered}");
    }
}

#[tokio::test]
async fn a_reset_is_durable_when_it_is_answered_also_where_the_group_never_was() {
    let mut cluster = Cluster::start(1, 1, &[]).await;
    let broker = &cluster.brokers[0];
    broker.create_topic("orders", "normal", 1).await;
    send(broker, "orders", 0..6, false).await;
    let (created, _) = broker.call("POST", "/groups", &json!({"name": "late"})).await;
    assert_eq!(created, 201);
    let path = "/groups/late/reset";
    // Where it starts otherwise: behind what was there when it was made.
    let dry = broker.call("POST", &format!("{path}?dry_run"), &json!({"topic": "orders", "to": "latest"})).await.1;
    assert_eq!(counts(&dry), [6, 6, 0, 0]);
    let (status, done) = broker.call("POST", path, &json!({"topic": "orders", "to": {"offset": 2}})).await;
    assert_eq!((status, counts(&done)), (200, [6, 2, 4, 0]), "{done}");
    cluster.brokers[0].kill().await;
    cluster.brokers[0].start().await;

    let broker = &cluster.brokers[0];
    let dry = broker.call("POST", &format!("{path}?dry_run"), &json!({"topic": "orders", "to": "latest"})).await.1;
    assert_eq!(counts(&dry), [2, 6, 0, 4], "it counts as a reader of the topic from the reset on");
    let late = connect(broker).await.simple_consumer("late", "orders", Filter::All).await.expect("a consumer");
    assert_eq!(bodies(&take(&late, 4).await), [2, 3, 4, 5]);
}

#[tokio::test]
async fn a_reset_goes_wherever_it_is_told() {
    let cluster = Cluster::start(1, 1, &[]).await;
    let broker = &cluster.brokers[0];
    broker.create_topic("orders", "normal", 1).await;
    send(broker, "orders", 0..6, false).await;
    let online = consumer(broker, "orders").await;
    for message in take(&online, 2).await {
        online.ack(&message).await.expect("it was handed out");
    }
    assert_eq!(counts(&reset(broker, "", "orders", json!({"skip": 3})).await), [2, 5, 0, 3]);
    assert_eq!(counts(&reset(broker, "", "orders", json!({"skip": u64::MAX})).await), [5, 6, 0, 1]);
    assert_eq!(counts(&reset(broker, "", "orders", json!({"time": "1970-01-01T00:00:00Z"})).await), [6, 0, 6, 0]);
    assert_eq!(counts(&reset(broker, "", "orders", json!({"time": "9999-01-01T00:00:00Z"})).await), [0, 6, 0, 6]);
    broker.create("groups", &json!({"name": "other"})).await;
    let follow = json!({"topic": "orders", "to": {"group": GROUP}});
    let (status, done) = broker.call("POST", "/groups/other/reset", &follow).await;
    assert_eq!((status, counts(&done)), (200, [6, 6, 0, 0]), "{done}");
    assert_eq!(counts(&reset(broker, "", "orders", json!("earliest")).await), [6, 0, 6, 0]);
    let done = broker.call("POST", "/groups/other/reset", &follow).await.1;
    assert_eq!(counts(&done), [6, 0, 6, 0], "it is where the other one is now");
    assert_eq!(counts(&reset(broker, "", "orders", json!("latest")).await), [0, 6, 0, 6]);

    send(broker, "orders", 6..7, false).await;
    assert_eq!(bodies(&take(&online, 1).await), [6], "what was passed over does not come");
}

/// All that a group has not acknowledged, by queue.
async fn lags(broker: &Node) -> Vec<u64> {
    let group = broker.call("GET", &format!("/groups/{GROUP}"), &Value::Null).await.1;
    let queues = group["topics"][0]["queues"].as_array().cloned().unwrap_or_default();
    queues.iter().map(|queue| queue["lag"].as_u64().expect("a count")).collect()
}

#[tokio::test]
async fn a_reset_moves_every_queue_or_the_one_that_is_named_and_no_other() {
    const QUEUES: u16 = 3;
    let cluster = Cluster::start(1, 1, &[]).await;
    let broker = &cluster.brokers[0];
    broker.create_topic("orders", "normal", QUEUES).await;
    send(broker, "orders", 0..30, false).await;
    let page = broker.call("GET", "/topics/orders", &Value::Null).await.1;
    let ends = page["queues"].as_array().expect("queues").iter();
    let ends: Vec<u64> = ends.map(|queue| queue["next"].as_u64().expect("an offset")).collect();
    assert!(ends.len() == 3 && ends.iter().all(|end| *end > 2), "messages are spread: {ends:?}");

    reset(broker, "", "orders", json!("latest")).await;
    assert_eq!(lags(broker).await, [0, 0, 0]);
    reset(broker, "", "orders", json!("earliest")).await;
    assert_eq!(lags(broker).await, ends);
    let online = consumer(broker, "orders").await;
    let mut all = bodies(&take(&online, 30).await);
    all.sort_unstable();
    assert_eq!(all, (0..30).collect::<Vec<_>>(), "of every queue");
    let at = |queue: u16, to: Value| {
        let body = json!({"topic": "orders", "queue": queue, "to": to});
        async move { broker.call("POST", &format!("/groups/{GROUP}/reset"), &body).await }
    };
    let (status, done) = at(1, json!({"skip": 2})).await;
    let queues: Vec<_> = done["queues"].as_array().expect("queues").iter().map(|queue| &queue["queue"]).collect();
    assert_eq!((status, queues), (200, vec![&json!(1)]), "{done}");
    assert_eq!(lags(broker).await, [ends[0], ends[1] - 2, ends[2]], "what is out of the others stays out");
    assert_eq!(at(2, json!("latest")).await.0, 200);
    assert_eq!(lags(broker).await, [ends[0], ends[1] - 2, 0]);

    // Queue by queue to where another group is.
    broker.create("groups", &json!({"name": "other"})).await;
    let follow = json!({"topic": "orders", "to": {"group": GROUP}});
    let (status, done) = broker.call("POST", "/groups/other/reset", &follow).await;
    let news: Vec<_> = done["queues"].as_array().expect("queues").iter().map(|queue| &queue["new"]).collect();
    assert_eq!((status, news), (200, vec![&json!(0), &json!(2), &json!(ends[2])]), "{done}");
}

#[tokio::test]
async fn a_reset_to_a_time_begins_with_the_first_message_that_became_visible_then() {
    let cluster = Cluster::start(1, 1, &[]).await;
    let broker = &cluster.brokers[0];
    broker.create_topic("orders", "normal", 1).await;
    send(broker, "orders", 0..6, false).await;
    let page = broker.call("GET", "/topics/orders/messages?queue=0&from=offset:0", &Value::Null).await.1;
    let items = page["items"].as_array().expect("messages").iter();
    let times: Vec<String> = items.map(|item| item["stored_at"].as_str().expect("a time").to_owned()).collect();
    assert_eq!(times.len(), 6, "{page}");
    for time in &times {
        let first = times.iter().position(|other| other == time).expect("it is there") as u64;
        assert_eq!(counts(&reset(broker, "", "orders", json!({"time": time})).await)[1], first, "{times:?}");
    }
}

#[tokio::test]
async fn a_reset_that_cannot_be_is_refused_and_changes_nothing() {
    let scene = Scene::start().await;
    let broker = scene.broker();
    for (group, body, status, code, field) in [
        ("nobody", json!({"topic": "orders", "to": "latest"}), 404, "group_not_found", "group"),
        (GROUP, json!({"topic": "nowhere", "to": "latest"}), 404, "topic_not_found", "topic"),
        (GROUP, json!({"topic": "orders", "to": "first"}), 400, "invalid_body", "to"),
        (GROUP, json!({"topic": "orders", "to": "latest", "queues": 1}), 400, "unknown_field", "queues"),
        (GROUP, json!({"topic": "orders", "to": "latest", "queue": 2}), 422, "illegal_value", "queue"),
        (GROUP, json!({"topic": "orders", "to": {"offset": 0}}), 422, "illegal_value", "queue"),
        (GROUP, json!({"topic": "orders", "queue": 0, "to": {"offset": 9}}), 422, "illegal_value", "to.offset"),
        (GROUP, json!({"topic": "orders", "to": {"group": "nobody"}}), 404, "group_not_found", "group"),
        (GROUP, json!({"topic": "steps", "to": {"group": GROUP}}), 422, "illegal_value", "to.group"),
    ] {
        let (said, problem) = broker.call("POST", &format!("/groups/{group}/reset"), &body).await;
        let is = (said, problem["code"].as_str().unwrap_or_default(), problem["field"].as_str().unwrap_or_default());
        assert_eq!(is, (status, code, field), "{body}: {problem}");
    }
    let group = broker.call("GET", &format!("/groups/{GROUP}"), &Value::Null).await.1;
    assert_eq!(group["topics"], json!([]), "it has not even begun to read");
}

#[tokio::test]
async fn the_command_says_what_a_reset_would_do_and_does_it() {
    let scene = Scene::start().await;
    let http = format!("http://{}", scene.broker().http());
    let reset = |more: &'static [&'static str]| {
        let all = [&["group", "reset", GROUP, "--topic", "orders", "--server", http.as_str()], more].concat();
        async move { tests::server::carillon(&all).await }
    };
    let dry = reset(&["--to", "-2h", "--dry-run"]).await;
    let said = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(dry.status.success() && said.contains("dry run: nothing was done"), "{dry:?}");
    let unasked = reset(&["--to", "latest"]).await;
    let said = String::from_utf8_lossy(&unasked.stderr).into_owned();
    assert!(unasked.status.code() == Some(2) && said.contains("1 are passed over"), "{unasked:?}");
    let done = reset(&["--to", "latest", "--yes", "--json"]).await;
    let json: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!((done.status.code(), &json["skipped"], &json["dry_run"]), (Some(0), &json!(1), &json!(false)), "{json}");
    let nowhere = reset(&["--to", "offset:7", "--queue", "0", "--yes"]).await;
    assert_eq!(nowhere.status.code(), Some(4), "{nowhere:?}");
}
