use super::*;

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

fn node(state: State) -> Node {
    let (cluster, version, grpc, relay) = ("c".into(), "1".into(), "host:1".into(), "10.0.0.1:1".into());
    Node { cluster, version, broker_group: 7, grpc, relay, http: None, state }
}

fn served(is_placed: bool, created_at: u64) -> Served {
    let accepts = vec![if is_placed { MessageType::Fifo } else { MessageType::Normal }];
    let created_at = Timestamp(created_at);
    Served { accepts, is_placed, created_at, ..crate::catalog::tests::topic(1, 2) }
}

fn complete(broker: &str, topics: &[(&str, bool, u64)]) -> Update {
    Update {
        broker: broker.into(),
        store: 1,
        incarnation: 1,
        sequence: 1,
        since: 0,
        is_complete: true,
        node: Some(node(State::Ready)),
        topics: topics.iter().map(|&(name, is_placed, at)| (topic(name), served(is_placed, at))).collect(),
        ..Update::default()
    }
}

fn next(update: &Update) -> Update {
    let (is_complete, node) = (false, None);
    let since = update.sequence;
    Update { sequence: since + 1, since, is_complete, node, topics: Vec::new(), ..update.clone() }
}

fn names(places: &[Place]) -> Vec<(&str, bool)> {
    places.iter().map(|place| (&*place.broker, place.is_writable)).collect()
}

#[test]
fn a_topic_is_served_where_brokers_say_so_until_they_go_or_drop_it() {
    let mut table = Table::default();
    assert!(table.places(&topic("t")).is_empty());
    for broker in ["b", "a"] {
        assert_eq!(table.apply(complete(broker, &[("t", false, 1)])), Ok(true));
    }
    assert_eq!(names(&table.places(&topic("t"))), [("a", true), ("b", true)]);

    let draining = Update { node: Some(node(State::Draining)), ..next(&complete("a", &[])) };
    assert_eq!(table.apply(draining.clone()), Ok(true));
    assert_eq!(names(&table.places(&topic("t"))), [("a", false), ("b", true)], "it still delivers");
    let dropping =
        Update { dropped: vec![topic("t")], topics: vec![(topic("u"), served(false, 1))], ..next(&draining) };
    assert_eq!(table.apply(dropping), Ok(true));
    assert_eq!(names(&table.places(&topic("t"))), [("b", true)]);
    assert_eq!(names(&table.places(&topic("u"))), [("a", false)], "the state stays what it was");
    assert!(table.remove("b") && !table.remove("b"));
    assert!(table.places(&topic("t")).is_empty());
}

#[test]
fn only_the_next_update_of_the_same_store_is_taken_over() {
    let first = complete("a", &[]);
    let mut table = Table::default();
    let broker: Arc<str> = "a".into();
    let begun_amidst = next(&first);
    assert_eq!(table.apply(begun_amidst), Err(UpdateError::Incomplete { broker: broker.clone() }));
    assert_eq!(table.apply(first.clone()), Ok(true));
    assert_eq!(
        table.apply(Update { is_complete: false, since: 1, node: None, ..first.clone() }),
        Ok(false),
        "it renews"
    );

    let gap = Update { since: 2, sequence: 3, ..next(&first) };
    let missed = UpdateError::Gap { broker: broker.clone(), there: 1, since: 2 };
    assert_eq!(table.apply(gap), Err(missed));
    let other = Update { store: 2, incarnation: 9, ..first.clone() };
    assert_eq!(table.apply(other), Err(UpdateError::NameTaken { broker: broker.clone(), there: 1, asked: 2 }));
    let restarted = Update { incarnation: 2, ..first.clone() };
    assert_eq!(table.apply(Update { is_complete: false, ..restarted.clone() }), {
        Err(UpdateError::Incomplete { broker: broker.clone() })
    });
    assert_eq!(table.apply(restarted), Ok(true));
    assert_eq!(table.apply(first), Err(UpdateError::Older { broker, there: 2, asked: 1 }));
}

#[test]
fn a_topic_in_which_order_is_kept_belongs_to_who_has_had_it_longest() {
    let mut table = Table::default();
    table.apply(complete("a", &[("orders", true, 20), ("t", false, 1)])).unwrap();
    table.apply(complete("b", &[("orders", true, 10)])).unwrap();
    assert_eq!(names(&table.places(&topic("orders"))), [("b", true)]);
    let conflict =
        |keeper: Option<&str>| Conflict { topic: topic("orders"), keeper: keeper.map(Arc::from), refused: "a".into() };
    assert_eq!(table.conflicts(), [conflict(Some("b"))]);
    assert_eq!(table.pick(Some(&topic("orders")), b"k", &[]).unwrap().name, "b".into());
    let with_a = table.clone();
    table.remove("b");
    assert_eq!(names(&table.places(&topic("orders"))), [("a", true)], "it has not heard of the other one");
    assert!(table.conflicts().is_empty());

    let mut table = with_a;
    let ceded = Served { is_ceded: true, ..served(true, 20) };
    table.apply(Update { topics: vec![(topic("orders"), ceded)], ..next(&complete("a", &[])) }).unwrap();
    assert_eq!(names(&table.places(&topic("orders"))), [("b", true)]);
    assert_eq!(table.conflicts(), [conflict(Some("b"))]);
    table.remove("b");
    assert_eq!(names(&table.places(&topic("orders"))), [], "it stays where it was");
    assert_eq!(table.conflicts(), [conflict(None)]);
}

#[test]
fn equal_ages_are_decided_by_name() {
    let mut table = Table::default();
    for broker in ["b", "a", "c"] {
        table.apply(complete(broker, &[("orders", true, 10)])).unwrap();
    }
    assert_eq!(names(&table.places(&topic("orders"))), [("a", true)]);
    assert_eq!(table.conflicts().len(), 2);
}

#[test]
fn calls_of_one_key_go_to_one_broker_that_serves_the_topic() {
    let mut table = Table::default();
    assert!(table.pick(None, b"k", &[]).is_none());
    for broker in ["a", "b", "c"] {
        let topics: &[_] = if broker == "c" { &[] } else { &[("t", false, 1)] };
        table.apply(complete(broker, topics)).unwrap();
    }
    let chosen = |table: &Table, topic: Option<&TopicName>| -> Vec<Arc<str>> {
        (0..64_u8).map(|key| table.pick(topic, &[key], &[]).unwrap().name.clone()).collect()
    };
    let with_topic = chosen(&table, Some(&topic("t")));
    assert!(with_topic.iter().all(|name| &**name != "c") && with_topic.iter().any(|name| **name != *with_topic[0]));
    assert_eq!(with_topic, chosen(&table, Some(&topic("t"))));
    assert!(chosen(&table, None).iter().any(|name| &**name == "c"));
    let unknown = chosen(&table, Some(&topic("unknown")));
    assert_eq!(unknown, chosen(&table, None), "a topic that nobody serves is as good as none");

    let without = |stale: &str, topic: Option<&TopicName>| -> Vec<Arc<str>> {
        (0..64_u8).map(|key| table.pick(topic, &[key], &[stale.into()]).unwrap().name.clone()).collect()
    };
    assert!(without("a", Some(&topic("t"))).iter().all(|name| &**name == "b"), "it probably does not answer");
    assert!(without("a", None).iter().all(|name| &**name != "a"));

    let before = chosen(&table, None);
    table.remove("c");
    let after = chosen(&table, None);
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || &**before == "c"));
    let draining = Update { node: Some(node(State::Draining)), ..next(&complete("a", &[])) };
    table.apply(draining).unwrap();
    assert!(chosen(&table, None).iter().all(|name| &**name == "b"));
    table.remove("a");
    let only = table.pick(Some(&topic("t")), b"k", &["b".into()]).unwrap();
    assert_eq!(&*only.name, "b", "nobody else has the topic");
}

#[test]
fn of_several_tables_the_newest_of_each_broker_counts() {
    let (mut one, mut two) = (Table::default(), Table::default());
    one.apply(complete("a", &[])).unwrap();
    two.apply(Update { sequence: 5, ..complete("a", &[("t", false, 1)]) }).unwrap();
    two.apply(complete("b", &[])).unwrap();
    for order in [[&one, &two], [&two, &one]] {
        let merged = Table::merged(order);
        assert_eq!(merged.brokers().map(|broker| broker.sequence).collect::<Vec<_>>(), [5, 1]);
    }
}
