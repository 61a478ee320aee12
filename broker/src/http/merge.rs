//! One answer made of those of several brokers.

use std::collections::BTreeMap;

use super::json::{ClientJson, GroupJson, GroupTopicJson, TopicJson};

/// A topic that several brokers have: each has queues of its own.
pub(super) fn topics(mut whole: TopicJson, others: impl IntoIterator<Item = TopicJson>) -> TopicJson {
    for other in others {
        whole.queues.extend(other.queues);
        whole.timers_pending += other.timers_pending;
        whole.transactions_prepared += other.transactions_prepared;
    }
    whole.queues.sort_by(|a, b| (&a.broker, a.queue).cmp(&(&b.broker, b.queue)));
    whole
}

/// A group that reads from several brokers.
pub(super) fn groups(mut whole: GroupJson, others: impl IntoIterator<Item = GroupJson>) -> GroupJson {
    let mut topics: BTreeMap<String, GroupTopicJson> = BTreeMap::new();
    let mut add = |more: Vec<GroupTopicJson>| {
        for topic in more {
            match topics.get_mut(&topic.topic) {
                Some(known) => add_topic(known, topic),
                None => drop(topics.insert(topic.topic.clone(), topic)),
            }
        }
    };
    add(std::mem::take(&mut whole.topics));
    for other in others {
        add(other.topics);
        whole.members.extend(other.members);
        whole.dead_letters += other.dead_letters;
    }
    whole.topics = topics.into_values().collect();
    whole.members.sort_by(|a, b| (&a.client_id, &a.broker).cmp(&(&b.client_id, &b.broker)));
    whole
}

fn add_topic(whole: &mut GroupTopicJson, other: GroupTopicJson) {
    whole.lag_messages += other.lag_messages;
    whole.oldest_unacked_ms = whole.oldest_unacked_ms.max(other.oldest_unacked_ms);
    whole.in_flight += other.in_flight;
    whole.held += other.held;
    whole.retry_wait += other.retry_wait;
    whole.open_message_groups += other.open_message_groups;
    whole.blocked_message_groups += other.blocked_message_groups;
    whole.expired_unread += other.expired_unread;
    let ends = [whole.oldest_expires_in_ms, other.oldest_expires_in_ms];
    whole.oldest_expires_in_ms = ends.into_iter().flatten().min();
    whole.queues.extend(other.queues);
    whole.queues.sort_by(|a, b| (&a.broker, a.queue).cmp(&(&b.broker, b.queue)));
}

/// Clients by their ids; one of several brokers is there once, as the one that heard of it last knows it.
pub(super) fn clients(all: impl IntoIterator<Item = ClientJson>) -> Vec<ClientJson> {
    let mut by_id: BTreeMap<String, ClientJson> = BTreeMap::new();
    for client in all {
        match by_id.get_mut(&client.client_id) {
            Some(known) => add_client(known, client),
            None => drop(by_id.insert(client.client_id.clone(), client)),
        }
    }
    by_id.into_values().collect()
}

fn add_client(whole: &mut ClientJson, mut other: ClientJson) {
    let streams = whole.streams + other.streams;
    let mut brokers = std::mem::take(&mut whole.brokers);
    brokers.append(&mut other.brokers);
    brokers.sort_unstable();
    let mut topics = std::mem::take(&mut whole.topics);
    topics.append(&mut other.topics);
    topics.sort_unstable();
    topics.dedup();
    if other.last_seen_ms_ago < whole.last_seen_ms_ago {
        other.role = other.role.or(whole.role.take());
        other.group = other.group.or(whole.group.take());
        *whole = other;
    } else {
        whole.role = whole.role.take().or(other.role);
        whole.group = whole.group.take().or(other.group);
    }
    (whole.streams, whole.brokers, whole.topics) = (streams, brokers, topics);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn client(id: &str, broker: &str, seen: u64, group: Option<&str>) -> ClientJson {
        let json = json!({
            "client_id": id, "role": "push", "group": group, "topics": [broker], "language": "Java", "version": "5",
            "address": null, "last_seen_ms_ago": seen, "streams": 1, "brokers": [broker],
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_client_of_several_brokers_is_listed_once() {
        let all = clients([client("b", "1", 5, Some("g")), client("a", "1", 9, None), client("b", "2", 3, None)]);
        let ids: Vec<_> = all.iter().map(|client| &*client.client_id).collect();
        assert_eq!(ids, ["a", "b"]);
        let both = &all[1];
        assert_eq!(
            (&both.brokers, &both.topics),
            (&vec!["1".to_owned(), "2".into()], &vec!["1".to_owned(), "2".into()])
        );
        assert_eq!((both.last_seen_ms_ago, both.streams, both.group.as_deref()), (3, 2, Some("g")));
    }

    fn group(broker: &str, lag: u64, oldest: u64, expires: Value) -> GroupJson {
        let queue = json!({"broker": broker, "queue": 0, "floor": 0, "next": lag, "lag": lag});
        let topic = json!({
            "topic": "t", "filter": "*", "lag_messages": lag, "oldest_unacked_ms": oldest, "in_flight": 1, "held": 0,
            "retry_wait": 1, "open_message_groups": 1, "blocked_message_groups": 1, "expired_unread": 0,
            "oldest_expires_in_ms": expires, "queues": [queue],
        });
        let json = json!({
            "name": "g", "order": "auto", "attempts_max": 1, "backoff": {"kind": "steps", "steps": ["1s"]},
            "invisible": "1m", "created_at": "", "members": [], "topics": [topic], "dead_letters": 2,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_group_is_as_far_behind_as_on_all_brokers_together() {
        let whole = groups(group("2", 3, 10, json!(7)), [group("1", 4, 20, Value::Null)]);
        let topic = &whole.topics[0];
        assert_eq!((whole.topics.len(), whole.dead_letters), (1, 4));
        assert_eq!((topic.lag_messages, topic.oldest_unacked_ms, topic.oldest_expires_in_ms), (7, 20, Some(7)));
        assert_eq!((topic.in_flight, topic.retry_wait, topic.blocked_message_groups), (2, 2, 2));
        let queues: Vec<_> = topic.queues.iter().map(|queue| (&*queue.broker, queue.lag)).collect();
        assert_eq!(queues, [("1", 4), ("2", 3)]);
    }
}
