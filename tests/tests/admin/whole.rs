//! Any node answers for the cluster: what brokers have between them is one answer, and who is away is named.

use super::*;

const INVISIBLE: Duration = Duration::from_secs(3600);

pub async fn connect(broker: &Node) -> client::Client {
    let options = client::Options { request_timeout: Duration::from_secs(10), ..client::Options::default() };
    client::Client::connect(&broker.address(), options).await.expect("the broker is there")
}

/// Two brokers that know each other, with a normal topic on both and an ordered one on the second.
pub async fn two() -> Cluster {
    let cluster = Cluster::start(1, 2, &["broker_expiry=2s"]).await;
    let [a, b] = &cluster.brokers[..] else { panic!("two were started") };
    until("they know each other", async || a.call("GET", "/nodes/broker-b", &Value::Null).await.0 == 200).await;
    until("they know each other", async || b.call("GET", "/nodes/broker-a", &Value::Null).await.0 == 200).await;
    a.create_topic("orders", "normal", 1).await;
    b.create_topic("steps", "fifo", 1).await;
    let knows =
        async |node: &Node, topic: &str| node.call("GET", &format!("/topics/{topic}"), &Value::Null).await.0 == 200;
    until("both have the topic", async || {
        let (_, topic) = a.call("GET", "/topics/orders", &Value::Null).await;
        topic["queues"].as_array().is_some_and(|queues| queues.len() == 2)
    })
    .await;
    until("the other knows the ordered one", async || knows(a, "steps").await).await;
    cluster
}

async fn send(broker: &Node, topic: &str, count: u32) {
    let producer = connect(broker).await.producer(&[topic]).await.expect("a producer");
    for number in 0..count {
        let message = NewMessage::new(topic, number.to_string());
        let message = if topic == "steps" { message.message_group("key") } else { message };
        producer.send(message).await.expect("it is taken");
    }
}

async fn group(broker: &Node) -> Value {
    let (status, group) = broker.call("GET", &format!("/groups/{GROUP}"), &Value::Null).await;
    assert_eq!(status, 200, "{group}");
    group
}

fn topic_of(group: &Value, name: &str) -> Value {
    let topics = group["topics"].as_array().expect("a list");
    topics.iter().find(|topic| topic["topic"] == name).cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_group_is_described_whole_by_any_broker_and_without_consumers_too() {
    let cluster = two().await;
    let [a, b] = &cluster.brokers[..] else { panic!("two were started") };
    for (broker, count) in [(a, 2), (b, 3)] {
        // The group reads what comes after its first contact.
        send(broker, "orders", count).await;
        let client = connect(broker).await;
        let consumer = client.simple_consumer(GROUP, "orders", Filter::All).await.expect("a consumer");
        let taken = consumer.receive(1, INVISIBLE, Duration::from_secs(10)).await.expect("an answer");
        assert_eq!(taken.len(), 1);
        if broker.name() == "broker-b" {
            // Held by one that stays, on one broker only.
            for node in &cluster.brokers {
                until("both say the same", async || topic_of(&group(node).await, "orders")["in_flight"] == 1).await;
                let whole = group(node).await;
                let topic = topic_of(&whole, "orders");
                assert_eq!(
                    (&topic["lag_messages"], &topic["queues"][0]["broker"]),
                    (&json!(5), &json!("broker-a")),
                    "{whole}"
                );
                assert_eq!(topic["queues"][1]["lag"], 3, "{whole}");
                assert!(topic["oldest_unacked_ms"].as_u64().is_some_and(|age| age > 0), "{whole}");
                assert_eq!(whole["members"][0]["broker"], "broker-b", "{whole}");
                assert_eq!(whole.get("unreachable"), None);
            }
        }
        consumer.close().await.expect("it may go");
    }
    // Nobody is there any more, and nothing is forgotten.
    let whole = group(a).await;
    let topic = topic_of(&whole, "orders");
    assert_eq!((&whole["members"], &topic["lag_messages"]), (&json!([]), &json!(5)), "{whole}");
}

#[tokio::test]
async fn message_groups_that_failed_are_blocked_until_they_are_settled() {
    let cluster = two().await;
    let [a, b] = &cluster.brokers[..] else { panic!("two were started") };
    send(b, "steps", 2).await;
    let consumer = connect(b).await.simple_consumer(GROUP, "steps", Filter::All).await.expect("a consumer");
    let mut taken = consumer.receive(1, INVISIBLE, Duration::from_secs(10)).await.expect("an answer");
    assert_eq!(topic_of(&group(a).await, "steps")["blocked_message_groups"], 0);
    consumer.change_invisible(&mut taken[0], Duration::from_secs(3000)).await.expect("it was handed out");
    let topic = topic_of(&group(a).await, "steps");
    assert_eq!((&topic["blocked_message_groups"], &topic["retry_wait"]), (&json!(1), &json!(1)), "{topic}");
    assert_eq!(topic["lag_messages"], 2, "{topic}");
}

#[tokio::test]
async fn a_topic_that_lives_elsewhere_is_described_and_changed_from_anywhere() {
    let cluster = two().await;
    let [a, b] = &cluster.brokers[..] else { panic!("two were started") };
    send(b, "steps", 2).await;
    let (status, topic) = a.call("GET", "/topics/steps", &Value::Null).await;
    let queue = &topic["queues"][0];
    assert_eq!((status, &queue["broker"], &queue["next"]), (200, &json!("broker-b"), &json!(2)), "{topic}");
    let (status, page) = a.call("GET", "/topics/steps/messages?from=offset:1&queue=0", &Value::Null).await;
    assert_eq!((status, &page["items"][0]["body"]), (200, &json!("1")), "{page}");
    let (status, topic) = a.call("PATCH", "/topics/steps", &json!({"retention": {"time": "1d"}})).await;
    assert_eq!((status, &topic["retention"]["time"]), (200, &json!("1d")), "{topic}");
    // What the other one refuses is refused in its words.
    let (status, problem) = a.call("PATCH", "/topics/steps", &json!({"queues": 2})).await;
    assert_eq!(
        (status, &problem["code"], &problem["field"]),
        (422, &json!("illegal_value"), &json!("queues")),
        "{problem}"
    );
    let (status, problem) = a.call("DELETE", "/topics/steps", &Value::Null).await;
    assert_eq!((status, &problem["code"]), (409, &json!("topic_has_backlog")), "{problem}");
    assert_eq!(a.call("DELETE", "/topics/steps?force", &Value::Null).await.0, 204);
    until("it is gone", async || b.call("GET", "/topics/steps", &Value::Null).await.0 == 404).await;
}

#[tokio::test]
async fn a_reset_reaches_every_broker_that_has_the_topic() {
    let cluster = two().await;
    let [a, b] = &cluster.brokers[..] else { panic!("two were started") };
    send(a, "orders", 2).await;
    send(b, "orders", 3).await;
    send(b, "steps", 4).await;
    let path = format!("/groups/{GROUP}/reset");
    // Nothing is done anywhere, as often as it is asked what would be.
    for _ in 0..2 {
        let (status, dry) =
            a.call("POST", &format!("{path}?dry_run"), &json!({"topic": "orders", "to": "latest"})).await;
        let brokers: Vec<_> = dry["queues"].as_array().expect("queues").iter().map(|queue| &queue["broker"]).collect();
        assert_eq!((status, &dry["skipped"], brokers), (200, &json!(5), vec![&json!("broker-a"), &json!("broker-b")]));
    }
    let (status, done) = a.call("POST", &path, &json!({"topic": "orders", "to": "latest"})).await;
    assert_eq!((status, &done["skipped"]), (200, &json!(5)), "{done}");
    let (status, done) =
        a.call("POST", &path, &json!({"topic": "orders", "to": "earliest", "broker": "broker-b"})).await;
    assert_eq!(
        (status, &done["repeated"], &done["queues"][0]["broker"]),
        (200, &json!(3), &json!("broker-b")),
        "{done}"
    );
    assert_eq!(done["queues"].as_array().map(Vec::len), Some(1), "{done}");
    let (status, problem) = a.call("POST", &path, &json!({"topic": "orders", "to": {"offset": 1}, "queue": 0})).await;
    assert_eq!((status, &problem["field"]), (422, &json!("broker")), "{problem}");
    let offset = json!({"topic": "orders", "to": {"offset": 9}, "queue": 0, "broker": "broker-b"});
    let (status, problem) = a.call("POST", &path, &offset).await;
    assert_eq!((status, &problem["field"], &problem["limit"]), (422, &json!("to.offset"), &json!(3)), "{problem}");
    let nowhere = json!({"topic": "orders", "to": "latest", "broker": "broker-z"});
    assert_eq!(a.call("POST", &path, &nowhere).await.1["field"], "broker");
    // An ordered one is on the other broker alone.
    let (status, done) = a.call("POST", &path, &json!({"topic": "steps", "to": {"offset": 3}, "queue": 0})).await;
    assert_eq!(
        (status, &done["skipped"], &done["queues"][0]["broker"]),
        (200, &json!(3), &json!("broker-b")),
        "{done}"
    );
    let whole = group(a).await;
    let lags = ["orders", "steps"].map(|topic| topic_of(&whole, topic)["lag_messages"].clone());
    assert_eq!(lags, [json!(3), json!(1)], "{whole}");
}

#[tokio::test]
async fn clients_and_nodes_are_known_and_reached_everywhere() {
    let cluster = two().await;
    let [a, b] = &cluster.brokers[..] else { panic!("two were started") };
    let consumer = connect(b).await.simple_consumer(GROUP, "orders", Filter::All).await.expect("a consumer");
    let path = format!("/clients/{}", consumer.client_id().replace('@', "%40"));
    let (status, client) = a.call("GET", &path, &Value::Null).await;
    assert_eq!((status, &client["brokers"], &client["group"]), (200, &json!(["broker-b"]), &json!(GROUP)), "{client}");
    let (_, page) = a.call("GET", &format!("/clients?group={GROUP}"), &Value::Null).await;
    assert_eq!((page["items"].as_array().map(Vec::len), page.get("unreachable")), (Some(1), None), "{page}");
    assert_eq!(a.call("DELETE", &path, &Value::Null).await.0, 204);
    until("it is cut off", async || has_cut(b).await).await;
    drop(consumer);

    let (status, node) = a.call("GET", "/nodes/broker-b", &Value::Null).await;
    let registered = &node["nameservers"][0]["registered"];
    assert_eq!((status, &node["here"], registered), (200, &json!(false), &json!(true)), "its own words: {node}");
    let server = format!("http://{}", a.http());
    let drain = ["node", "drain", "--node", "broker-b", "--grace", "0s", "--server", server.as_str()];
    let done = tests::server::carillon(&drain).await;
    assert!(done.status.success(), "{done:?}");
    assert_eq!((b.get("/readyz").await.status, a.get("/readyz").await.status), (503, 200));
    assert_eq!(a.call("POST", "/node/resume?node=broker-b", &json!({})).await.0, 204);
    assert_eq!(b.get("/readyz").await.status, 200);
    let (status, problem) = a.call("POST", "/node/resume?node=broker-z", &json!({})).await;
    assert_eq!((status, &problem["code"], &problem["value"]), (404, &json!("node_not_found"), &json!("broker-z")));
}

#[tokio::test]
async fn a_broker_that_does_not_answer_is_named_and_fails_nothing() {
    // Long enough to be known although it is silent.
    let cluster = Cluster::start(1, 2, &["broker_expiry=60s"]).await;
    let [a, b] = &cluster.brokers[..] else { panic!("two were started") };
    a.create_topic("orders", "normal", 1).await;
    until("both have the topic", async || {
        let (_, topic) = a.call("GET", "/topics/orders", &Value::Null).await;
        topic["queues"].as_array().is_some_and(|queues| queues.len() == 2)
    })
    .await;
    send(a, "orders", 2).await;
    let consumer = connect(a).await.simple_consumer(GROUP, "orders", Filter::All).await.expect("a consumer");
    let taken = consumer.receive(1, INVISIBLE, Duration::from_secs(10)).await.expect("an answer");
    assert_eq!(taken.len(), 1);
    b.pause();
    // It stops a moment after it was told to.
    until("it is missed", async || {
        let (status, topic) = a.call("GET", "/topics/orders", &Value::Null).await;
        assert_eq!(status, 200, "{topic}");
        topic["unreachable"][0]["broker"] == "broker-b"
    })
    .await;
    let whole = group(a).await;
    assert_eq!(whole["unreachable"][0]["broker"], "broker-b", "{whole}");
    assert_eq!(topic_of(&whole, "orders")["lag_messages"], 2, "{whole}");
    let (status, page) = a.call("GET", "/clients", &Value::Null).await;
    assert_eq!((status, &page["unreachable"][0]["broker"]), (200, &json!("broker-b")), "{page}");
    let id = format!("/clients/{}", consumer.client_id().replace('@', "%40"));
    for (method, path) in [("GET", "/topics/orders/queues"), ("GET", &*id), ("DELETE", &*id)] {
        let (status, answer) = a.call(method, path, &Value::Null).await;
        assert_eq!(
            (status, &answer["unreachable"][0]["broker"]),
            (200, &json!("broker-b")),
            "{method} {path}: {answer}"
        );
    }
    let (status, node) = a.call("GET", "/nodes/broker-b", &Value::Null).await;
    assert!(status == 200 && node["unreachable"].is_string(), "{node}");
    let reset = json!({"topic": "orders", "to": "latest"});
    let (status, done) = a.call("POST", &format!("/groups/{GROUP}/reset"), &reset).await;
    assert_eq!(
        (status, &done["unreachable"][0]["broker"], &done["skipped"]),
        (200, &json!("broker-b"), &json!(2)),
        "{done}"
    );
    let (status, problem) = a.call("POST", "/node/resume?node=broker-b", &json!({})).await;
    assert_eq!((status, &problem["code"], &problem["value"]), (504, &json!("unreachable"), &json!("broker-b")));
    b.resume();
    until("all is said again", async || group(a).await.get("unreachable").is_none()).await;
}

/// A call that was sent on is answered by whom it was sent to, for itself, or by nobody.
#[tokio::test]
async fn a_call_is_sent_on_once_at_most() {
    let cluster = two().await;
    let [a, b] = &cluster.brokers[..] else { panic!("two were started") };
    send(a, "orders", 2).await;
    send(b, "orders", 3).await;
    let lag = |name: &'static str| async move {
        let headers = [("X-Carillon-For", name)];
        let path = "/api/v1/topics/orders";
        http::call_with(&a.http(), "GET", path, &headers, b"").await.expect("an answer")
    };
    let here = lag("broker-a").await.json().unwrap_or_default();
    assert_eq!(here["queues"].as_array().map(Vec::len), Some(1), "{here}");
    let wrong = lag("broker-b").await;
    assert_eq!((wrong.status, &wrong.json().unwrap_or_default()["code"]), (421, &json!("misdirected")));
}
