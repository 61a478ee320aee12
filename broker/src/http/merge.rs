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

    /// What a broker says of a group: each count is another multiple of `unit`.
    fn group(broker: &str, topic: &str, unit: u64, expires: &Value) -> GroupJson {
        let queue = json!({"broker": broker, "queue": 0, "floor": 0, "next": unit, "lag": unit});
        let topic = json!({
            "topic": topic, "filter": "*", "lag_messages": unit, "oldest_unacked_ms": unit, "in_flight": 2 * unit,
            "held": 3 * unit, "retry_wait": 4 * unit, "open_message_groups": 5 * unit,
            "blocked_message_groups": 6 * unit, "expired_unread": 7 * unit,
            "oldest_expires_in_ms": expires, "queues": [queue],
        });
        let member = json!({
            "client_id": format!("of {broker}"), "language": "Java", "version": "5", "address": null,
            "last_seen_ms_ago": 1, "broker": broker,
        });
        let json = json!({
            "name": "g", "order": "auto", "attempts_max": 1, "backoff": {"kind": "steps", "steps": ["1s"]},
            "invisible": "1m", "created_at": "", "members": [member], "topics": [topic], "dead_letters": 8 * unit,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_group_is_as_far_behind_as_on_all_brokers_together() {
        for (of_one, of_other, soonest) in
            [(json!(7), json!(9), Some(7)), (json!(9), json!(7), Some(7)), (Value::Null, json!(7), Some(7))]
        {
            let others = [group("1", "t", 10, &of_other), group("3", "u", 100, &Value::Null)];
            let whole = groups(group("2", "t", 1, &of_one), others);
            let [topic, elsewhere] = &whole.topics[..] else { panic!("both topics: {:?}", whole.topics) };
            let counts = [topic.lag_messages, topic.in_flight, topic.held, topic.retry_wait, topic.open_message_groups];
            assert_eq!(counts, [11, 22, 33, 44, 55]);
            assert_eq!((topic.blocked_message_groups, topic.expired_unread, whole.dead_letters), (66, 77, 888));
            assert_eq!((topic.oldest_unacked_ms, topic.oldest_expires_in_ms), (10, soonest), "of the oldest of all");
            let queues: Vec<_> = topic.queues.iter().map(|queue| (&*queue.broker, queue.lag)).collect();
            assert_eq!(queues, [("1", 10), ("2", 1)]);
            assert_eq!((&*elsewhere.topic, elsewhere.lag_messages), ("u", 100), "one that only another broker reads");
            let members: Vec<_> = whole.members.iter().map(|member| &*member.client_id).collect();
            assert_eq!(members, ["of 1", "of 2", "of 3"]);
        }
    }

    #[test]
    fn a_topic_has_the_queues_and_what_waits_of_all_brokers() {
        let topic = |broker: &str, unit: u64| -> TopicJson {
            let queue = json!({"broker": broker, "queue": 0, "first": 0, "next": unit, "newest_at": null});
            let json = json!({
                "name": "t", "type": "normal", "created_at": "", "queues": [queue], "timers_pending": unit,
                "transactions_prepared": 2 * unit, "retention": {"time": "1d", "time_is_default": true, "size": null},
            });
            serde_json::from_value(json).unwrap()
        };
        let whole = topics(topic("2", 1), [topic("3", 10), topic("1", 100)]);
        assert_eq!((whole.timers_pending, whole.transactions_prepared), (111, 222));
        assert_eq!(whole.queues.iter().map(|queue| &*queue.broker).collect::<Vec<_>>(), ["1", "2", "3"]);
    }
}
