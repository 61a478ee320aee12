//! The table's nouns on the wire. What comes from others is checked here, field by field.

mod catalog;

use std::sync::Arc;

use base::{GroupName, TopicName};
use proto::cluster as wire;

use crate::endpoints;
use crate::table::{Broker, Node, State, Update};
use catalog::{buried, group, read_buried, read_group, read_topic, topic};

/// What one broker serves, in one message: about a million topics.
pub const UPDATE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// What is wrong with an update.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("{field} = {value:?}: {problem}")]
    Field { field: &'static str, value: String, problem: &'static str },
    #[error("topics: {0}")]
    Topic(#[source] base::NameError),
    #[error("groups: {0}")]
    Group(#[source] base::NameError),
}

impl From<&Update> for wire::BrokerUpdate {
    fn from(update: &Update) -> Self {
        Self {
            broker: update.broker.to_string(),
            store: update.store,
            incarnation: update.incarnation,
            sequence: update.sequence,
            since: update.since,
            is_complete: update.is_complete,
            node: update.node.as_ref().map(node),
            topics: update.topics.iter().map(|(name, served)| topic(name, served)).collect(),
            dropped_topics: update.dropped.iter().map(|name| name.as_str().into()).collect(),
            groups: update.groups.iter().map(|(name, said)| group(name, said)).collect(),
            dropped_groups: update.dropped_groups.iter().map(|name| name.as_str().into()).collect(),
            buried: update.buried.iter().map(|(what, at)| buried(what, at.0)).collect(),
            forgotten: update.forgotten.iter().map(|what| buried(what, 0)).collect(),
        }
    }
}

/// All that is known of a broker.
impl From<&Broker> for wire::BrokerUpdate {
    fn from(broker: &Broker) -> Self {
        Self {
            broker: broker.name.to_string(),
            store: broker.store,
            incarnation: broker.incarnation,
            sequence: broker.sequence,
            since: 0,
            is_complete: true,
            node: Some(node(&broker.node)),
            topics: broker.catalog.topics.iter().map(|(name, served)| topic(name, served)).collect(),
            dropped_topics: Vec::new(),
            groups: broker.catalog.groups.iter().map(|(name, said)| group(name, said)).collect(),
            dropped_groups: Vec::new(),
            buried: broker.catalog.buried.iter().map(|(what, at)| buried(what, at.0)).collect(),
            forgotten: Vec::new(),
        }
    }
}

fn node(node: &Node) -> wire::Node {
    let state = match node.state {
        State::Ready => wire::State::Ready,
        State::ReadOnly => wire::State::ReadOnly,
        State::Draining => wire::State::Draining,
    };
    wire::Node {
        cluster: node.cluster.to_string(),
        version: node.version.to_string(),
        broker_group: node.broker_group,
        grpc: node.grpc.to_string(),
        relay: node.relay.to_string(),
        http: node.http.as_deref().unwrap_or_default().into(),
        state: state.into(),
    }
}

impl TryFrom<wire::BrokerUpdate> for Update {
    type Error = WireError;

    fn try_from(update: wire::BrokerUpdate) -> Result<Self, WireError> {
        Ok(Self {
            broker: read_name("broker", &update.broker)?,
            store: update.store,
            incarnation: update.incarnation,
            sequence: update.sequence,
            since: update.since,
            is_complete: update.is_complete,
            node: update.node.map(read_node).transpose()?,
            topics: update.topics.into_iter().map(read_topic).collect::<Result<_, _>>()?,
            dropped: update.dropped_topics.iter().map(|name| read_topic_name(name)).collect::<Result<_, _>>()?,
            groups: update.groups.into_iter().map(read_group).collect::<Result<_, _>>()?,
            dropped_groups: update.dropped_groups.iter().map(|name| read_group_name(name)).collect::<Result<_, _>>()?,
            buried: update.buried.into_iter().map(read_buried).collect::<Result<_, _>>()?,
            forgotten: update
                .forgotten
                .into_iter()
                .map(|what| read_buried(what).map(|(what, _)| what))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn read_topic_name(text: &str) -> Result<TopicName, WireError> {
    TopicName::parse(text).map_err(WireError::Topic)
}

fn read_group_name(text: &str) -> Result<GroupName, WireError> {
    GroupName::parse(text).map_err(WireError::Group)
}

fn read_name(field: &'static str, text: &str) -> Result<Arc<str>, WireError> {
    if !base::name::is_node_name(text) {
        let problem = "must have 1 to 127 bytes, without control characters";
        return Err(WireError::Field { field, value: text.into(), problem });
    }
    Ok(text.into())
}

fn read_node(node: wire::Node) -> Result<Node, WireError> {
    let state = match node.state() {
        wire::State::Ready => State::Ready,
        wire::State::ReadOnly => State::ReadOnly,
        wire::State::Draining => State::Draining,
        wire::State::Unspecified => {
            let (field, problem) = ("node.state", "must be READY, READ_ONLY or DRAINING");
            return Err(WireError::Field { field, value: node.state.to_string(), problem });
        }
    };
    Ok(Node {
        cluster: read_name("node.cluster", &node.cluster)?,
        version: node.version.into(),
        broker_group: node.broker_group,
        grpc: read_client_address(&node.grpc)?,
        relay: read_address("node.relay", &node.relay)?,
        http: if node.http.is_empty() { None } else { Some(read_address("node.http", &node.http)?) },
        state,
    })
}

/// One without a host too.
fn read_client_address(text: &str) -> Result<Arc<str>, WireError> {
    match text.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()) {
        Some(1..) => Ok(text.into()),
        _ => read_address("node.grpc", text),
    }
}

fn read_address(field: &'static str, text: &str) -> Result<Arc<str>, WireError> {
    // Port 0 stands for none: one has to be there.
    let is_complete = endpoints::parse(text, 0).is_some_and(|parsed| parsed.addresses.iter().all(|a| a.port != 0));
    if is_complete {
        return Ok(text.into());
    }
    Err(WireError::Field { field, value: text.into(), problem: "must be host:port" })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base::{Backoff, GroupOrder, Timestamp};

    use super::*;
    use crate::catalog::{Buried, Group, Kind, Served};

    fn update() -> Update {
        use base::MessageType::{Delay, Fifo, Lite, Normal, Priority, Transaction};
        let (topic, group) = (TopicName::parse("t").unwrap(), GroupName::parse("g").unwrap());
        let served = Served {
            kind: Kind::Delay,
            queues: 3,
            accepts: vec![Normal, Fifo, Delay, Transaction, Lite, Priority],
            is_writable: true,
            is_placed: true,
            is_ceded: true,
            retention: Some(Duration::from_secs(60)),
            retention_bytes: Some(1 << 20),
            created_at: Timestamp(5),
            changed_at: Timestamp(6),
        };
        let bare = Served { kind: Kind::Other(77), retention: None, retention_bytes: None, ..served.clone() };
        let grows = Backoff::Exponential { first: Duration::from_secs(5), factor: 2, max: Duration::from_secs(7200) };
        let grows = Group {
            changed_at: Timestamp(7),
            created_at: Timestamp(6),
            order: GroupOrder::Never,
            attempts_max: 16,
            backoff: grows,
            invisible: Duration::from_secs(60),
        };
        let steps = Backoff::Steps(vec![Duration::ZERO, Duration::from_millis(1500)]);
        let steps = Group { backoff: steps, order: GroupOrder::Always, ..grows.clone() };
        let node = Node {
            cluster: "c".into(),
            version: "1".into(),
            broker_group: 9,
            grpc: ":8081".into(),
            relay: "[::1]:8081".into(),
            http: Some("host:8080".into()),
            state: State::ReadOnly,
        };
        Update {
            broker: "b".into(),
            store: 1,
            incarnation: 2,
            sequence: 3,
            since: 2,
            is_complete: true,
            node: Some(node),
            topics: vec![(topic.clone(), served), (topic.clone(), bare)],
            dropped: vec![TopicName::parse("%DLQ%g").unwrap()],
            groups: vec![(group.clone(), grows), (group.clone(), steps)],
            dropped_groups: vec![group.clone()],
            buried: vec![(Buried::Topic(topic.clone(), Kind::Normal), Timestamp(8))],
            forgotten: vec![Buried::Group(group), Buried::Topic(topic, Kind::Other(99))],
        }
    }

    #[test]
    fn updates_come_through() {
        assert_eq!(Update::try_from(wire::BrokerUpdate::from(&update())), Ok(update()));
    }

    type Edit = fn(&mut wire::BrokerUpdate);

    #[test]
    fn what_is_wrong_is_refused_by_its_field() {
        let edits: [(&str, Edit); 25] = [
            ("broker = \"\"", |u| u.broker = String::new()),
            ("broker = ", |u| u.broker = "x".repeat(128)),
            ("node.cluster = ", |u| u.node.as_mut().unwrap().cluster = "a\nb".into()),
            ("node.grpc = \"host\"", |u| u.node.as_mut().unwrap().grpc = "host".into()),
            ("node.grpc = \":0\"", |u| u.node.as_mut().unwrap().grpc = ":0".into()),
            ("node.relay = \":1\"", |u| u.node.as_mut().unwrap().relay = ":1".into()),
            ("node.http = \"a b:1\"", |u| u.node.as_mut().unwrap().http = "a b:1".into()),
            ("node.state = \"9\"", |u| u.node.as_mut().unwrap().state = 9),
            ("topics.queues = \"0\"", |u| u.topics[0].queues = 0),
            ("topics.accepts = \"[77]\"", |u| u.topics[0].accepts = vec![77]),
            ("topics.retention_ms = \"999\"", |u| u.topics[0].retention_ms = 999),
            ("topics.retention_bytes = \"1\"", |u| u.topics[0].retention_bytes = 1),
            ("topics: ", |u| u.dropped_topics = vec!["a b".into()]),
            ("groups: ", |u| u.groups[0].name = "a b".into()),
            ("groups: ", |u| u.dropped_groups = vec![String::new()]),
            ("groups.order = \"9\"", |u| u.groups[0].order = 9),
            ("groups.attempts_max = \"0\"", |u| u.groups[0].attempts_max = 0),
            ("groups.backoff_factor = \"0\"", |u| u.groups[0].backoff_factor = 0),
            ("groups.backoff_max_ms = ", |u| u.groups[0].backoff_max_ms = u64::MAX),
            ("groups.backoff_steps_ms = ", |u| u.groups[1].backoff_steps_ms = vec![1; 65]),
            ("groups.backoff_steps_ms = ", |u| u.groups[1].backoff_steps_ms = vec![u64::MAX]),
            ("groups.invisible_ms = \"0\"", |u| u.groups[0].invisible_ms = 0),
            ("buried.topic = \"t\"", |u| u.buried[0].group = "g".into()),
            ("buried.topic = \"\"", |u| u.forgotten[1].topic = String::new()),
            ("topics: ", |u| u.buried[0].topic = "ü".into()),
        ];
        for (start, edit) in edits {
            let mut wrong = wire::BrokerUpdate::from(&update());
            edit(&mut wrong);
            let error = Update::try_from(wrong).expect_err(start).to_string();
            assert!(error.starts_with(start), "{error}");
        }
    }
}
