//! The broker's side of registration: one stream to each name server, for as long as the broker runs.
//!
//! What name servers say comes together in the [`Cluster`]. When none of them answers, the last that was known stays: routes
//! to brokers that are there are worth more than none.

use std::hash::Hash;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use hashbrown::HashMap;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proto::cluster as wire;
use proto::cluster::registry_client::RegistryClient;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::{Endpoint, Uri};

use crate::catalog::Catalog;
use crate::table::{Node, Table, Update, UpdateError};
use crate::wire::{UPDATE_BYTES_MAX, WireError};

const CONNECT_MAX: Duration = Duration::from_secs(2);
/// A name server that is silent for so long is given up; another connection may do better.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_MAX: Duration = Duration::from_secs(5);
/// After a failure; a name server that was started again knows everybody within a second.
const PAUSE: Duration = Duration::from_millis(200);
/// Until the name server has said how often.
const RENEW_EVERY: Duration = Duration::from_secs(5);
const OUTBOUND_MAX: usize = 16;

/// What a broker says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    pub name: Arc<str>,
    pub store: u64,
    pub incarnation: u64,
    /// Grows with each change, from 1.
    pub version: u64,
    /// An address without a host has that of the connection to the name server.
    pub node: Node,
    pub catalog: Arc<Catalog>,
}

/// What a broker knows of its cluster. Shared by all who ask.
#[derive(Debug)]
pub struct Cluster {
    table: ArcSwap<Table>,
    /// How often the table was changed.
    changes: watch::Sender<u64>,
    /// Where name servers tell others that this broker is.
    own_address: ArcSwapOption<String>,
    streams: Vec<Known>,
    /// Held while the tables of several streams are merged: the last to come in must not be lost.
    merging: Mutex<()>,
}

/// What one name server says.
#[derive(Debug)]
struct Known {
    nameserver: String,
    table: Mutex<Table>,
    is_live: AtomicBool,
}

/// Keeps a broker registered with one name server.
#[derive(Debug, Clone)]
pub struct Registrar {
    cluster: Arc<Cluster>,
    number: usize,
    own: watch::Receiver<Arc<Own>>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("cannot connect")]
    Connect(#[from] tonic::transport::Error),
    #[error("{}", .0.message())]
    Refused(#[from] Status),
    #[error("says what makes no sense: {0}")]
    Wire(#[from] WireError),
    #[error("says what does not follow: {0}")]
    Update(#[from] UpdateError),
    #[error("has ended the stream")]
    Closed,
}

impl Cluster {
    pub fn new(nameservers: &[String]) -> Arc<Self> {
        let known = |nameserver: &String| Known {
            nameserver: nameserver.clone(),
            table: Mutex::default(),
            is_live: AtomicBool::new(false),
        };
        let streams = nameservers.iter().map(known).collect();
        let (table, own_address) = (ArcSwap::default(), ArcSwapOption::default());
        Arc::new(Self { table, changes: watch::Sender::default(), own_address, streams, merging: Mutex::new(()) })
    }

    /// Everybody, this broker too once it is registered. Empty when there is no name server.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Wakes who waits for the table to become another one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Where clients of other brokers are told that this one is; none before it is registered.
    pub fn own_address(&self) -> Option<Arc<String>> {
        self.own_address.load_full()
    }

    /// Each name server, and whether this broker is registered there now.
    pub fn nameservers(&self) -> impl Iterator<Item = (&str, bool)> {
        self.streams.iter().map(|known| (&*known.nameserver, known.is_live.load(Ordering::Acquire)))
    }

    fn merge(&self) {
        let _merging = self.merging.lock();
        let live = self.streams.iter().filter(|known| known.is_live.load(Ordering::Acquire));
        let tables: Vec<_> = live.map(|known| known.table.lock().clone()).collect();
        if !tables.is_empty() {
            self.table.store(Arc::new(Table::merged(&tables)));
            self.changes.send_modify(|changes| *changes += 1);
        }
    }
}

impl Registrar {
    /// One for each name server of `cluster`, each to be [run](Self::run).
    pub fn all(cluster: &Arc<Cluster>, own: &watch::Receiver<Arc<Own>>) -> Vec<Self> {
        let one = |number| Self { cluster: cluster.clone(), number, own: own.clone() };
        (0..cluster.streams.len()).map(one).collect()
    }

    fn known(&self) -> &Known {
        &self.cluster.streams[self.number]
    }

    /// Registers, again and again, until the sender of what the broker says of itself has gone.
    pub async fn run(mut self) {
        let mut is_told = false;
        let nameserver = self.known().nameserver.clone();
        while self.own.has_changed().is_ok() {
            let result = self.session(&nameserver).await;
            let was_live = self.known().is_live.swap(false, Ordering::AcqRel);
            self.cluster.merge();
            match result {
                Ok(()) => return,
                // Once for each outage.
                Err(error) if was_live || !is_told => {
                    tracing::warn!(nameserver, %error, cause = cause(&error), "not registered with a name server");
                    is_told = true;
                }
                Err(error) => tracing::debug!(nameserver, %error, cause = cause(&error), "still not registered"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends well when this broker leaves.
    async fn session(&mut self, nameserver: &str) -> Result<(), End> {
        let (connector, local) = connector(nameserver);
        let endpoint = Endpoint::from_shared(format!("http://{nameserver}"))?
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_MAX)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect_with_connector(connector).await?;
        let local = local.lock().map(|address: SocketAddr| address.ip());
        let (outbound, updates) = mpsc::channel(OUTBOUND_MAX);
        let mut said = self.own.borrow_and_update().clone();
        let first = complete(&said, local);
        let address = first.node.as_ref().map(|node| node.grpc.clone());
        let _is_empty = outbound.send((&first).into()).await;
        let mut client = RegistryClient::new(channel).max_decoding_message_size(UPDATE_BYTES_MAX);
        let mut inbound = client.register(ReceiverStream::new(updates)).await?.into_inner();
        let mut others = Table::default();
        // To a name server that was started again the others come back one by one: until then they are where they were.
        let mut before = Some(Table::clone(&self.cluster.table()));
        let mut settled = None;
        let mut is_ready = false;
        let mut renew = tokio::time::interval(RENEW_EVERY);
        loop {
            tokio::select! {
                changed = self.own.changed() => {
                    if changed.is_err() {
                        // The stream ends orderly: the name server forgets this broker at once.
                        return Ok(());
                    }
                    let now = self.own.borrow_and_update().clone();
                    let _is_open = outbound.send((&difference(&said, &now, local)).into()).await;
                    said = now;
                }
                _ = renew.tick() => {
                    let _is_open = outbound.send((&difference(&said, &said, local)).into()).await;
                }
                message = inbound.message() => {
                    let Some(message) = message? else { return Err(End::Closed) };
                    match message.content {
                        Some(wire::cluster_update::Content::Update(update)) => drop(others.apply(update.try_into()?)?),
                        Some(wire::cluster_update::Content::Gone(broker)) => {
                            others.remove(&broker);
                            if let Some(before) = &mut before {
                                before.remove(&broker);
                            }
                        }
                        Some(wire::cluster_update::Content::Ready(ready)) => {
                            let every = Duration::from_millis(ready.renew_every_ms.max(1).into());
                            renew = tokio::time::interval(every.min(RENEW_EVERY));
                            settled = Some(Box::pin(tokio::time::sleep(Duration::from_millis(ready.settling_ms.into()))));
                            before = before.filter(|_| ready.settling_ms > 0);
                            is_ready = true;
                        }
                        // Of a newer name server.
                        None => continue,
                    }
                    if is_ready {
                        self.take_over(&others, before.as_ref(), address.as_deref());
                    }
                }
                () = passed(&mut settled) => {
                    (before, settled) = (None, None);
                    self.take_over(&others, None, address.as_deref());
                }
            }
        }
    }

    fn take_over(&self, others: &Table, before: Option<&Table>, address: Option<&str>) {
        let known = self.known();
        *known.table.lock() = Table::merged(std::iter::once(others).chain(before));
        if !known.is_live.swap(true, Ordering::AcqRel) {
            tracing::info!(nameserver = known.nameserver, address, "registered with a name server");
            self.cluster.own_address.store(address.map(|address| Arc::new(address.to_owned())));
        }
        self.cluster.merge();
    }
}

/// Never, when there is nothing to wait for.
async fn passed(sleep: &mut Option<Pin<Box<Sleep>>>) {
    match sleep {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}

/// Connects, and says from which of our addresses. Names are resolved anew each time.
#[expect(clippy::type_complexity, reason = "a closure has no name")]
fn connector(
    nameserver: &str,
) -> (
    impl tower::Service<
        Uri,
        Response = TokioIo<TcpStream>,
        Error = io::Error,
        Future = impl Future<Output = io::Result<TokioIo<TcpStream>>> + Send,
    > + Send
    + 'static,
    Arc<Mutex<Option<SocketAddr>>>,
) {
    let local = Arc::new(Mutex::new(None));
    let (nameserver, found) = (nameserver.to_owned(), local.clone());
    let connector = tower::service_fn(move |_: Uri| {
        let (nameserver, found) = (nameserver.clone(), found.clone());
        async move {
            let stream = TcpStream::connect(&*nameserver).await?;
            stream.set_nodelay(true)?;
            *found.lock() = Some(stream.local_addr()?);
            Ok(TokioIo::new(stream))
        }
    });
    (connector, local)
}

fn complete(own: &Own, local: Option<IpAddr>) -> Update {
    Update {
        broker: own.name.clone(),
        store: own.store,
        incarnation: own.incarnation,
        sequence: own.version,
        since: 0,
        is_complete: true,
        node: Some(addressed(&own.node, local)),
        topics: pairs(&own.catalog.topics),
        groups: pairs(&own.catalog.groups),
        buried: pairs(&own.catalog.buried),
        ..Update::default()
    }
}

fn difference(said: &Own, now: &Own, local: Option<IpAddr>) -> Update {
    let (mut topics, mut groups, mut buried) = Default::default();
    if !Arc::ptr_eq(&said.catalog, &now.catalog) {
        topics = changes(&said.catalog.topics, &now.catalog.topics);
        groups = changes(&said.catalog.groups, &now.catalog.groups);
        buried = changes(&said.catalog.buried, &now.catalog.buried);
    }
    Update {
        broker: now.name.clone(),
        store: now.store,
        incarnation: now.incarnation,
        sequence: now.version,
        since: said.version,
        is_complete: false,
        node: (said.node != now.node).then(|| addressed(&now.node, local)),
        topics: topics.0,
        dropped: topics.1,
        groups: groups.0,
        dropped_groups: groups.1,
        buried: buried.0,
        forgotten: buried.1,
    }
}

fn pairs<K: Clone, V: Clone>(map: &HashMap<K, V>) -> Vec<(K, V)> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// What is there now and was not, or was otherwise; and what is there no longer.
fn changes<K: Clone + Eq + Hash, V: Clone + PartialEq>(
    said: &HashMap<K, V>,
    now: &HashMap<K, V>,
) -> (Vec<(K, V)>, Vec<K>) {
    let changed = now.iter().filter(|(key, value)| said.get(*key) != Some(*value));
    let changed = changed.map(|(key, value)| (key.clone(), value.clone())).collect();
    (changed, said.keys().filter(|key| !now.contains_key(*key)).cloned().collect())
}

/// With the host that the name server is reached from, where none is set. Clients elsewhere cannot use a loopback address:
/// where both servers are on one machine, they find the broker where they found the name server.
fn addressed(node: &Node, local: Option<IpAddr>) -> Node {
    let with_host = |address: &Arc<str>, local: Option<IpAddr>| match (address.strip_prefix(':'), local) {
        (Some(port), Some(ip)) => {
            let port = port.parse().unwrap_or(0);
            SocketAddr::new(ip.to_canonical(), port).to_string().into()
        }
        _ => address.clone(),
    };
    Node {
        grpc: with_host(&node.grpc, local.filter(|ip| !ip.to_canonical().is_loopback())),
        relay: with_host(&node.relay, local),
        http: node.http.as_ref().map(|address| with_host(address, local)),
        ..node.clone()
    }
}

fn cause(error: &End) -> String {
    let mut text = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use base::{GroupName, Timestamp, TopicName};

    use super::*;
    use crate::catalog::Buried;
    use crate::table::State;

    fn own(version: u64, topics: &[&str]) -> Own {
        let served = crate::catalog::tests::topic(1, 1);
        let group = crate::catalog::tests::group(1, 16);
        let node = Node {
            cluster: "c".into(),
            version: "1".into(),
            broker_group: 1,
            grpc: ":8081".into(),
            relay: ":8081".into(),
            http: None,
            state: State::Ready,
        };
        let catalog = Catalog {
            topics: topics.iter().map(|name| (TopicName::parse(name).unwrap(), served.clone())).collect(),
            groups: topics.iter().map(|name| (GroupName::parse(name).unwrap(), group.clone())).collect(),
            buried: topics.iter().map(|name| (Buried::Group(GroupName::parse(name).unwrap()), Timestamp(9))).collect(),
        };
        Own { name: "b".into(), store: 1, incarnation: 1, version, node, catalog: Arc::new(catalog) }
    }

    #[test]
    fn differences_add_up_to_what_is_there() {
        let local = Some("10.0.0.7".parse().unwrap());
        let mut table = Table::default();
        let mut said = own(1, &["a", "b"]);
        table.apply(complete(&said, local)).unwrap();
        let mut draining = own(4, &["c"]);
        draining.node.state = State::Draining;
        for now in [own(2, &["b", "c"]), own(3, &["b", "c"]), draining.clone(), draining] {
            let update = difference(&said, &now, local);
            let mut anew = Table::default();
            anew.apply(complete(&now, local)).unwrap();
            table.apply(update).unwrap();
            assert_eq!(table, anew);
            said = now;
        }
        assert_eq!(&*table.broker("b").unwrap().node.grpc, "10.0.0.7:8081");
        let renewal = difference(&said, &said, local);
        let empty = Update { broker: "b".into(), store: 1, incarnation: 1, ..Update::default() };
        let bare = Update { sequence: 4, since: 4, ..empty };
        assert_eq!(renewal, bare);
    }

    #[test]
    fn a_host_is_added_only_where_none_is_set_and_others_can_use_it() {
        let mut node = own(1, &[]).node;
        let at_home = addressed(&node, Some("::1".parse().unwrap()));
        assert_eq!((&*at_home.grpc, &*at_home.relay), (":8081", "[::1]:8081"));
        node.grpc = "mq.example:1".into();
        node.http = Some(":80".into());
        let addressed = addressed(&node, Some("::ffff:10.0.0.1".parse().unwrap()));
        let told = (&*addressed.grpc, &*addressed.relay, addressed.http.as_deref());
        assert_eq!(told, ("mq.example:1", "10.0.0.1:8081", Some("10.0.0.1:80")));
    }
}
