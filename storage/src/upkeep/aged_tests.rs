//! For tests: a store that has grown old enough to have sealed segments and two checkpoints.

use std::sync::Arc;

use base::time::ManualClock;
use base::{Chance, QueueIndex, QueueOffset, Timestamp, TopicId, TopicName};

use super::{Owners, Scrubbed};
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::log::{CommitRule, LogOptions};
use crate::message::{BodyPart, Envelope, MessageKind};
use crate::metrics::Metrics;
use crate::record::Head;
use crate::request::{BodyKind, Change, Done, NewBody, Placed, Request};
use crate::salvage::Alone;
use crate::store::{self, FetchError, OpenError, Recovered};
use crate::timer::TimerCore;
use crate::view::catalog::{TopicKind, TopicSpec};
use crate::writer::Writer;

pub(crate) struct Aged {
    pub disk: SimDisk,
    pub recovered: Recovered,
    /// Of the messages, in order.
    pub placed: Vec<Placed>,
}

fn commit(writer: &mut Writer, timer: &mut TimerCore, request: Request) -> Done {
    Alone { writer, timer }.append(request).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn open(disk: &SimDisk) -> Result<Recovered, OpenError> {
    let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
    let log = LogOptions { segment_bytes: 64 << 10, commit: CommitRule::OnSync };
    let options = store::Options { log, node: 1, tail_cache_bytes: 0, timers: Default::default() };
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    store::recover(Arc::new(disk.clone()), options, clock, Chance::new(1), metrics)
}

impl Aged {
    /// 60 messages of 5,000 bytes in one queue of "orders", of the groups "g0" to "g6": six segments or more are sealed.
    pub fn new() -> Self {
        let disk = SimDisk::new(1);
        let mut aged = Self { recovered: open(&disk).unwrap(), disk, placed: Vec::new() };
        let spec = TopicSpec::new(TopicName::parse("orders").unwrap(), TopicKind::Fifo, 1, Timestamp(1));
        aged.commit(Request::CreateTopic(spec));
        for half in 0..2 {
            (half * 30..half * 30 + 30).for_each(|number| aged.send(&format!("g{}", number % 7)));
            aged.checkpoint();
        }
        aged
    }

    pub fn send(&mut self, group: &str) {
        self.send_to(TopicId(0), group);
    }

    pub fn send_to(&mut self, topic: TopicId, group: &str) {
        let envelope = Envelope {
            message_group: Some(group.into()),
            ..Envelope::new(MessageKind::Fifo, format!("id{}", self.placed.len()), Timestamp(1), "host".into())
        };
        let part = BodyPart::encode(&envelope, &[b'x'; 5000]);
        let group_hash = self.recovered.reader.hash_key().message_group(group);
        let head = Head { topic, tag_hash: 0, group_hash, priority: 0 };
        let body = NewBody { head, kind: BodyKind::Visible, part };
        match self.commit(Request::one(Change::Body(body))) {
            Done::Changed(placed) => self.placed.push(placed[0]),
            other => panic!("{other:?}"),
        }
    }

    pub fn commit(&mut self, request: Request) -> Done {
        let Recovered { writer, timer, .. } = &mut self.recovered;
        commit(writer, timer, request)
    }

    /// Seals what is full, and takes a checkpoint.
    pub fn checkpoint(&mut self) {
        let Recovered { writer, timer, upkeep, .. } = &mut self.recovered;
        let applied = writer.log().positions().applied;
        while upkeep.seal(applied).unwrap() {}
        upkeep.mend_indexes().unwrap();
        upkeep.checkpoint(&mut Alone { writer, timer }, Timestamp(2)).unwrap();
    }

    /// To the end of the round, in steps of so many bytes.
    pub fn scrub(&mut self, budget: u64) -> Vec<Scrubbed> {
        let mut all = Vec::new();
        loop {
            let scrubbed = self.recovered.upkeep.scrub(budget);
            let is_round = scrubbed.is_round;
            all.push(scrubbed);
            if is_round {
                return all;
            }
            assert!(all.len() < 100_000, "a round comes to an end");
        }
    }

    pub fn names(&self) -> Vec<String> {
        let mut names = self.disk.list().unwrap();
        names.sort_unstable();
        names
    }

    /// Ends the process and starts another one.
    pub fn restart(&mut self) -> Result<(), OpenError> {
        self.recovered = open(&self.disk)?;
        Ok(())
    }

    /// The body of the message at an offset; none when there is no such message.
    pub fn fetch(&self, offset: u64) -> Option<Result<usize, FetchError>> {
        let catalog = self.recovered.reader.catalog();
        let queue = catalog.topic_by_id(TopicId(0))?.queue(QueueIndex(0))?.clone();
        let entry = queue.entry(QueueOffset(offset)).filter(|entry| !entry.is_lost())?;
        Some(self.recovered.reader.fetch(entry.pointer()).map(|message| message.body.len()))
    }
}
