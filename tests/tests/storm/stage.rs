//! The cluster, every way to its servers through a link that can be cut, and the playing of faults.

use std::time::Duration;

use base::{Clock, SystemClock};
use parking_lot::Mutex as Plain;
use serde_json::{Value, json};
use tests::cluster::{self, Cluster};
use tests::link::{Link, Way};
use tests::wait::pass;
use tokio::sync::Mutex;

use super::faults::{BROKERS, Fault, NAMESERVERS, Node};

/// A drain takes messages for longer than clients go by an old route.
const GRACE: &str = "4s";

/// What is known of a server, and since when, by the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs, and everybody reaches it.
    Well(u64),
    Gone(u64),
    /// Something is done to it.
    Troubled,
}

pub struct Stage {
    nameservers: Vec<Mutex<cluster::Node>>,
    brokers: Vec<Mutex<cluster::Node>>,
    /// For clients.
    ways: Vec<(Node, Link)>,
    /// From brokers to name servers.
    lines: Vec<(usize, usize, Link)>,
    states: Plain<Vec<Condition>>,
}

struct Condition {
    node: Node,
    state: State,
    /// Faults that go on.
    faults: usize,
}

impl Stage {
    /// Everything runs.
    pub async fn set_up(cluster: &mut Cluster) -> Self {
        let (mut ways, mut lines) = (Vec::new(), Vec::new());
        for (number, nameserver) in cluster.nameservers.iter().enumerate() {
            ways.push((Node::Nameserver(number), Link::to(nameserver.address()).await));
        }
        for (broker, node) in cluster.brokers.iter_mut().enumerate() {
            let way = Link::to(node.address()).await;
            let mut known = Vec::new();
            for (number, nameserver) in cluster.nameservers.iter().enumerate() {
                let line = Link::to(nameserver.address()).await;
                known.push(line.address());
                lines.push((broker, number, line));
            }
            node.set(&format!("nameservers={}", known.join(",")));
            node.set(&format!("grpc.advertise={}", way.address()));
            ways.push((Node::Broker(broker), way));
        }
        for node in cluster.nameservers.iter_mut().chain(&mut cluster.brokers) {
            node.start().await;
        }
        let nameservers = cluster.nameservers.drain(..).map(Mutex::new).collect();
        let brokers = cluster.brokers.drain(..).map(Mutex::new).collect();
        let now = SystemClock.monotonic_ms();
        let well = |(node, _): &(Node, Link)| Condition { node: *node, state: State::Well(now), faults: 0 };
        let states = Plain::new(ways.iter().map(well).collect());
        Self { nameservers, brokers, ways, lines, states }
    }

    /// Makes a topic or a group on a broker.
    pub async fn create(&self, broker: usize, what: &str, new: &Value) {
        self.brokers[broker].lock().await.create(what, new).await;
    }

    /// Whether all brokers have all of these topics and groups.
    pub async fn have(&self, names: &[&str]) -> bool {
        for broker in &self.brokers {
            let broker = broker.lock().await;
            let (topics, groups) = (broker.get("/api/v1/topics").await.body, broker.get("/api/v1/groups").await.body);
            let has = |name: &&str| [&topics, &groups].iter().any(|page| page.contains(&format!("\"{name}\"")));
            if !names.iter().all(has) {
                return false;
            }
        }
        true
    }

    fn node(&self, node: Node) -> &Mutex<cluster::Node> {
        match node {
            Node::Nameserver(number) => &self.nameservers[number],
            Node::Broker(number) => &self.brokers[number],
        }
    }

    /// How clients reach a server.
    pub fn way(&self, node: Node) -> String {
        let way = self.ways.iter().find(|(to, _)| *to == node);
        way.expect("there is a way to each server").1.address()
    }

    /// How it is reached whatever is cut.
    pub async fn address(&self, node: Node) -> String {
        self.node(node).lock().await.address()
    }

    pub fn all(&self) -> impl Iterator<Item = Node> {
        self.ways.iter().map(|(node, _)| *node)
    }

    pub fn state(&self, node: Node) -> State {
        self.condition(node, |condition| condition.state)
    }

    fn is_gone(&self, node: Node) {
        self.condition(node, |condition| condition.state = State::Gone(SystemClock.monotonic_ms()));
    }

    fn condition<T>(&self, node: Node, then: impl FnOnce(&mut Condition) -> T) -> T {
        let mut states = self.states.lock();
        then(states.iter_mut().find(|condition| condition.node == node).expect("each server has one"))
    }

    /// Everything that servers of the storm have logged.
    pub async fn logs(&self) -> Vec<(String, String)> {
        let mut logs = Vec::new();
        for node in self.nameservers.iter().chain(&self.brokers) {
            let node = node.lock().await;
            logs.push((node.name().to_owned(), node.log()));
        }
        logs
    }

    /// Begins a fault.
    pub async fn begin(&self, fault: Fault) {
        for node in involved(fault) {
            self.condition(node, |condition| {
                condition.faults += 1;
                condition.state = State::Troubled;
            });
        }
        match fault {
            Fault::Kill(node) => self.kill(node).await,
            Fault::KillNameservers | Fault::KillBrokers => {
                futures_util::future::join_all(involved(fault).map(|node| self.kill(node))).await;
            }
            Fault::Stop(node) => {
                let status = self.node(node).lock().await.terminate().await;
                assert!(status.success(), "{node:?} does not stop in order: {status}");
                self.is_gone(node);
            }
            Fault::Pause(node) => self.node(node).lock().await.pause(),
            Fault::CutOff(node, way) => self.cut_off(node, way),
            Fault::Part { broker, nameserver, way } => self.part(broker, nameserver, way),
            Fault::Drain(broker) => {
                let asked = json!({ "grace": GRACE, "timeout": "1ms" });
                let (status, answer) = self.brokers[broker].lock().await.call("POST", "/node/drain", &asked).await;
                assert_eq!(status, 200, "{answer}");
            }
        }
    }

    /// Ends it: everybody runs and is reached.
    pub async fn end(&self, fault: Fault) {
        // Back in routes before the last of several has started.
        for node in involved(fault) {
            self.condition(node, |condition| condition.state = State::Troubled);
        }
        match fault {
            Fault::Kill(node) | Fault::Stop(node) => self.node(node).lock().await.start().await,
            Fault::KillNameservers | Fault::KillBrokers => {
                let start = async |node| self.node(node).lock().await.start().await;
                futures_util::future::join_all(involved(fault).map(start)).await;
            }
            Fault::Pause(node) => self.node(node).lock().await.resume(),
            Fault::CutOff(node, _) => self.cut_off(node, Way::Open),
            Fault::Part { broker, nameserver, .. } => self.part(broker, nameserver, Way::Open),
            Fault::Drain(broker) => {
                let (status, answer) = self.brokers[broker].lock().await.call("POST", "/node/resume", &json!({})).await;
                assert_eq!(status, 204, "{answer}");
            }
        }
        for node in involved(fault) {
            self.condition(node, |condition| {
                condition.faults -= 1;
                // Another one may go on.
                if condition.faults == 0 {
                    condition.state = State::Well(SystemClock.monotonic_ms());
                }
            });
        }
    }

    async fn kill(&self, node: Node) {
        self.node(node).lock().await.kill().await;
        self.is_gone(node);
    }

    fn cut_off(&self, node: Node, way: Way) {
        self.ways.iter().filter(|(to, _)| *to == node).for_each(|(_, link)| link.set(way));
    }

    fn part(&self, broker: usize, nameserver: usize, way: Way) {
        let lines = self.lines.iter().filter(|line| (line.0, line.1) == (broker, nameserver));
        lines.for_each(|(_, _, link)| link.set(way));
    }
}

/// Those to whom something is done, as far as others can tell.
fn involved(fault: Fault) -> impl Iterator<Item = Node> {
    let all: Vec<_> = match fault {
        Fault::Kill(node) | Fault::Stop(node) | Fault::Pause(node) | Fault::CutOff(node, _) => vec![node],
        Fault::Part { broker, nameserver, .. } => vec![Node::Broker(broker), Node::Nameserver(nameserver)],
        Fault::Drain(broker) => vec![Node::Broker(broker)],
        Fault::KillNameservers => (0..NAMESERVERS).map(Node::Nameserver).collect(),
        Fault::KillBrokers => (0..BROKERS).map(Node::Broker).collect(),
    };
    all.into_iter()
}

/// How long a fault lasts. Nothing relies on what happens meanwhile.
pub async fn lasts(ms: u64) {
    pass(Duration::from_millis(ms)).await;
}
