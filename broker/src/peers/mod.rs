//! This broker among the others: what it says of itself, and what it knows of them.
//!
//! P1. Of itself a broker believes its own catalog, of others what name servers say.

mod homes;
mod own;
mod spread;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::TopicName;
use cluster::{Cluster, Node, Own, Place, Registrar, State, Table};
use parking_lot::Mutex;
use storage::watch::Watcher;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::drain;
use crate::shared::Shared;

use homes::Homes;
pub use homes::HomesError;

/// Topics that are made one after the other are told together.
const TELL_EVERY: Duration = Duration::from_millis(20);
/// For name servers to hear that this broker leaves.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// Everything a broker has to do with others. Without name servers there are none.
#[derive(Debug)]
pub struct Peers {
    name: Arc<str>,
    broker_group: u32,
    cluster: Arc<Cluster>,
    homes: Homes,
    registered: Mutex<Option<Registered>>,
}

#[derive(Debug)]
struct Registered {
    own: watch::Sender<Arc<Own>>,
    tasks: Vec<JoinHandle<()>>,
    /// The catalog rings it, for as long as it is held.
    bell: Arc<dyn Watcher>,
}

#[derive(Debug, Default)]
struct Bell(Notify);

impl Watcher for Bell {
    fn ring(&self) {
        self.0.notify_one();
    }
}

impl Peers {
    pub fn new(config: &Config) -> Self {
        Self {
            name: config.node.name.as_str().into(),
            broker_group: broker_group(&config.node.name),
            cluster: Cluster::new(&config.nameservers),
            homes: Homes::default(),
            registered: Mutex::new(None),
        }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// In handles and transaction ids of this broker.
    pub fn broker_group(&self) -> u32 {
        self.broker_group
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Whether there may be other brokers.
    pub fn has_nameservers(&self) -> bool {
        self.cluster.nameservers().next().is_some()
    }

    pub fn table(&self) -> Arc<Table> {
        self.cluster.table()
    }

    /// Where a topic is served that is, or is not, served `here`, in order of the brokers' names.
    pub fn places(&self, topic: &TopicName, here: Option<Place>, state: State) -> Vec<Place> {
        let table = self.table();
        let mut places = table.places(topic);
        // A topic in which order is kept may be here although another broker has it longer: clients go there.
        let is_kept_elsewhere = self.lives_on(topic).is_some();
        places.retain(|place| place.broker != self.name);
        if let Some(mut here) = here.filter(|_| !is_kept_elsewhere) {
            // Alone, it says itself why it takes no messages.
            let is_alone = places.iter().all(|place| !place.is_writable);
            here.is_writable &= is_alone || state == State::Ready;
            let at = places.partition_point(|place| place.broker < here.broker);
            places.insert(at, here);
        }
        places
    }

    /// Reads and keeps in this directory where topics live that are on other brokers.
    pub fn remember_in(&self, data: &Path) -> Result<(), HomesError> {
        // Alone, a broker has nobody to cede a topic to.
        if self.has_nameservers() { self.homes.open(data) } else { Ok(()) }
    }

    /// Says to every name server that this broker takes no messages any more, or takes them again.
    pub fn tell_state(&self, state: State) {
        if let Some(registered) = &*self.registered.lock() {
            registered.own.send_if_modified(|own| {
                let is_new = own.node.state != state;
                if is_new {
                    let node = Node { state, ..own.node.clone() };
                    *own = Arc::new(Own { node, version: own.version + 1, ..Own::clone(own) });
                }
                is_new
            });
        }
    }

    /// Leaves every name server, and waits for a moment until they know.
    pub async fn leave(&self) {
        let Some(registered) = self.registered.lock().take() else { return };
        drop(registered.own);
        let leaving = async {
            for task in registered.tasks {
                let _has_ended = task.await;
            }
        };
        let _is_over = tokio::time::timeout(LEAVE_MAX, leaving).await;
    }
}

/// Registers with every name server, now that clients are served at these addresses.
pub fn register(shared: &Arc<Shared>, grpc: SocketAddr, http: Option<SocketAddr>) {
    let peers = &shared.peers;
    if shared.config.nameservers.is_empty() {
        return;
    }
    let bell = Arc::new(Bell::default());
    let watcher: Arc<dyn Watcher> = bell.clone();
    let reader = shared.store.reader();
    reader.catalog_watchers().add(&watcher);
    let config = &shared.config;
    let advertised = config.grpc.advertise.as_deref().map(Arc::from);
    let own = Own {
        name: peers.name.clone(),
        store: reader.hash_key().bytes(b"store"),
        incarnation: reader.term().0,
        version: 1,
        node: Node {
            cluster: config.cluster.name.as_str().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            broker_group: peers.broker_group,
            grpc: advertised.unwrap_or_else(|| reachable(grpc)),
            relay: reachable(grpc),
            http: http.map(reachable),
            state: shared.state(),
        },
        catalog: Arc::new(peers.homes.cede(own::catalog(&reader.catalog()))),
    };
    let (own, told) = watch::channel(Arc::new(own));
    let registrars = Registrar::all(&peers.cluster, &told);
    let tasks = registrars.into_iter().map(|registrar| shared.spawn(registrar.run())).collect();
    *peers.registered.lock() = Some(Registered { own, tasks, bell: watcher });
    drop(shared.spawn(spread::keep_up(shared.clone(), bell)));
    drop(shared.spawn(drain::tell_state(shared.clone())));
}

/// The address as others reach it; without a host where this is any address of the machine.
fn reachable(address: SocketAddr) -> Arc<str> {
    match address.ip().is_unspecified() {
        true => format!(":{}", address.port()).into(),
        false => address.to_string().into(),
    }
}

/// The number of a broker of this name. The same on every start, and in what others read of it.
fn broker_group(name: &str) -> u32 {
    crc32c::crc32c(name.as_bytes()).max(1)
}
