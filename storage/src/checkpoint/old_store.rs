//! A store that has grown old, for stories: small segments, sealed and in checkpoints, on a simulated disk.

use std::sync::Arc;

use base::time::ManualClock;
use base::{Backoff, Chance, GroupId, GroupName, GroupOrder, QueueIndex, QueueOffset, Timestamp, TopicId, TopicName};
use parking_lot::Mutex;

use super::CheckpointError;
use crate::disk::sim::SimDisk;
use crate::log::{CommitRule, LogOptions};
use crate::message::{BodyPart, Envelope, MessageKind};
use crate::metrics::Metrics;
use crate::record::{AckRange, Fact, Head};
use crate::request::{
    Answer, AppendError, BodyKind, Change, Done, NewBody, Placed, ReplySink, ReplyTo, Request, Submission,
};
use crate::store::{self, OpenError, Recovered};
use crate::timer::TimerCore;
use crate::upkeep::{Errand, Owners, Standing};
use crate::view::catalog::{GroupSpec, TopicKind, TopicSpec};
use crate::view::queue::{Entry, Queue};
use crate::writer::Writer;

pub const SEGMENT_BYTES: u64 = 64 << 10;
pub const TOPIC: TopicId = TopicId(0);
pub const GROUP: GroupId = GroupId(0);
pub const Q: QueueIndex = QueueIndex(0);

#[derive(Default)]
struct Answers(Mutex<Vec<Answer>>);

impl ReplySink for Answers {
    fn deliver(&self, answers: &mut Vec<Answer>) {
        self.0.lock().append(answers);
    }
}

/// Those whom upkeep asks.
struct Parts<'a> {
    writer: &'a mut Writer,
    timer: &'a mut TimerCore,
}

impl Owners for Parts<'_> {
    fn standing(&mut self) -> Result<Standing, CheckpointError> {
        Ok(self.writer.standing())
    }

    fn timers(&mut self, errand: Errand) {
        errand(self.timer);
    }

    fn append(&mut self, request: Request) -> Result<Done, CheckpointError> {
        commit(self.writer, self.timer, request).map_err(|error| CheckpointError::Log(error.to_string()))
    }
}

fn commit(writer: &mut Writer, timer: &mut TimerCore, request: Request) -> Result<Done, AppendError> {
    let sink = Arc::new(Answers::default());
    let mut deliveries = writer.commit(&mut vec![Submission { request, reply: ReplyTo { sink, ticket: 0 } }]);
    let events = writer.take_timer_events();
    timer.apply(&events, writer.log().positions().applied);
    deliveries.pop().expect("one answer").answers.pop().expect("one answer").result
}

/// Everything that is compared between two starts.
#[derive(Debug, PartialEq)]
pub struct Meaning {
    pub first: QueueOffset,
    pub entries: Vec<Entry>,
    pub is_acknowledged: Vec<bool>,
}

/// One topic with one queue, one group.
pub struct OldStore {
    pub disk: SimDisk,
    pub clock: Arc<ManualClock>,
    pub parts: Option<Recovered>,
    sent: u64,
}

impl OldStore {
    pub fn new() -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let mut store = Self { disk: SimDisk::new(1), clock, parts: None, sent: 0 };
        store.open().expect("an empty disk");
        let created_at = Timestamp(1_000_000);
        let topic = TopicSpec {
            id: TOPIC,
            ..TopicSpec::new(TopicName::parse("orders").expect("legal"), TopicKind::Fifo, 1, created_at)
        };
        let group = GroupSpec {
            id: GROUP,
            name: GroupName::parse("billing").expect("legal"),
            order: GroupOrder::Auto,
            attempts_max: 3,
            backoff: Backoff::Steps(vec![std::time::Duration::from_secs(1)]),
            invisible: std::time::Duration::from_secs(30),
            created_at,
            changed_at: created_at,
            is_dropped: false,
        };
        store.commit(Request::CreateTopic(topic)).expect("room");
        store.commit(Request::CreateGroup(group)).expect("room");
        store
    }

    /// Three sealed segments and two checkpoints, of which the newer one knows more; something behind both.
    pub fn grown() -> Self {
        let mut store = Self::new();
        store.fill_segments(2);
        store.acknowledge(3, 4);
        store.seal_all();
        store.checkpoint().expect("room");
        store.fill_segments(1);
        store.acknowledge(9, 2);
        store.seal_all();
        store.checkpoint().expect("room");
        store.send();
        store.acknowledge(12, 1);
        store.parts().writer.mark().expect("power");
        store
    }

    pub fn open(&mut self) -> Result<(), OpenError> {
        self.parts = None;
        let log = LogOptions { segment_bytes: SEGMENT_BYTES, commit: CommitRule::OnSync };
        let options = store::Options { log, node: 1, tail_cache_bytes: 0, timers: Default::default() };
        let metrics = Metrics::register(&prometheus::Registry::new()).expect("a fresh registry");
        let disk = Arc::new(self.disk.clone());
        self.parts = Some(store::recover(disk, options, self.clock.clone(), Chance::new(1), metrics)?);
        Ok(())
    }

    pub fn parts(&mut self) -> &mut Recovered {
        self.parts.as_mut().expect("it is open")
    }

    pub fn commit(&mut self, request: Request) -> Result<Done, AppendError> {
        let Recovered { writer, timer, .. } = self.parts();
        commit(writer, timer, request)
    }

    /// A message of group "a", with its number as id and key.
    pub fn send(&mut self) -> Placed {
        let number = self.sent.to_string();
        self.sent += 1;
        let group_hash = self.parts().reader.hash_key().message_group("a");
        let envelope = Envelope {
            keys: vec![format!("key {number}")],
            message_group: Some("a".into()),
            ..Envelope::new(MessageKind::Fifo, format!("id {number}"), Timestamp(1), "host".into())
        };
        self.clock.advance_ms(10);
        let head = Head { topic: TOPIC, tag_hash: 0, group_hash, priority: 0 };
        let part = BodyPart::encode(&envelope, &[7; 6_000]);
        let body = NewBody { head, kind: BodyKind::Visible, part };
        match self.commit(Request::one(Change::Body(body))) {
            Ok(Done::Changed(placed)) => placed[0],
            other => panic!("{other:?}"),
        }
    }

    /// Sends until so many more segments are full.
    pub fn fill_segments(&mut self, count: usize) {
        let segments = self.parts().writer.log().segments();
        let wanted = segments.load().len() + count;
        while segments.load().len() < wanted {
            self.send();
        }
    }

    pub fn acknowledge(&mut self, first: u64, count: u64) {
        let acks = vec![AckRange { queue: Q, first: QueueOffset(first), count }];
        let fact = Fact::Settle { group: GROUP, topic: TOPIC, acks, retries: Vec::new() };
        self.commit(Request::one(Change::Fact(fact))).expect("room");
    }

    pub fn seal_all(&mut self) {
        let Recovered { writer, upkeep, .. } = self.parts();
        let applied = writer.log().positions().applied;
        while upkeep.seal(applied).expect("room") {}
    }

    pub fn checkpoint(&mut self) -> Result<u64, CheckpointError> {
        let Recovered { writer, timer, upkeep, .. } = self.parts();
        upkeep.checkpoint(&mut Parts { writer, timer }, Timestamp(5)).map(|manifest| manifest.number)
    }

    pub fn with_queue<T>(&mut self, what: impl FnOnce(&Queue) -> T) -> T {
        let catalog = self.parts().writer.views().catalog.load_full();
        what(catalog.topic_by_id(TOPIC).expect("made").queue(Q).expect("made"))
    }

    pub fn meaning(&mut self) -> Meaning {
        let (bounds, entries) = self.with_queue(|queue| {
            let bounds = queue.bounds();
            let offsets = bounds.first.0..bounds.next.0;
            let entries = offsets.map(|offset| queue.entry(QueueOffset(offset)).expect("an entry that can be read"));
            (bounds, entries.collect())
        });
        let progress = self.parts().writer.views().progress_of(GROUP, TOPIC);
        let progress = progress.lock();
        let is_acknowledged = (0..bounds.next.0).map(|offset| progress.is_acknowledged((Q, QueueOffset(offset))));
        Meaning { first: bounds.first, entries, is_acknowledged: is_acknowledged.collect() }
    }
}
