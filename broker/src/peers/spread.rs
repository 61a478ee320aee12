//! Topics and groups that belong on every broker: this one takes over what others have, and sees what they have of its own.
//!
//! Nobody is asked and nobody agrees: each broker makes its own catalog the newest of what is said ([`cluster::catalog`]), for
//! as long as it runs. A call that changes something only waits, for a moment, until the others say that they have it too.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use base::{GroupName, TopicName};
use cluster::{Buried, Catalog, Kind, Others, Own, Served, State, Step, Table};
use hashbrown::{HashMap, HashSet};
use serve::runtime::beside;
use storage::request::{AppendError, Done, Lane};
use storage::view::catalog::{GroupSpec, TopicKind, TopicSpec};

use super::own::{self, group_of, kind_of, topic_of};
use super::{Bell, Peers, TELL_EVERY};
use crate::admin::{AdminRefusal, TopicCopy};
use crate::operate::topic_type;
use crate::shared::Shared;
use crate::subscription::task::settings_of;
use crate::subscription::{Event, Queues};

/// Until others have what was made, changed or dropped here.
const SPREAD_MAX: Duration = Duration::from_secs(3);
/// What is taken over in one turn.
const STEPS_MAX: usize = 256;
/// After something could not be taken over.
const AGAIN: Duration = Duration::from_secs(1);

/// What the log was told already.
#[derive(Debug, Default)]
struct Said {
    is_failing: bool,
    is_forgetful: bool,
    conflicts: HashSet<(TopicName, Arc<str>)>,
}

impl Peers {
    /// Those of the others whose word counts.
    fn others<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = &'a Arc<cluster::Broker>> {
        table.brokers().filter(move |broker| broker.name != self.name)
    }

    /// Who should have this and does not say so.
    fn pending(&self, step: &Step) -> Vec<Arc<str>> {
        let table = self.table();
        let live = self.others(&table).filter(|broker| broker.node.state != State::Draining);
        live.filter(|broker| !broker.catalog.has(step)).map(|broker| broker.name.clone()).collect()
    }

    /// Waits until every other broker says that it has this; those that do not after a while get it later, and are named.
    async fn spread(&self, step: &Step) -> Vec<Arc<str>> {
        let mut changes = self.cluster.changes();
        let until_all_have_it = async { while !self.pending(step).is_empty() && changes.changed().await.is_ok() {} };
        let _is_in_time = tokio::time::timeout(SPREAD_MAX, until_all_have_it).await;
        self.pending(step)
    }

    /// The broker on which a topic of this name lives alone, when that is another one.
    pub fn lives_on(&self, topic: &TopicName) -> Option<Arc<str>> {
        let keeper = || self.table().keeper(topic).map(|keeper| keeper.name.clone());
        self.homes.of(topic).or_else(keeper).filter(|name| *name != self.name)
    }

    /// As [`Self::lives_on`], of a topic that is here and was ceded.
    pub fn home(&self, topic: &TopicName) -> Option<Arc<str>> {
        self.homes.of(topic)
    }

    /// Makes this broker the one that a topic lives on, when the one that it lives on is away for good.
    pub fn claim(&self, topic: &TopicName) -> Result<(), AdminRefusal> {
        let Some(home) = self.lives_on(topic) else { return Ok(()) };
        if self.table().broker(&home).is_some() {
            return Err(AdminRefusal::TopicLivesElsewhere { topic: topic.clone(), broker: home.to_string() });
        }
        let forgotten = self.homes.forget(topic);
        forgotten.map_err(|error| AdminRefusal::NotKept { what: "where topics live", cause: error.to_string() })?;
        tracing::warn!(%topic, home = &*home, "an ordered topic was claimed from a broker that is away");
        if let Some(registered) = &*self.registered.lock() {
            registered.bell.ring();
        }
        Ok(())
    }

    /// Other brokers that serve a topic of this name and kind.
    pub fn also_on(&self, topic: &TopicName, kind: TopicKind) -> Vec<Arc<str>> {
        let table = self.table();
        let has = |broker: &&Arc<cluster::Broker>| {
            broker.catalog.topics.get(topic).is_some_and(|served| served.kind == kind_of(kind))
        };
        self.others(&table).filter(has).map(|broker| broker.name.clone()).collect()
    }

    /// Every broker that has a topic of this name, in order of their names, and what differs from here.
    pub fn copies(&self, here: &TopicSpec) -> Vec<TopicCopy> {
        let table = self.table();
        let own = topic_of(here);
        let home = self.lives_on(&here.name).unwrap_or_else(|| self.name.clone());
        let keeper = Some(home).filter(|_| own.is_placed);
        let copy = |broker: &Arc<str>, served: &Served| {
            let mut differs = own.differences(served);
            if keeper.as_ref().is_some_and(|keeper| keeper != broker) {
                differs.push("keeper");
            }
            let (queues, changed_at) = (served.queues, served.changed_at);
            let topic_type = own::stored_kind(served.kind).map(topic_type);
            TopicCopy { broker: broker.to_string(), topic_type, queues, changed_at, differs }
        };
        let others = self.others(&table).filter_map(|broker| Some((broker, broker.catalog.topics.get(&here.name)?)));
        let mut copies: Vec<_> = others.map(|(broker, served)| copy(&broker.name, served)).collect();
        if !copies.is_empty() {
            copies.push(copy(&self.name, &own));
            copies.sort_by(|a, b| a.broker.cmp(&b.broker));
        }
        copies
    }
}

impl Shared {
    /// Waits until every broker that should have it has this topic; the others are named.
    pub async fn spread_topic(&self, spec: &TopicSpec) -> Vec<Arc<str>> {
        if !kind_of(spec.kind).spreads() || spec.name.is_derived() {
            return Vec::new();
        }
        self.peers.spread(&Step::Topic(spec.name.clone(), topic_of(spec))).await
    }

    pub async fn spread_group(&self, spec: &GroupSpec) -> Vec<Arc<str>> {
        self.peers.spread(&Step::Group(spec.name.clone(), group_of(spec))).await
    }

    /// As [`Shared::spread_topic`], of one that was just dropped here.
    pub async fn spread_drop(&self, name: &TopicName, kind: TopicKind) -> Vec<Arc<str>> {
        let buried = self.store.reader().catalog().topic_buried(name, kind);
        match buried.filter(|_| kind_of(kind).spreads()) {
            Some(at) => self.peers.spread(&Step::Bury(Buried::Topic(name.clone(), kind_of(kind)), at)).await,
            None => Vec::new(),
        }
    }

    pub async fn spread_group_drop(&self, name: &GroupName) -> Vec<Arc<str>> {
        let buried = self.store.reader().catalog().group_buried(name);
        match buried {
            Some(at) => self.peers.spread(&Step::Bury(Buried::Group(name.clone()), at)).await,
            None => Vec::new(),
        }
    }

    /// Why a topic of this name cannot be made here, if it lives on another broker.
    pub fn check_place(&self, name: &TopicName) -> Result<(), AdminRefusal> {
        match self.peers.lives_on(name) {
            Some(broker) => Err(AdminRefusal::TopicLivesElsewhere { topic: name.clone(), broker: broker.to_string() }),
            None => Ok(()),
        }
    }

    /// A topic that is not here, and that others have, comes now: who asks for it does not have to wait for its turn.
    pub async fn adopt_topic(&self, name: &TopicName) {
        if self.topic(name).is_none() {
            let kinds = [Kind::Normal, Kind::Delay, Kind::Transaction];
            let buried = kinds.map(|kind| Buried::Topic(name.clone(), kind));
            let topics = std::slice::from_ref(name);
            self.adopt(|all| Catalog {
                topics: only(&all.topics, topics),
                buried: only(&all.buried, &buried),
                ..Catalog::default()
            })
            .await;
        }
    }

    pub async fn adopt_group(&self, name: &GroupName) {
        if self.group(name).is_none() {
            let buried = [Buried::Group(name.clone())];
            let groups = std::slice::from_ref(name);
            self.adopt(|all| Catalog {
                groups: only(&all.groups, groups),
                buried: only(&all.buried, &buried),
                ..Catalog::default()
            })
            .await;
        }
    }

    /// Takes over a part of what others have, if they have any of it.
    async fn adopt(&self, part: impl Fn(&Catalog) -> Catalog) {
        let table = self.peers.table();
        let parts: Vec<_> = self.peers.others(&table).map(|broker| part(&broker.catalog)).collect();
        if parts.iter().all(|part| *part == Catalog::default()) {
            return;
        }
        let own = part(&own::catalog(&self.store.reader().catalog()));
        let steps = own.steps(&Others::of(&parts), self.clock.now());
        // Whoever asks finds out, and the next turn tries again.
        let _is_all = self.take(&steps, Lane::Request).await;
    }

    /// Does these, all at once. The first error, if there is one; the rest is done.
    async fn take(&self, steps: &[Step], lane: Lane) -> Result<(), AppendError> {
        let requests = steps.iter().filter_map(own::request);
        let under_way: Vec<_> = requests.map(|request| self.submit(lane, request)).collect();
        let mut result = Ok(());
        for answer in under_way {
            match answer.await {
                Ok(Done::Topic { spec, is_new: true }) => self.queues_changed(&spec.name),
                Ok(Done::Group { spec, is_new: true }) => self.settings_changed(&spec.name),
                Ok(_) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Subscriptions of a topic hear that it has more queues.
    pub fn queues_changed(&self, name: &TopicName) {
        let Some(topic) = self.topic(name) else { return };
        let id = topic.spec.id;
        let queues = Queues { topic, hash_key: *self.store.reader().hash_key() };
        self.subscriptions.push_to(|pair| (pair.topic == id).then(|| Event::SourceChanged(queues.clone())));
    }

    /// Subscriptions of a group hear of its settings.
    fn settings_changed(&self, name: &GroupName) {
        let Some(group) = self.group(name) else { return };
        let catalog = self.store.reader().catalog();
        self.subscriptions.push_to(|pair| {
            let topic = catalog.topic_by_id(pair.topic).filter(|_| pair.group == group.id)?;
            Some(Event::SettingsChanged(settings_of(self, &group, topic)))
        });
    }
}

/// Tells others what changes in the catalog, and takes over what changes in theirs, for as long as this broker is registered.
pub(super) async fn keep_up(shared: Arc<Shared>, bell: Arc<Bell>) {
    let mut changes = shared.peers.cluster.changes();
    let mut said = Said::default();
    loop {
        // Beside the network worker: catalogs may be large, and the disk slow.
        let here = shared.clone();
        let looked = beside(move || look(&here, &mut said).map(|steps| (steps, said))).await;
        let Some(Some((steps, was_said))) = looked else { return };
        said = was_said;
        let is_done = take_over(&shared, steps, &mut said).await;
        tokio::time::sleep(TELL_EVERY).await;
        tokio::select! {
            () = bell.0.notified() => {}
            _ = changes.changed() => {}
            () = tokio::time::sleep(AGAIN), if !is_done => {}
        }
    }
}

/// Learns from others and tells them; gives what is left to do here. None when this broker has left.
fn look(shared: &Shared, said: &mut Said) -> Option<Vec<Step>> {
    let table = shared.peers.table();
    let own = own::catalog(&shared.store.reader().catalog());
    learn(&shared.peers, &own, &table, said);
    let own = tell(&shared.peers, own)?;
    say_conflicts(&shared.peers, &table, &own, said);
    let others = shared.peers.others(&table).map(|broker| &broker.catalog);
    Some(own.catalog.steps(&Others::of(others), shared.clock.now()))
}

/// Remembers where topics live.
fn learn(peers: &Peers, own: &Catalog, table: &Table, said: &mut Said) {
    let result = peers.homes.learn(&peers.name, own, table);
    if let Err(error) = &result
        && !said.is_forgetful
    {
        tracing::error!(%error, "where ordered topics live cannot be written down: a restart would forget what is new");
    }
    said.is_forgetful = result.is_err();
}

/// None when this broker has left.
fn tell(peers: &Peers, catalog: Catalog) -> Option<Arc<Own>> {
    let registered = peers.registered.lock();
    let own = &registered.as_ref()?.own;
    let catalog = peers.homes.cede(catalog);
    own.send_if_modified(|own| {
        let is_new = *own.catalog != catalog;
        if is_new {
            *own = Arc::new(Own { catalog: Arc::new(catalog), version: own.version + 1, ..Own::clone(own) });
        }
        is_new
    });
    let own = own.borrow().clone();
    Some(own)
}

/// Whether there is nothing left that this broker does not have.
async fn take_over(shared: &Shared, mut steps: Vec<Step>, said: &mut Said) -> bool {
    if steps.is_empty() {
        return true;
    }
    let count = steps.len();
    steps.truncate(STEPS_MAX);
    let result = shared.take(&steps, Lane::Background).await;
    match &result {
        Ok(()) => {
            said.is_failing = false;
            tracing::info!(changes = steps.len(), "topics and groups are as other brokers have them");
        }
        Err(error) if !said.is_failing => {
            said.is_failing = true;
            tracing::warn!(%error, "topics or groups of other brokers cannot be taken over; it is tried again");
        }
        Err(_) => {}
    }
    result.is_ok() && count == steps.len()
}

/// Topics of one name and different kinds: an operator has to decide. Said once, as long as it is so.
fn say_conflicts(peers: &Peers, table: &Table, own: &Own, said: &mut Said) {
    let mut conflicts = HashSet::new();
    for broker in peers.others(table) {
        for (name, theirs) in &broker.catalog.topics {
            let Some(ours) = own.catalog.topics.get(name).filter(|ours| ours.kind != theirs.kind) else { continue };
            let conflict = (name.clone(), broker.name.clone());
            if !said.conflicts.contains(&conflict) {
                let (broker, here, there) = (&*broker.name, ours.kind, theirs.kind);
                tracing::error!(topic = %name, broker, ?here, ?there, "a topic has another type on another broker");
            }
            conflicts.insert(conflict);
        }
    }
    said.conflicts = conflicts;
}

fn only<K: Clone + Eq + Hash, V: Clone>(all: &HashMap<K, V>, keys: &[K]) -> HashMap<K, V> {
    keys.iter().filter_map(|key| Some((key.clone(), all.get(key)?.clone()))).collect()
}
