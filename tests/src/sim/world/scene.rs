//! What there is: topics, groups, who consumes what, and with which names.

use std::time::Duration;

use base::{Backoff, Clock, GroupId, GroupName, GroupOrder, TopicName};
use broker::api::Language;
use storage::record::{Fact, FilterSpec};
use storage::request::{Change, Request};
use storage::view::catalog::{GroupSpec, TopicKind, TopicSpec};

use super::super::oracle::{Pair, must};
use super::{Owner, World};

pub const CLIENTS: [(&str, Language); 4] =
    [("java", Language::Java), ("go", Language::Go), ("cpp", Language::Cpp), ("rust", Language::Rust)];
pub const TOPICS: [(&str, TopicKind, u16); 6] = [
    ("normal", TopicKind::Normal, 2),
    ("fifo", TopicKind::Fifo, 3),
    ("delay", TopicKind::Mixed, 1),
    ("cold", TopicKind::Mixed, 2),
    ("%RETRY%standard", TopicKind::Retry, 1),
    ("%RETRY%always", TopicKind::Retry, 1),
];
/// Group, order, attempts, topic.
pub const PAIRS: [(&str, GroupOrder, u32, usize); 7] = [
    ("standard", GroupOrder::Auto, 3, 0),
    ("ordered", GroupOrder::Auto, 3, 1),
    ("later", GroupOrder::Never, 2, 2),
    ("strict", GroupOrder::Auto, 2, 1),
    ("always", GroupOrder::Always, 4, 0),
    ("standard", GroupOrder::Auto, 3, 4),
    ("always", GroupOrder::Always, 4, 5),
];
/// Pairs that get the dead letters of another one again.
pub const RETRIES: [(usize, usize); 2] = [(0, 5), (4, 6)];
pub const LANES: [&str; 4] = ["", "a", "b", "c"];
pub const TAGS: [&str; 3] = ["red", "green", "blue"];

impl World {
    /// Opens the store; the first time also makes topics and groups.
    pub fn begin(&mut self) {
        self.recover();
        for (name, kind, queues) in TOPICS {
            // One that stays where the others go, so that segments are worth thinning.
            let retention = (kind == TopicKind::Fifo).then_some(Duration::from_secs(900));
            let name = TopicName::parse(name).expect("legal");
            let spec = TopicSpec { retention, ..TopicSpec::new(name, kind, queues, self.clock.now()) };
            self.submit(Owner::Nobody, Request::CreateTopic(spec));
        }
        for (name, order, attempts_max, _) in PAIRS {
            let request = Request::CreateGroup(self.group(name, order, attempts_max));
            self.submit(Owner::Nobody, request);
        }
        self.commit(usize::MAX);
        self.topics = TOPICS
            .iter()
            .map(|(name, ..)| {
                let name = TopicName::parse(name).expect("legal");
                self.running.as_ref().expect("just begun").reader.catalog().topic(&name).expect("just made").spec.id
            })
            .collect();
        for (index, (name, order, attempts_max, topic)) in PAIRS.into_iter().enumerate() {
            let name = GroupName::parse(name).expect("legal");
            let group = self.run().reader.catalog().group(&name).expect("just made").id;
            let topic_id = self.topics[topic];
            let is_ordered = broker::subscription::task::is_ordered(order, TOPICS[topic].1);
            self.oracle.pairs.push(Pair::new(group, topic_id, is_ordered, attempts_max));
            let filter = FilterSpec { is_sql: false, expression: "*".into() };
            let change = Change::Fact(Fact::Subscribe { group, topic: topic_id, start: Vec::new(), filter });
            self.submit(Owner::Nobody, Request::one(change));
            must!(self.oracle.pairs.len() == index + 1, "pairs are numbered");
        }
        self.commit(usize::MAX);
        self.start_cores();
        self.pump();
    }

    pub(super) fn group(&self, name: &str, order: GroupOrder, attempts_max: u32) -> GroupSpec {
        let created_at = self.clock.now();
        GroupSpec {
            id: GroupId(0),
            name: GroupName::parse(name).expect("legal"),
            order,
            attempts_max,
            backoff: Backoff::Steps(vec![Duration::from_secs(1), Duration::from_secs(5)]),
            invisible: Duration::from_secs(30),
            created_at,
            changed_at: created_at,
            is_dropped: false,
        }
    }
}
