//! The table of a cluster: what each broker has said, and what follows from it for a topic.
//!
//! T1. A broker is one store: what another store of the same name says is refused while the first is there.
//! T2. Of one broker only what is newer is taken over: incarnations and, within one, updates in order, none missing.
//! T3. A topic in which order is kept is served by one broker: the one that has had it longest. The others are conflicts.
//! T4. What a broker has ceded is not served there, whoever is away.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use base::{GroupName, MessageType, Timestamp, TopicName};
use hashbrown::HashSet;
use siphasher::sip::SipHasher13;

use crate::catalog::{Buried, Catalog, Group, Served};

/// Whether a broker takes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ready,
    /// Delivers only.
    ReadOnly,
    /// As [`State::ReadOnly`], and about to leave.
    Draining,
}

impl State {
    pub const ALL: [Self; 3] = [Self::Ready, Self::ReadOnly, Self::Draining];

    /// As metrics and operators read it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::ReadOnly => "read_only",
            Self::Draining => "draining",
        }
    }
}

/// A broker without what it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub cluster: Arc<str>,
    pub version: Arc<str>,
    /// In handles and transaction ids of this broker.
    pub broker_group: u32,
    /// `host:port` for clients. Without a host: where the client found who answers.
    pub grpc: Arc<str>,
    /// `host:port` for name servers and other brokers.
    pub relay: Arc<str>,
    /// `host:port` of the admin API, if there is one.
    pub http: Option<Arc<str>>,
    pub state: State,
}

/// What is new about a broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    pub broker: Arc<str>,
    /// Tells two stores of one name apart.
    pub store: u64,
    /// Grows with each start of the store.
    pub incarnation: u64,
    /// Grows with each update; one that renews repeats the last one.
    pub sequence: u64,
    /// The sequence that this adds to; not looked at when it is complete.
    pub since: u64,
    /// What is not in it is not there.
    pub is_complete: bool,
    pub node: Option<Node>,
    pub topics: Vec<(TopicName, Served)>,
    pub dropped: Vec<TopicName>,
    pub groups: Vec<(GroupName, Group)>,
    pub dropped_groups: Vec<GroupName>,
    pub buried: Vec<(Buried, Timestamp)>,
    /// What is not remembered as dropped any more.
    pub forgotten: Vec<Buried>,
}

/// A broker and what it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    pub name: Arc<str>,
    pub store: u64,
    pub incarnation: u64,
    pub sequence: u64,
    pub node: Node,
    pub catalog: Catalog,
}

/// Why an update is not taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    #[error("node.name = {broker:?} is the name of another broker, whose store is {there:016x} and not {asked:016x}")]
    NameTaken { broker: Arc<str>, there: u64, asked: u64 },
    #[error("broker {broker:?} is known in start {there}, and this is of start {asked}")]
    Older { broker: Arc<str>, there: u64, asked: u64 },
    #[error("an update of broker {broker:?} adds to {since}, and {there} is what is known")]
    Gap { broker: Arc<str>, there: u64, since: u64 },
    #[error("the first update of broker {broker:?} has to be complete")]
    Incomplete { broker: Arc<str> },
}

/// Where a topic is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub broker: Arc<str>,
    /// `host:port` for clients, or as in [`Node::grpc`]; none = here, for who answers.
    pub grpc: Option<Arc<str>>,
    pub queues: u16,
    /// Never empty.
    pub accepts: Vec<MessageType>,
    pub is_writable: bool,
}

/// A broker has a topic that another one keeps (T3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub topic: TopicName,
    /// None while it is away.
    pub keeper: Option<Arc<str>>,
    pub refused: Arc<str>,
}

/// Everything that is known of a cluster at one moment. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    brokers: BTreeMap<Arc<str>, Arc<Broker>>,
}

impl Table {
    /// In order of their names.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    pub fn broker(&self, name: &str) -> Option<&Arc<Broker>> {
        self.brokers.get(name)
    }

    /// The one whose handles these are.
    pub fn broker_of_group(&self, group: u32) -> Option<&Arc<Broker>> {
        self.brokers().find(|broker| broker.node.broker_group == group)
    }

    /// Takes over what a broker says. False when it says nothing new.
    pub fn apply(&mut self, update: Update) -> Result<bool, UpdateError> {
        let name = update.broker.clone();
        let known = self.brokers.get_mut(&name);
        if let Some(known) = &known {
            check_succession(known, &update)?;
        }
        if update.is_complete {
            let Some(node) = update.node else { return Err(UpdateError::Incomplete { broker: name }) };
            let Update { store, incarnation, sequence, .. } = update;
            let catalog = Catalog {
                topics: update.topics.into_iter().collect(),
                groups: update.groups.into_iter().collect(),
                buried: update.buried.into_iter().collect(),
            };
            let broker = Broker { name: name.clone(), store, incarnation, sequence, node, catalog };
            self.brokers.insert(name, Arc::new(broker));
            return Ok(true);
        }
        let Some(known) = known else { return Err(UpdateError::Incomplete { broker: name }) };
        if update.sequence == known.sequence {
            // It renews.
            return Ok(false);
        }
        let known = Arc::make_mut(known);
        known.sequence = update.sequence;
        known.node = update.node.unwrap_or_else(|| known.node.clone());
        let Catalog { topics, groups, buried } = &mut known.catalog;
        topics.extend(update.topics);
        groups.extend(update.groups);
        buried.extend(update.buried);
        update.dropped.iter().for_each(|name| drop(topics.remove(name)));
        update.dropped_groups.iter().for_each(|name| drop(groups.remove(name)));
        for what in &update.forgotten {
            buried.remove(what);
        }
        Ok(true)
    }

    /// A broker has gone. False when it was not there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.brokers.remove(name).is_some()
    }

    /// The newest of what several tables know.
    pub fn merged<'a>(tables: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut merged = Self::default();
        for broker in tables.into_iter().flat_map(Self::brokers) {
            let age = |broker: &Broker| (broker.incarnation, broker.sequence);
            match merged.brokers.get(&broker.name) {
                Some(known) if age(known) >= age(broker) => {}
                _ => drop(merged.brokers.insert(broker.name.clone(), broker.clone())),
            }
        }
        merged
    }

    /// Where a topic is served, in order of the brokers' names: clients compare lists by position.
    pub fn places(&self, topic: &TopicName) -> Vec<Place> {
        let keeper = self.keeper(topic);
        let serving = self.brokers().filter_map(|broker| Some((broker, broker.catalog.topics.get(topic)?)));
        serving
            .filter(|(broker, served)| !served.is_ceded && keeper.is_none_or(|keeper| keeper.name == broker.name))
            .map(|(broker, served)| Place {
                broker: broker.name.clone(),
                grpc: Some(broker.node.grpc.clone()),
                queues: served.queues,
                accepts: served.accepts.clone(),
                is_writable: served.is_writable && broker.node.state == State::Ready,
            })
            .collect()
    }

    /// The broker that a topic in which order is kept belongs to; none for other topics.
    pub fn keeper(&self, topic: &TopicName) -> Option<&Arc<Broker>> {
        let placed = self.brokers().filter_map(|broker| {
            let served = broker.catalog.topics.get(topic)?;
            let served = Some(served).filter(|served| served.is_placed && !served.is_ceded)?;
            Some((served.created_at, broker))
        });
        placed.min_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name))).map(|(_, broker)| broker)
    }

    /// Every topic that some broker serves.
    pub fn topics(&self) -> HashSet<&TopicName> {
        self.brokers().flat_map(|broker| broker.catalog.topics.keys()).collect()
    }

    /// Brokers that have this topic, which another one keeps; in order of their names.
    pub fn conflicts_of<'a>(&'a self, topic: &'a TopicName) -> impl Iterator<Item = Conflict> + 'a {
        let keeper = self.keeper(topic).map(|keeper| keeper.name.clone());
        self.brokers().filter_map(move |broker| {
            let served = broker.catalog.topics.get(topic)?;
            let is_refused = served.is_ceded || keeper.as_ref().is_some_and(|keeper| *keeper != broker.name);
            let (keeper, refused) = (keeper.clone(), broker.name.clone());
            is_refused.then(|| Conflict { topic: topic.clone(), keeper, refused })
        })
    }

    /// All of them, by topic.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let mut topics: Vec<_> = self.topics().into_iter().collect();
        topics.sort_unstable();
        topics.into_iter().flat_map(|topic| self.conflicts_of(topic)).collect()
    }

    /// A broker for a call about `topic`, or about none that is known; one that is `stale` only if nobody else serves
    /// it. The same for the same `key` for as long as that broker is there, so that what was handed out is settled
    /// where it was.
    pub fn pick(&self, topic: Option<&TopicName>, key: &[u8], stale: &[Arc<str>]) -> Option<&Arc<Broker>> {
        let serving = topic.map(|topic| (self.keeper(topic), topic));
        let serves = |broker: &Arc<Broker>| {
            serving.is_some_and(|(keeper, topic)| match keeper {
                Some(keeper) => keeper.name == broker.name,
                None => broker.catalog.topics.contains_key(topic),
            })
        };
        self.brokers().max_by_key(|broker| {
            let is_ready = broker.node.state == State::Ready;
            (serves(broker), !stale.contains(&broker.name), is_ready, weight(key, &broker.name))
        })
    }
}

fn check_succession(known: &Broker, update: &Update) -> Result<(), UpdateError> {
    let broker = || update.broker.clone();
    if update.store != known.store {
        return Err(UpdateError::NameTaken { broker: broker(), there: known.store, asked: update.store });
    }
    if update.incarnation < known.incarnation {
        return Err(UpdateError::Older { broker: broker(), there: known.incarnation, asked: update.incarnation });
    }
    if update.is_complete {
        return Ok(());
    }
    if update.incarnation > known.incarnation {
        return Err(UpdateError::Incomplete { broker: broker() });
    }
    if update.since != known.sequence || update.sequence < update.since {
        return Err(UpdateError::Gap { broker: broker(), there: known.sequence, since: update.since });
    }
    Ok(())
}

/// Rendezvous hashing: a broker that comes or goes moves the keys of nobody else.
fn weight(key: &[u8], broker: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(key);
    hasher.write(&[0xff]);
    hasher.write(broker.as_bytes());
    hasher.finish()
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
