//! [`Broker`]: the one surface that every protocol speaks to.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base::limits::MESSAGE_BODY_BYTES_MAX;
use base::{Clock, TopicName};
use prometheus::Registry;
use serve::http::health::Check;
use storage::threads::Store;
use storage::view::catalog::TopicKind;
use tokio::runtime::Handle;

use crate::admin::AdminRefusal;
use crate::api::*;
use crate::checks::{Elsewhere, Sought};
use crate::config::Config;
use crate::membership::{ClientKind, Connection, Listener};
use crate::receive::is_ordered_on;
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::{checks, handle, metrics, operate, peers};

/// How long a poll may wait, for clients that ask the server.
const POLLING: std::time::Duration = std::time::Duration::from_secs(20);

/// The broker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    registry: Registry,
}

impl Broker {
    /// Starts the broker's own tasks over a running store. `workers`: where calls and subscriptions run.
    pub fn start(
        store: Store,
        config: Config,
        clock: Arc<dyn Clock>,
        registry: Registry,
        workers: Vec<Handle>,
    ) -> prometheus::Result<Self> {
        let messages = metrics::Messages::register(&registry)?;
        let shared = Shared::new(store, config, clock, messages, workers);
        metrics::State::register(&registry, &shared)?;
        operate::resume_subscriptions(&shared);
        shared.spawn(checks::run(shared.clone()));
        shared.spawn(operate::expire_clients(shared.clone()));
        Ok(Self { shared, registry })
    }

    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Finishes what the log writer was given, and closes the store. Gateways must have stopped before.
    pub fn stop(&self) {
        self.shared.store.stop();
    }

    pub async fn route(&self, caller: &Caller, topic: &str) -> Result<Route, Refusal> {
        self.shared.membership.touch(caller, self.shared.now().tick);
        self.shared.route(topic)
    }

    /// Where name servers tell everybody that this broker is; none before it is registered.
    pub fn own_address(&self) -> Option<Arc<String>> {
        self.shared.peers.cluster().own_address()
    }

    /// Names of the brokers that are registered, this one too, as far as it knows.
    pub fn brokers(&self) -> Vec<Arc<str>> {
        self.shared.peers.table().brokers().map(|broker| broker.name.clone()).collect()
    }

    /// Where the broker is that gave out this recall handle or transaction id, when it was not this one. One that is
    /// away comes back: what it holds is not to be given up. What cannot be of another broker is this one's to refuse.
    pub fn elsewhere(&self, text: &str) -> Result<Option<Arc<str>>, Refusal> {
        let peers = &self.shared.peers;
        let Some(group) = handle::broker_group(text).filter(|group| *group != peers.broker_group()) else {
            return Ok(None);
        };
        if let Some(broker) = peers.table().broker_of_group(group) {
            return Ok(Some(broker.node.relay.clone()));
        }
        // Of this store, which was called otherwise then; or there are no others.
        if handle::is_sealed(text, self.shared.store.reader().hash_key()) || !peers.has_nameservers() {
            return Ok(None);
        }
        Err(Refusal::HolderAway { broker: format!("of group {group:08x}") })
    }

    /// How producers that listen at other brokers are reached. Once.
    pub fn asks_elsewhere(&self, elsewhere: Arc<dyn Elsewhere>) {
        assert!(self.shared.elsewhere.set(elsewhere).is_ok(), "one gateway reaches the others");
    }

    /// Who listens here to questions about a message.
    pub fn listener(&self, sought: &Sought) -> Listener {
        self.shared.membership.listener(sought)
    }

    /// Hands a question about a message to a producer that listens here. False when nobody does.
    pub fn command_producer(&self, sought: &Sought, turn: u32, command: Command) -> bool {
        self.shared.membership.command_producer(sought, turn, command)
    }

    /// Remembers in this directory where topics live that are on other brokers.
    pub fn remember_in(&self, data: &Path) -> Result<(), peers::HomesError> {
        self.shared.peers.remember_in(data)
    }

    /// Makes this broker the one that an ordered topic lives on. Refused while the one that it lives on is there.
    pub fn claim_topic(&self, name: &str) -> Result<(), AdminRefusal> {
        let name = TopicName::parse(name).map_err(AdminRefusal::IllegalName)?;
        if self.shared.topic(&name).is_none() && self.shared.peers.lives_on(&name).is_none() {
            return Err(AdminRefusal::TopicNotFound(name));
        }
        self.shared.peers.claim(&name)
    }

    /// Registers with every name server of the configuration: clients are served at these addresses from now on.
    pub fn register(&self, grpc: SocketAddr, http: Option<SocketAddr>) {
        peers::register(&self.shared, grpc, http);
    }

    /// Name servers forget this broker; clients go elsewhere.
    pub async fn leave(&self) {
        self.shared.peers.leave().await;
    }

    pub fn heartbeat(&self, caller: &Caller, kind: ClientKind, group: Option<&str>) -> Result<(), Refusal> {
        let group = group.map(Shared::parse_group).transpose()?;
        self.shared.membership.heartbeat(caller, kind, group, self.shared.now().tick);
        Ok(())
    }

    /// All messages or none: one refusal refuses all of them. The request is in the log writer's inbox when this future
    /// was polled for the first time, unless the topic has to be created first.
    pub async fn send(&self, caller: &Caller, messages: Vec<NewMessage>) -> Result<Vec<Sent>, Refusal> {
        self.shared.send(caller, messages).await
    }

    pub async fn assignment(&self, caller: &Caller, topic: &str, group: &str) -> Result<Assignment, Refusal> {
        self.shared.membership.touch(caller, self.shared.now().tick);
        let group = Shared::parse_group(group)?;
        let route = self.shared.route(topic)?;
        // Another broker's topics too: only what they take is known of them.
        let is_fifo = route.places.iter().any(|place| place.accepts == [MessageType::Fifo]);
        let group = self.shared.group_or_create(group, is_fifo).await?;
        Ok(Assignment { route, is_ordered: is_ordered_on(&group, is_fifo) })
    }

    /// Waits until there are messages or the poll's time is over. Dropping the future cancels the poll.
    pub async fn receive(&self, caller: &Caller, receive: Receive) -> Result<Received, Refusal> {
        self.shared.receive(caller, receive).await
    }

    /// One result for each handle, in order.
    pub async fn ack(
        &self,
        caller: &Caller,
        group: &str,
        topic: &str,
        handles: &[&str],
    ) -> Result<Vec<Result<(), Refusal>>, Refusal> {
        self.shared.ack(caller, group, topic, handles).await
    }

    /// The new handle. `is_suspended`: the attempt does not count.
    pub async fn change_invisible(
        &self,
        caller: &Caller,
        group: &str,
        topic: &str,
        handle: &str,
        invisible_ms: i64,
        is_suspended: bool,
    ) -> Result<String, Refusal> {
        self.shared.change_invisible(caller, group, topic, handle, invisible_ms, is_suspended).await
    }

    pub async fn forward_to_dead_letters(
        &self,
        caller: &Caller,
        group: &str,
        topic: &str,
        handle: &str,
    ) -> Result<(), Refusal> {
        self.shared.forward(caller, group, topic, handle).await
    }

    pub async fn end_transaction(
        &self,
        caller: &Caller,
        topic: &str,
        transaction_id: &str,
        resolution: Resolution,
    ) -> Result<(), Refusal> {
        self.shared.membership.touch(caller, self.shared.now().tick);
        self.shared.end_transaction(topic, transaction_id, resolution).await
    }

    /// The message id of what was recalled.
    pub async fn recall(&self, caller: &Caller, topic: &str, handle: &str) -> Result<String, Refusal> {
        self.shared.membership.touch(caller, self.shared.now().tick);
        self.shared.recall(topic, handle).await
    }

    pub async fn settings(&self, caller: &Caller, settings: ClientSettings) -> Result<ServerSettings, Refusal> {
        let tick = self.shared.now().tick;
        let group = settings.group.as_deref().map(Shared::parse_group).transpose()?;
        let names = settings.topics.iter().map(|topic| Shared::parse_topic(topic)).collect::<Result<Vec<_>, _>>()?;
        let body_bytes_max = usize::try_from(self.config().topics.message_size_max.0).unwrap_or(MESSAGE_BODY_BYTES_MAX);
        let is_producer = settings.kind == ClientKind::Producer;
        let published = if is_producer { names.clone() } else { Vec::new() };
        self.shared.membership.settings(caller, settings.kind, group.clone(), published, tick);
        if is_producer {
            return Ok(ServerSettings { body_bytes_max, group: None });
        }
        let group = group.ok_or(Refusal::SettingsWithoutGroup)?;
        let topics: Vec<_> = names.iter().filter_map(|name| self.shared.topic(name)).collect();
        let is_fifo = topics.iter().any(|topic| topic.spec.kind == TopicKind::Fifo);
        let group = self.shared.group_or_create(group, is_fifo).await?;
        let settings = GroupSettings {
            name: group.name.clone(),
            is_ordered: is_ordered_on(&group, is_fifo),
            attempts_max: group.attempts_max,
            backoff: (1..group.attempts_max.clamp(2, 32)).map(|attempt| group.backoff.after(attempt)).collect(),
            receive_messages_max: base::limits::RECEIVE_MESSAGES_MAX,
            polling: POLLING,
        };
        Ok(ServerSettings { body_bytes_max, group: Some(settings) })
    }

    /// Commands for this client, for as long as the receiver lives; a client may have several streams, each command goes
    /// to one of them.
    pub fn commands(&self, caller: &Caller) -> tokio::sync::mpsc::Receiver<Command> {
        self.shared.membership.commands(caller, self.shared.now().tick)
    }

    /// A connection was opened; `cut` ends it.
    pub fn connected(&self, cut: serve::port::Cut) -> Arc<Connection> {
        self.shared.membership.connected(cut)
    }

    /// Ends a client's streams, polls and connections; what it holds comes to others at once. False when it is not known.
    /// It may come back.
    pub fn disconnect(&self, client_id: &str) -> bool {
        let is_known = self.shared.membership.disconnect(client_id);
        if is_known {
            tracing::info!(client = client_id, "an operator ends a client's connections");
            operate::client_gone(&self.shared, &client_id.into());
        }
        is_known
    }

    /// The client leaves: what it holds comes to others at once.
    pub fn terminate(&self, caller: &Caller, group: Option<&str>) -> Result<(), Refusal> {
        group.filter(|group| !group.is_empty()).map(Shared::parse_group).transpose()?;
        self.shared.membership.remove(&caller.client_id);
        operate::client_gone(&self.shared, &caller.client_id);
        Ok(())
    }

    /// Ends when the threads of the store have turned over once more; never, when one of them is stuck.
    pub async fn turned_over(&self) {
        self.shared.turned_over().await;
    }

    pub fn readiness(&self) -> Vec<Check> {
        let failure = self.shared.store.failure();
        let reserve = self.shared.store.reserve();
        let has_space = reserve.free >= reserve.reserve;
        let mut checks = vec![
            Check {
                name: "writable",
                is_ok: failure.is_none(),
                detail: failure.unwrap_or_else(|| "the log takes writes".into()),
            },
            Check {
                name: "disk",
                is_ok: has_space,
                detail: format!("{} bytes free, {} kept in reserve", reserve.free, reserve.reserve),
            },
        ];
        checks.extend(self.registration());
        if self.shared.drain.is_on() {
            let detail = "new messages are refused, or will be".into();
            checks.push(Check { name: "draining", is_ok: false, detail });
        }
        checks
    }

    /// None when there is no name server to be registered with.
    fn registration(&self) -> Option<Check> {
        let nameservers: Vec<_> = self.shared.peers.cluster().nameservers().collect();
        let missing: Vec<_> =
            nameservers.iter().filter(|(_, is_registered)| !is_registered).map(|(name, _)| *name).collect();
        let detail = match missing.is_empty() {
            true => "with every name server".into(),
            false => format!("not with {}", missing.join(", ")),
        };
        let is_ok = missing.len() < nameservers.len();
        (!nameservers.is_empty()).then_some(Check { name: "registered", is_ok, detail })
    }
}
