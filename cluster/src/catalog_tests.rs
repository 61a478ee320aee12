use proptest::prelude::*;

use super::*;

/// A normal topic.
pub(crate) fn topic(changed_at: u64, queues: u16) -> Served {
    Served {
        kind: Kind::Normal,
        queues,
        accepts: vec![MessageType::Normal],
        is_writable: true,
        is_placed: false,
        is_ceded: false,
        retention: None,
        retention_bytes: None,
        created_at: Timestamp(1),
        changed_at: Timestamp(changed_at),
    }
}

pub(crate) fn group(changed_at: u64, attempts_max: u32) -> Group {
    Group {
        changed_at: Timestamp(changed_at),
        created_at: Timestamp(1),
        order: GroupOrder::Auto,
        attempts_max,
        backoff: Backoff::Steps(vec![Duration::from_secs(1)]),
        invisible: Duration::from_secs(60),
    }
}

fn named(name: &str) -> TopicName {
    TopicName::parse(name).expect("legal")
}

fn named_group(name: &str) -> GroupName {
    GroupName::parse(name).expect("legal")
}

fn catalog(topics: &[(&str, &Served)]) -> Catalog {
    let topics = topics.iter().map(|(name, topic)| (named(name), Served::clone(topic))).collect();
    Catalog { topics, ..Catalog::default() }
}

const NOW: Timestamp = Timestamp(1_000);

/// As a store does it.
fn apply(catalog: &mut Catalog, step: Step) {
    match step {
        Step::Topic(name, topic) => {
            catalog.buried.remove(&Buried::Topic(name.clone(), topic.kind));
            catalog.topics.insert(name, topic);
        }
        Step::Group(name, group) => {
            catalog.buried.remove(&Buried::Group(name.clone()));
            catalog.groups.insert(name, group);
        }
        Step::Bury(what, at) => {
            match &what {
                Buried::Topic(name, kind) if catalog.topics.get(name).is_some_and(|known| known.kind == *kind) => {
                    catalog.topics.remove(name);
                }
                Buried::Topic(..) => {}
                Buried::Group(name) => drop(catalog.groups.remove(name)),
            }
            catalog.buried.insert(what, at);
        }
    }
}

/// Takes over what the others have. Whether there was anything.
fn reconcile(catalogs: &mut [Catalog], who: usize, others: impl Fn(usize) -> bool) -> bool {
    let seen: Vec<Catalog> = (0..catalogs.len())
        .filter(|other| *other != who && others(*other))
        .map(|other| catalogs[other].clone())
        .collect();
    let steps = catalogs[who].steps(&Others::of(&seen), NOW);
    let is_any = !steps.is_empty();
    for step in &steps {
        // To remember that what was never here is gone, nobody waits.
        let is_awaited = !matches!(step, Step::Bury(what, _) if catalogs[who].changed_at(what).is_none());
        assert!(!is_awaited || !catalogs[who].has(step), "{step:?} is to do, and done");
        apply(&mut catalogs[who], step.clone());
        assert!(catalogs[who].has(step), "{step:?} is done, and to do");
    }
    is_any
}

/// What happens at one broker.
#[derive(Debug, Clone)]
struct Event {
    broker: usize,
    name: usize,
    /// Clocks differ.
    at: u64,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Topic {
        queues: u16,
        bytes: Option<u64>,
    },
    Group {
        attempts_max: u32,
    },
    DropTopic,
    DropGroup,
    /// It hears of those whose bits are set.
    Hear(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let what = prop_oneof![
        (1..9_u16, prop::option::of(1..3_u64)).prop_map(|(queues, bytes)| What::Topic { queues, bytes }),
        (1..9_u32).prop_map(|attempts_max| What::Group { attempts_max }),
        Just(What::DropTopic),
        Just(What::DropGroup),
        any::<u8>().prop_map(What::Hear),
    ];
    (0..4_usize, 0..3_usize, 1..12_u64, what).prop_map(|(broker, name, at, what)| Event { broker, name, at, what })
}

/// Newer than all that this broker knows of the name, as a store makes it.
fn after(catalog: &Catalog, what: &Buried, at: u64) -> Timestamp {
    let known = catalog.buried_at(what).max(catalog.changed_at(what));
    known.map_or(Timestamp(at), |known| Timestamp(at.max(known.0 + 1)))
}

fn happen(catalogs: &mut [Catalog], event: &Event, drops: &mut Vec<(Buried, Timestamp)>) {
    let topic_name = named(["a", "b", "c"][event.name]);
    let group_name = named_group(["a", "b", "c"][event.name]);
    // A name is always of one kind: what else would come of it is another test.
    let kind = [Kind::Normal, Kind::Delay, Kind::Transaction][event.name];
    let catalog = &mut catalogs[event.broker];
    let (of_topic, of_group) = (Buried::Topic(topic_name.clone(), kind), Buried::Group(group_name.clone()));
    match event.what {
        What::Topic { queues, bytes } => {
            let changed_at = after(catalog, &of_topic, event.at);
            let queues = catalog.topics.get(&topic_name).map_or(queues, |known| known.queues.max(queues));
            let topic = Served { kind, retention_bytes: bytes, ..topic(changed_at.0, queues) };
            apply(catalog, Step::Topic(topic_name, topic));
        }
        What::Group { attempts_max } => {
            let changed_at = after(catalog, &of_group, event.at);
            apply(catalog, Step::Group(group_name, group(changed_at.0, attempts_max)));
        }
        What::DropTopic | What::DropGroup => {
            let what = if matches!(event.what, What::DropTopic) { of_topic } else { of_group };
            if catalog.changed_at(&what).is_some() {
                let at = after(catalog, &what, event.at);
                drops.push((what.clone(), at));
                apply(catalog, Step::Bury(what, at));
            }
        }
        What::Hear(of) => drop(reconcile(catalogs, event.broker, |other| of & (1 << other) != 0)),
    }
}

proptest! {
    #[test]
    fn whatever_happened_and_whoever_heard_of_whom_all_come_to_have_the_same(
        events in prop::collection::vec(event(), 1..60),
        order in Just((0..4_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let mut catalogs = vec![Catalog::default(); 4];
        let mut drops = Vec::new();
        for event in &events {
            happen(&mut catalogs, event, &mut drops);
        }
        let mut rounds = 0;
        while order.iter().filter(|&&who| reconcile(&mut catalogs, who, |_| true)).count() > 0 {
            rounds += 1;
            prop_assert!(rounds < 4, "it goes on and on");
        }
        for catalog in &catalogs[1..] {
            prop_assert_eq!(&catalog.topics, &catalogs[0].topics);
            prop_assert_eq!(&catalog.groups, &catalogs[0].groups);
        }
        for (what, at) in drops {
            let changed_at = catalogs[0].changed_at(&what);
            prop_assert!(changed_at.is_none_or(|changed_at| changed_at > at), "{:?} came back", what);
        }
    }

    #[test]
    fn what_words_on_one_topic_come_to_does_not_depend_on_their_order(
        words in prop::collection::vec((1..4_u64, 1..9_u16, prop::option::of(1..3_u64)), 3),
    ) {
        let [a, b, c] = [0, 1, 2].map(|number| {
            let (at, queues, retention_bytes) = words[number];
            Served { retention_bytes, ..topic(at, queues) }
        });
        prop_assert_eq!(a.join(&b), b.join(&a));
        prop_assert_eq!(a.join(&b).join(&c), a.join(&b.join(&c)));
        prop_assert_eq!(a.join(&a), a);
    }
}

#[test]
fn a_broker_that_was_away_catches_up_and_does_not_bring_back_what_was_dropped() {
    let (old, new) = (topic(5, 4), topic(9, 8));
    let mut away = catalog(&[("changed", &old), ("dropped", &old), ("remade", &old)]);
    away.groups.insert(named_group("g"), group(5, 3));
    let mut here = catalog(&[("changed", &new), ("remade", &topic(12, 2)), ("new", &new)]);
    here.groups.insert(named_group("h"), group(9, 1));
    for (what, at) in [
        (Buried::Topic(named("dropped"), Kind::Normal), 7),
        (Buried::Topic(named("never-there"), Kind::Normal), 7),
        (Buried::Group(named_group("g")), 5),
    ] {
        here.buried.insert(what, Timestamp(at));
    }
    let mut catalogs = [away, here];
    assert!(!reconcile(&mut catalogs, 1, |_| false));
    assert!(reconcile(&mut catalogs, 0, |_| true) && !reconcile(&mut catalogs, 0, |_| true));
    let wider = Served { queues: 4, ..topic(12, 4) };
    assert_eq!(catalogs[0].topics, catalog(&[("changed", &new), ("remade", &wider), ("new", &new)]).topics);
    assert_eq!(catalogs[0].buried, catalogs[1].buried);
    assert_eq!(catalogs[0].groups, catalogs[1].groups, "of equally old words the drop holds");
    assert!(reconcile(&mut catalogs, 1, |_| true), "queues only become more");
    assert_eq!(catalogs[0], catalogs[1]);
}

#[test]
fn what_was_dropped_long_ago_is_not_taken_over_by_those_who_never_had_it() {
    let mut here = Catalog::default();
    here.buried.insert(Buried::Group(named_group("g")), NOW);
    let others = Others::of([&here]);
    let half = BURIED_MS / 2;
    let steps = |later| Catalog::default().steps(&others, NOW.plus_ms(later));
    assert_eq!(steps(half - 1), [Step::Bury(Buried::Group(named_group("g")), NOW)]);
    assert!(steps(half).is_empty(), "it would be forgotten, and taken over again");
    let mut has = Catalog::default();
    has.groups.insert(named_group("g"), group(1, 1));
    assert_eq!(has.steps(&others, NOW.plus_ms(half * 9)).len(), 1);
}

#[test]
fn topics_that_live_on_one_broker_neither_spread_nor_go_nor_give_way() {
    for kind in [Kind::Fifo, Kind::Mixed, Kind::Lite, Kind::Priority, Kind::Other(50), Kind::DeadLetter, Kind::Retry] {
        let placed = Served { kind, is_placed: true, ..topic(9, 8) };
        let mut keeper = catalog(&[("orders", &placed)]);
        keeper.buried.insert(Buried::Topic(named("gone"), kind), Timestamp(9));
        let has = catalog(&[("gone", &Served { kind, ..topic(5, 1) })]);
        for own in [Catalog::default(), has] {
            assert_eq!(own.steps(&Others::of([&keeper]), NOW), [], "{kind:?}");
        }
        let plain = catalog(&[("orders", &topic(10, 1))]);
        assert_eq!(keeper.steps(&Others::of([&plain]), NOW), [], "{kind:?}");
        assert_eq!(
            Catalog::default().steps(&Others::of([&keeper, &plain]), NOW),
            [],
            "{kind:?}: it would have two forms"
        );
    }
    let letters = catalog(&[("%DLQ%g", &topic(1, 1))]);
    assert_eq!(Catalog::default().steps(&Others::of([&letters]), NOW), []);
}

#[test]
fn topics_of_one_name_and_two_kinds_stay_until_one_is_dropped() {
    let delay = Served { kind: Kind::Delay, ..topic(3, 1) };
    let (one, two) = (catalog(&[("t", &topic(5, 1))]), catalog(&[("t", &delay)]));
    for (own, other) in [(&one, &two), (&two, &one)] {
        assert_eq!(own.steps(&Others::of([other]), NOW), []);
    }
    let fresh = Catalog::default().steps(&Others::of([&two, &one]), NOW);
    assert_eq!(fresh, [Step::Topic(named("t"), topic(5, 1))], "the newer one");
    let mut catalogs = [one, two];
    apply(&mut catalogs[0], Step::Bury(Buried::Topic(named("t"), Kind::Normal), Timestamp(7)));
    assert!(reconcile(&mut catalogs, 1, |_| true), "it remembers that the other one is gone");
    assert!(reconcile(&mut catalogs, 0, |_| true));
    assert_eq!(catalogs[0], catalogs[1]);
    assert_eq!(catalogs[0].topics.get(&named("t")), Some(&delay));
}

#[test]
fn differences_are_named() {
    let one = topic(5, 1);
    assert!(one.differences(&topic(9, 1)).is_empty());
    let other =
        Served { kind: Kind::Delay, retention: Some(Duration::from_secs(1)), retention_bytes: Some(1), ..topic(5, 2) };
    assert_eq!(one.differences(&other), ["type", "queues", "retention.time", "retention.size"]);
}
