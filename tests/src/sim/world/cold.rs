//! Records that no client of a run causes, on a topic that nobody consumes: their state must come back.

use std::sync::Arc;

use base::{Clock, GroupName, GroupOrder, QueueIndex, QueueOffset, Timestamp, TopicName};
use storage::message::{BodyPart, Envelope, MessageKind};
use storage::record::{AckRange, Fact, FilterSpec, Head, LeaseEntry, Pending, RetryEntry, ScheduleSpec, Why};
use storage::request::{BodyKind, Change, NewBody, Request};
use storage::view::catalog::{GroupSpec, TopicKind, TopicSpec};

use super::super::oracle::body_of;
use super::scene::PAIRS;
use super::{Owner, World};

impl World {
    /// Every kind of record that no client of this run causes. Nobody consumes the cold topic; its state must come back.
    pub fn cold(&mut self) {
        let topic = self.topics[3];
        let pair = self.chance.below(PAIRS.len() as u64) as usize;
        let group = self.oracle.pairs[pair].group;
        let queue = QueueIndex(self.chance.below(2) as u16);
        let mut offset = || QueueOffset(self.chance.below(20));
        let (one, two) = (offset(), offset());
        let wall = self.clock.now();
        let number = self.chance.below(4);
        let request = match self.chance.below(14) {
            0 => Request::one(Change::Fact(Fact::Seek { group, topic, queue, to: one, generation: number as u32 })),
            1 => Request::one(Change::Fact(Fact::Park {
                group,
                topic,
                message_group: number,
                is_on: self.chance.one_in(2),
            })),
            2 => Request::one(Change::Fact(Fact::Purge { topic, queue, below: one })),
            3 => {
                let is_dropped = self.chance.one_in(3);
                let content: Arc<[u8]> = vec![number as u8; 9].into();
                Request::one(Change::Fact(Fact::Schedule(ScheduleSpec {
                    name: format!("job {number}").into(),
                    is_dropped,
                    content,
                })))
            }
            4 => {
                let filter = FilterSpec { is_sql: self.chance.one_in(2), expression: format!("tag{number}").into() };
                Request::one(Change::Fact(Fact::Subscribe { group, topic, start: vec![(queue, one)], filter }))
            }
            5 => {
                let acks = vec![AckRange { queue, first: one, count: number + 1 }];
                let retries = vec![RetryEntry { queue, offset: two, attempts: number as u32, next_visible: wall }];
                Request::one(Change::Fact(Fact::Settle { group, topic, acks, retries }))
            }
            6 => {
                let entries = vec![LeaseEntry { queue, offset: two, attempt: 1 }];
                let until = self.chance.one_in(2).then_some(wall);
                self.next_poll += 1;
                let batch = self.next_poll;
                Request::one(Change::Fact(Fact::Lease { group, topic, batch, client: "cold".into(), until, entries }))
            }
            7..=8 => {
                // Redrive: a body that lies elsewhere becomes visible here, and the dead letter is settled with it.
                let stored = self.oracle.messages.values().filter(|m| m.slot.is_some()).find_map(|m| m.pointer);
                let Some(origin) = stored else { return };
                let head = Head { topic, tag_hash: 1, group_hash: number, priority: 3 };
                let publish = Change::Publish { origin, head, why: Why::Redrive { group } };
                let acks = vec![AckRange { queue, first: two, count: 1 }];
                let settle = Change::Fact(Fact::Settle { group, topic, acks, retries: Vec::new() });
                Request::Changes([publish, settle].into_iter().collect())
            }
            9 => self.adopted(number),
            10 => {
                let name = TopicName::parse(&format!("extra{number}")).expect("legal");
                let found = self.run().reader.catalog().topic(&name).map(|topic| topic.spec.id);
                match found {
                    Some(id) => {
                        // Dropped and made anew, in one group or in two.
                        self.submit(Owner::Nobody, Request::DropTopic(id));
                        if self.chance.one_in(2) {
                            let request = self.named_topic(number);
                            self.submit(Owner::Nobody, request);
                        }
                        return;
                    }
                    None => self.named_topic(number),
                }
            }
            11 => {
                let name = GroupName::parse(&format!("extra{number}")).expect("legal");
                let found = self.run().reader.catalog().group(&name).map(|group| group.id);
                match found {
                    Some(id) => {
                        self.submit(Owner::Nobody, Request::DropGroup(id));
                        Request::CreateGroup(self.group(name.as_str(), GroupOrder::Auto, 5))
                    }
                    None => Request::CreateGroup(self.group(name.as_str(), GroupOrder::Never, 4)),
                }
            }
            12 => {
                // Timers and transactions that die with their topic.
                let name = TopicName::parse(&format!("extra{number}")).expect("legal");
                let found = self.run().reader.catalog().topic(&name).map(|topic| topic.spec.id);
                let Some(id) = found else { return };
                let head = Head { topic: id, tag_hash: 0, group_hash: 0, priority: 0 };
                let part = BodyPart::encode(&self.plain_envelope(), &body_of(0));
                let kind = if self.chance.one_in(2) {
                    BodyKind::Delayed { due: wall.plus_ms(50_000) }
                } else {
                    BodyKind::Visible
                };
                Request::one(Change::Body(NewBody { head, kind, part }))
            }
            _ => Request::one(Change::Fact(Fact::Retire {
                origin: base::LogPosition(u64::MAX >> 20),
                pending: Pending::Timer { due: wall },
            })),
        };
        self.submit(Owner::Nobody, request);
    }

    /// A topic or a group as another broker has it, newer or older than what is known here.
    fn adopted(&mut self, number: u64) -> Request {
        let (spread, is_dropped) = (self.chance.below(10_000), self.chance.one_in(3));
        let changed_at = Timestamp(self.clock.now().0.saturating_sub(5_000) + spread);
        if self.chance.one_in(2) {
            let name = TopicName::parse(&format!("extra{number}")).expect("legal");
            let topic = TopicSpec::new(name, TopicKind::Mixed, 2, changed_at);
            return Request::AdoptTopic(TopicSpec { is_dropped, retention_bytes: Some(1 << 20), ..topic });
        }
        let group = self.group(&format!("extra{number}"), GroupOrder::Auto, 6);
        Request::AdoptGroup(GroupSpec { changed_at, is_dropped, ..group })
    }

    pub(super) fn named_topic(&self, number: u64) -> Request {
        let name = TopicName::parse(&format!("extra{number}")).expect("legal");
        let (kind, created_at) = (TopicKind::Mixed, self.clock.now());
        Request::CreateTopic(TopicSpec::new(name, kind, 2, created_at))
    }

    pub(super) fn plain_envelope(&self) -> Envelope {
        Envelope::new(MessageKind::Normal, "0".into(), self.clock.now(), String::new())
    }
}
