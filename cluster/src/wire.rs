//! The table's nouns on the wire. What comes from others is checked here, field by field.

use std::sync::Arc;

use base::{MessageType, Timestamp, TopicName};
use proto::cluster as wire;
use proto::v2;

use crate::endpoints;
use crate::table::{Broker, Node, Served, State, Update};

/// Names of brokers and clusters.
const NAME_BYTES_MAX: usize = 127;

/// What is wrong with an update.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("{field} = {value:?}: {problem}")]
    Field { field: &'static str, value: String, problem: &'static str },
    #[error("topics: {0}")]
    Topic(#[from] base::NameError),
}

/// The kinds of messages that exist, with their numbers in the protocol.
pub(crate) const TYPES: [(MessageType, v2::MessageType); 6] = [
    (MessageType::Normal, v2::MessageType::Normal),
    (MessageType::Fifo, v2::MessageType::Fifo),
    (MessageType::Delay, v2::MessageType::Delay),
    (MessageType::Transaction, v2::MessageType::Transaction),
    (MessageType::Lite, v2::MessageType::Lite),
    (MessageType::Priority, v2::MessageType::Priority),
];

pub(crate) fn type_number(message_type: MessageType) -> i32 {
    let found = TYPES.iter().find(|(known, _)| *known == message_type);
    found.map_or(0, |(_, number)| (*number).into())
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
            topics: broker.topics.iter().map(|(name, served)| topic(name, served)).collect(),
            dropped_topics: Vec::new(),
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

fn topic(name: &TopicName, served: &Served) -> wire::Topic {
    wire::Topic {
        name: name.as_str().into(),
        queues: served.queues.into(),
        accepts: served.accepts.iter().map(|&kind| type_number(kind)).collect(),
        is_writable: served.is_writable,
        is_placed: served.is_placed,
        created_at: served.created_at.0,
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
            dropped: update.dropped_topics.iter().map(|name| TopicName::parse(name)).collect::<Result<_, _>>()?,
        })
    }
}

fn read_name(field: &'static str, text: &str) -> Result<Arc<str>, WireError> {
    if text.trim().is_empty() || text.len() > NAME_BYTES_MAX || text.contains(char::is_control) {
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

fn read_topic(topic: wire::Topic) -> Result<(TopicName, Served), WireError> {
    let name = TopicName::parse(&topic.name)?;
    let queues =
        u16::try_from(topic.queues).ok().filter(|queues| (1..=base::limits::TOPIC_QUEUES_MAX).contains(queues));
    let queues = queues.ok_or_else(|| WireError::Field {
        field: "topics.queues",
        value: topic.queues.to_string(),
        problem: "must be 1 to 1,024",
    })?;
    let kind = |number: &i32| TYPES.iter().find(|(_, known)| i32::from(*known) == *number).map(|(kind, _)| *kind);
    // A kind that only newer brokers know is passed over.
    let accepts: Vec<_> = topic.accepts.iter().filter_map(kind).collect();
    if accepts.is_empty() {
        let (field, problem) = ("topics.accepts", "must name a type of messages");
        return Err(WireError::Field { field, value: format!("{:?}", topic.accepts), problem });
    }
    let wire::Topic { is_writable, is_placed, created_at, .. } = topic;
    Ok((name, Served { queues, accepts, is_writable, is_placed, created_at: Timestamp(created_at) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update() -> Update {
        let served = Served {
            queues: 3,
            accepts: TYPES.map(|(kind, _)| kind).to_vec(),
            is_writable: true,
            is_placed: true,
            created_at: Timestamp(5),
        };
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
            topics: vec![(TopicName::parse("t").unwrap(), served)],
            dropped: vec![TopicName::parse("%DLQ%g").unwrap()],
        }
    }

    #[test]
    fn updates_come_through() {
        assert_eq!(Update::try_from(wire::BrokerUpdate::from(&update())), Ok(update()));
    }

    type Edit = fn(&mut wire::BrokerUpdate);

    #[test]
    fn what_is_wrong_is_refused_by_its_field() {
        let edits: [(&str, Edit); 11] = [
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
            ("topics: ", |u| u.dropped_topics = vec!["a b".into()]),
        ];
        for (start, edit) in edits {
            let mut wrong = wire::BrokerUpdate::from(&update());
            edit(&mut wrong);
            let error = Update::try_from(wrong).expect_err(start).to_string();
            assert!(error.starts_with(start), "{error}");
        }
    }
}
