//! Where topics in which order is kept live, when that is on another broker.
//!
//! H1. Such a topic stays where it is while its broker is away: nobody is led to a second one, and none is made.
//! H2. It is free when its broker is there and does not have it, or when an operator claims it for this broker.
//! H3. What is remembered outlives restarts of this broker, and those of name servers, who remember nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use base::{Timestamp, TopicName};
use cluster::{Catalog, Table};
use hashbrown::HashMap;
use parking_lot::Mutex;
use serve::files;

/// Beside the store, which knows nothing of others.
const FILE: &str = "homes.json";

type Map = HashMap<TopicName, Arc<str>>;

/// Topics, and the brokers that they live on.
#[derive(Debug, Default)]
pub struct Homes {
    known: ArcSwap<Map>,
    /// None: nothing outlives this run. Held while what is known becomes something else.
    file: Mutex<Option<PathBuf>>,
}

/// Why what was remembered cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HomesError {
    #[error("{}: {error}", .path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}: {problem}; deleted, the file is made anew from what name servers say", .path.display())]
    Content { path: PathBuf, problem: String },
}

impl Homes {
    /// Reads what an earlier run has left in this directory, and keeps it there from now on.
    pub fn open(&self, data: &Path) -> Result<(), HomesError> {
        let path = data.join(FILE);
        let known = match files::read(&path) {
            Ok(bytes) => parse(&bytes).map_err(|problem| HomesError::Content { path: path.clone(), problem })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Map::default(),
            Err(error) => return Err(HomesError::Read { path, error }),
        };
        self.known.store(Arc::new(known));
        *self.file.lock() = Some(path);
        Ok(())
    }

    /// The other broker that a topic lives on.
    pub fn of(&self, topic: &TopicName) -> Option<Arc<str>> {
        self.known.load().get(topic).cloned()
    }

    /// Says of each topic that lives elsewhere that it is not served here.
    pub fn cede(&self, mut catalog: Catalog) -> Catalog {
        for topic in self.known.load().keys() {
            if let Some(served) = catalog.topics.get_mut(topic) {
                served.is_ceded = true;
            }
        }
        catalog
    }

    /// Takes over what follows from the table for the broker `own`. True when it is something new.
    pub fn learn(&self, own: &str, catalog: &Catalog, table: &Table) -> io::Result<bool> {
        self.change(|known| learned(known, own, catalog, table))
    }

    /// Forgets where a topic lives.
    pub fn forget(&self, topic: &TopicName) -> io::Result<bool> {
        self.change(|known| known.iter().filter(|(name, _)| *name != topic).map(copied).collect())
    }

    fn change(&self, change: impl FnOnce(&Map) -> Map) -> io::Result<bool> {
        let file = self.file.lock();
        let known = self.known.load();
        let new = change(&known);
        if new == **known {
            return Ok(false);
        }
        if let Some(path) = &*file {
            files::keep(path, &text(&new))?;
        }
        self.known.store(Arc::new(new));
        Ok(true)
    }
}

fn learned(known: &Map, own: &str, catalog: &Catalog, table: &Table) -> Map {
    let others = || table.brokers().filter(|broker| *broker.name != *own);
    let keeps = |home: &str, topic: &TopicName| {
        let served = others().find(|broker| *broker.name == *home)?.catalog.topics.get(topic);
        Some(served.is_some_and(|served| served.is_placed && !served.is_ceded))
    };
    let mut homes: Map = known.iter().filter(|(topic, home)| keeps(home, topic).unwrap_or(true)).map(copied).collect();

    let mut keepers: HashMap<&TopicName, (Timestamp, &Arc<str>)> = HashMap::new();
    for broker in others() {
        let placed = broker.catalog.topics.iter().filter(|(_, served)| served.is_placed && !served.is_ceded);
        for (topic, served) in placed {
            let candidate = (served.created_at, &broker.name);
            let keeper = keepers.entry(topic).or_insert(candidate);
            *keeper = candidate.min(*keeper);
        }
    }
    for (topic, (since, keeper)) in keepers {
        // By our own word, not by the table: that one may not have heard of it yet.
        let ours = catalog.topics.get(topic).filter(|served| served.is_placed && !homes.contains_key(topic));
        match ours.is_some_and(|ours| (ours.created_at, own) < (since, &**keeper)) {
            true => drop(homes.remove(topic)),
            false => drop(homes.insert(topic.clone(), keeper.clone())),
        }
    }
    homes
}

fn copied((topic, home): (&TopicName, &Arc<str>)) -> (TopicName, Arc<str>) {
    (topic.clone(), home.clone())
}

fn text(homes: &Map) -> Vec<u8> {
    let sorted: BTreeMap<_, _> = homes.iter().map(|(topic, home)| (topic.as_str(), &**home)).collect();
    serde_json::to_vec_pretty(&sorted).expect("a map of texts")
}

fn parse(bytes: &[u8]) -> Result<Map, String> {
    let pairs: BTreeMap<String, String> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let pair = |(topic, home): (String, String)| {
        let topic = TopicName::parse(&topic).map_err(|error| error.to_string())?;
        Ok((topic, home.into()))
    };
    pairs.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use base::MessageType;
    use cluster::{Kind, Node, Served, State, Update};

    use super::*;

    fn topic() -> TopicName {
        TopicName::parse("orders").unwrap()
    }

    fn served(created_at: u64) -> Served {
        Served {
            kind: Kind::Fifo,
            queues: 1,
            accepts: vec![MessageType::Fifo],
            is_writable: true,
            is_placed: true,
            is_ceded: false,
            retention: None,
            retention_bytes: None,
            created_at: Timestamp(created_at),
            changed_at: Timestamp(created_at),
        }
    }

    fn catalog(topics: Option<Served>) -> Catalog {
        Catalog { topics: topics.into_iter().map(|served| (topic(), served)).collect(), ..Catalog::default() }
    }

    /// What name servers say when these brokers are there.
    fn table(brokers: &[(&str, Option<Served>)]) -> Table {
        let mut table = Table::default();
        for (name, served) in brokers {
            let (cluster, version, grpc, relay) = ("c".into(), "1".into(), "h:1".into(), "h:1".into());
            let node = Node { cluster, version, broker_group: 7, grpc, relay, http: None, state: State::Ready };
            let topics = served.iter().map(|served| (topic(), served.clone())).collect();
            let update =
                Update { broker: (*name).into(), is_complete: true, node: Some(node), topics, ..Update::default() };
            table.apply(update).unwrap();
        }
        table
    }

    fn home(homes: &Homes) -> Option<String> {
        homes.of(&topic()).map(|home| home.to_string())
    }

    #[test]
    fn a_topic_stays_where_it_lives_until_its_broker_says_that_it_has_it_no_longer() {
        let directory = tempfile::tempdir().unwrap();
        let homes = Homes::default();
        homes.open(directory.path()).unwrap();
        let bare = catalog(None);
        assert!(homes.learn("b", &bare, &table(&[("a", Some(served(5)))])).unwrap());
        assert!(!homes.learn("b", &bare, &table(&[("a", Some(served(5)))])).unwrap(), "nothing new");
        assert_eq!(home(&homes).as_deref(), Some("a"));
        homes.learn("b", &bare, &table(&[])).unwrap();
        assert_eq!(home(&homes).as_deref(), Some("a"), "it is away");

        let again = Homes::default();
        again.open(directory.path()).unwrap();
        assert_eq!(home(&again).as_deref(), Some("a"), "a restart");
        again.learn("b", &bare, &table(&[("a", None)])).unwrap();
        assert_eq!(home(&again), None, "it is there, and has it no longer");
    }

    #[test]
    fn of_two_the_older_one_keeps_it_and_the_younger_one_cedes_it() {
        let both = |ours: u64, theirs: u64| {
            let homes = Homes::default();
            let ours = catalog(Some(served(ours)));
            homes.learn("b", &ours, &table(&[("a", Some(served(theirs)))])).unwrap();
            (homes.of(&topic()).is_some(), homes.cede(ours).topics[&topic()].is_ceded)
        };
        assert_eq!(both(9, 5), (true, true));
        assert_eq!(both(5, 9), (false, false), "although nobody has told us of ourselves yet");
        assert_eq!(both(5, 5), (true, true), "equal ages: the name decides");
    }

    #[test]
    fn who_has_ceded_a_topic_does_not_get_it_back_by_itself() {
        let homes = Homes::default();
        let ours = catalog(Some(served(9)));
        homes.learn("b", &ours, &table(&[("a", Some(served(5)))])).unwrap();
        homes.learn("b", &ours, &table(&[])).unwrap();
        // Somebody who could not know has made a third one.
        homes.learn("b", &ours, &table(&[("c", Some(served(20)))])).unwrap();
        assert_eq!(home(&homes).as_deref(), Some("c"));
        let ceded = Served { is_ceded: true, ..served(20) };
        homes.learn("b", &ours, &table(&[("a", Some(served(5))), ("c", Some(ceded))])).unwrap();
        assert_eq!(home(&homes).as_deref(), Some("a"));
        assert!(homes.forget(&topic()).unwrap() && home(&homes).is_none());
    }

    #[test]
    fn a_file_that_cannot_be_read_says_which_and_why() {
        let directory = tempfile::tempdir().unwrap();
        for (content, problem) in [("{", "EOF"), ("{\"a b\": \"x\"}", "a b")] {
            files::write(&directory.path().join(FILE), content.as_bytes()).unwrap();
            let error = Homes::default().open(directory.path()).unwrap_err().to_string();
            assert!(error.contains(FILE) && error.contains(problem), "{error}");
        }
    }
}
