//! What brokers tell each other of topics and groups, and what one of them makes of what the others have.
//!
//! No broker decides for the others. Each makes its own catalog the newest of what all say, again and again, so that those who
//! hear of each other come to have the same.
//!
//! C1. What follows from several catalogs does not depend on their order, nor on who looks.
//! C2. Of two words on one topic, or one group, the newer one holds; of equally new ones that it was dropped, else the one that
//!     sorts last. Queues only become more, whoever said so.
//! C3. Topics in which order is kept stay where they are: they are neither made nor dropped because of others.
//! C4. Topics of one name and different kinds are different topics. They exclude each other, and none of them goes for it.

use std::time::Duration;

use base::limits::BURIED_MS;
use base::{Backoff, GroupName, GroupOrder, MessageType, Timestamp, TopicName};
use hashbrown::{HashMap, HashSet};

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Normal,
    Fifo,
    Delay,
    Transaction,
    Mixed,
    DeadLetter,
    Retry,
    Lite,
    Priority,
    /// Of newer brokers, by its number on the wire.
    Other(i32),
}

/// What a broker says of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub kind: Kind,
    pub queues: u16,
    pub accepts: Vec<MessageType>,
    pub is_writable: bool,
    /// Order is kept in it.
    pub is_placed: bool,
    /// It lives on another broker, even while that one is away.
    pub is_ceded: bool,
    /// How long messages are kept; none = as each broker's default says.
    pub retention: Option<Duration>,
    pub retention_bytes: Option<u64>,
    pub created_at: Timestamp,
    /// When it was made or changed last.
    pub changed_at: Timestamp,
}

/// What a broker says of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// First: it decides which one is newer.
    pub changed_at: Timestamp,
    pub created_at: Timestamp,
    pub order: GroupOrder,
    pub attempts_max: u32,
    pub backoff: Backoff,
    pub invisible: Duration,
}

/// What was dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Buried {
    Topic(TopicName, Kind),
    Group(GroupName),
}

/// All topics and groups of a broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    pub topics: HashMap<TopicName, Served>,
    pub groups: HashMap<GroupName, Group>,
    /// What was dropped lately, and when.
    pub buried: HashMap<Buried, Timestamp>,
}

/// What a broker has to do to have what the others have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Is made, or becomes this.
    Topic(TopicName, Served),
    Group(GroupName, Group),
    /// Goes, and is remembered as dropped then.
    Bury(Buried, Timestamp),
}

/// What a broker's catalog is compared with.
#[derive(Debug, Default)]
pub struct Others<'a> {
    topics: HashMap<(&'a TopicName, Kind), Served>,
    groups: HashMap<&'a GroupName, &'a Group>,
    buried: HashMap<&'a Buried, Timestamp>,
    /// Names of topics that are somewhere and stay there.
    fixed: HashSet<&'a TopicName>,
}

impl Kind {
    /// Whether topics of this kind are on every broker.
    pub fn spreads(self) -> bool {
        match self {
            Self::Normal | Self::Delay | Self::Transaction => true,
            Self::Fifo | Self::Mixed | Self::Lite | Self::Priority => false,
            Self::DeadLetter | Self::Retry | Self::Other(_) => false,
        }
    }
}

impl Served {
    fn version(&self) -> (Timestamp, Timestamp, Option<Duration>, Option<u64>) {
        (self.changed_at, self.created_at, self.retention, self.retention_bytes)
    }

    /// What another broker's word on this topic says otherwise.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let fields = [
            ("type", self.kind == other.kind),
            ("queues", self.queues == other.queues),
            ("retention.time", self.retention == other.retention),
            ("retention.size", self.retention_bytes == other.retention_bytes),
        ];
        fields.into_iter().filter(|(_, is_same)| !is_same).map(|(field, _)| field).collect()
    }

    /// What two brokers' words on one topic come to (C2).
    pub fn join(&self, other: &Self) -> Self {
        let newer = if other.version() > self.version() { other } else { self };
        Self { queues: self.queues.max(other.queues), ..newer.clone() }
    }
}

impl Buried {
    fn spreads(&self) -> bool {
        match self {
            Self::Topic(name, kind) => kind.spreads() && !name.is_derived(),
            Self::Group(_) => true,
        }
    }
}

impl Catalog {
    fn buried_at(&self, what: &Buried) -> Option<Timestamp> {
        self.buried.get(what).copied()
    }

    /// Whether this broker has what `wanted` would make of it, or something newer.
    pub fn has(&self, wanted: &Step) -> bool {
        match wanted {
            Step::Topic(name, topic) => {
                let is_buried = self.buried_at(&Buried::Topic(name.clone(), topic.kind));
                let has = |known: &Served| known.kind == topic.kind && known.join(topic) == *known;
                is_buried.is_some_and(|at| at >= topic.changed_at) || self.topics.get(name).is_some_and(has)
            }
            Step::Group(name, group) => {
                let is_buried = self.buried_at(&Buried::Group(name.clone()));
                let has = |known: &Group| known >= group;
                is_buried.is_some_and(|at| at >= group.changed_at) || self.groups.get(name).is_some_and(has)
            }
            Step::Bury(what, at) => self.changed_at(what).is_none_or(|changed_at| changed_at > *at),
        }
    }

    fn changed_at(&self, what: &Buried) -> Option<Timestamp> {
        match what {
            Buried::Topic(name, kind) => {
                self.topics.get(name).filter(|known| known.kind == *kind).map(|known| known.changed_at)
            }
            Buried::Group(name) => self.groups.get(name).map(|known| known.changed_at),
        }
    }

    /// What this broker has to do, in order of names; nothing when it has all that spreads.
    pub fn steps(&self, others: &Others<'_>, now: Timestamp) -> Vec<Step> {
        let mut steps = Vec::new();
        for (&what, &at) in &others.buried {
            let goes = match self.changed_at(what) {
                Some(changed_at) => changed_at <= at,
                // It was never here. A broker that was away shall not bring it; one that comes now is soon forgotten anyway.
                None => self.buried_at(what).is_none_or(|known| known < at) && is_fresh(at, now),
            };
            if goes {
                steps.push(Step::Bury(what.clone(), at));
            }
        }
        let mut topics: Vec<_> = others.topics.iter().collect();
        // Of several kinds of one name the newest is made.
        topics.sort_by(|a, b| (b.1.version(), b.0).cmp(&(a.1.version(), a.0)));
        let mut made = HashSet::new();
        for (&(name, kind), topic) in topics {
            let buried = others.buried_at(self, &Buried::Topic(name.clone(), kind));
            if buried.is_some_and(|at| at >= topic.changed_at) {
                continue;
            }
            let becomes = match self.topics.get(name) {
                Some(known) if known.kind == kind => Some(known.join(topic)).filter(|joined| joined != known),
                // C4. When ours goes, it is this one's turn.
                Some(_) => None,
                None => (!others.fixed.contains(name) && made.insert(name)).then(|| topic.clone()),
            };
            steps.extend(becomes.map(|topic| Step::Topic(name.clone(), topic)));
        }
        for (&name, &group) in &others.groups {
            let buried = others.buried_at(self, &Buried::Group(name.clone()));
            let is_older = |known: &Group| known < group;
            if buried.is_none_or(|at| at < group.changed_at) && self.groups.get(name).is_none_or(is_older) {
                steps.push(Step::Group(name.clone(), group.clone()));
            }
        }
        steps.sort_by(|a, b| a.key().cmp(&b.key()));
        steps
    }
}

/// A broker keeps what it takes over for as long again as it takes to be sure that it is not forgotten at once.
fn is_fresh(at: Timestamp, now: Timestamp) -> bool {
    at.plus_ms(BURIED_MS / 2) > now
}

impl<'a> Others<'a> {
    pub fn of(catalogs: impl IntoIterator<Item = &'a Catalog>) -> Self {
        let mut others = Self::default();
        for catalog in catalogs {
            for (name, topic) in &catalog.topics {
                if !topic.kind.spreads() || name.is_derived() {
                    others.fixed.insert(name);
                    continue;
                }
                let known = others.topics.entry((name, topic.kind)).or_insert_with(|| topic.clone());
                if known != topic {
                    *known = known.join(topic);
                }
            }
            for (name, group) in &catalog.groups {
                let known = others.groups.entry(name).or_insert(group);
                *known = group.max(*known);
            }
            for (what, &at) in catalog.buried.iter().filter(|(what, _)| what.spreads()) {
                let known = others.buried.entry(what).or_insert(at);
                *known = at.max(*known);
            }
        }
        others
    }

    fn buried_at(&self, own: &Catalog, what: &Buried) -> Option<Timestamp> {
        self.buried.get(what).copied().max(own.buried_at(what))
    }
}

impl Step {
    /// What goes, goes first: something else of that name may come.
    fn key(&self) -> (bool, &str) {
        match self {
            Self::Bury(Buried::Topic(name, _), _) => (false, name.as_str()),
            Self::Bury(Buried::Group(name), _) => (false, name.as_str()),
            Self::Topic(name, _) => (true, name.as_str()),
            Self::Group(name, _) => (true, name.as_str()),
        }
    }
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
pub(crate) mod tests;
