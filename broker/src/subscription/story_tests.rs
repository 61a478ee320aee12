//! What the stories of a subscription are told with: its core, real views, and a clock that moves when it is told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use base::{GroupId, GroupName, GroupOrder, LogPosition, TopicId, TopicName};
use storage::record::{Fact, FilterSpec, Head, Record};
use storage::view::Views;
use storage::view::catalog::{GroupSpec, TopicKind, TopicSpec};

use super::core::Core;
use super::*;
use crate::filter::Filter;

pub const PAIR: Pair = Pair { group: GroupId(1), topic: TopicId(2) };
pub const Q: QueueIndex = QueueIndex(0);

struct Everybody;

impl Alive for Everybody {
    fn is_alive(&self, client: &str) -> bool {
        client != "dead"
    }
}

/// A subscription, its clock, and what came out of it. Appends wait until they are answered.
pub struct Story {
    pub settings: Settings,
    pub core: Core,
    pub views: Views,
    pub now: Now,
    pub appends: Vec<(Ticket, Vec<Change>)>,
    pub delivered: BTreeMap<PollId, (u64, Vec<Handout>)>,
    pub bodies: BTreeMap<PollId, Vec<Option<StoredMessage>>>,
    /// Bodies that are wanted ahead, until they are brought.
    pub fetches: Vec<(Ticket, Vec<Pointer>)>,
    /// Of replies and fetches.
    pub urgencies: Vec<Urgency>,
    pub empty: Vec<PollId>,
    pub refused: BTreeMap<PollId, Refusal>,
    pub settled: BTreeMap<SettleId, Result<(), Refusal>>,
    pub wants_dead_letter_topic: bool,
    /// What its queues were asked, and what they cannot read.
    pub asked: Arc<Asked>,
    /// Messages, by the order in which they were sent, that were published as dead letters.
    pub dead: Vec<u64>,
    sent: u64,
    /// Records that are no messages: each lies behind the one before.
    operated: u64,
}

impl Story {
    pub fn new(is_ordered: bool, attempts_max: u32) -> Self {
        Self::with_queues(1, is_ordered, attempts_max)
    }

    pub fn with_queues(queues: u16, is_ordered: bool, attempts_max: u32) -> Self {
        let now = Now { wall: Timestamp(1_000_000), tick: 5_000 };
        let views = views(queues, now.wall);
        let settings = Settings {
            is_ordered,
            attempts_max,
            backoff: Backoff::Steps(vec![Duration::from_secs(1)]),
            invisible: Duration::from_secs(60),
            in_flight_max: 1000,
        };
        let asked = Arc::default();
        let core = core_of(&views, &settings, &asked, 1, now);
        Self {
            settings,
            core,
            views,
            now,
            appends: Vec::new(),
            delivered: BTreeMap::new(),
            bodies: BTreeMap::new(),
            fetches: Vec::new(),
            urgencies: Vec::new(),
            empty: Vec::new(),
            refused: BTreeMap::new(),
            settled: BTreeMap::new(),
            wants_dead_letter_topic: false,
            asked,
            dead: Vec::new(),
            sent: 0,
            operated: FIRST_RECORDS,
        }
    }

    /// Three messages of one key: the first two were handed out to "a", and given back at once.
    pub fn two_of_three_come_back(&mut self) {
        self.send(&[7, 7, 7]);
        self.poll(1, "a", 2);
        self.commit();
        let back = Verdict::Return { after: Duration::ZERO, is_suspended: false };
        self.settle(10, 1, 0, back);
        self.settle(11, 1, 1, back);
        self.commit();
    }

    /// The process ends and starts again: whatever was not committed is gone.
    pub fn restart(&mut self) {
        self.appends.clear();
        let first_batch = self.core.next_batch() + (1 << 40);
        self.core = core_of(&self.views, &self.settings, &self.asked, first_batch, self.now);
        self.finish();
    }

    /// Messages of these message groups, in this order; 0 = none.
    pub fn send(&mut self, groups: &[u64]) {
        for group in groups {
            self.append_message(Q, *group, 0);
        }
        self.tell(Event::Ring);
    }

    pub fn send_to(&mut self, queue: u16, groups: &[u64]) {
        for group in groups {
            self.append_message(QueueIndex(queue), *group, 0);
        }
        self.tell(Event::Ring);
    }

    /// One message with a tag, in message group 7.
    pub fn send_tagged(&mut self, tag: u32) {
        self.append_message(Q, 7, tag);
        self.tell(Event::Ring);
    }

    fn append_message(&mut self, queue: QueueIndex, group_hash: u64, tag_hash: u32) {
        let pointer = Pointer { position: LogPosition(self.sent * 100), length: 100 };
        self.sent += 1;
        let offset = self.next_offset(queue);
        let head = Head { topic: PAIR.topic, tag_hash, group_hash, priority: 0 };
        self.views.apply(&Record::Message { head, queue, offset }, pointer, self.now.wall);
    }

    pub fn next_offset(&self, queue: QueueIndex) -> QueueOffset {
        let catalog = self.views.catalog.load();
        catalog.topic_by_id(PAIR.topic).unwrap().queue(queue).unwrap().bounds().next
    }

    /// From now on only messages with this tag are wanted.
    pub fn want(&mut self, tag: u32) {
        let spec = FilterSpec { is_sql: false, expression: "tag".into() };
        self.tell(Event::FilterChanged(Filter::Tags([(tag, "tag".into())].into()), spec));
    }

    /// An operator's record is committed, and the topic rings.
    pub fn operate(&mut self, record: &Record) {
        self.overtake(record);
        self.tell(Event::Ring);
    }

    /// An operator's record is committed; the ring has not come yet.
    pub fn overtake(&mut self, record: &Record) {
        self.views.apply(record, at(self.operated), self.now.wall);
        self.operated += 1;
    }

    pub fn tell(&mut self, event: Event) {
        self.core.handle(event, self.now);
        self.finish();
    }

    pub fn finish(&mut self) {
        for effect in self.core.finish(self.now, &Everybody) {
            match effect {
                Effect::Deliver { poll, batch, messages, bodies, urgency } => {
                    self.urgencies.push(urgency);
                    self.bodies.insert(poll, bodies);
                    self.delivered.insert(poll, (batch, messages));
                }
                Effect::Fetch { ticket, urgency, pointers } => {
                    self.urgencies.push(urgency);
                    self.fetches.push((ticket, pointers));
                }
                Effect::Empty { poll } => self.empty.push(poll),
                Effect::Refuse { poll, refusal } => drop(self.refused.insert(poll, refusal)),
                Effect::Settled { settle, result } => drop(self.settled.insert(settle, result)),
                Effect::Append { ticket, changes } => self.appends.push((ticket, changes)),
                Effect::Seen(reply, seen) => drop(reply.send(seen)),
                Effect::NeedDeadLetterTopic => self.wants_dead_letter_topic = true,
            }
        }
    }

    pub fn pass(&mut self, ms: u64) {
        self.now = Now { wall: self.now.wall.plus_ms(ms), tick: self.now.tick + ms };
        self.finish();
    }

    pub fn poll(&mut self, id: PollId, client: &str, messages_max: usize) -> Vec<u64> {
        self.poll_with(id, Poll { messages_max, ..poll_of(client, self.now.tick + 5_000) })
    }

    pub fn poll_with(&mut self, id: PollId, poll: Poll) -> Vec<u64> {
        self.tell(Event::Poll(id, poll));
        self.offsets(id)
    }

    pub fn offsets(&self, poll: PollId) -> Vec<u64> {
        self.slots(poll).into_iter().map(|(_, offset)| offset).collect()
    }

    /// Queues and offsets.
    pub fn slots(&self, poll: PollId) -> Vec<(u16, u64)> {
        let (_, messages) = self.delivered.get(&poll).cloned().unwrap_or_default();
        messages.iter().map(|message| (message.receipt.queue.0, message.receipt.offset.0)).collect()
    }

    pub fn attempts(&self, poll: PollId) -> Vec<u32> {
        self.delivered[&poll].1.iter().map(|message| message.receipt.attempt).collect()
    }

    pub fn receipt(&self, poll: PollId, index: usize) -> handle::Receipt {
        self.delivered[&poll].1[index].receipt
    }

    pub fn settle(&mut self, id: SettleId, poll: PollId, index: usize, verdict: Verdict) {
        self.settle_with(id, self.receipt(poll, index), verdict);
    }

    pub fn settle_with(&mut self, id: SettleId, receipt: handle::Receipt, verdict: Verdict) {
        self.tell(Event::Settle(id, Settle { client: "a".into(), receipt, verdict }));
    }

    /// The writer answers everything that was appended, and makes the dead-letter topic when it is asked for.
    pub fn commit(&mut self) {
        while !self.appends.is_empty() || self.wants_dead_letter_topic {
            if std::mem::take(&mut self.wants_dead_letter_topic) {
                self.core.dead_letter_topic(Ok(TopicId(9)), self.now);
                self.finish();
                continue;
            }
            let (ticket, changes) = self.appends.remove(0);
            let result = self.write(&changes);
            self.tell(Event::Answer(ticket, result));
        }
    }

    /// The writer has no room for the oldest append.
    pub fn refuse(&mut self) {
        let (ticket, _) = self.appends.remove(0);
        self.tell(Event::Answer(ticket, Err(AppendError::InboxFull { what: "the inbox", max: 1 })));
    }

    /// The writer commits the oldest append; its answer is on its way.
    pub fn write_first(&mut self) -> (Ticket, Result<Done, AppendError>) {
        let (ticket, changes) = self.appends.remove(0);
        (ticket, self.write(&changes))
    }

    fn write(&mut self, changes: &[Change]) -> Result<Done, AppendError> {
        for change in changes {
            let record = match change.clone() {
                Change::Expect { group, topic, operations } => {
                    if self.views.progress_of(group, topic).lock().operations() != operations {
                        return Err(AppendError::Overtaken { group, topic });
                    }
                    continue;
                }
                Change::Publish { origin, .. } => {
                    self.dead.push(origin.position.0 / 100);
                    continue;
                }
                Change::Fact(fact @ (Fact::Settle { .. } | Fact::Lease { .. } | Fact::Subscribe { .. })) => {
                    Record::Fact(fact)
                }
                other => panic!("a subscription appends no {other:?}"),
            };
            self.overtake(&record);
        }
        Ok(Done::Changed(Default::default()))
    }
}

/// Records before the first one of a story.
const FIRST_RECORDS: u64 = 3;

/// Where the `number`th record lies that is no message.
fn at(number: u64) -> Pointer {
    Pointer { position: LogPosition(number), length: 1 }
}

fn views(queues: u16, created_at: Timestamp) -> Views {
    let mut views = Views::default();
    let topic = TopicSpec {
        id: PAIR.topic,
        ..TopicSpec::new(TopicName::parse("orders").unwrap(), TopicKind::Fifo, queues, created_at)
    };
    let group = GroupSpec {
        id: PAIR.group,
        name: GroupName::parse("billing").unwrap(),
        order: GroupOrder::Auto,
        attempts_max: 3,
        backoff: Backoff::Steps(vec![Duration::from_secs(1)]),
        invisible: Duration::from_secs(60),
        created_at,
        changed_at: created_at,
        is_dropped: false,
    };
    views.apply(&Record::Topic(topic), at(0), created_at);
    views.apply(&Record::Group(group), at(1), created_at);
    let filter = FilterSpec { is_sql: false, expression: "*".into() };
    let Pair { group, topic } = PAIR;
    views.apply(&Record::Fact(Fact::Subscribe { group, topic, start: Vec::new(), filter }), at(2), created_at);
    views
}

/// What queues were asked, and the offset from which on they cannot read; none yet when that is `u64::MAX`.
#[derive(Debug)]
pub struct Asked {
    /// Entries that were walked.
    pub walked: AtomicU64,
    pub looked_up: AtomicU64,
    pub damage: AtomicU64,
}

impl Default for Asked {
    fn default() -> Self {
        Self { walked: AtomicU64::new(0), looked_up: AtomicU64::new(0), damage: AtomicU64::new(u64::MAX) }
    }
}

/// Queues in memory, which look message groups up as index files would.
struct Told {
    queues: Queues,
    asked: Arc<Asked>,
}

impl Source for Told {
    fn queues(&self) -> usize {
        self.queues.queues()
    }

    fn bounds(&self, queue: QueueIndex) -> Bounds {
        self.queues.bounds(queue)
    }

    fn read(&self, from: QueueOffset, queue: QueueIndex, max: usize, out: &mut Vec<Entry>) -> QueueOffset {
        let before = out.len();
        let first = self.queues.read(from, queue, max, out);
        self.asked.walked.fetch_add((out.len() - before) as u64, Relaxed);
        first
    }

    fn entry(&self, slot: Slot) -> Option<Entry> {
        self.queues.entry(slot)
    }

    fn members(&self, queue: QueueIndex, wanted: &Wanted) -> Stretch {
        self.asked.looked_up.fetch_add(1, Relaxed);
        let damage = QueueOffset(self.asked.damage.load(Relaxed));
        let mut entries = Vec::new();
        let first = wanted.from.max(self.bounds(queue).first);
        for offset in (first.0..wanted.until.min(damage).0).map(QueueOffset) {
            if entries.len() >= wanted.max {
                return Stretch { entries, to: offset, is_stuck: false };
            }
            let entry = self.entry((queue, offset)).expect("it is in memory");
            if entry.group_hash == wanted.group_hash {
                entries.push((offset, entry));
            }
        }
        Stretch { entries, to: wanted.until.min(damage.max(wanted.from)), is_stuck: damage < wanted.until }
    }
}

fn core_of(views: &Views, settings: &Settings, asked: &Arc<Asked>, first_batch: u64, now: Now) -> Core {
    let topic = Arc::clone(views.catalog.load().topic_by_id(PAIR.topic).unwrap());
    let source = Told { queues: Queues { topic, hash_key: HashKey([0; 16]) }, asked: asked.clone() };
    let progress = views.progress_of(PAIR.group, PAIR.topic);
    Core::new(PAIR, settings.clone(), Filter::All, Box::new(source), progress, first_batch, now)
}

pub fn poll_of(client: &str, until: u64) -> Poll {
    Poll {
        client: client.into(),
        language: Language::Java,
        messages_max: 32,
        bytes_max: base::limits::RECEIVE_BYTES_MAX,
        invisible: Some(Duration::from_secs(30)),
        attempt_id: None,
        until,
    }
}
