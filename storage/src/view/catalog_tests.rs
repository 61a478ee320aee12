use super::*;

#[test]
fn a_topic_that_says_nothing_of_retention_is_read() {
    let spec = TopicSpec {
        id: TopicId(3),
        ..TopicSpec::new(TopicName::parse("old").expect("legal"), TopicKind::Normal, 4, Timestamp(5))
    };
    let mut bytes = Vec::new();
    spec.encode(&mut bytes);
    // Without the time of the last change, and without the retention.
    for written in [&bytes[..], &bytes[..bytes.len() - 1], &bytes[..bytes.len() - 3]] {
        assert_eq!(TopicSpec::decode(&mut Decoder::new("test", written)), Ok(spec.clone()));
    }
}

#[test]
fn a_group_that_does_not_say_when_it_was_changed_is_read() {
    let spec = GroupSpec {
        id: GroupId(3),
        name: GroupName::parse("old").expect("legal"),
        order: GroupOrder::Auto,
        attempts_max: 16,
        backoff: Backoff::Steps(vec![Duration::from_secs(1)]),
        invisible: Duration::from_secs(60),
        created_at: Timestamp(5),
        changed_at: Timestamp(9),
        is_dropped: true,
    };
    let mut bytes = Vec::new();
    spec.encode(&mut bytes);
    assert_eq!(GroupSpec::decode(&mut Decoder::new("test", &bytes)), Ok(spec.clone()));
    let old = GroupSpec { changed_at: spec.created_at, ..spec };
    assert_eq!(GroupSpec::decode(&mut Decoder::new("test", &bytes[..bytes.len() - 1])), Ok(old));
}

#[test]
fn what_was_dropped_is_remembered_by_kind_until_it_is_made_anew_or_long_ago() {
    let name = TopicName::parse("t").expect("legal");
    let day = BURIED_MS / 7;
    let at = |id, kind, is_dropped, day_of_change: u64| TopicSpec {
        id: TopicId(id),
        changed_at: Timestamp(day * day_of_change),
        is_dropped,
        ..TopicSpec::new(name.clone(), kind, 1, Timestamp(1))
    };
    let mut catalog = Catalog::default();
    catalog.apply_topic(&at(0, TopicKind::Normal, false, 1));
    catalog.apply_topic(&at(0, TopicKind::Normal, true, 2));
    catalog.apply_topic(&at(1, TopicKind::Delay, false, 3));
    assert_eq!(catalog.topic_buried(&name, TopicKind::Normal), Some(Timestamp(day * 2)));
    assert_eq!(catalog.topic_buried(&name, TopicKind::Delay), None);
    catalog.forget_buried(Timestamp(day * 9 - 1));
    assert!(catalog.topic_buried(&name, TopicKind::Normal).is_some());
    let mut later = catalog.clone();
    later.forget_buried(Timestamp(day * 9));
    assert_eq!(later.topic_buried(&name, TopicKind::Normal), None);
    catalog.apply_topic(&at(2, TopicKind::Normal, false, 4));
    assert_eq!(catalog.buried_topics().count(), 0);
}

#[test]
fn back_off_repeats_its_last_step_and_never_exceeds_its_maximum() {
    let steps = Backoff::Steps([1, 5].map(Duration::from_secs).into());
    assert_eq!([1, 2, 3, 900].map(|n| steps.after(n).as_secs()), [1, 5, 5, 5]);
    let doubling = Backoff::Exponential { first: Duration::from_secs(5), factor: 2, max: Duration::from_secs(7200) };
    assert_eq!([1, 2, 3, 11, 12, 900].map(|n| doubling.after(n).as_secs()), [5, 10, 20, 5120, 7200, 7200]);
}
