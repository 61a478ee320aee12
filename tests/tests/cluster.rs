//! Name servers and brokers as processes: who is in routes, who answers, and what happens when one of them ends.

#[path = "cluster/calls.rs"]
mod calls;
#[path = "cluster/checks.rs"]
mod checks;
#[path = "cluster/clients.rs"]
mod clients;
#[path = "cluster/disputes.rs"]
mod disputes;
#[path = "cluster/handles.rs"]
mod handles;
#[path = "cluster/relayed.rs"]
mod relayed;

use calls::{Caller, Queue};
use client::Filter;
use proto::v2::Code;
use tests::cluster::{Cluster, Node};
use tests::process::{CARILLON, run};
use tests::wait::{KNOWN_WITHIN, LOOK_EVERY, until};
use tokio::time::{interval, timeout};

/// Shorter than in earnest, so that nobody waits for it.
const EXPIRY: &str = "broker_expiry=2s";

/// Queues of a route that leads to these brokers, each with so many of them.
fn queues_of(brokers: &[&Node], queues: i32) -> Vec<Queue> {
    let of = |broker: &&Node| {
        let (name, address) = (broker.name().to_owned(), broker.address());
        (0..queues).map(move |id| (name.clone(), address.clone(), id, true))
    };
    brokers.iter().flat_map(of).collect()
}

/// Waits until each of `nodes` answers that a topic is there and nowhere else.
async fn until_routes(nodes: &[&Node], topic: &str, expected: &[Queue]) {
    for node in nodes {
        let caller = Caller::new(node);
        let mut last = Ok(Vec::new());
        let look = async {
            let mut look = interval(LOOK_EVERY);
            while last.as_deref() != Ok(expected) {
                look.tick().await;
                last = caller.route(topic).await;
            }
        };
        let is_known = timeout(KNOWN_WITHIN, look).await.is_ok();
        assert!(is_known, "{} says of {topic}: {last:?}, and not {expected:?}; its log:\n{}", node.name(), node.log());
    }
}

/// Waits until each of these brokers has heard from all its name servers that it is registered.
async fn until_registered(brokers: &[&Node]) {
    for broker in brokers {
        let what = format!("{} is registered everywhere", broker.name());
        until(&what, async || broker.get("/readyz?verbose").await.body.contains("with every name server")).await;
    }
}

fn all(cluster: &Cluster) -> Vec<&Node> {
    cluster.nameservers.iter().chain(&cluster.brokers).collect()
}

fn brokers(cluster: &Cluster) -> Vec<&Node> {
    cluster.brokers.iter().collect()
}

#[tokio::test]
async fn every_node_answers_routes_for_the_whole_cluster() {
    let cluster = Cluster::start(2, 3, &[EXPIRY]).await;
    for broker in &cluster.brokers {
        broker.create_topic("orders", "normal", 2).await;
    }
    // Others spread over all brokers.
    cluster.brokers[1].create_topic("elsewhere", "fifo", 1).await;
    let nodes = all(&cluster);
    let everywhere = queues_of(&brokers(&cluster), 2);
    until_routes(&nodes, "orders", &everywhere).await;
    until_routes(&nodes, "elsewhere", &queues_of(&[&cluster.brokers[1]], 1)).await;
    let addresses: Vec<_> = nodes.iter().map(|node| node.address()).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    for node in &nodes {
        // A client that was given all of them at once learns the same.
        assert_eq!(Caller::new(node).route_for("orders", &addresses).await, Ok(everywhere.clone()), "{}", node.name());
        let mut whole = everywhere.clone();
        whole.retain(|queue| queue.2 == 0);
        whole.iter_mut().for_each(|queue| queue.2 = -1);
        // Members ask the brokers of a route, and name what they were given themselves.
        for address in &addresses {
            let assignment = Caller::new(node).assignment_for("orders", "billing", address).await;
            assert_eq!(assignment, Ok(whole.clone()), "{} to a client of {address}", node.name());
        }
        assert_eq!(Caller::new(node).route("nowhere").await, Err(Code::TopicNotFound), "{}", node.name());
        assert_eq!(Caller::new(node).route("not a name").await, Err(Code::IllegalTopic), "{}", node.name());
        let nobody = Caller::without_client_id(node).route("orders").await;
        assert_eq!(nobody, Err(Code::ClientIdRequired), "{}", node.name());
    }
    for broker in &cluster.brokers {
        clients::round_trip(broker, "orders", broker.name()).await;
    }
}

#[tokio::test]
async fn a_killed_broker_leaves_the_routes_and_comes_back_with_what_it_has() {
    let mut cluster = Cluster::start(2, 3, &[EXPIRY]).await;
    for broker in &cluster.brokers {
        broker.create_topic("orders", "normal", 2).await;
    }
    until_routes(&all(&cluster), "orders", &queues_of(&brokers(&cluster), 2)).await;
    clients::send(&cluster.brokers[1], "orders", "kept").await;

    cluster.brokers[1].kill().await;
    let left = [&cluster.brokers[0], &cluster.brokers[2]];
    let nodes = [&cluster.nameservers[0], &cluster.nameservers[1], left[0], left[1]];
    until_routes(&nodes, "orders", &queues_of(&left, 2)).await;
    for nameserver in &cluster.nameservers {
        assert_eq!(nameserver.metric("carillon_nameserver_brokers", "state=\"registered\"").await, 2.0);
    }

    cluster.brokers[1].start().await;
    until_routes(&all(&cluster), "orders", &queues_of(&brokers(&cluster), 2)).await;
    assert_eq!(clients::take(&cluster.brokers[1], "orders").await, "kept");
}

#[tokio::test]
async fn a_broker_that_stops_leaves_at_once_and_a_silent_one_when_its_time_is_over() {
    let mut cluster = Cluster::start(2, 3, &[EXPIRY]).await;
    for broker in &cluster.brokers {
        broker.create_topic("orders", "normal", 2).await;
    }
    until_routes(&all(&cluster), "orders", &queues_of(&brokers(&cluster), 2)).await;

    let status = cluster.brokers[0].terminate().await;
    assert!(status.success(), "{status}; its log:\n{}", cluster.brokers[0].log());
    let left = [&cluster.brokers[1], &cluster.brokers[2]];
    let nodes = [&cluster.nameservers[0], &cluster.nameservers[1], left[0], left[1]];
    until_routes(&nodes, "orders", &queues_of(&left, 2)).await;
    for nameserver in &cluster.nameservers {
        let log = nameserver.log();
        let says = |what: &str| log.lines().any(|line| line.contains(what) && line.contains(cluster.brokers[0].name()));
        assert!(says("a broker leaves") && !says("a broker is cut off"), "{log}");
    }

    // Others say something all the time: that must not count for the silent one.
    let (talking, silent) = (&cluster.brokers[1], &cluster.brokers[2]);
    silent.pause();
    let mut topics = 0;
    until("a silent broker is forgotten", async || {
        topics += 1;
        talking.create_topic(&format!("new-{topics}"), "normal", 1).await;
        let mut is_gone = true;
        for nameserver in &cluster.nameservers {
            is_gone &= !nameserver.get("/api/v1/brokers").await.body.contains(silent.name());
        }
        is_gone
    })
    .await;
    let nodes = [&cluster.nameservers[0], &cluster.nameservers[1], talking];
    until_routes(&nodes, "orders", &queues_of(&[talking], 2)).await;

    silent.resume();
    let nodes = [&cluster.nameservers[0], &cluster.nameservers[1], talking, silent];
    until_routes(&nodes, "orders", &queues_of(&[talking, silent], 2)).await;
    // It heard what it had missed.
    until_routes(&nodes, &format!("new-{topics}"), &queues_of(&[talking, silent], 1)).await;
}

#[tokio::test]
async fn a_name_server_that_comes_back_knows_everybody_and_is_not_missed_meanwhile() {
    let mut cluster = Cluster::start(2, 3, &[EXPIRY]).await;
    for broker in &cluster.brokers {
        broker.create_topic("orders", "normal", 2).await;
    }
    let everywhere = queues_of(&brokers(&cluster), 2);
    until_routes(&all(&cluster), "orders", &everywhere).await;

    cluster.nameservers[0].kill().await;
    for broker in &cluster.brokers {
        until("a broker misses its name server", async || broker.log().contains("not registered with a name server"))
            .await;
        assert_eq!(Caller::new(broker).route("orders").await, Ok(everywhere.clone()));
    }
    assert_eq!(Caller::new(&cluster.nameservers[1]).route("orders").await, Ok(everywhere.clone()));
    // What changes meanwhile is known to the one that comes back too.
    cluster.brokers[1].create_topic("meanwhile", "normal", 1).await;
    cluster.nameservers[0].start().await;
    until_routes(&all(&cluster), "orders", &everywhere).await;
    until_routes(&all(&cluster), "meanwhile", &queues_of(&brokers(&cluster), 1)).await;
    until_registered(&brokers(&cluster)).await;

    let before: Vec<_> = cluster.brokers.iter().map(|broker| broker.log().len()).collect();
    for nameserver in &mut cluster.nameservers {
        let status = nameserver.terminate().await;
        assert!(status.success(), "{status}; its log:\n{}", nameserver.log());
    }
    for (broker, before) in cluster.brokers.iter().zip(before) {
        until("a broker misses all name servers", async || {
            broker.log()[before..].matches("not registered with a name server").count() == 2
        })
        .await;
        assert_eq!(broker.get("/readyz").await.status, 503, "nobody sends clients there any more");
        assert_eq!(Caller::new(broker).route("orders").await, Ok(everywhere.clone()));
        clients::round_trip(broker, "orders", broker.name()).await;
    }
}

#[tokio::test]
async fn a_name_server_stops_although_clients_hold_streams_and_polls() {
    let mut cluster = Cluster::start(1, 1, &[EXPIRY]).await;
    cluster.brokers[0].create_topic("orders", "normal", 1).await;
    until_routes(&all(&cluster), "orders", &queues_of(&brokers(&cluster), 1)).await;
    let (names, broker) = (&mut cluster.nameservers[0], &cluster.brokers[0]);
    let client = clients::connect(names).await;
    let _producer = client.producer(&["orders"]).await.expect("a producer");
    let consumer = client.simple_consumer("readers", "orders", Filter::All).await.expect("a consumer");
    let poll = consumer.receive(1, clients::INVISIBLE, KNOWN_WITHIN);
    let stop = async {
        until("a poll waits", async || broker.metric("carillon_long_polls_parked", "").await == 1.0).await;
        names.terminate().await
    };
    let (polled, status) = tokio::join!(poll, stop);
    let error = polled.expect_err("the poll was given up");
    assert!(error.is_retryable(), "{error}");
    assert!(
        status.success() && !names.log().contains("calls in progress were cut off"),
        "{status}; its log:\n{}",
        names.log()
    );
    // What nobody waits for is not handed out to nobody.
    until("no poll waits", async || broker.metric("carillon_long_polls_parked", "").await == 0.0).await;
}

#[tokio::test]
async fn routes_of_brokers_stay_whole_while_the_only_name_server_starts_again() {
    let mut cluster = Cluster::start(1, 3, &[EXPIRY]).await;
    for broker in &cluster.brokers {
        broker.create_topic("orders", "normal", 1).await;
    }
    let everywhere = queues_of(&brokers(&cluster), 1);
    until_routes(&all(&cluster), "orders", &everywhere).await;
    cluster.nameservers[0].kill().await;
    cluster.nameservers[0].start().await;
    let callers: Vec<_> = cluster.brokers.iter().map(Caller::new).collect();
    until("everybody is back", async || {
        for caller in &callers {
            assert_eq!(caller.route("orders").await, Ok(everywhere.clone()));
        }
        let known = cluster.nameservers[0].get("/api/v1/brokers").await.json();
        known.as_array().is_some_and(|known| known.len() == 3)
    })
    .await;
    until_registered(&brokers(&cluster)).await;
    until_routes(&all(&cluster), "orders", &everywhere).await;
}

#[tokio::test]
async fn the_command_measures_until_every_node_leads_to_every_broker() {
    let cluster = Cluster::start(2, 2, &[EXPIRY]).await;
    until_registered(&brokers(&cluster)).await;
    let server = cluster.brokers[0].http();
    let ran = run(CARILLON, &["bench", "topics", "--count", "3", "--json", "--server", &server]).await;
    let said: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap_or_default();
    assert!(ran.status.success(), "{ran:?}");
    let mut asked: Vec<_> = all(&cluster).iter().map(|node| node.address()).collect();
    let mut nodes: Vec<String> = serde_json::from_value(said["nodes"].clone()).expect("names");
    asked.sort_unstable();
    nodes.sort_unstable();
    assert_eq!(nodes, asked, "{said:#}");
    let of = |what: &str| said[what]["max"].as_f64().expect("milliseconds");
    assert!(of("routesLatency") > 0.0 && of("createLatency") > 0.0, "{said:#}");
    for broker in &cluster.brokers {
        let topics = broker.get("/api/v1/topics").await.json();
        assert_eq!(topics["items"].as_array().map(Vec::len), Some(0), "nothing is left behind: {topics}");
    }
}
