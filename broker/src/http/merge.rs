//! One answer made of those of several brokers.

use std::collections::BTreeMap;

use super::admin::name_cursor;
use super::json::{ClientJson, GroupJson, GroupTopicJson, Page, TopicJson};

/// What several brokers may have a part of.
pub(super) trait Merge: Sized {
    fn name(&self) -> &str;

    /// Counts add up. What is set is so as on the broker that came first.
    fn add(&mut self, other: Self);
}

/// What is here, with what others add; why it is not, when nobody has it.
pub(super) fn whole<T: Merge, E>(here: Result<T, E>, others: impl IntoIterator<Item = T>) -> Result<T, E> {
    let mut others = others.into_iter();
    let mut whole = here.or_else(|refusal| others.next().ok_or(refusal))?;
    others.for_each(|other| whole.add(other));
    Ok(whole)
}

/// By name, each once.
pub(super) fn by_name<T: Merge>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut known: BTreeMap<String, T> = BTreeMap::new();
    for item in all {
        match known.get_mut(item.name()) {
            Some(whole) => whole.add(item),
            None => drop(known.insert(item.name().to_owned(), item)),
        }
    }
    known.into_values().collect()
}

/// The first items of all, made of the first ones of each broker: what is among the first `limit` of all is so on each
/// that has it, and nothing of it is missing.
pub(super) fn pages<T: Merge>(pages: impl IntoIterator<Item = Page<T>>, limit: Option<usize>) -> Page<T> {
    let (mut items, mut is_more) = (Vec::new(), false);
    for page in pages {
        items.extend(page.items);
        is_more |= page.next_cursor.is_some();
    }
    let mut items = by_name(items);
    let limit = limit.unwrap_or(items.len());
    is_more |= items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| is_more).map(|last| name_cursor(last.name()));
    Page::new(items, next_cursor)
}

/// Each broker has queues of its own.
impl Merge for TopicJson {
    fn name(&self) -> &str {
        &self.name
    }

    fn add(&mut self, other: Self) {
        self.queues.extend(other.queues);
        self.queues.sort_by(|a, b| (&a.broker, a.queue).cmp(&(&b.broker, b.queue)));
        self.timers_pending += other.timers_pending;
        self.transactions_prepared += other.transactions_prepared;
    }
}

/// It reads from all of them.
impl Merge for GroupJson {
    fn name(&self) -> &str {
        &self.name
    }

    fn add(&mut self, other: Self) {
        self.topics = by_name(std::mem::take(&mut self.topics).into_iter().chain(other.topics));
        self.members.extend(other.members);
        self.members.sort_by(|a, b| (&a.client_id, &a.broker).cmp(&(&b.client_id, &b.broker)));
        self.dead_letters += other.dead_letters;
    }
}

impl Merge for GroupTopicJson {
    fn name(&self) -> &str {
        &self.topic
    }

    fn add(&mut self, other: Self) {
        self.lag_messages += other.lag_messages;
        self.oldest_unacked_ms = self.oldest_unacked_ms.max(other.oldest_unacked_ms);
        self.in_flight += other.in_flight;
        self.held += other.held;
        self.retry_wait += other.retry_wait;
        self.open_message_groups += other.open_message_groups;
        self.blocked_message_groups += other.blocked_message_groups;
        self.expired_unread += other.expired_unread;
        let ends = [self.oldest_expires_in_ms, other.oldest_expires_in_ms];
        self.oldest_expires_in_ms = ends.into_iter().flatten().min();
        self.queues.extend(other.queues);
        self.queues.sort_by(|a, b| (&a.broker, a.queue).cmp(&(&b.broker, b.queue)));
    }
}

/// As the broker that heard of it last knows it.
impl Merge for ClientJson {
    fn name(&self) -> &str {
        &self.client_id
    }

    fn add(&mut self, mut other: Self) {
        let streams = self.streams + other.streams;
        let mut brokers = std::mem::take(&mut self.brokers);
        brokers.append(&mut other.brokers);
        brokers.sort_unstable();
        let mut topics = std::mem::take(&mut self.topics);
        topics.append(&mut other.topics);
        topics.sort_unstable();
        topics.dedup();
        if other.last_seen_ms_ago < self.last_seen_ms_ago {
            other.role = other.role.or(self.role.take());
            other.group = other.group.or(self.group.take());
            *self = other;
        } else {
            self.role = self.role.take().or(other.role);
            self.group = self.group.take().or(other.group);
        }
        (self.streams, self.brokers, self.topics) = (streams, brokers, topics);
    }
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
        let all = by_name([client("b", "1", 5, Some("g")), client("a", "1", 9, None), client("b", "2", 3, None)]);
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
            let all = by_name([group("2", "t", 1, &of_one)].into_iter().chain(others));
            let [whole] = &all[..] else { panic!("one group: {all:?}") };
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
        let all = by_name([topic("2", 1), topic("3", 10), topic("1", 100)]);
        let [whole] = &all[..] else { panic!("one topic: {all:?}") };
        assert_eq!((whole.timers_pending, whole.transactions_prepared), (111, 222));
        assert_eq!(whole.queues.iter().map(|queue| &*queue.broker).collect::<Vec<_>>(), ["1", "2", "3"]);
    }

    #[test]
    fn pages_of_a_list_leave_no_broker_out_and_say_when_there_is_more() {
        let of = [&["a", "c", "e", "g"][..], &["b", "c", "d", "g"], &["c", "f"]];
        let page_of = |names: &[&str], broker: usize, after: &str, limit: Option<usize>| -> Page<TopicJson> {
            let queue = json!({"broker": broker.to_string(), "queue": 0, "first": 0, "next": 1, "newest_at": null});
            let topic = |name: &&str| -> TopicJson {
                let json = json!({
                    "name": name, "type": "normal", "created_at": "", "queues": [queue], "timers_pending": 1,
                    "transactions_prepared": 0,
                    "retention": {"time": "1d", "time_is_default": true, "size": null},
                });
                serde_json::from_value(json).unwrap()
            };
            let rest: Vec<_> = names.iter().filter(|name| **name > after).map(topic).collect();
            let shown = limit.unwrap_or(rest.len()).min(rest.len());
            let next_cursor = (shown < rest.len()).then(|| name_cursor(rest[shown - 1].name()));
            Page::new(rest.into_iter().take(shown).collect(), next_cursor)
        };
        for limit in [Some(1), Some(2), Some(3), Some(7), None] {
            let (mut after, mut shown) = (String::new(), Vec::new());
            loop {
                let all = of.iter().enumerate().map(|(broker, names)| page_of(names, broker, &after, limit));
                let page = pages(all, limit);
                assert!(limit.is_none_or(|limit| page.items.len() <= limit));
                shown.extend(page.items.iter().map(|topic| (topic.name.clone(), topic.timers_pending)));
                let Some(cursor) = page.next_cursor else { break };
                after = page.items.last().expect("there is more").name.clone();
                assert_eq!(cursor, name_cursor(&after));
            }
            let shown: Vec<_> = shown.iter().map(|(name, brokers)| (name.as_str(), *brokers)).collect();
            assert_eq!(shown, [("a", 1), ("b", 1), ("c", 3), ("d", 1), ("e", 1), ("f", 1), ("g", 2)], "{limit:?}");
        }
    }

    #[test]
    fn what_nobody_has_is_refused_and_what_anybody_has_is_shown() {
        let of = |broker: &str| client("x", broker, 1, None);
        assert_eq!(whole(Err::<ClientJson, _>("nowhere"), []), Err("nowhere"));
        let whole = |here, others: Vec<ClientJson>| whole::<_, &str>(here, others).unwrap().brokers;
        assert_eq!(whole(Err("elsewhere"), vec![of("2"), of("1")]), ["1", "2"]);
        assert_eq!(whole(Ok(of("3")), vec![of("1")]), ["1", "3"]);
    }
}
