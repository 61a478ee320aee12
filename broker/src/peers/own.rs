//! The catalog of this broker's store in the words that brokers have for each other.

use base::limits::TOPIC_QUEUES_MAX;
use base::{Backoff, GroupId, GroupOrder};
use cluster::{Buried, Catalog, Group, Kind, Served, Step};
use storage::request::Request;
use storage::view::catalog::{self as stored, GroupSpec, TopicKind, TopicSpec};

use crate::operate::accepts;

/// All of it. What stays on this broker is not remembered as dropped by others.
pub fn catalog(catalog: &stored::Catalog) -> Catalog {
    let topics = catalog.buried_topics().map(|(name, kind, at)| (Buried::Topic(name.clone(), kind_of(kind)), at));
    let groups = catalog.buried_groups().map(|(name, at)| (Buried::Group(name.clone()), at));
    let topics = topics.filter(|(what, _)| matches!(what, Buried::Topic(_, kind) if kind.spreads()));
    Catalog {
        topics: catalog.topics().map(|topic| (topic.spec.name.clone(), topic_of(&topic.spec))).collect(),
        groups: catalog.groups().map(|group| (group.name.clone(), group_of(group))).collect(),
        buried: topics.chain(groups).collect(),
    }
}

pub fn topic_of(spec: &TopicSpec) -> Served {
    Served {
        kind: kind_of(spec.kind),
        queues: spec.queues,
        accepts: accepts(spec.kind),
        is_writable: !spec.kind.is_derived(),
        is_placed: matches!(spec.kind, TopicKind::Fifo | TopicKind::Mixed | TopicKind::Lite),
        is_ceded: false,
        retention: spec.retention,
        retention_bytes: spec.retention_bytes,
        created_at: spec.created_at,
        changed_at: spec.changed_at,
    }
}

pub fn group_of(spec: &GroupSpec) -> Group {
    Group {
        changed_at: spec.changed_at,
        created_at: spec.created_at,
        order: spec.order,
        attempts_max: spec.attempts_max,
        backoff: spec.backoff.clone(),
        invisible: spec.invisible,
    }
}

/// What the log writer is asked for; none where nothing is to do with it.
pub fn request(step: &Step) -> Option<Request> {
    Some(match step {
        Step::Topic(name, topic) => {
            let kind = stored_kind(topic.kind)?;
            let spec = TopicSpec::new(name.clone(), kind, topic.queues.clamp(1, TOPIC_QUEUES_MAX), topic.created_at);
            Request::AdoptTopic(TopicSpec {
                changed_at: topic.changed_at,
                retention: topic.retention,
                retention_bytes: topic.retention_bytes,
                ..spec
            })
        }
        Step::Group(name, group) => Request::AdoptGroup(group_spec(name.clone(), group)),
        Step::Bury(Buried::Topic(name, kind), at) => {
            let spec = TopicSpec::new(name.clone(), stored_kind(*kind)?, 1, *at);
            Request::AdoptTopic(TopicSpec { is_dropped: true, ..spec })
        }
        Step::Bury(Buried::Group(name), at) => {
            let (order, backoff) = (GroupOrder::Auto, Backoff::Steps(Vec::new()));
            let invisible = std::time::Duration::ZERO;
            let group = Group { changed_at: *at, created_at: *at, order, attempts_max: 1, backoff, invisible };
            Request::AdoptGroup(GroupSpec { is_dropped: true, ..group_spec(name.clone(), &group) })
        }
    })
}

fn group_spec(name: base::GroupName, group: &Group) -> GroupSpec {
    GroupSpec {
        id: GroupId(0),
        name,
        order: group.order,
        attempts_max: group.attempts_max,
        backoff: group.backoff.clone(),
        invisible: group.invisible,
        created_at: group.created_at,
        changed_at: group.changed_at,
        is_dropped: false,
    }
}

pub fn kind_of(kind: TopicKind) -> Kind {
    match kind {
        TopicKind::Normal => Kind::Normal,
        TopicKind::Fifo => Kind::Fifo,
        TopicKind::Delay => Kind::Delay,
        TopicKind::Transaction => Kind::Transaction,
        TopicKind::Mixed => Kind::Mixed,
        TopicKind::DeadLetter => Kind::DeadLetter,
        TopicKind::Retry => Kind::Retry,
        TopicKind::Lite => Kind::Lite,
        TopicKind::Priority => Kind::Priority,
    }
}

pub fn stored_kind(kind: Kind) -> Option<TopicKind> {
    Some(match kind {
        Kind::Normal => TopicKind::Normal,
        Kind::Fifo => TopicKind::Fifo,
        Kind::Delay => TopicKind::Delay,
        Kind::Transaction => TopicKind::Transaction,
        Kind::Mixed => TopicKind::Mixed,
        Kind::DeadLetter => TopicKind::DeadLetter,
        Kind::Retry => TopicKind::Retry,
        Kind::Lite => TopicKind::Lite,
        Kind::Priority => TopicKind::Priority,
        Kind::Other(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base::{GroupName, Timestamp, TopicName};

    use super::*;

    #[test]
    fn what_is_told_of_a_topic_or_a_group_makes_the_same_elsewhere() {
        let name = TopicName::parse("t").unwrap();
        let kinds = [TopicKind::Normal, TopicKind::Delay, TopicKind::Transaction, TopicKind::Priority];
        let placed = [TopicKind::Fifo, TopicKind::Mixed, TopicKind::Lite];
        for kind in kinds.into_iter().chain(placed).chain([TopicKind::DeadLetter, TopicKind::Retry]) {
            let spec = TopicSpec {
                changed_at: Timestamp(9),
                retention: Some(Duration::from_secs(60)),
                retention_bytes: Some(1 << 20),
                ..TopicSpec::new(name.clone(), kind, 7, Timestamp(5))
            };
            let told = topic_of(&spec);
            assert_eq!(told.is_placed, placed.contains(&kind));
            assert!(!(told.is_placed && told.kind.spreads()), "{kind:?}");
            match request(&Step::Topic(name.clone(), told)) {
                Some(Request::AdoptTopic(made)) => assert_eq!(made, spec),
                other => panic!("{other:?}"),
            }
            match request(&Step::Bury(Buried::Topic(name.clone(), kind_of(kind)), Timestamp(9))) {
                Some(Request::AdoptTopic(gone)) => {
                    assert_eq!((gone.is_dropped, gone.kind, gone.changed_at), (true, kind, Timestamp(9)));
                }
                other => panic!("{other:?}"),
            }
        }
        let unknown = Step::Bury(Buried::Topic(name, Kind::Other(50)), Timestamp(9));
        assert!(request(&unknown).is_none(), "a kind of newer brokers");

        let name = GroupName::parse("g").unwrap();
        let grows = Backoff::Exponential { first: Duration::from_secs(5), factor: 2, max: Duration::from_secs(7200) };
        let steps = Backoff::Steps(vec![Duration::from_secs(1)]);
        for (order, backoff) in
            [(GroupOrder::Auto, grows), (GroupOrder::Always, steps.clone()), (GroupOrder::Never, steps)]
        {
            let spec = GroupSpec {
                id: GroupId(0),
                name: name.clone(),
                order,
                attempts_max: 6,
                backoff,
                invisible: Duration::from_secs(60),
                created_at: Timestamp(5),
                changed_at: Timestamp(9),
                is_dropped: false,
            };
            match request(&Step::Group(name.clone(), group_of(&spec))) {
                Some(Request::AdoptGroup(made)) => assert_eq!(made, spec),
                other => panic!("{other:?}"),
            }
        }
    }
}
