//! Who is connected: client ids, what they are, when they were last heard of. In memory only; heartbeats bring it back.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use base::limits::{CLIENT_ABSENCE_MS, CLIENTS_MAX};
use base::{GroupName, TopicName};
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use serve::port::Cut;
use tokio::sync::mpsc;

use crate::api::{Caller, Command, Language};
use crate::checks::Sought;
use crate::subscription::Pair;

/// What a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientKind {
    Producer,
    PushConsumer,
    SimpleConsumer,
    PullConsumer,
    LitePushConsumer,
    LiteSimpleConsumer,
}

/// Who would hear a question about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    Nobody,
    /// Somebody who publishes to its topic.
    Another,
    /// Who sent it.
    Sender,
}

/// Commands that wait for one stream; more are dropped, as each is repeated or superseded later.
const COMMANDS_WAITING_MAX: usize = 16;

#[derive(Debug)]
struct Client {
    kind: Option<ClientKind>,
    group: Option<GroupName>,
    /// Published by a producer.
    topics: HashSet<TopicName>,
    language: Language,
    version: Arc<str>,
    address: Option<SocketAddr>,
    last_seen: u64,
    streams: Vec<mpsc::Sender<Command>>,
    /// The filter that it polled with last.
    filters: HashMap<Pair, Arc<str>>,
}

impl Client {
    fn listens(&self) -> bool {
        self.streams.iter().any(|stream| !stream.is_closed())
    }
}

/// A connected client, for lists.
#[derive(Debug, Clone)]
pub struct Member {
    pub client_id: Arc<str>,
    pub language: Language,
    pub version: Arc<str>,
    pub address: Option<SocketAddr>,
    pub last_seen: u64,
}

/// Everything that is known of a client.
#[derive(Debug, Clone)]
pub struct ClientDescription {
    pub client_id: String,
    /// Unknown before its settings or first heartbeat.
    pub kind: Option<ClientKind>,
    pub group: Option<GroupName>,
    /// Published by a producer.
    pub topics: Vec<TopicName>,
    pub language: Language,
    pub version: String,
    pub address: Option<SocketAddr>,
    pub last_seen: u64,
    /// Telemetry streams that are open.
    pub streams: usize,
}

/// A connection, and whom it carries. One that carries several clients is another server's that passes their calls on.
#[derive(Debug)]
pub struct Connection {
    cut: Cut,
    carried: Mutex<Carried>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Carried {
    Nobody,
    One(Arc<str>),
    Several,
}

impl Connection {
    /// One that no operator can end, for tests.
    #[cfg(test)]
    pub fn unheard() -> Arc<Self> {
        Arc::new(Self { cut: Cut::default(), carried: Mutex::new(Carried::Nobody) })
    }

    /// A call of this client came over it.
    pub fn carries(&self, client_id: &Arc<str>) {
        let mut carried = self.carried.lock();
        *carried = match &*carried {
            Carried::Nobody => Carried::One(client_id.clone()),
            Carried::One(known) if known == client_id => return,
            _ => Carried::Several,
        };
    }

    fn is_of(&self, client_id: &str) -> bool {
        matches!(&*self.carried.lock(), Carried::One(known) if **known == *client_id)
    }
}

/// A mutex, because every call of every worker is a sign of life; held for one look-up.
#[derive(Debug)]
pub struct Membership {
    clients: Mutex<HashMap<Arc<str>, Client>>,
    /// Those that are open, and some that were; walked by operators only.
    connections: Mutex<Vec<Weak<Connection>>>,
    started: u64,
}

impl ClientKind {
    /// As metrics and the admin API say it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::PushConsumer => "push",
            Self::SimpleConsumer => "simple",
            Self::PullConsumer => "pull",
            Self::LitePushConsumer => "lite_push",
            Self::LiteSimpleConsumer => "lite_simple",
        }
    }
}

impl Membership {
    pub fn new(tick: u64) -> Self {
        Self { clients: Mutex::default(), connections: Mutex::default(), started: tick }
    }

    /// The caller has made itself heard.
    pub fn touch(&self, caller: &Caller, tick: u64) {
        self.with(caller, tick, |_| ());
    }

    pub fn heartbeat(&self, caller: &Caller, kind: ClientKind, group: Option<GroupName>, tick: u64) {
        self.with(caller, tick, |client| {
            client.kind = Some(kind);
            if group.is_some() {
                client.group = group;
            }
        });
    }

    pub fn settings(
        &self,
        caller: &Caller,
        kind: ClientKind,
        group: Option<GroupName>,
        published: Vec<TopicName>,
        tick: u64,
    ) {
        self.with(caller, tick, |client| {
            client.kind = Some(kind);
            client.group = group;
            client.topics = published.into_iter().collect();
        });
    }

    /// A stream on which the client listens to commands, for as long as the receiver lives.
    pub fn commands(&self, caller: &Caller, tick: u64) -> mpsc::Receiver<Command> {
        let (sender, receiver) = mpsc::channel(COMMANDS_WAITING_MAX);
        self.with(caller, tick, |client| {
            client.streams.retain(|stream| !stream.is_closed());
            client.streams.push(sender);
        });
        receiver
    }

    /// Whether this client polls with another filter than before, or for the first time.
    pub fn changes_filter(&self, client_id: &str, pair: Pair, expression: &Arc<str>) -> bool {
        let mut clients = self.clients.lock();
        let Some(client) = clients.get_mut(client_id) else { return true };
        let is_same = client.filters.get(&pair) == Some(expression);
        if !is_same {
            client.filters.insert(pair, expression.clone());
        }
        !is_same
    }

    /// A connection that was just opened.
    pub fn connected(&self, cut: Cut) -> Arc<Connection> {
        let connection = Arc::new(Connection { cut, carried: Mutex::new(Carried::Nobody) });
        let mut connections = self.connections.lock();
        if connections.len() == connections.capacity() {
            // Before it grows: so each one is looked at a few times in all.
            connections.retain(|connection| connection.strong_count() > 0);
            let live = connections.len();
            connections.reserve(live.max(64));
        }
        connections.push(Arc::downgrade(&connection));
        connection
    }

    /// Forgets a client and ends its streams, and the connections that carry nobody else. False when it is not known. It
    /// may come back.
    pub fn disconnect(&self, client_id: &str) -> bool {
        let Some(client) = self.clients.lock().remove(client_id) else { return false };
        for stream in client.streams {
            // One that is full is of a client that does not listen; its connection ends, or it is silent for too long.
            let _is_told = stream.try_send(Command::Disconnect);
        }
        let connections: Vec<_> = self.connections.lock().iter().filter_map(Weak::upgrade).collect();
        connections.iter().filter(|connection| connection.is_of(client_id)).for_each(|connection| connection.cut.now());
        true
    }

    /// Forgets a client that says good-bye.
    pub fn remove(&self, client_id: &str) {
        self.clients.lock().remove(client_id);
    }

    /// Removes and gives the clients that were silent for too long. An open stream is a sign of life.
    pub fn expire(&self, tick: u64) -> Vec<Arc<str>> {
        let mut clients = self.clients.lock();
        let is_gone = |client: &mut Client| {
            client.streams.retain(|stream| !stream.is_closed());
            client.streams.is_empty() && tick >= client.last_seen + CLIENT_ABSENCE_MS
        };
        clients.extract_if(|_, client| is_gone(client)).map(|(id, _)| id).collect()
    }

    /// Whether a client is there. After a start nobody has had the time to say so.
    pub fn is_alive(&self, client_id: &str, tick: u64) -> bool {
        tick < self.started + CLIENT_ABSENCE_MS || self.clients.lock().contains_key(client_id)
    }

    pub fn members(&self, group: &GroupName) -> Vec<Member> {
        let clients = self.clients.lock();
        let of_group = clients.iter().filter(|(_, client)| client.group.as_ref() == Some(group));
        of_group
            .map(|(id, client)| Member {
                client_id: id.clone(),
                language: client.language,
                version: client.version.clone(),
                address: client.address,
                last_seen: client.last_seen,
            })
            .collect()
    }

    /// Every client, by its id.
    pub fn all(&self) -> Vec<ClientDescription> {
        let clients = self.clients.lock();
        let described = clients.iter().map(|(id, client)| ClientDescription {
            client_id: id.to_string(),
            kind: client.kind,
            group: client.group.clone(),
            topics: client.topics.iter().cloned().collect(),
            language: client.language,
            version: client.version.to_string(),
            address: client.address,
            last_seen: client.last_seen,
            streams: client.streams.iter().filter(|stream| !stream.is_closed()).count(),
        });
        let mut described: Vec<_> = described.collect();
        described.sort_unstable_by(|a, b| a.client_id.cmp(&b.client_id));
        described
    }

    /// Shows every client.
    pub fn for_each(&self, mut show: impl FnMut(Option<ClientKind>, Option<&GroupName>, Language, &str)) {
        for client in self.clients.lock().values() {
            show(client.kind, client.group.as_ref(), client.language, &client.version);
        }
    }

    /// Who would hear a command to whoever is sought.
    pub fn listener(&self, sought: &Sought) -> Listener {
        let clients = self.clients.lock();
        if clients.get(&sought.client).is_some_and(Client::listens) {
            Listener::Sender
        } else if clients.values().any(|client| client.topics.contains(&sought.topic) && client.listens()) {
            Listener::Another
        } else {
            Listener::Nobody
        }
    }

    /// Hands a command to a producer that listens: to the sender first, and at later turns to others that publish the
    /// topic, as the sender may be one that does not know. False when nobody listens.
    pub fn command_producer(&self, sought: &Sought, turn: u32, command: Command) -> bool {
        let clients = self.clients.lock();
        let is_sought = |id: &Arc<str>, client: &Client| *id == sought.client || client.topics.contains(&sought.topic);
        let mut listeners: Vec<(&Arc<str>, &Client)> =
            clients.iter().filter(|(id, client)| is_sought(id, client) && client.listens()).collect();
        if listeners.is_empty() {
            return false;
        }
        listeners.sort_unstable_by_key(|(id, _)| (**id != sought.client, *id));
        let count = listeners.len();
        listeners.rotate_left(usize::try_from(turn).unwrap_or(0) % count);
        let mut command = command;
        for stream in listeners.iter().flat_map(|(_, client)| &client.streams) {
            match stream.try_send(command) {
                Ok(()) => return true,
                Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => command = back,
            }
        }
        false
    }

    fn with(&self, caller: &Caller, tick: u64, change: impl FnOnce(&mut Client)) {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get_mut(&caller.client_id) {
            client.last_seen = tick;
            change(client);
            return;
        }
        if clients.len() >= CLIENTS_MAX {
            // Nothing needs the entry to work (D4); leases of a client that is not known just are not renewed.
            return;
        }
        let mut client = Client {
            kind: None,
            group: None,
            topics: HashSet::new(),
            language: caller.language,
            version: caller.version.clone(),
            address: caller.address,
            last_seen: tick,
            streams: Vec::new(),
            filters: HashMap::new(),
        };
        change(&mut client);
        clients.insert(caller.client_id.clone(), client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_of_several_clients_is_nobodys_to_end() {
        let membership = Membership::new(0);
        let connection = membership.connected(Cut::default());
        assert!(!connection.is_of("a"));
        connection.carries(&"a".into());
        connection.carries(&"a".into());
        assert!(connection.is_of("a"));
        connection.carries(&"b".into());
        connection.carries(&"a".into());
        assert!(!connection.is_of("a") && !connection.is_of("b"));
    }

    #[test]
    fn a_client_that_is_disconnected_is_told_and_forgotten_and_may_come_back() {
        let membership = Membership::new(0);
        let caller = Caller {
            client_id: "a".into(),
            language: Language::Java,
            version: "5".into(),
            address: None,
            remaining: None,
        };
        let mut streams = [membership.commands(&caller, 0), membership.commands(&caller, 0)];
        let known = || membership.all().len();
        assert!(!membership.disconnect("b") && known() == 1);
        assert!(membership.disconnect("a"));
        for stream in &mut streams {
            assert!(matches!(stream.try_recv(), Ok(Command::Disconnect)), "each of its streams ends");
        }
        assert!(known() == 0 && !membership.disconnect("a"), "there is nobody to disconnect any more");
        membership.touch(&caller, 1);
        assert_eq!(known(), 1);
    }

    #[test]
    fn connections_that_are_gone_take_no_room_for_ever() {
        let membership = Membership::new(0);
        let _kept = membership.connected(Cut::default());
        (0..10_000).for_each(|_| drop(membership.connected(Cut::default())));
        assert!(membership.connections.lock().len() <= 200);
        assert!(membership.connections.lock()[0].upgrade().is_some());
    }
}
