//! Topics, groups and schedules: what exists. The last record of a name wins; ids are never used twice.
//!
//! Readers hold an immutable snapshot; each change makes a new one. Changes are rare, look-ups are not.

use std::sync::Arc;
use std::time::Duration;

use base::limits::BURIED_MS;
use base::{Backoff, GroupId, GroupName, GroupOrder, LogPosition, QueueIndex, Timestamp, TopicId, TopicName};
use hashbrown::HashMap;

use super::queue::{Queue, QueueId};
use crate::codec::{Decoder, Encode, Malformed};
use crate::index::Sealed;
use crate::record::ScheduleSpec;
use crate::watch::Watchers;

/// What kind of messages a topic takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TopicKind {
    Normal = 1,
    Fifo = 2,
    Delay = 3,
    Transaction = 4,
    Mixed = 5,
    /// Holds dead letters of a group; made by the server.
    DeadLetter = 6,
    /// Holds what is redriven to one group; made by the server.
    Retry = 7,
    Lite = 8,
    Priority = 9,
}

impl TopicKind {
    /// Whether the queues of a topic stay as many as they are: where messages of one message group are, and that they are
    /// in one queue only, follows from the number.
    pub fn has_fixed_queues(self) -> bool {
        match self {
            Self::Fifo | Self::Mixed | Self::DeadLetter | Self::Retry | Self::Lite | Self::Priority => true,
            Self::Normal | Self::Delay | Self::Transaction => false,
        }
    }

    /// Whether the server makes topics of this kind: clients read them, and never write.
    pub fn is_derived(self) -> bool {
        matches!(self, Self::DeadLetter | Self::Retry)
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(match from.u8()? {
            1 => Self::Normal,
            2 => Self::Fifo,
            3 => Self::Delay,
            4 => Self::Transaction,
            5 => Self::Mixed,
            6 => Self::DeadLetter,
            7 => Self::Retry,
            8 => Self::Lite,
            9 => Self::Priority,
            _ => return Err(from.malformed()),
        })
    }
}

/// A topic as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    pub id: TopicId,
    pub name: TopicName,
    pub kind: TopicKind,
    pub queues: u16,
    pub created_at: Timestamp,
    /// When it was made, changed or dropped last: of two brokers' words about it the newer one holds.
    pub changed_at: Timestamp,
    pub is_dropped: bool,
    /// How long messages are kept; none = as the store's default says.
    pub retention: Option<Duration>,
    /// How many bytes of bodies are kept.
    pub retention_bytes: Option<u64>,
}

/// A group as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSpec {
    pub id: GroupId,
    pub name: GroupName,
    pub order: GroupOrder,
    /// Deliveries in all, the first included.
    pub attempts_max: u32,
    pub backoff: Backoff,
    pub invisible: Duration,
    pub created_at: Timestamp,
    /// As that of a topic.
    pub changed_at: Timestamp,
    pub is_dropped: bool,
}

/// A topic with its queues.
#[derive(Debug)]
pub struct Topic {
    pub spec: TopicSpec,
    pub queues: Vec<Arc<Queue>>,
    pub watchers: Arc<Watchers>,
}

impl Topic {
    pub fn queue(&self, queue: QueueIndex) -> Option<&Arc<Queue>> {
        self.queues.get(usize::from(queue.0))
    }
}

/// Everything that exists, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    topics: HashMap<TopicName, Arc<Topic>>,
    topics_by_id: HashMap<TopicId, Arc<Topic>>,
    groups: HashMap<GroupName, Arc<GroupSpec>>,
    groups_by_id: HashMap<GroupId, Arc<GroupSpec>>,
    schedules: HashMap<Arc<str>, ScheduleSpec>,
    /// What was dropped lately, and when. A topic that is made anew as another kind is another topic.
    buried_topics: HashMap<(TopicName, TopicKind), Timestamp>,
    buried_groups: HashMap<GroupName, Timestamp>,
    next_topic: u32,
    next_group: u32,
    /// Everything that lies below is in here.
    covers: LogPosition,
    /// Where the queues' older entries are.
    index: Arc<Sealed>,
}

impl Catalog {
    pub(crate) fn new(index: Arc<Sealed>) -> Self {
        Self { index, ..Self::default() }
    }

    /// Everything that lies below is in here.
    pub fn covers(&self) -> LogPosition {
        self.covers
    }

    pub(crate) fn cover(&mut self, below: LogPosition) {
        self.covers = self.covers.max(below);
    }

    /// Ids below were given out, whether what had them is still there or not.
    pub(crate) fn reserve_ids(&mut self, next_topic: u32, next_group: u32) {
        self.next_topic = self.next_topic.max(next_topic);
        self.next_group = self.next_group.max(next_group);
    }

    pub fn topic(&self, name: &TopicName) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics_by_id.get(&id)
    }

    pub fn group(&self, name: &GroupName) -> Option<&Arc<GroupSpec>> {
        self.groups.get(name)
    }

    pub fn group_by_id(&self, id: GroupId) -> Option<&Arc<GroupSpec>> {
        self.groups_by_id.get(&id)
    }

    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    pub fn groups(&self) -> impl Iterator<Item = &Arc<GroupSpec>> {
        self.groups.values()
    }

    pub fn schedules(&self) -> impl Iterator<Item = &ScheduleSpec> {
        self.schedules.values()
    }

    /// When a topic of this name and kind was dropped, unless that is long ago or it was made anew since.
    pub fn topic_buried(&self, name: &TopicName, kind: TopicKind) -> Option<Timestamp> {
        self.buried_topics.get(&(name.clone(), kind)).copied()
    }

    pub fn group_buried(&self, name: &GroupName) -> Option<Timestamp> {
        self.buried_groups.get(name).copied()
    }

    pub fn buried_topics(&self) -> impl Iterator<Item = (&TopicName, TopicKind, Timestamp)> {
        self.buried_topics.iter().map(|((name, kind), at)| (name, *kind, *at))
    }

    pub fn buried_groups(&self) -> impl Iterator<Item = (&GroupName, Timestamp)> {
        self.buried_groups.iter().map(|(name, at)| (name, *at))
    }

    /// The number of the next new topic.
    pub fn next_topic(&self) -> TopicId {
        TopicId(self.next_topic)
    }

    /// The number of the next new group.
    pub fn next_group(&self) -> GroupId {
        GroupId(self.next_group)
    }

    pub(crate) fn apply_topic(&mut self, spec: &TopicSpec) {
        self.next_topic = self.next_topic.max(spec.id.0 + 1);
        let known = self.topics_by_id.remove(&spec.id);
        if let Some(known) = &known {
            self.topics.remove(&known.spec.name);
        }
        if spec.is_dropped {
            self.bury_topic(spec.name.clone(), spec.kind, spec.changed_at);
            return;
        }
        self.buried_topics.remove(&(spec.name.clone(), spec.kind));
        let (mut queues, watchers): (Vec<_>, _) = match known {
            Some(known) => (known.queues.clone(), known.watchers.clone()),
            None => Default::default(),
        };
        for number in queues.len()..usize::from(spec.queues) {
            let queue = QueueIndex(u16::try_from(number).expect("topics have at most 1,024 queues"));
            queues.push(Arc::new(Queue::new(QueueId { topic: spec.id, queue }, self.index.clone())));
        }
        let topic = Arc::new(Topic { spec: spec.clone(), queues, watchers });
        self.topics.insert(spec.name.clone(), topic.clone());
        self.topics_by_id.insert(spec.id, topic);
    }

    pub(crate) fn apply_group(&mut self, spec: &GroupSpec) {
        self.next_group = self.next_group.max(spec.id.0 + 1);
        if let Some(known) = self.groups_by_id.remove(&spec.id) {
            self.groups.remove(&known.name);
        }
        if spec.is_dropped {
            self.bury_group(spec.name.clone(), spec.changed_at);
        } else {
            self.buried_groups.remove(&spec.name);
            let group = Arc::new(spec.clone());
            self.groups.insert(spec.name.clone(), group.clone());
            self.groups_by_id.insert(spec.id, group);
        }
    }

    /// Topics that the server derives from groups go and come with them.
    pub(crate) fn bury_topic(&mut self, name: TopicName, kind: TopicKind, at: Timestamp) {
        if !name.is_derived() {
            let known = self.buried_topics.entry((name, kind)).or_default();
            *known = at.max(*known);
        }
    }

    pub(crate) fn bury_group(&mut self, name: GroupName, at: Timestamp) {
        let known = self.buried_groups.entry(name).or_default();
        *known = at.max(*known);
    }

    /// What was dropped too long ago is forgotten.
    pub(crate) fn forget_buried(&mut self, now: Timestamp) {
        let is_kept = |at: &Timestamp| at.plus_ms(BURIED_MS) > now;
        self.buried_topics.retain(|_, at| is_kept(at));
        self.buried_groups.retain(|_, at| is_kept(at));
    }

    pub(crate) fn apply_schedule(&mut self, spec: &ScheduleSpec) {
        if spec.is_dropped {
            self.schedules.remove(&spec.name);
        } else {
            self.schedules.insert(spec.name.clone(), spec.clone());
        }
    }
}

impl TopicSpec {
    /// Of a topic that has no number yet, and is kept as the defaults say.
    pub fn new(name: TopicName, kind: TopicKind, queues: u16, created_at: Timestamp) -> Self {
        Self {
            id: TopicId(0),
            name,
            kind,
            queues,
            created_at,
            changed_at: created_at,
            is_dropped: false,
            retention: None,
            retention_bytes: None,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.varint(self.id.0.into());
        out.text(self.name.as_str());
        out.u8(self.kind as u8);
        out.u16(self.queues);
        out.varint(self.created_at.0);
        out.u8(self.is_dropped.into());
        encode_duration(out, self.retention.unwrap_or_default());
        out.varint(self.retention_bytes.unwrap_or(0));
        out.varint(self.changed_at.0);
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let mut spec = Self {
            id: TopicId(from.number()?),
            name: TopicName::parse(from.text()?).map_err(|_| from.malformed())?,
            kind: TopicKind::decode(from)?,
            queues: from.u16()?,
            created_at: Timestamp(from.varint()?),
            changed_at: Timestamp::ZERO,
            is_dropped: from.u8()? != 0,
            retention: None,
            retention_bytes: None,
        };
        // Topics of the first stores said nothing about it; 0 stands for that too.
        if !from.rest().is_empty() {
            spec.retention = Some(decode_duration(from)?).filter(|time| !time.is_zero());
            spec.retention_bytes = Some(from.varint()?).filter(|bytes| *bytes > 0);
        }
        spec.changed_at = decode_changed_at(from, spec.created_at)?;
        Ok(spec)
    }
}

impl GroupSpec {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.varint(self.id.0.into());
        out.text(self.name.as_str());
        out.u8(self.order as u8);
        out.varint(self.attempts_max.into());
        match &self.backoff {
            Backoff::Steps(steps) => {
                out.u8(1);
                out.varint(steps.len() as u64);
                steps.iter().for_each(|step| encode_duration(out, *step));
            }
            Backoff::Exponential { first, factor, max } => {
                out.u8(2);
                encode_duration(out, *first);
                out.varint((*factor).into());
                encode_duration(out, *max);
            }
        }
        encode_duration(out, self.invisible);
        out.varint(self.created_at.0);
        out.u8(self.is_dropped.into());
        out.varint(self.changed_at.0);
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let mut spec = Self {
            id: GroupId(from.number()?),
            name: GroupName::parse(from.text()?).map_err(|_| from.malformed())?,
            order: match from.u8()? {
                1 => GroupOrder::Auto,
                2 => GroupOrder::Always,
                3 => GroupOrder::Never,
                _ => return Err(from.malformed()),
            },
            attempts_max: from.number()?,
            backoff: decode_backoff(from)?,
            invisible: decode_duration(from)?,
            created_at: Timestamp(from.varint()?),
            changed_at: Timestamp::ZERO,
            is_dropped: from.u8()? != 0,
        };
        spec.changed_at = decode_changed_at(from, spec.created_at)?;
        Ok(spec)
    }
}

/// The first stores did not say it.
fn decode_changed_at(from: &mut Decoder<'_>, created_at: Timestamp) -> Result<Timestamp, Malformed> {
    if from.rest().is_empty() { Ok(created_at) } else { Ok(Timestamp(from.varint()?)) }
}

fn decode_backoff(from: &mut Decoder<'_>) -> Result<Backoff, Malformed> {
    match from.u8()? {
        1 => {
            let count = from.count()?;
            Ok(Backoff::Steps((0..count).map(|_| decode_duration(from)).collect::<Result<_, _>>()?))
        }
        2 => {
            let first = decode_duration(from)?;
            let factor = from.number()?;
            Ok(Backoff::Exponential { first, factor, max: decode_duration(from)? })
        }
        _ => Err(from.malformed()),
    }
}

fn encode_duration(out: &mut Vec<u8>, duration: Duration) {
    out.varint(base::duration::ms(duration));
}

fn decode_duration(from: &mut Decoder<'_>) -> Result<Duration, Malformed> {
    Ok(Duration::from_millis(from.varint()?))
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
