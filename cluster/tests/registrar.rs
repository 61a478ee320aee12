//! A registrar before a name server that says what the test says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by ending")]

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base::{MessageType, Timestamp, TopicName};
use cluster::{Cluster, Kind, Node, Own, Registrar, Served, State, Update};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use proto::cluster as wire;
use proto::cluster::cluster_update::Content;
use proto::cluster::registry_server::{Registry, RegistryServer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

const KNOWN_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const FOR_EVER_MS: u32 = 3_600_000;

type Said = mpsc::Sender<Result<wire::ClusterUpdate, Status>>;

/// Hands each stream over to the test.
struct Fake(mpsc::Sender<Said>);

#[tonic::async_trait]
impl Registry for Fake {
    type RegisterStream = Pin<Box<dyn Stream<Item = Result<wire::ClusterUpdate, Status>> + Send>>;

    async fn register(
        &self,
        request: Request<Streaming<wire::BrokerUpdate>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let (said, updates) = mpsc::channel(16);
        self.0.send(said).await.unwrap();
        // Held, or the broker would be told that nobody listens.
        let inbound = request.into_inner();
        let updates = ReceiverStream::new(updates).map(move |update| {
            let _is_held = &inbound;
            update
        });
        Ok(Response::new(Box::pin(updates)))
    }
}

fn node() -> Node {
    let (cluster, grpc) = (Arc::from("c"), Arc::from("127.0.0.1:1"));
    let (version, relay) = ("1".into(), Arc::clone(&grpc));
    Node { cluster, version, broker_group: 1, grpc, relay, http: None, state: State::Ready }
}

fn broker(name: &str) -> Content {
    let served = Served {
        kind: Kind::Normal,
        retention: None,
        retention_bytes: None,
        changed_at: Timestamp(1),
        queues: 1,
        accepts: vec![MessageType::Normal],
        is_writable: true,
        is_placed: false,
        is_ceded: false,
        created_at: Timestamp(1),
    };
    let update = Update {
        broker: name.into(),
        store: 1,
        incarnation: 1,
        sequence: 1,
        since: 0,
        is_complete: true,
        node: Some(node()),
        topics: vec![(TopicName::parse("orders").unwrap(), served)],
        ..Update::default()
    };
    Content::Update((&update).into())
}

fn ready(settling_ms: u32) -> Content {
    Content::Ready(wire::Ready { renew_every_ms: 1000, settling_ms })
}

async fn say(said: &Said, contents: impl IntoIterator<Item = Content>) {
    for content in contents {
        said.send(Ok(wire::ClusterUpdate { content: Some(content) })).await.unwrap();
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let look = async {
        let mut look = interval(LOOK_EVERY);
        while !is_so() {
            look.tick().await;
        }
    };
    assert!(timeout(KNOWN_WITHIN, look).await.is_ok(), "still not: {what}");
}

fn known(cluster: &Cluster) -> Vec<String> {
    cluster.table().brokers().map(|broker| broker.name.to_string()).collect()
}

#[tokio::test]
async fn who_was_there_stays_until_a_name_server_that_was_started_again_knows_everybody() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cluster = Cluster::new(&[listener.local_addr().unwrap().to_string()]);
    let (streams, mut begun) = mpsc::channel(1);
    let service = TowerToHyperService::new(RegistryServer::new(Fake(streams)));
    // A registrar has one connection at a time.
    let server = async {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let http2 = http2::Builder::new(TokioExecutor::new());
            let _has_ended = http2.serve_connection(TokioIo::new(connection), service.clone()).await;
        }
    };
    let catalog = Arc::default();
    let own = Own { name: "own".into(), store: 1, incarnation: 1, version: 1, node: node(), catalog };
    let (_own, told) = watch::channel(Arc::new(own));
    let registrar = Registrar::all(&cluster, &told).remove(0);
    let is_registered = || cluster.nameservers().all(|(_, is_registered)| is_registered);

    let story = async {
        let first = begun.recv().await.unwrap();
        say(&first, [broker("a"), broker("b"), broker("c")]).await;
        say(&first, [ready(0)]).await;
        until("the first one is heard", || known(&cluster) == ["a", "b", "c"]).await;
        drop(first);

        // It has just started, and two of them have not come back yet.
        let second = begun.recv().await.unwrap();
        assert!(!is_registered());
        assert_eq!(known(&cluster), ["a", "b", "c"], "nobody is there who knows better");
        say(&second, [broker("a"), ready(FOR_EVER_MS)]).await;
        until("registered again", is_registered).await;
        assert_eq!(known(&cluster), ["a", "b", "c"]);
        say(&second, [broker("d"), Content::Gone("b".into())]).await;
        until("what it says counts", || known(&cluster) == ["a", "c", "d"]).await;
        drop(second);

        // Who does not come back in time has gone.
        let third = begun.recv().await.unwrap();
        say(&third, [broker("a"), ready(50)]).await;
        until("time is over", || known(&cluster) == ["a"]).await;
        drop(third);

        let fourth = begun.recv().await.unwrap();
        say(&fourth, [broker("e"), ready(0)]).await;
        until("it knows everybody", || known(&cluster) == ["e"]).await;
    };
    tokio::select! {
        () = server => unreachable!("it goes on and on"),
        () = registrar.run() => panic!("the registrar has ended"),
        () = story => {}
    }
}
