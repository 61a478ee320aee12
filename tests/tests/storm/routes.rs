//! Routes: how clients follow them, and whether what nodes say about them is so.
//!
//! R1. A broker that has gone is in no route a moment later, and one that is well is in all of them.

use std::sync::Arc;
use std::time::Duration;

use base::{Clock, SystemClock};
use proto::v2::messaging_service_client::MessagingServiceClient;
use proto::v2::{self, Code, Permission};
use tests::wait::pass;
use tokio::sync::{Notify, watch};
use tonic::transport::{Channel, Endpoint};

use super::clients::World;
use super::faults::{BROKERS, Node};
use super::stage::{Stage, State};

/// Official clients do so every 30 s; a storm is shorter than their lives.
const REFRESH_EVERY: Duration = Duration::from_secs(3);
const URGENT_EVERY: Duration = Duration::from_millis(300);
/// As official clients.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// What is to be known everywhere is so long after it has happened. A broker that is cut off leaves after 1.5 s.
const KNOWN_AFTER_MS: u64 = 3_000;

/// A broker of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub broker: usize,
    pub address: String,
    pub is_writable: bool,
}

/// What a client knows of a topic.
#[derive(Clone)]
pub struct Routes {
    seats: watch::Receiver<Arc<[Seat]>>,
    urgent: Arc<Notify>,
}

impl Routes {
    /// Nothing is known before somebody has answered.
    pub fn follow(world: &Arc<World>, topic: &str, first: usize) -> Self {
        let (told, seats) = watch::channel(Vec::new().into());
        let urgent = Arc::new(Notify::new());
        let mut rpcs: Vec<_> = world.nameservers.iter().map(|address| rpc(address)).collect();
        let count = rpcs.len();
        rpcs.rotate_left(first % count);
        world.start(refresh(rpcs, topic.to_owned(), told, urgent.clone()));
        Self { seats, urgent }
    }

    pub fn seats(&self) -> Arc<[Seat]> {
        self.seats.borrow().clone()
    }

    /// Something went wrong: the route may be another one by now.
    pub fn ask_again(&self) {
        self.urgent.notify_one();
    }

    /// The seat of a broker, as soon as there is one; none when `within` is over.
    pub async fn seat_of(&mut self, broker: usize, within: Duration) -> Option<Seat> {
        let is_it = |seat: &&Seat| seat.broker == broker;
        let known = self.seats.wait_for(|seats| seats.iter().any(|seat| is_it(&seat)));
        let seats = tokio::time::timeout(within, known).await.ok()?.ok()?.clone();
        seats.iter().find(is_it).cloned()
    }
}

async fn refresh(
    rpcs: Vec<MessagingServiceClient<Channel>>,
    topic: String,
    told: watch::Sender<Arc<[Seat]>>,
    urgent: Arc<Notify>,
) {
    let mut preferred = 0;
    while !told.is_closed() {
        for turn in 0..rpcs.len() {
            let number = (preferred + turn) % rpcs.len();
            // Whoever cannot say keeps nobody from going by what was known.
            if let Ok(seats) = ask(&rpcs[number], &topic).await {
                told.send_if_modified(|known| {
                    let is_new = **known != *seats;
                    *known = seats.into();
                    is_new
                });
                preferred = number;
                break;
            }
        }
        pass(URGENT_EVERY).await;
        let _is_urgent = tokio::time::timeout(REFRESH_EVERY - URGENT_EVERY, urgent.notified()).await;
    }
}

fn rpc(address: &str) -> MessagingServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    // As official clients: a connection on which nothing is heard any more is given up.
    let endpoint = endpoint.http2_keep_alive_interval(Duration::from_secs(30)).keep_alive_timeout(ANSWERED_WITHIN);
    MessagingServiceClient::new(endpoint.connect_timeout(ANSWERED_WITHIN).connect_lazy())
}

/// The brokers of a route, in order of their names.
async fn ask(rpc: &MessagingServiceClient<Channel>, topic: &str) -> Result<Vec<Seat>, String> {
    let topic = Some(v2::Resource { name: topic.into(), ..v2::Resource::default() });
    let address = v2::Address { host: "127.0.0.1".into(), port: 1 };
    let endpoints = Some(v2::Endpoints { scheme: v2::AddressScheme::IPv4.into(), addresses: vec![address] });
    let mut request = tonic::Request::new(v2::QueryRouteRequest { topic, endpoints });
    request.set_timeout(ANSWERED_WITHIN);
    request.metadata_mut().insert("x-mq-client-id", "storm".parse().expect("ASCII"));
    let asked = rpc.clone();
    let answer = tokio::time::timeout(ANSWERED_WITHIN, async move { { asked }.query_route(request).await }).await;
    let answer = answer.map_err(|_| "no answer in time".to_owned())?.map_err(|status| status.to_string())?.into_inner();
    let status = answer.status.unwrap_or_default();
    if status.code() != Code::Ok {
        return Err(format!("{:?}: {}", status.code(), status.message));
    }
    let mut seats: Vec<Seat> = Vec::new();
    for queue in answer.message_queues {
        let is_writable = matches!(queue.permission(), Permission::ReadWrite | Permission::Write);
        let broker = queue.broker.unwrap_or_default();
        let address = broker.endpoints.and_then(|endpoints| endpoints.addresses.into_iter().next());
        let (Some(address), Some(number)) = (address, number_of(&broker.name)) else {
            return Err(format!("a queue is on {:?} without an address", broker.name));
        };
        let seat = Seat { broker: number, address: format!("{}:{}", address.host, address.port), is_writable };
        if !seats.contains(&seat) {
            seats.push(seat);
        }
    }
    Ok(seats)
}

/// As [`Cluster`](tests::cluster::Cluster) calls them.
fn number_of(name: &str) -> Option<usize> {
    let letter = name.strip_prefix("broker-")?.bytes().next()?;
    Some(usize::from(letter.checked_sub(b'a')?)).filter(|number| *number < BROKERS)
}

/// Asks everybody for the route of a topic that is on all brokers, again and again, until it is cancelled; what is
/// wrong about an answer is told.
pub async fn witness(stage: &Stage, topic: &str, slowness: u64, told: impl Fn(String)) {
    let mut nodes = Vec::new();
    for node in stage.all() {
        nodes.push((node, rpc(&stage.address(node).await)));
    }
    loop {
        for (node, rpc) in &nodes {
            let before = Seen::of(stage, slowness);
            if !before.is_to_know(*node) {
                continue;
            }
            let answer = ask(rpc, topic).await;
            let after = Seen::of(stage, slowness);
            if after.states != before.states {
                continue;
            }
            match answer {
                Ok(seats) => before.check(&seats).into_iter().for_each(|wrong| told(format!("R1: {node:?} {wrong}"))),
                Err(error) if before.has_broker() => {
                    told(format!("R1: {node:?}, which is well, does not say where {topic:?} is: {error}"));
                }
                Err(_) => {}
            }
        }
        pass(LOOK_EVERY).await;
    }
}

/// Everybody's state at a moment, and what follows.
struct Seen {
    states: Vec<(Node, State)>,
    known: u64,
}

impl Seen {
    fn of(stage: &Stage, slowness: u64) -> Self {
        let states = stage.all().map(|node| (node, stage.state(node))).collect();
        Self { states, known: SystemClock.monotonic_ms().saturating_sub(KNOWN_AFTER_MS * slowness) }
    }

    fn is_well(&self, state: State) -> bool {
        matches!(state, State::Well(since) if since < self.known)
    }

    /// Brokers go by what they heard last while no name server answers.
    fn is_to_know(&self, node: Node) -> bool {
        let mut named = self.states.iter().filter(|(node, _)| matches!(node, Node::Nameserver(_)));
        let is_well = |node: &Node| self.states.iter().any(|(of, state)| of == node && self.is_well(*state));
        is_well(&node) && named.any(|(node, _)| is_well(node))
    }

    fn has_broker(&self) -> bool {
        self.states.iter().any(|(node, state)| matches!(node, Node::Broker(_)) && self.is_well(*state))
    }

    fn check(&self, seats: &[Seat]) -> Vec<String> {
        let mut wrong = Vec::new();
        for (node, state) in &self.states {
            let Node::Broker(broker) = *node else { continue };
            let seat = seats.iter().find(|seat| seat.broker == broker);
            match *state {
                State::Gone(since) if since < self.known && seat.is_some() => {
                    let ago = self.known - since;
                    wrong.push(format!("leads to broker {broker}, which has gone; {ago} ms longer ago than is known"));
                }
                State::Well(_) if self.is_well(*state) && !seat.is_some_and(|seat| seat.is_writable) => {
                    wrong.push(format!("does not lead to broker {broker}, which is well: {seat:?}"));
                }
                _ => {}
            }
        }
        wrong
    }
}
