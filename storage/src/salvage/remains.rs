//! What is left of a store without checkpoints, and the checkpoint that says that it begins there.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use base::{Chance, GroupId, LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId, TopicName};

use super::SalvageError;
use crate::checkpoint::{self, Beginning, KnownCatalog, Manifest, ManifestFile};
use crate::disk::Disk;
use crate::hash::HashKey;
use crate::log::segment::Header;
use crate::log::walk::{self, Flaw, Step};
use crate::record::{self, Fact, Framed, Record};
use crate::verify;
use crate::view::catalog::{GroupSpec, TopicKind, TopicSpec};
use crate::view::queue::{Kept, QueueId};

/// Where the bytes of the key lie in a manifest, behind magic, version, features and the store's id.
const KEY_AT: usize = 32;

/// What the hashes of message groups are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRemains {
    /// In the log, or in what is left of a manifest, and it fits the messages.
    Known,
    /// A new one is made. Messages of one message group from before and after may be handled at the same time.
    Lost,
}

/// A topic, as far as something mentions it.
#[derive(Debug, Clone, Default)]
pub struct TopicRemains {
    /// Its first record that is left, or what a table of a checkpoint says; none: only its number is known.
    pub spec: Option<TopicSpec>,
    pub messages: u64,
    /// Something mentions it before that record.
    is_older: bool,
    /// The first offset that is left.
    queues: BTreeMap<QueueIndex, QueueOffset>,
}

/// A group, as far as something mentions it.
#[derive(Debug, Clone, Default)]
pub struct GroupRemains {
    pub spec: Option<GroupSpec>,
    is_older: bool,
}

/// What is left of a store.
#[derive(Debug)]
pub struct Remains {
    pub segments: Vec<Header>,
    /// Parts of the log that are gone: expired, or lost.
    pub missing: Vec<Range<LogPosition>>,
    pub batches: u64,
    /// Messages in queues, of which these have no body any more.
    pub messages: u64,
    pub without_body: u64,
    /// Bodies that were to become visible later; some of them may have done so in what is gone.
    pub delayed: u64,
    pub topics: BTreeMap<TopicId, TopicRemains>,
    pub groups: BTreeMap<GroupId, GroupRemains>,
    pub key: KeyRemains,
    /// A table says which topics and groups there were. Otherwise those that nothing mentions are forgotten.
    pub is_catalog_left: bool,
    hash_key: Option<HashKey>,
    /// Numbers below were given out.
    next_topic: u32,
    next_group: u32,
}

/// Reads what is left of the log. Changes nothing.
pub fn look(disk: &dyn Disk) -> Result<Remains, SalvageError> {
    let mut remains = Remains {
        segments: Vec::new(),
        missing: Vec::new(),
        batches: 0,
        messages: 0,
        without_body: 0,
        delayed: 0,
        topics: BTreeMap::new(),
        groups: BTreeMap::new(),
        key: KeyRemains::Lost,
        is_catalog_left: false,
        hash_key: None,
        next_topic: 0,
        next_group: 0,
    };
    let mut candidates = candidates(disk)?;
    let is_any_hashed = &mut false;
    let walked = walk::walk(disk, None, &mut |step| match step {
        Step::Segment(entered) => remains.segments.push(*entered.header),
        Step::Batch(found) => {
            remains.batches += 1;
            // What cannot be read ends the batch; `carillon log verify` names it.
            let _is_read = record::each(&found, &mut |_, framed| {
                remains.record(&framed.record);
                *is_any_hashed |= rule_out(&mut candidates, framed);
            });
        }
        Step::Hole(hole) if hole.flaw == Flaw::NoSegment => remains.missing.push(hole.range),
        Step::Hole(_) => {}
    })?;
    if let Some(refusal) = walked.refusal {
        return Err(refusal.into());
    }
    if remains.segments.is_empty() {
        return Err(SalvageError::NoSegment);
    }
    // Where nothing is hashed, any key is as good as the old one, and the old one as any other.
    let found = remains.hash_key.or(candidates.first().copied().filter(|_| *is_any_hashed));
    remains.key = if found.is_some() || !*is_any_hashed { KeyRemains::Known } else { KeyRemains::Lost };
    remains.hash_key = found;
    if let Some(known) = KnownCatalog::newest(disk, &disk.list()?, remains.segments[0].cluster) {
        remains.know(known);
    }
    Ok(remains)
}

/// Damage is seldom everywhere in a manifest.
fn candidates(disk: &dyn Disk) -> io::Result<Vec<HashKey>> {
    let mut candidates = Vec::new();
    for number in checkpoint::numbers(&disk.list()?) {
        let mut bytes = [0; KEY_AT + 16];
        let read = disk.open_to_read(&checkpoint::manifest_name(number))?.read_at(&mut bytes, 0);
        if read.is_ok() {
            candidates.push(HashKey(bytes[KEY_AT..].try_into().expect("sixteen bytes")));
        }
    }
    Ok(candidates)
}

/// Keeps the keys that give the stored hash. Gives whether there was one to compare.
fn rule_out(candidates: &mut Vec<HashKey>, framed: &Framed<'_>) -> bool {
    let (Record::Message { head, .. } | Record::Delayed { head, .. } | Record::Prepared { head, .. }) = &framed.record
    else {
        return false;
    };
    let Ok(message) = verify::check_body(framed) else { return false };
    let Some(group) = message.envelope.message_group else { return false };
    candidates.retain(|key| key.message_group(&group) == head.group_hash);
    true
}

impl Remains {
    fn know(&mut self, known: KnownCatalog) {
        self.is_catalog_left = true;
        (self.next_topic, self.next_group) = (known.next_topic, known.next_group);
        for spec in known.topics {
            self.topic(spec.id).spec.get_or_insert(spec);
        }
        for spec in known.groups {
            let group = self.groups.entry(spec.id).or_insert_with(|| GroupRemains { spec: None, is_older: true });
            group.spec.get_or_insert(spec);
        }
    }

    fn topic(&mut self, id: TopicId) -> &mut TopicRemains {
        self.topics.entry(id).or_insert_with(|| TopicRemains { is_older: true, ..TopicRemains::default() })
    }

    fn pair(&mut self, group: GroupId, topic: TopicId) {
        self.topic(topic);
        self.groups.entry(group).or_insert_with(|| GroupRemains { spec: None, is_older: true });
    }

    fn entry(&mut self, topic: TopicId, queue: QueueIndex, offset: QueueOffset) {
        self.messages += 1;
        let topic = self.topic(topic);
        topic.messages += 1;
        topic.queues.entry(queue).or_insert(offset);
    }

    fn record(&mut self, record: &Record) {
        match record {
            Record::Message { head, queue, offset } => self.entry(head.topic, *queue, *offset),
            Record::Publish { origin, head, queue, offset, .. } => {
                self.entry(head.topic, *queue, *offset);
                let range = |header: &Header| header.base..header.end();
                let is_there = self.segments.iter().any(|header| range(header).contains(&origin.position));
                self.without_body += u64::from(!is_there);
            }
            Record::Delayed { head, .. } | Record::Prepared { head, .. } => {
                self.delayed += 1;
                self.topic(head.topic);
            }
            Record::Topic(spec) => {
                let topic = self.topics.entry(spec.id).or_default();
                topic.spec.get_or_insert_with(|| spec.clone());
            }
            Record::Group(spec) => {
                let group = self.groups.entry(spec.id).or_default();
                group.spec.get_or_insert_with(|| spec.clone());
            }
            Record::Members { hash_key, .. } => self.hash_key = Some(*hash_key),
            Record::Fact(fact) => self.fact(fact),
            Record::Epoch { .. } | Record::Mark => {}
        }
    }

    fn fact(&mut self, fact: &Fact) {
        match fact {
            Fact::Settle { group, topic, .. }
            | Fact::Lease { group, topic, .. }
            | Fact::Subscribe { group, topic, .. }
            | Fact::Seek { group, topic, .. }
            | Fact::Park { group, topic, .. } => self.pair(*group, *topic),
            Fact::Purge { topic, .. } | Fact::Expire { topic, .. } => drop(self.topic(*topic)),
            Fact::Move { head, .. } => drop(self.topic(head.topic)),
            Fact::Retire { .. } | Fact::Schedule(_) => {}
        }
    }

    /// Where the log begins now.
    pub fn begins(&self) -> LogPosition {
        self.segments.first().map_or(LogPosition(0), |first| first.base)
    }

    /// What a topic is called, or would be (G2).
    pub fn name_of(&self, id: TopicId) -> TopicName {
        let made_up = || TopicName::parse(&format!("recovered-topic-{id}")).expect("legal");
        let spec = self.topics.get(&id).and_then(|topic| topic.spec.as_ref());
        // Of two that had one name, the older one is gone by the time the newer one comes.
        let is_first = |name: &TopicName| {
            let same = |(other, topic): (&TopicId, &TopicRemains)| {
                *other < id && topic.is_base() && topic.spec.as_ref().is_some_and(|spec| spec.name == *name)
            };
            !self.topics.iter().any(same)
        };
        spec.map(|spec| spec.name.clone()).filter(is_first).unwrap_or_else(made_up)
    }

    /// Queues that begin later than at 0.
    pub(super) fn beginnings(&self) -> impl Iterator<Item = (TopicId, QueueIndex, QueueOffset)> + '_ {
        let queues =
            self.topics.iter().flat_map(|(id, topic)| topic.queues.iter().map(|(queue, at)| (*id, *queue, *at)));
        queues.filter(|(_, _, at)| at.0 > 0)
    }

    fn spec(&self, id: TopicId, topic: &TopicRemains, now: Timestamp) -> TopicSpec {
        let queues = topic.queues.keys().last().map_or(1, |last| last.0 + 1);
        let made_up = TopicSpec { id, ..TopicSpec::new(self.name_of(id), TopicKind::Mixed, queues, now) };
        match &topic.spec {
            Some(spec) => {
                TopicSpec { name: made_up.name, is_dropped: false, queues: spec.queues.max(queues), ..spec.clone() }
            }
            None => made_up,
        }
    }

    /// A checkpoint that knows what must be known before the first batch that is left.
    pub(super) fn write_beginning(
        &self,
        disk: &dyn Disk,
        chance: &mut Chance,
        now: Timestamp,
    ) -> Result<(), SalvageError> {
        let first = self.segments.first().ok_or(SalvageError::NoSegment)?;
        let names = disk.list()?;
        let after = |used: Option<u64>| used.map_or(1, |used| used + 1);
        let number = after(checkpoint::numbers(&names).first().copied());
        let next_table = after(names.iter().filter_map(|name| checkpoint::parse_data_name(name)).max());
        let base = || self.topics.iter().filter(|(_, topic)| topic.is_base());
        let groups = self.groups.values().filter(|group| group.is_older);
        let groups =
            groups.filter_map(|group| group.spec.as_ref()).map(|spec| GroupSpec { is_dropped: false, ..spec.clone() });
        let kept = |(id, topic): (&TopicId, &TopicRemains)| {
            let id = *id;
            let queues = topic
                .queues
                .iter()
                .map(move |(queue, at)| (QueueId { topic: id, queue: *queue }, Kept { first: *at, sealed: *at }));
            queues.collect::<Vec<_>>()
        };
        let beginning = Beginning {
            store: first.cluster,
            at: first.base,
            topics: base().map(|(id, topic)| self.spec(*id, topic, now)).collect(),
            groups: groups.collect(),
            // G3.
            next_topic: self.topics.keys().last().map_or(0, |id| id.0 + 1).max(self.next_topic),
            next_group: self.groups.keys().last().map_or(0, |id| id.0 + 1).max(self.next_group),
            queues: base().flat_map(kept).collect(),
        };
        let (chains, next_table) = beginning.write(disk, &mut || chance.next_u64(), next_table)?;
        let new_key = |chance: &mut Chance| {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&chance.next_u64().to_le_bytes());
            key[8..].copy_from_slice(&chance.next_u64().to_le_bytes());
            HashKey(key)
        };
        let manifest = Manifest {
            number,
            store: first.cluster,
            hash_key: self.hash_key.unwrap_or_else(|| new_key(chance)),
            replay_from: first.base,
            durable: first.base,
            next_index: first.base_index,
            term: first.base_term,
            stored_at: Timestamp::ZERO,
            taken_at: now,
            next_table,
            chains,
            segments: self.segments.clone(),
            holes: Vec::new(),
        };
        ManifestFile::write(disk, &manifest)?;
        Ok(())
    }
}

impl TopicRemains {
    /// Whether the replay must know it from its beginning.
    fn is_base(&self) -> bool {
        self.is_older || self.queues.values().any(|first| first.0 > 0)
    }
}
