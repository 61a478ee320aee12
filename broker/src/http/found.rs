//! One page of the messages that several brokers found by a key.
//!
//! F1. Newest first: what is shown later was stored no later, as long as the same brokers answer.
//! F2. What is not shown of a page that was read is read again: pages leave nothing out and repeat nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use base::LogPosition;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::json::{FoundJson, Page};
use super::others::All;

/// Where each broker goes on: in its log, below this; with none it has shown everything. One that is not in it has
/// shown nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Places(BTreeMap<String, Option<u64>>);

/// Where one broker goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Start,
    Below(LogPosition),
    End,
}

impl Places {
    /// From a cursor, without its Base64.
    pub fn parse(cursor: &str) -> Option<Self> {
        serde_json::from_str(cursor).ok().map(Self)
    }

    pub fn of(&self, broker: &str) -> Place {
        match self.0.get(broker) {
            None => Place::Start,
            Some(None) => Place::End,
            Some(Some(below)) => Place::Below(LogPosition(*below)),
        }
    }

    /// Those that have more to show.
    pub fn open(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, place)| place.is_some()).map(|(broker, _)| broker.as_str())
    }

    /// What the cursor of the page after says of one broker; none without one.
    pub fn cursor(broker: &str, next: Option<LogPosition>) -> Option<String> {
        next.map(|below| Self([(broker.to_owned(), Some(below.0))].into()).encode())
    }

    fn encode(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&self.0).expect("names and numbers can be written"))
    }

    fn decode(cursor: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?;
        Self::parse(std::str::from_utf8(&bytes).ok()?)
    }
}

/// What one broker has found, and was not shown yet.
struct Part {
    broker: Arc<str>,
    items: VecDeque<FoundJson>,
    /// Where the page that it gave ends, and it has more.
    end: Option<u64>,
}

impl Part {
    /// It may have something that is newer than what others have, and it is not here.
    fn is_cut(&self) -> bool {
        self.items.is_empty() && self.end.is_some()
    }
}

/// At most `limit` of what all have found. `places` is where they began.
pub(super) fn merge(all: All<Page<FoundJson>>, mut places: Places, limit: usize) -> Page<FoundJson> {
    let (mut parts, mut warnings) = (Vec::new(), Vec::new());
    let is_alone = all.answers.len() == 1;
    for (broker, page) in all.answers {
        let told = page.warnings.into_iter();
        warnings.extend(told.map(|warning| if is_alone { warning } else { format!("{broker}: {warning}") }));
        let next = page.next_cursor.and_then(|cursor| Places::decode(&cursor));
        let end = next.and_then(|next| next.0.get(&*broker).copied().flatten());
        parts.push(Part { broker, items: page.items.into(), end });
    }
    let mut items = Vec::new();
    while items.len() < limit && !parts.iter().any(Part::is_cut) {
        let with_more = parts.iter_mut().filter(|part| !part.items.is_empty());
        // Times are texts of one length. Of the same time, the same broker comes first, whoever is asked.
        let newest = with_more.max_by(|a, b| {
            let of = |part: &Part| (part.items[0].envelope.stored_at.clone(), Reverse(part.broker.clone()));
            of(a).cmp(&of(b))
        });
        let Some(part) = newest else { break };
        let item = part.items.pop_front().expect("it has more");
        places.0.insert(part.broker.to_string(), Some(item.position));
        items.push(item);
    }
    let mut is_more = false;
    for part in parts {
        is_more |= !part.items.is_empty() || part.end.is_some();
        if part.items.is_empty() {
            places.0.insert(part.broker.to_string(), part.end);
        }
    }
    // Brokers that do not answer are named. That they may have more is no reason to ask again and again.
    let next_cursor = is_more.then(|| places.encode());
    Page { unreachable: all.unreachable, warnings, ..Page::new(items, next_cursor) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::json::UnreachableJson;

    const BROKERS: [&str; 3] = ["a", "b", "c"];

    /// A broker's messages, newest first: the second of each, and its position.
    type Stored = Vec<(u64, u64)>;

    fn message(broker: &str, (second, position): (u64, u64)) -> FoundJson {
        let stored_at = serve::http::fields::time(base::Timestamp(second * 1000));
        let json = json!({
            "message_id": format!("{broker}{position}"), "topic": "t", "type": "normal", "tag": null, "keys": ["k"],
            "message_group": null, "properties": {}, "born_at": "", "born_host": "", "stored_at": stored_at,
            "deliver_at": null, "encoding": "identity", "size": 1, "broker": broker, "position": position,
            "state": "visible", "queue": 0, "offset": 0, "visible_since": null, "due": null,
        });
        serde_json::from_value(json).unwrap()
    }

    /// What a broker answers, of which one page shows at most `most`.
    fn answer(broker: &str, stored: &Stored, places: &Places, most: usize) -> (Arc<str>, Page<FoundJson>) {
        let below = match places.of(broker) {
            Place::Start => u64::MAX,
            Place::Below(below) => below.0,
            Place::End => 0,
        };
        let rest: Vec<_> = stored.iter().copied().filter(|(_, position)| *position < below).collect();
        // Above the next one, as a search says that was stopped there.
        let next = rest.get(most).map(|(_, position)| LogPosition(position + 1));
        let items = rest.into_iter().take(most).map(|stored| message(broker, stored)).collect();
        (broker.into(), Page::new(items, Places::cursor(broker, next)))
    }

    fn ids(items: &[FoundJson]) -> Vec<&str> {
        items.iter().map(|item| &*item.envelope.message_id).collect()
    }

    /// Newest first, broker `a` before `b`.
    fn expected(stored: &[Stored; 3]) -> Vec<String> {
        let all = BROKERS.iter().zip(stored).flat_map(|(broker, stored)| stored.iter().map(move |it| (it, broker)));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|((second, position), broker)| (Reverse(*second), **broker, Reverse(*position)));
        all.into_iter().map(|((_, position), broker)| format!("{broker}{position}")).collect()
    }

    #[test]
    fn pages_show_everything_once_and_newest_first_however_short_they_are() {
        let stored = [vec![(9, 90), (9, 80), (5, 70), (1, 5)], vec![(9, 4), (6, 3), (5, 2)], vec![]];
        for (limit, most) in [(1, 1), (2, 2), (3, 3), (3, 1), (2, 9), (100, 9), (100, 2)] {
            let (mut places, mut shown) = (Places::default(), Vec::new());
            for _ in 0..30 {
                let answers = BROKERS.iter().zip(&stored).map(|(broker, stored)| answer(broker, stored, &places, most));
                let all = All { answers: answers.collect(), refused: Vec::new(), unreachable: Vec::new() };
                let page = merge(all, places, limit);
                assert!(page.items.len() <= limit);
                shown.extend(ids(&page.items).into_iter().map(String::from));
                let Some(cursor) = page.next_cursor else { break };
                places = Places::decode(&cursor).expect("it is one of ours");
            }
            assert_eq!(shown, expected(&stored), "limit {limit}, {most} of a broker at once");
        }
    }

    #[test]
    fn a_page_ends_where_a_broker_was_stopped_that_may_have_newer_ones() {
        let stopped = Page::new(Vec::new(), Places::cursor("b", Some(LogPosition(40))));
        let answers = vec![answer("a", &vec![(9, 90)], &Places::default(), 9), ("b".into(), stopped)];
        let page = merge(All { answers, refused: Vec::new(), unreachable: Vec::new() }, Places::default(), 10);
        let places = Places::decode(&page.next_cursor.expect("b has more")).unwrap();
        assert_eq!(
            (ids(&page.items).len(), places.of("a"), places.of("b")),
            (0, Place::Start, Place::Below(LogPosition(40)))
        );
    }

    #[test]
    fn whoever_is_silent_goes_on_where_it_was_and_is_no_reason_to_ask_again() {
        let places = Places::parse(r#"{"a": 91, "b": 40}"#).unwrap();
        let silent = || vec![UnreachableJson { broker: "b".into(), reason: "it is paused".into() }];
        let all = |stored: &Stored| All {
            answers: vec![answer("a", stored, &places, 1)],
            refused: Vec::new(),
            unreachable: silent(),
        };
        let page = merge(all(&vec![(9, 90), (8, 80)]), places.clone(), 1);
        let next = Places::decode(&page.next_cursor.expect("a has more")).unwrap();
        assert_eq!((next.of("a"), next.of("b")), (Place::Below(LogPosition(81)), Place::Below(LogPosition(40))));
        assert_eq!(next.open().collect::<Vec<_>>(), BROKERS[..2]);
        let last = merge(all(&vec![(9, 90)]), places.clone(), 1);
        assert_eq!((ids(&last.items), last.next_cursor, last.unreachable), (vec!["a90"], None, silent()));
    }

    #[test]
    fn what_could_not_be_looked_through_is_told_with_its_broker() {
        let told = |broker: &str| (broker.into(), Page::new(Vec::new(), None).with_warnings(vec!["damaged".into()]));
        let warnings = |answers| {
            merge(All { answers, refused: Vec::new(), unreachable: Vec::new() }, Places::default(), 1).warnings
        };
        assert_eq!(warnings(vec![told("a"), told("b")]), ["a: damaged", "b: damaged"]);
        assert_eq!(warnings(vec![told("a")]), ["damaged"]);
    }

    #[test]
    fn only_places_of_brokers_are_places() {
        for bad in ["", "<7", "0:5", "[]", r#"{"a": "7"}"#, r#"{"a": -1}"#, "null"] {
            assert_eq!(Places::parse(bad), None, "{bad}");
        }
        assert_eq!(Places::parse("{}"), Some(Places::default()));
        assert_eq!(Places::parse(r#"{"a": null}"#).unwrap().of("a"), Place::End);
    }
}
