//! Requests as nobody should make them, of a real broker and a real name server over HTTP/2.
//!
//! Whatever comes, the servers live, panic nowhere, answer in the words of the protocol, keep their memory, and keep what they
//! acknowledged. `CARILLON_FUZZ_CALLS` sets how many calls, `CARILLON_FUZZ_SEED` the first seed; what was found once has a case
//! in [`cases`].

#[path = "fuzz/calls.rs"]
mod calls;
#[path = "fuzz/cases.rs"]
mod cases;
#[path = "fuzz/exchange.rs"]
mod exchange;
#[path = "fuzz/request.rs"]
mod request;
#[path = "fuzz/restored.rs"]
mod restored;
#[path = "fuzz/wire.rs"]
mod wire;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use base::Chance;
use calls::{Kind, Known, RPCS, Rpc, TOPICS};
use client::{Client, Filter, NewMessage, Options};
use exchange::{Answer, Connection, End, Outcome, Patience};
use proto::v2::Code;
use request::MESSAGING;
use tests::cluster::{Cluster, GROUP, Node};
use tokio::task::JoinSet;

/// A few seconds.
const CALLS: u64 = 6_000;
const WORKERS: u64 = 8;
/// After so many calls a worker connects anew: HTTP/2 gives up on whoever sends too many empty pieces, as some of these are.
const CALLS_PER_CONNECTION: u64 = 1_000;
/// What a server may have more after it than before: caches, and a catalog that anybody may add groups to.
const GROWTH_BYTES_MAX: u64 = 400 << 20;
/// Messages that nobody who asks nonsense names, and that have to be there in the end.
const KEPT: usize = 50;
const WITHIN: Duration = Duration::from_secs(30);

fn variable<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A broker with topics of every kind, and a name server that passes calls on to it.
async fn started() -> Cluster {
    let settings = ["transactions.check_after=1s", "transactions.check_every=1s"];
    let cluster = Cluster::start_with(1, 1, &[], &settings).await;
    let broker = &cluster.brokers[0];
    for (topic, kind) in TOPICS {
        broker.create_topic(topic, kind, 2).await;
    }
    cluster
}

fn gone(what: &Node, problem: &str) -> String {
    format!("{} {problem}; its log:\n{}", what.name(), what.log())
}

/// What a server may say of a call, whatever was asked.
fn judge(rpc: &Rpc, known: &Known, answer: &Answer) -> Result<(), String> {
    if answer.http != 200 {
        return Err(format!("HTTP status {}", answer.http));
    }
    let (messages, status) = (&answer.messages, answer.status);
    for message in messages {
        let said = (rpc.read)(message, known).map_err(|error| format!("a reply that cannot be read: {error}"))?;
        if let Some(said) = said {
            check(said.code).map_err(|code| format!("the reply says {code}: {}", said.message))?;
        }
    }
    match status {
        // The caller left before its end.
        None if rpc.kind != Kind::Unary => Ok(()),
        None => Err("no status".into()),
        Some(0) if rpc.kind == Kind::Unary && messages.len() != 1 => Err(format!("{} replies", messages.len())),
        Some(0) if rpc.kind == Kind::Unary => match (rpc.read)(&messages[0], known) {
            Ok(Some(_)) if answer.rest == 0 => Ok(()),
            other => Err(format!("an OK without a status: {other:?}, and {} bytes behind it", answer.rest)),
        },
        Some(0) => Ok(()),
        // INVALID_ARGUMENT, RESOURCE_EXHAUSTED, OUT_OF_RANGE, UNIMPLEMENTED: what cannot be read has no other answer.
        Some(3 | 8 | 11 | 12) => Ok(()),
        Some(status) => Err(format!("gRPC status {status}: {}", answer.text)),
    }
}

/// Codes that say that the server is at fault.
fn check(code: i32) -> Result<(), String> {
    match Code::try_from(code) {
        Ok(Code::Unspecified | Code::InternalServerError | Code::InternalError) | Err(_) => {
            Err(format!("{code} {:?}", Code::try_from(code)))
        }
        Ok(_) => Ok(()),
    }
}

/// Makes calls for as long as it is told. Gives what was wrong, with the numbers that bring it about again.
async fn ask(address: String, seed: u64, calls: u64, known: Arc<Known>) -> Vec<String> {
    let mut connection = Connection::open(&address).await;
    let mut problems = Vec::new();
    for number in 0..calls {
        if number % CALLS_PER_CONNECTION == CALLS_PER_CONNECTION - 1 {
            connection = Connection::open(&address).await;
        }
        // Each call has a seed of its own, so that it can be made alone.
        let mut chance = Chance::new(seed ^ number << 20);
        let rpc = chance.pick(&RPCS);
        let count = if rpc.kind == Kind::Stream { 1 + chance.below(5) } else { 1 };
        let messages: Vec<_> = (0..count).map(|_| message(rpc, &mut chance, &known)).collect();
        let mut body = request::body(&messages, &mut chance);
        if body.end == End::Closed && rpc.kind == Kind::Stream && chance.one_in(2) {
            body.end = End::Open;
        }
        let resets = body.end == End::Reset;
        let mut request = request::plain(MESSAGING, rpc.name, body);
        request::disturb(&mut request, &mut chance);
        let patience = match rpc.kind {
            _ if chance.one_in(10) => Patience::Turns(chance.below(40)),
            Kind::Unary if !resets => Patience::Answer,
            _ => Patience::Moment,
        };
        let asked = format!("{} of seed {seed} number {number} to {address}: {:?}", rpc.name, request.headers());
        if !connection.is_open().await {
            problems.push(format!("the connection was closed before {asked}"));
            connection = Connection::open(&address).await;
        }
        let problem = match connection.call(request, patience).await {
            Outcome::Answered(answer) => judge(rpc, &known, &answer).err(),
            Outcome::Left => None,
            Outcome::Broken(_) if resets => None,
            Outcome::Broken(error) => Some(format!("broke off: {error}")),
            Outcome::Lost => Some("no answer".into()),
        };
        problems.extend(problem.map(|problem| format!("{problem}: {asked}")));
        if problems.len() > 20 {
            break;
        }
    }
    problems
}

/// One that is meant, one with something changed in it, or one that is none.
fn message(rpc: &Rpc, chance: &mut Chance, known: &Known) -> Vec<u8> {
    if chance.one_in(12) {
        let length = chance.below(200);
        return (0..length).map(|_| chance.next_u64() as u8).collect();
    }
    let meant = (rpc.make)(chance, known);
    let mut fields = wire::parse(&meant, 0).expect("what prost wrote");
    for _ in 0..chance.below(4) {
        wire::mutate(&mut fields, chance);
    }
    let mut bytes = wire::encode(&fields);
    if chance.one_in(15) && !bytes.is_empty() {
        let at = usize::try_from(chance.below(bytes.len() as u64)).expect("an index");
        bytes[at] = chance.next_u64() as u8;
    }
    bytes
}

/// Neither a panic nor an error that an operator would have to act upon.
fn assert_quiet(nodes: &[&Node]) {
    for node in nodes {
        let log = node.log();
        let loud: Vec<_> =
            log.lines().filter(|line| line.contains("panicked") || line.contains("\"ERROR\"")).take(5).collect();
        assert!(loud.is_empty(), "{} says:\n{}", node.name(), loud.join("\n"));
    }
}

/// A client that behaves gets what it is due, through either node.
async fn assert_serves(cluster: &Cluster) {
    for node in [&cluster.brokers[0], &cluster.nameservers[0]] {
        let client = Client::connect(&node.address(), Options::default()).await.expect("the node is there");
        let topic = format!("after-{}", node.name());
        cluster.brokers[0].create_topic(&topic, "normal", 1).await;
        let consumer = client.simple_consumer(GROUP, &topic, Filter::All).await.expect("a consumer");
        consumer.receive(1, WITHIN, Duration::from_millis(1)).await.expect("an answer");
        let producer = client.producer(&[&topic]).await.expect("a producer");
        producer.send(NewMessage::new(&*topic, "after")).await.expect("it is taken");
        let received = receive(&consumer, 1).await;
        assert_eq!(received, ["after"], "{}", gone(node, "does not deliver"));
    }
}

/// So many messages, acknowledged.
async fn receive(consumer: &client::SimpleConsumer, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    let work = async {
        while bodies.len() < count {
            for message in consumer.receive(16, WITHIN, Duration::from_secs(1)).await.expect("an answer") {
                consumer.ack(&message).await.expect("it was handed out");
                bodies.push(String::from_utf8_lossy(&message.body).into_owned());
            }
        }
    };
    let in_time = tokio::time::timeout(WITHIN, work).await;
    assert!(in_time.is_ok(), "{} of {count} messages came: {bodies:?}", bodies.len());
    bodies.sort();
    bodies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_answered_and_forgotten_and_nothing_that_was_acknowledged_is_lost() {
    let mut cluster = started().await;
    let broker = &cluster.brokers[0];
    let client = Client::connect(&broker.address(), Options::default()).await.expect("the broker is there");
    broker.create("groups", &serde_json::json!({"name": "keepers"})).await;
    broker.create_topic("kept", "normal", 4).await;
    let keeper = client.simple_consumer("keepers", "kept", Filter::All).await.expect("a consumer");
    keeper.receive(1, WITHIN, Duration::from_millis(1)).await.expect("an answer");
    let producer = client.producer(&["kept"]).await.expect("a producer");
    let kept: Vec<_> = (0..KEPT).map(|number| format!("kept {number:02}")).collect();
    for body in &kept {
        producer.send(NewMessage::new("kept", body.clone())).await.expect("it is taken");
    }

    let nodes = [broker, &cluster.nameservers[0]];
    let before = nodes.map(Node::resident_bytes);
    let (calls, seed) = (variable("CARILLON_FUZZ_CALLS", CALLS), variable("CARILLON_FUZZ_SEED", 1));
    let known = Arc::new(Known::default());
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let address = nodes[usize::from(worker % 4 == 0)].address();
        workers.spawn(ask(address, seed + worker, calls / WORKERS, known.clone()));
    }
    let problems = workers.join_all().await.concat();
    assert_quiet(&nodes);
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));

    for (node, before) in nodes.iter().zip(before) {
        let after = node.resident_bytes();
        assert!(after < before + GROWTH_BYTES_MAX, "{} has {after} bytes now, {before} before", node.name());
    }
    assert_serves(&cluster).await;
    assert_eq!(receive(&keeper, KEPT).await, kept);
    assert_quiet(&[&cluster.brokers[0], &cluster.nameservers[0]]);
    for node in cluster.brokers.iter_mut().chain(&mut cluster.nameservers) {
        assert!(node.terminate().await.success(), "{}", gone(node, "did not end well"));
    }
}

/// Nobody registers with the first name server but its broker: nonsense goes to one that has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_between_brokers_and_name_servers_ends_its_stream_only() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut node = Node::nameserver(directory.path(), "alone", &[]);
    node.start().await;
    let before = node.resident_bytes();
    let mut problems = Vec::new();
    let mut connection = Connection::open(&node.address()).await;
    let seed = variable("CARILLON_FUZZ_SEED", 1u64);
    for number in 0..variable("CARILLON_FUZZ_CALLS", CALLS) / 10 {
        let mut chance = Chance::new(seed ^ number << 20);
        let messages: Vec<_> = (0..1 + chance.below(4)).map(|_| cases::update(&mut chance)).collect();
        let body = request::body(&messages, &mut chance);
        let resets = body.end == End::Reset;
        let request = request::plain("carillon.cluster.v1.Registry", "Register", body);
        match connection.call(request, Patience::Moment).await {
            Outcome::Answered(answer) if matches!(answer.status, None | Some(0 | 3 | 6 | 8 | 9 | 11 | 12)) => {}
            Outcome::Left => {}
            Outcome::Broken(_) if resets => {}
            other => problems.push(format!("number {number}: {other:?}")),
        }
    }
    assert_quiet(&[&node]);
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    assert!(node.resident_bytes() < before + GROWTH_BYTES_MAX);
    assert!(node.terminate().await.success(), "{}", gone(&node, "did not end well"));
}
