//! Lists and look-ups: the same whoever is asked, and who does not answer is named.

use std::collections::BTreeSet;

use super::whole::{connect, two};
use super::*;

/// Sends messages with the key `k` to this broker, and gives their ids.
async fn send(broker: &Node, topic: &str, bodies: &[&str]) -> Vec<String> {
    let producer = connect(broker).await.producer(&[topic]).await.expect("a producer");
    let mut ids = Vec::new();
    for body in bodies {
        let message = NewMessage::new(topic, (*body).to_owned()).key("k");
        let message = if topic == "steps" { message.message_group("g") } else { message };
        ids.push(producer.send(message).await.expect("it is taken").message_id);
    }
    ids
}

/// `orders` on both brokers, with messages on each; `steps` on the second, `more` on the first one.
async fn filled() -> (Cluster, [Vec<String>; 3]) {
    let cluster = two().await;
    let [a, b] = &cluster.brokers[..] else { panic!("two were started") };
    a.create_topic("more", "fifo", 1).await;
    let on_a = send(a, "orders", &["a0", "a1", "a2"]).await;
    let on_b = send(b, "orders", &["b0", "b1"]).await;
    let steps = send(b, "steps", &["s0", "s1"]).await;
    until("the other knows the newest topic", async || get(b, "/topics/more").await.0 == 200).await;
    (cluster, [on_a, on_b, steps])
}

async fn get(node: &Node, path: &str) -> (u16, Value) {
    node.call("GET", path, &Value::Null).await
}

/// The items of a list, over all its pages of `limit`.
async fn list(node: &Node, path: &str, limit: usize) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, page) = get(node, &format!("{path}limit={limit}{cursor}")).await;
        assert_eq!((status, page.get("unreachable"), page.get("warnings")), (200, None, None), "{page}");
        let more = page["items"].as_array().expect("items").clone();
        assert!(more.len() <= limit, "{page}");
        items.extend(more);
        assert!(items.len() < 100, "it has no end: {path}");
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

fn texts<'a>(items: &'a [Value], field: &str) -> Vec<&'a str> {
    items.iter().map(|item| item[field].as_str().expect("a text")).collect()
}

/// What a verb says, asked of this broker.
async fn verb(node: &Node, verb: &[&str]) -> std::process::Output {
    tests::server::carillon(&[verb, &["--server", &node.http()]].concat()).await
}

async fn said(node: &Node, words: &[&str]) -> String {
    let done = verb(node, words).await;
    assert!(done.status.success(), "{words:?}: {done:?}");
    String::from_utf8(done.stdout).expect("text")
}

#[tokio::test]
async fn topics_and_groups_are_listed_by_every_broker_alike() {
    let (cluster, _) = filled().await;
    let [a, b] = &cluster.brokers[..] else { panic!("two were started") };
    for node in &cluster.brokers {
        for limit in [1, 2, 1000] {
            let topics = list(node, "/topics?", limit).await;
            assert_eq!(texts(&topics, "name"), ["more", "orders", "steps"], "of {}", node.name());
            let brokers: Vec<_> =
                topics.iter().map(|topic| texts(topic["queues"].as_array().expect("queues"), "broker")).collect();
            assert_eq!(brokers, [vec!["broker-a"], vec!["broker-a", "broker-b"], vec!["broker-b"]]);
            let ends: u64 =
                topics[1]["queues"].as_array().into_iter().flatten().filter_map(|q| q["next"].as_u64()).sum();
            assert_eq!(ends, 5, "{}", topics[1]);
        }
        assert_eq!(texts(&list(node, "/topics?type=fifo&", 1).await, "name"), ["more", "steps"]);
        assert_eq!(texts(&list(node, "/topics?prefix=st&", 1).await, "name"), ["steps"]);
        let whole = get(node, "/topics").await.1;
        assert_eq!(
            (texts(whole["items"].as_array().expect("items"), "name").len(), &whole["next_cursor"]),
            (3, &Value::Null)
        );
    }
    // It has read nothing on either broker when it comes, and then what is sent to both.
    for broker in [a, b] {
        let consumer = connect(broker).await.simple_consumer("late", "orders", Filter::All).await.expect("a consumer");
        consumer.receive(1, KNOWN_WITHIN, Duration::from_millis(1)).await.expect("nothing yet");
        send(broker, "orders", &["x", "y"]).await;
        consumer.close().await.expect("it may go");
    }
    for (node, limit) in [(a, 1), (b, 1), (b, 1000)] {
        let groups = list(node, "/groups?", limit).await;
        assert_eq!(texts(&groups, "name"), ["late", GROUP]);
        let of = &groups[0]["topics"][0];
        assert_eq!(
            (&of["topic"], &of["lag_messages"]),
            (&json!("orders"), &json!(4)),
            "of {}: {}",
            node.name(),
            groups[0]
        );
        assert_eq!(texts(of["queues"].as_array().expect("queues"), "broker"), ["broker-a", "broker-b"]);
    }
    let table = said(b, &["topic", "list"]).await;
    let orders = table.lines().find(|line| line.starts_with("orders")).expect("it is listed");
    assert!(orders.ends_with("broker-a, broker-b") && orders.contains(" 9 "), "{table}");
    assert_eq!(said(a, &["group", "list", "-q"]).await, format!("late\n{GROUP}\n"));
    // A broker that another one asks says what it has itself.
    let headers = [("X-Carillon-For", "broker-a")];
    for (path, names) in [("/api/v1/topics", vec!["more", "orders"]), ("/api/v1/groups", vec!["late", GROUP])] {
        let here = http::call_with(&a.http(), "GET", path, &headers, b"").await.expect("an answer");
        let here = here.json().unwrap_or_default();
        assert_eq!(texts(here["items"].as_array().expect("items"), "name"), names, "{here}");
    }
}

#[tokio::test]
async fn a_message_is_found_through_any_broker() {
    let (cluster, [on_a, on_b, steps]) = filled().await;
    let all: BTreeSet<_> = [&on_a[..], &on_b, &steps].concat().into_iter().collect();
    let newest_first = list(&cluster.brokers[0], "/messages?key=k&", 1000).await;
    for node in &cluster.brokers {
        for (ids, topic, broker, bodies) in [
            (&on_a, "orders", "broker-a", vec!["a0", "a1", "a2"]),
            (&on_b, "orders", "broker-b", vec!["b0", "b1"]),
            (&steps, "steps", "broker-b", vec!["s0", "s1"]),
        ] {
            for (id, body) in ids.iter().zip(bodies) {
                for query in ["".into(), format!("?topic={topic}")] {
                    let (status, found) = get(node, &format!("/messages/{id}{query}")).await;
                    let said = (status, &found["message_id"], &found["broker"], &found["state"]);
                    assert_eq!(said, (200, &json!(id), &json!(broker), &json!("visible")), "{}: {found}", node.name());
                    assert_eq!(found.get("unreachable"), None);
                    let page = node.get(&format!("/api/v1/messages/{id}/body{query}")).await;
                    assert_eq!((page.status, &*page.body), (200, body), "of {}", node.name());
                }
            }
        }
        for limit in [1, 2, 3, 1000] {
            let found = list(node, "/messages?key=k&", limit).await;
            assert_eq!(found, newest_first, "the same order whoever is asked, {limit} at once");
        }
        let times = texts(&newest_first, "stored_at");
        assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
        let ids: BTreeSet<_> = texts(&newest_first, "message_id").into_iter().map(String::from).collect();
        assert_eq!((newest_first.len(), ids), (7, all.clone()));
        assert_eq!(list(node, "/messages?key=k&topic=steps&", 1).await.len(), 2);
        let oldest = newest_first[6]["stored_at"].as_str().expect("a time");
        assert!(!list(node, &format!("/messages?key=k&to={oldest}&"), 1000).await.is_empty());
        assert!(list(node, "/messages?key=k&to=2020-01-01T00:00:00Z&", 1000).await.is_empty());
        assert!(list(node, "/messages?key=other&", 1000).await.is_empty());

        for (path, status, code, field) in [
            ("/messages/nobody", 404, "message_not_found", "id"),
            ("/messages/nobody/body", 404, "message_not_found", "id"),
            ("/messages/nobody?topic=steps", 404, "message_not_found", "id"),
            ("/messages/nobody?topic=nosuch", 404, "topic_not_found", "topic"),
            ("/messages/nobody?topic=a%20b", 422, "illegal_value", "name"),
            ("/messages?key=k&topic=nosuch", 404, "topic_not_found", "topic"),
            // A place of `/topics/{t}/messages`, by key and by queue.
            ("/messages?key=k&cursor=PDc", 400, "invalid_cursor", "cursor"),
            ("/messages?key=k&cursor=MDo1", 400, "invalid_cursor", "cursor"),
            ("/topics/orders/messages?broker=broker-z", 404, "node_not_found", "broker"),
        ] {
            let (said, problem) = get(node, path).await;
            let found = (said, problem["code"].as_str(), problem["field"].as_str());
            assert_eq!(found, (status, Some(code), Some(field)), "{path}: {problem}");
        }
        // A broker that was there for the page before, {"broker-z": 9}, and one that has shown all, {"broker-b": null}.
        let (_, page) = get(node, "/messages?key=k&cursor=eyJicm9rZXIteiI6OX0").await;
        assert_eq!(
            (&page["unreachable"][0]["broker"], page["items"].as_array().map(Vec::len)),
            (&json!("broker-z"), Some(7))
        );
        let rest = list(node, "/messages?key=k&cursor=eyJicm9rZXItYiI6bnVsbH0&", 1000).await;
        assert_eq!(texts(&rest, "broker"), ["broker-a"; 3]);
    }
}

#[tokio::test]
async fn queues_are_read_at_the_broker_that_is_named() {
    let (cluster, [on_a, on_b, steps]) = filled().await;
    let [a, b] = &cluster.brokers[..] else { panic!("two were started") };
    for node in &cluster.brokers {
        for (broker, bodies) in [("broker-a", vec!["a1", "a2"]), ("broker-b", vec!["b1"])] {
            let path = format!("/topics/orders/messages?broker={broker}&queue=0&from=offset:1&");
            let found = list(node, &path, 1).await;
            assert_eq!(
                (texts(&found, "body"), found[0]["broker"].as_str()),
                (bodies, Some(broker)),
                "of {}",
                node.name()
            );
        }
        let by_key = list(node, "/topics/orders/messages?broker=broker-b&key=k&", 1).await;
        assert_eq!(texts(&by_key, "body"), ["b1", "b0"]);
        // Without a name it is the broker that is asked, or the one that has the topic.
        let own = list(node, "/topics/orders/messages?", 1000).await;
        assert!(own.iter().all(|message| message["broker"] == node.name()), "{own:?}");
        assert_eq!(texts(&list(node, "/topics/steps/messages?", 1).await, "body"), ["s0", "s1"]);
        let (status, problem) = get(node, "/topics/steps/messages?broker=broker-a").await;
        assert_eq!((status, &problem["code"]), (404, &json!("topic_not_found")), "{problem}");

        let tail = |words: &[&'static str]| [&["tail", "orders", "--no-follow", "--from", "earliest"], words].concat();
        let lines = said(node, &tail(&["--format", "%B %b\\n"])).await;
        let mut lines: Vec<_> = lines.lines().collect();
        lines.sort_unstable();
        let each = ["broker-a a0", "broker-a a1", "broker-a a2", "broker-b b0", "broker-b b1"];
        assert_eq!(lines, each, "each once");
        let by_key = said(node, &tail(&["--key", "k", "--format", "%b\\n"])).await;
        assert_eq!(by_key.lines().count(), 5, "{by_key}");
        assert!(said(node, &tail(&[])).await.lines().any(|line| line.starts_with("broker-b/0/1  ")));

        let shown = said(node, &["message", "get", &steps[0]]).await;
        assert!(shown.contains("broker-b") && shown.contains("steps"), "{shown}");
        assert_eq!(said(node, &["message", "get", &on_b[0], "--body"]).await, "b0");
        let found = said(node, &["message", "find", "--key", "k", "--count", "6", "-q"]).await;
        assert_eq!(found.lines().count(), 6, "{found}");
        let found = said(node, &["message", "find", "--key", "k", "--topic", "orders"]).await;
        let place = |line: &str| line.contains("broker-a") && line.contains(" 0/0 ") && line.contains(&on_a[0]);
        assert!(found.lines().any(place), "{found}");
    }
    let described = said(a, &["topic", "describe", "orders"]).await;
    assert!(described.lines().any(|line| line.starts_with("broker-b") && line.contains(" 0 ")), "{described}");
    assert_eq!(said(b, &["message", "get", &on_a[1], "--topic", "orders", "-q"]).await.trim(), on_a[1]);
}

#[tokio::test]
async fn a_silent_broker_is_named_in_lists_and_look_ups() {
    // Long enough to be known although it is silent.
    let cluster = Cluster::start(1, 2, &["broker_expiry=60s"]).await;
    let [a, b] = &cluster.brokers[..] else { panic!("two were started") };
    a.create_topic("orders", "normal", 1).await;
    b.create_topic("steps", "fifo", 1).await;
    until("both topics are known", async || list(a, "/topics?", 9).await.len() == 2).await;
    until("both have the topic", async || get(b, "/topics/orders").await.0 == 200).await;
    let (here, there) = (send(a, "orders", &["a0", "a1"]).await, send(b, "orders", &["b0"]).await);
    let steps = send(b, "steps", &["s0"]).await;
    b.pause();
    let with_it = async || get(a, "/topics").await.1.get("unreachable").is_none();
    until("it is missed", async || !with_it().await).await;

    let silent = |answer: &Value| answer["unreachable"][0]["broker"] == "broker-b";
    let paths = [
        "/topics".to_owned(),
        "/topics?limit=1".into(),
        "/groups".into(),
        "/messages?key=k&limit=1".into(),
        "/messages?key=k&limit=2".into(),
        format!("/messages/{}", here[0]),
        format!("/messages/{}", there[0]),
        format!("/messages/{}/body", there[0]),
        format!("/messages/{}?topic=steps", steps[0]),
        "/messages?key=k&topic=steps".into(),
        "/topics/orders/messages?broker=broker-b".into(),
    ];
    // At the same time: each waits for the other broker.
    let answers = futures_util::future::join_all(paths.iter().map(|path| get(a, path))).await;
    let whole = format!("{answers:?}");
    let names = |at: usize| texts(answers[at].1["items"].as_array().expect("items"), "name");
    for (at, (status, answer)) in answers[..6].iter().enumerate() {
        assert!(*status == 200 && silent(answer), "{}: {answer}", paths[at]);
    }
    assert_eq!((names(0), names(1), names(2)), (vec!["orders"], vec!["orders"], vec![GROUP]), "{whole}");
    assert_eq!(answers[0].1["items"][0]["queues"].as_array().map(Vec::len), Some(1), "{whole}");
    // There is a next page of what is here, and none for the sake of the other one.
    let ends = [1, 3, 4].map(|at| answers[at].1["next_cursor"].is_string());
    assert_eq!(ends, [false, true, false], "{whole}");
    assert_eq!(answers[5].1["broker"], "broker-a");
    // That nobody has it is not known.
    for (at, (status, problem)) in answers.iter().enumerate().skip(6) {
        let said = (*status, problem["code"].as_str(), problem["value"].as_str());
        assert_eq!(said, (504, Some("unreachable"), Some("broker-b")), "{}: {problem}", paths[at]);
    }
    let (listed, got, checked) = futures_util::future::join3(
        verb(a, &["topic", "list", "--json"]),
        verb(a, &["message", "get", &there[0]]),
        verb(a, &["check", "lag"]),
    )
    .await;
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert!(silent(&listed), "{listed}");
    assert_eq!(got.status.code(), Some(6), "not reachable, and not: not found: {got:?}");
    assert!(String::from_utf8_lossy(&checked.stdout).contains("; without broker-b"), "{checked:?}");

    b.resume();
    until("all is said again", with_it).await;
    assert_eq!(get(a, &format!("/messages/{}", there[0])).await.1["broker"], "broker-b");
}
