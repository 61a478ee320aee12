//! One catalog over several brokers: what is made, changed or dropped on one of them is so on all, also on those that were
//! away. Real name servers and brokers, in this process.

use std::path::Path;
use std::time::Duration;

use client::{Client, NewMessage, Options};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::wait::until_within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(5);

fn nameserver() -> nameserver::server::Server {
    let listen = "127.0.0.1:0".into();
    let mut config = nameserver::config::Config { listen, ..nameserver::config::Config::default() };
    config.http.listen = String::new();
    config.runtime.workers = 1;
    nameserver::server::Server::start(&config).unwrap_or_else(|failure| panic!("no name server: {failure:?}"))
}

/// A broker that may be stopped and started again.
struct Broker {
    name: &'static str,
    nameserver: String,
    auto_create: bool,
    running: Option<broker::server::Server>,
}

impl Broker {
    fn start(&mut self, directory: &Path) {
        let mut config = broker::config::Config::default();
        config.node.name = self.name.into();
        config.nameservers = vec![self.nameserver.clone()];
        config.grpc.listen = "127.0.0.1:0".into();
        config.http.listen = "127.0.0.1:0".into();
        config.topics.auto_create = self.auto_create;
        config.storage.log.segment_size = base::ByteSize(1 << 20);
        config.storage.disk_reserve = "1MiB".into();
        config.runtime.workers = 2;
        let server = broker::server::Server::start(&config, &directory.join(self.name));
        self.running = Some(server.unwrap_or_else(|error| panic!("broker {}: {error}", self.name)));
    }

    async fn stop(&mut self) {
        self.running.take().expect("it runs").stop(STOPPED_WITHIN).await;
    }

    fn server(&self) -> &broker::server::Server {
        self.running.as_ref().expect("it runs")
    }

    fn grpc(&self) -> String {
        self.server().grpc_address().to_string()
    }

    /// Status and body of a call of the admin API, answered for this broker alone.
    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let address = self.server().http_address().expect("it is on");
        let body = body.map(Value::to_string).unwrap_or_default();
        let length = body.len();
        let request = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nX-Carillon-For: {}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
            self.name
        );
        let exchange = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map(|_| answer)
        };
        let answer = timeout(WITHIN, exchange).await.expect("an answer in time").expect("the server is there");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, if body.is_empty() { Value::Null } else { serde_json::from_str(body).expect("JSON") })
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, None).await
    }

    async fn topic(&self, name: &str, kind: &str, queues: u16) -> (u16, Value) {
        self.call("POST", "/topics", Some(&json!({"name": name, "type": kind, "queues": queues}))).await
    }

    async fn group(&self, name: &str, attempts: u32) -> (u16, Value) {
        self.call("POST", "/groups", Some(&json!({"name": name, "attempts_max": attempts}))).await
    }
}

/// A name server and brokers a, b and c, of which none runs yet.
struct Cluster {
    nameserver: nameserver::server::Server,
    brokers: [Broker; 3],
    directory: TempDir,
}

impl Cluster {
    fn new(auto_create: bool) -> Self {
        let nameserver = nameserver();
        let address = nameserver.address().to_string();
        let broker = |name| Broker { name, nameserver: address.clone(), auto_create, running: None };
        let brokers = ["a", "b", "c"].map(broker);
        Self { nameserver, brokers, directory: tempfile::tempdir().expect("a temporary directory") }
    }

    /// Starts these, and waits until all that run know each other.
    async fn start(&mut self, which: &[usize]) {
        for number in which {
            self.brokers[*number].start(self.directory.path());
        }
        let running = self.brokers.iter().filter(|broker| broker.running.is_some());
        let count = running.clone().count();
        for broker in running {
            until("the brokers know each other", async || broker.server().broker().brokers().len() == count).await;
        }
    }

    async fn stop(mut self) {
        for broker in self.brokers.iter_mut().filter(|broker| broker.running.is_some()) {
            broker.stop().await;
        }
        self.nameserver.stop(STOPPED_WITHIN).await;
    }
}

async fn until(what: &str, is_so: impl AsyncFnMut() -> bool) {
    until_within(WITHIN, what, is_so).await;
}

#[tokio::test]
async fn what_is_made_changed_and_dropped_on_one_broker_is_so_on_all_when_it_is_answered() {
    let mut cluster = Cluster::new(false);
    cluster.start(&[0, 1, 2]).await;
    let [a, b, c] = &cluster.brokers;
    for kind in ["normal", "delay", "transaction"] {
        let (status, made) = a.topic(kind, kind, 4).await;
        assert_eq!((status, made.get("pending_on")), (201, None), "{made}");
        for broker in [b, c] {
            let (status, topic) = broker.get(&format!("/topics/{kind}")).await;
            assert_eq!(
                (status, &topic["type"], topic["queues"].as_array().map(Vec::len)),
                (200, &json!(kind), Some(4))
            );
            assert_eq!(topic["created_at"], made["created_at"]);
        }
    }
    let (status, _) = b.topic("normal", "normal", 4).await;
    assert_eq!(status, 200, "it is there");
    let change = json!({"queues": 6, "retention": {"time": "30d", "size": "10GiB"}});
    let (status, changed) = b.call("PATCH", "/topics/normal", Some(&change)).await;
    assert_eq!((status, changed.get("pending_on")), (200, None), "{changed}");
    for broker in [a, c] {
        let (_, topic) = broker.get("/topics/normal").await;
        assert_eq!((topic["queues"].as_array().map(Vec::len), &topic["retention"]), (Some(6), &changed["retention"]));
        let copies = topic["brokers"].as_array().expect("several have it");
        assert_eq!(copies.iter().map(|copy| copy["broker"].as_str()).collect::<Vec<_>>(), ["a", "b", "c"].map(Some));
        assert!(copies.iter().all(|copy| copy.get("differs").is_none() && copy["queues"] == 6), "{topic}");
    }
    let (status, problem) = c.call("DELETE", "/topics/normal", None).await;
    assert_eq!((status, &problem["code"]), (409, &json!("topic_has_backlog")), "what others hold is not known here");
    assert_eq!(c.call("DELETE", "/topics/normal?force=true", None).await.0, 204);
    for broker in [a, b, c] {
        assert_eq!(broker.get("/topics/normal").await.0, 404);
    }

    let (status, made) = c.group("billing", 7).await;
    assert_eq!((status, made.get("pending_on")), (201, None), "{made}");
    for broker in [a, b] {
        let (status, group) = broker.get("/groups/billing").await;
        assert_eq!((status, &group["attempts_max"], &group["backoff"]), (200, &json!(7), &made["backoff"]));
    }
    assert_eq!(a.call("DELETE", "/groups/billing", None).await.0, 204);
    for broker in [a, b, c] {
        assert_eq!(broker.get("/groups/billing").await.0, 404);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_broker_that_was_away_catches_up_and_brings_nothing_back() {
    let mut cluster = Cluster::new(false);
    cluster.start(&[0, 1, 2]).await;
    for (name, queues) in [("kept", 2), ("dropped", 2), ("remade", 2)] {
        assert_eq!(cluster.brokers[0].topic(name, "normal", queues).await.0, 201);
    }
    assert_eq!(cluster.brokers[0].group("dropped", 3).await.0, 201);
    cluster.brokers[2].stop().await;
    let a = &cluster.brokers[0];
    until("the others know that it has gone", async || a.server().broker().brokers().len() == 2).await;
    assert_eq!(a.call("PATCH", "/topics/kept", Some(&json!({"queues": 5}))).await.0, 200);
    for path in ["/topics/dropped?force=true", "/topics/remade?force=true", "/groups/dropped"] {
        assert_eq!(a.call("DELETE", path, None).await.0, 204);
    }
    assert_eq!(a.topic("remade", "delay", 3).await.0, 201);
    assert_eq!(a.topic("new", "transaction", 1).await.0, 201);
    assert_eq!(a.group("new", 9).await.0, 201);
    // Those who remember the drops are started anew meanwhile.
    cluster.brokers[0].stop().await;
    cluster.start(&[0]).await;
    cluster.start(&[2]).await;

    let c = &cluster.brokers[2];
    let is_caught_up = async || {
        let mut all = c.get("/topics").await.1["items"].as_array().expect("items").clone();
        all.retain(|topic| !topic["name"].as_str().expect("a name").starts_with('%'));
        let topics = all.iter().map(|topic| {
            let queues = topic["queues"].as_array().map_or(0, Vec::len);
            json!([topic["name"], topic["type"], queues])
        });
        let expected = json!([["kept", "normal", 5], ["new", "transaction", 1], ["remade", "delay", 3]]);
        let groups = c.get("/groups").await.1;
        let groups: Vec<_> =
            groups["items"].as_array().expect("items").iter().map(|group| &group["name"]).cloned().collect();
        json!(topics.collect::<Vec<_>>()) == expected && groups == ["new"]
    };
    until("it has what the others have, and no more", is_caught_up).await;
    // Whatever it may have brought back is there before what is made now.
    for broker in &cluster.brokers {
        let (status, made) = broker.topic(&format!("marker-{}", broker.name), "normal", 1).await;
        assert_eq!((status, made.get("pending_on")), (201, None), "{made}");
    }
    for broker in &cluster.brokers {
        assert_eq!(broker.get("/topics/dropped").await.0, 404, "on {}", broker.name);
        assert_eq!(broker.get("/groups/dropped").await.0, 404, "on {}", broker.name);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn an_ordered_topic_stays_on_the_broker_that_it_was_made_on() {
    let mut cluster = Cluster::new(false);
    cluster.start(&[0, 1, 2]).await;
    let [a, b, c] = &cluster.brokers;
    let (status, made) = a.topic("orders", "fifo", 4).await;
    assert_eq!((status, made.get("pending_on")), (201, None), "{made}");
    // Whatever is made after it comes after it.
    assert_eq!(a.topic("marker", "normal", 1).await.0, 201);
    for kind in ["fifo", "normal"] {
        let (status, problem) = b.topic("orders", kind, 4).await;
        assert_eq!((status, &problem["code"], &problem["value"]), (409, &json!("topic_lives_elsewhere"), &json!("a")));
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("broker a")), "{problem}");
    }
    for broker in [b, c] {
        let (status, problem) = broker.get("/topics/orders").await;
        assert_eq!((status, &problem["code"]), (404, &json!("topic_not_found")));
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("on a")), "{problem}");
    }
    let (status, problem) = b.topic("marker", "delay", 1).await;
    assert_eq!((status, &problem["code"]), (409, &json!("exists_with_other_settings")));
    assert_eq!(a.call("DELETE", "/topics/orders", None).await.0, 204, "there is no other copy");
    cluster.stop().await;
}

#[tokio::test]
async fn topics_of_different_types_from_a_time_apart_stay_and_are_shown_until_one_is_deleted() {
    let mut cluster = Cluster::new(false);
    cluster.start(&[0]).await;
    assert_eq!(cluster.brokers[0].topic("t", "normal", 1).await.0, 201);
    assert_eq!(cluster.brokers[0].topic("u", "normal", 3).await.0, 201);
    cluster.brokers[0].stop().await;
    cluster.start(&[1]).await;
    assert_eq!(cluster.brokers[1].topic("t", "delay", 1).await.0, 201);
    assert_eq!(cluster.brokers[1].topic("u", "normal", 2).await.0, 201);
    cluster.start(&[0]).await;
    let [a, b, _] = &cluster.brokers;
    let has_three =
        async |broker: &Broker| broker.get("/topics/u").await.1["queues"].as_array().map(Vec::len) == Some(3);
    until("u is the same on both", async || has_three(a).await && has_three(b).await).await;
    for (broker, own, other) in [(a, "normal", "b"), (b, "delay", "a")] {
        let (_, topic) = broker.get("/topics/t").await;
        assert_eq!(topic["type"], own);
        let copies = topic["brokers"].as_array().expect("two have it");
        let copy = copies.iter().find(|copy| copy["broker"] == other).expect("the other one");
        assert_eq!(copy["differs"], json!(["type"]), "{topic}");
    }
    assert_eq!(a.call("DELETE", "/topics/t", None).await.0, 204, "nobody else has this one");
    let is_delay = async || a.get("/topics/t").await.1["type"] == "delay";
    until("the other one is on both", is_delay).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_topic_that_its_first_message_makes_is_made_everywhere_but_one_with_order() {
    let mut cluster = Cluster::new(true);
    cluster.start(&[0, 1]).await;
    let [a, b, _] = &cluster.brokers;
    let client = Client::connect(&a.grpc(), Options::default()).await.expect("a broker");
    let producer = client.producer(&["plain", "ordered"]).await.expect("a producer");
    producer.send(NewMessage::new("plain", "x")).await.expect("it is made");
    producer.send(NewMessage::new("ordered", "x").message_group("g")).await.expect("it is made");
    // It was told before, or together with, what comes from then on.
    assert_eq!(a.topic("marker", "normal", 1).await.0, 201);
    let (status, topic) = b.get("/topics/plain").await;
    assert_eq!((status, &topic["type"]), (200, &json!("normal")), "{topic}");
    assert_eq!(b.get("/topics/ordered").await.0, 404);
    cluster.stop().await;
}

#[tokio::test]
async fn a_change_that_a_broker_cannot_follow_yet_names_it() {
    let mut cluster = Cluster::new(false);
    cluster.start(&[0, 1]).await;
    // Its store takes nothing any more, and its table of others goes on.
    cluster.brokers[1].server().broker().stop();
    let [a, ..] = &cluster.brokers;
    let (status, made) = a.topic("t", "normal", 1).await;
    assert_eq!((status, &made["pending_on"]), (201, &json!(["b"])), "{made}");
    let (status, made) = a.group("g", 1).await;
    assert_eq!((status, &made["pending_on"]), (201, &json!(["b"])), "{made}");
    cluster.brokers[1].stop().await;
    cluster.start(&[1]).await;
    let b = &cluster.brokers[1];
    until("it has both", async || b.get("/topics/t").await.0 == 200 && b.get("/groups/g").await.0 == 200).await;
    cluster.stop().await;
}
