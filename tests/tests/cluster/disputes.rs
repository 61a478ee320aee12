//! Who may be in the table, and who is left out of it.

use proto::v2::Code;
use tests::cluster::{Cluster, Node};

use super::calls::Caller;
use super::clients;
use super::{EXPIRY, queues_of, until, until_registered, until_routes};

#[tokio::test]
async fn an_ordered_topic_on_two_brokers_is_served_by_the_one_that_has_had_it_longer() {
    let mut cluster = Cluster::prepare(2, 3, &[EXPIRY], &[]);
    for broker in &mut cluster.brokers {
        broker.start().await;
    }
    // Nobody is there who would refuse the second one. The order of names is not the one of age.
    let (a, b, c) = (&cluster.brokers[0], &cluster.brokers[1], &cluster.brokers[2]);
    b.create_topic("steps", "fifo", 3).await;
    let since = async |broker: &Node, topic: &str| {
        let topic = broker.get(&format!("/api/v1/topics/{topic}")).await.json();
        topic["created_at"].as_str().expect("a time").to_owned()
    };
    let oldest = since(b, "steps").await;
    let mut topics = 0;
    until("the clock has gone on", async || {
        topics += 1;
        let name = format!("clock-{topics}");
        c.create_topic(&name, "normal", 1).await;
        since(c, &name).await > oldest
    })
    .await;
    a.create_topic("steps", "fifo", 3).await;
    assert!(since(a, "steps").await > oldest);
    // Everybody knows it alone so far.
    until_routes(&[a], "steps", &queues_of(&[a], 3)).await;

    for nameserver in &mut cluster.nameservers {
        nameserver.start().await;
    }
    let (a, b, c) = (&cluster.brokers[0], &cluster.brokers[1], &cluster.brokers[2]);
    until_registered(&[a, b, c]).await;
    let nodes: Vec<_> = cluster.nameservers.iter().chain([a, b, c]).collect();
    until_routes(&nodes, "steps", &queues_of(&[b], 3)).await;
    for nameserver in &cluster.nameservers {
        let route = nameserver.get("/api/v1/routes/steps").await.json();
        assert_eq!(route["left_out"], serde_json::json!([a.name()]), "{route}");
        assert_eq!(route["brokers"].as_array().map(Vec::len), Some(1), "{route}");
        assert_eq!(route["brokers"][0]["broker"], b.name(), "{route}");
        assert_eq!(nameserver.metric("carillon_nameserver_topic_conflicts", "").await, 1.0);
        assert!(nameserver.log().contains("an ordered topic is on several brokers"), "{}", nameserver.log());
    }
    // What a client sends to a name server gets there too.
    clients::send_ordered(&cluster.nameservers[0], "steps", "first", "order-1").await;
    assert_eq!(clients::take(b, "steps").await, "first");
    until("the younger one has ceded it", async || a.file("homes.json").contains(b.name())).await;

    // The one that keeps it goes: the topic does not move, whoever is started again meanwhile.
    let status = cluster.brokers[1].terminate().await;
    assert!(status.success(), "{status}");
    for node in cluster.nameservers.iter_mut().chain(&mut cluster.brokers[..1]) {
        let status = node.terminate().await;
        assert!(status.success(), "{status}");
        node.start().await;
    }
    let (a, b, c) = (&cluster.brokers[0], &cluster.brokers[1], &cluster.brokers[2]);
    until_registered(&[a, c]).await;
    for node in cluster.nameservers.iter().chain([a, c]) {
        until("nobody is led to the other one", async || {
            Caller::new(node).route("steps").await == Err(Code::HaNotAvailable)
        })
        .await;
    }
    let refused = Caller::new(a).send("steps", "second", "order-1").await;
    assert_eq!(refused, Err(Code::TopicNotFound), "with an old route");
    let made = c.post("/api/v1/topics", &serde_json::json!({ "name": "steps", "type": "fifo", "queues": 3 })).await;
    assert_eq!((made.status, made.json()["value"].as_str()), (409, Some(b.name())), "{made:?}");

    // An operator may know that it is away for good.
    let claimed = a.post("/api/v1/topics/steps/claim", &serde_json::Value::Null).await;
    assert_eq!(claimed.status, 204, "{claimed:?}");
    let nodes: Vec<_> = cluster.nameservers.iter().chain([a, c]).collect();
    until_routes(&nodes, "steps", &queues_of(&[a], 3)).await;
    clients::send_ordered(a, "steps", "third", "order-1").await;
}

#[tokio::test]
async fn a_second_broker_of_a_name_and_one_of_another_cluster_are_refused() {
    let mut cluster = Cluster::start(2, 1, &[EXPIRY]).await;
    let first = &cluster.brokers[0];
    first.create_topic("orders", "normal", 1).await;
    until_registered(&[first]).await;
    let known: Vec<_> = cluster.nameservers.iter().collect();
    let directory = cluster.directory();
    let mut second = Node::broker(directory, "second", first.name(), &known, &[]);
    let mut stranger = Node::broker(directory, "stranger", "stranger", &known, &["cluster.name=elsewhere"]);
    second.start().await;
    stranger.start().await;
    second.create_topic("orders", "normal", 7).await;
    stranger.create_topic("orders", "normal", 7).await;
    let reasons = [(&second, "is the name of another broker"), (&stranger, "this name server is of cluster")];
    for (node, reason) in reasons {
        until("the refused one says why, of each name server", async || node.log().matches(reason).count() >= 2).await;
        assert_eq!(node.get("/readyz").await.status, 503);
    }
    let expected = queues_of(&[first], 1);
    for nameserver in &cluster.nameservers {
        assert!(nameserver.metric("carillon_nameserver_registrations_total", "result=\"refused\"").await >= 2.0);
        let listed = nameserver.get("/api/v1/brokers").await.json();
        assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
        assert_eq!(listed[0]["grpc"], first.address(), "{listed}");
        assert_eq!(Caller::new(nameserver).route("orders").await, Ok(expected.clone()));
    }
    assert_eq!(Caller::new(first).route("orders").await, Ok(expected));
    clients::round_trip(&cluster.nameservers[0], "orders", "to the first").await;

    // The name is free when the first one has left.
    let status = cluster.brokers[0].terminate().await;
    assert!(status.success(), "{status}");
    until_registered(&[&second]).await;
    let nodes: Vec<_> = cluster.nameservers.iter().chain([&second]).collect();
    until_routes(&nodes, "orders", &queues_of(&[&second], 7)).await;
}
