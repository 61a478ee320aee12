//! Young timers: what came since the last checkpoint. About 60 bytes each.
//!
//! P1. `order` names exactly the rows that have not ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{LogPosition, TopicId};

use super::bits::Bits;
use super::counts::{Counts, mib_of};
use super::row::{Entry, Key, Place, Row};

/// Rows are kept in chunks, so that growth copies nothing.
const CHUNK: usize = 8192;

/// Rows by number, in chunks.
pub type Rows = Vec<Vec<Row>>;

pub fn row_of(rows: &Rows, number: u32) -> &Row {
    &rows[number as usize / CHUNK][number as usize % CHUNK]
}

#[derive(Debug, Clone)]
pub struct Part {
    pub id: u32,
    /// Shared once the part is frozen: whoever writes the checkpoint reads it there.
    rows: Arc<Rows>,
    count: u32,
    order: BTreeMap<Key, u32>,
    pub ended: Bits,
    /// Numbers that may be used again. None once it is frozen: nothing is added any more.
    free: Option<Vec<u32>>,
    pub counts: Counts,
}

impl Part {
    pub fn new(id: u32) -> Self {
        Self {
            id,
            rows: Arc::default(),
            count: 0,
            order: BTreeMap::new(),
            ended: Bits::default(),
            free: Some(Vec::new()),
            counts: Counts::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Timers that memory is taken for: once it is frozen, those that have ended too.
    pub fn kept(&self) -> usize {
        if self.free.is_some() { self.len() } else { self.count as usize }
    }

    /// Its key is not in here.
    pub fn add(&mut self, row: Row) -> Place {
        let rows = Arc::get_mut(&mut self.rows).expect("an open part is not shared");
        let number = match self.free.as_mut().expect("an open part").pop() {
            Some(number) => {
                rows[number as usize / CHUNK][number as usize % CHUNK] = row;
                self.ended.unset(number);
                number
            }
            None => {
                if rows.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                    rows.push(Vec::with_capacity(CHUNK));
                }
                rows.last_mut().expect("just pushed").push(row);
                self.count += 1;
                self.count - 1
            }
        };
        self.counts.add(&row);
        let earlier = self.order.insert(row.key, number);
        assert!(earlier.is_none(), "P1: {:?} is in here twice", row.key);
        Place { source: self.id, number }
    }

    pub fn find(&self, key: Key) -> Option<Entry> {
        self.order.get(&key).map(|number| self.entry(*number))
    }

    pub fn end(&mut self, number: u32) {
        let row = *row_of(&self.rows, number);
        let ordered = self.order.remove(&row.key);
        assert_eq!(ordered, Some(number), "P1: {:?} has ended before", row.key);
        self.ended.set(number);
        self.counts.remove(&row);
        if let Some(free) = &mut self.free {
            free.push(number);
        }
    }

    pub fn drop_topic(&mut self, topic: TopicId) {
        if self.counts.topics.contains_key(&topic) {
            let of_topic = |number: &u32| row_of(&self.rows, *number).topic == topic;
            let numbers: Vec<u32> = self.order.values().copied().filter(of_topic).collect();
            numbers.into_iter().for_each(|number| self.end(number));
        }
    }

    /// The one with this origin, whenever it is due. Looks at everything, if the origin may be here.
    pub fn find_stray(&self, origin: LogPosition) -> Option<Key> {
        self.counts.mibs.get(&mib_of(origin))?;
        self.order.keys().copied().find(|key| key.origin() == origin)
    }

    pub fn from(&self, key: Key) -> impl Iterator<Item = Entry> + '_ {
        self.order.range(key..).map(|(_, number)| self.entry(*number))
    }

    /// The key `ahead` places behind the first one from `key` on.
    pub fn key_ahead(&self, key: Key, ahead: usize) -> Option<Key> {
        self.order.range(key..).nth(ahead).map(|(key, _)| *key)
    }

    /// Nothing is added from here on. What is in it, for whoever writes it down.
    pub fn freeze(&mut self) -> Frozen {
        self.free = None;
        Frozen { id: self.id, rows: self.rows.clone(), count: self.count, ended: self.ended.clone() }
    }

    fn entry(&self, number: u32) -> Entry {
        Entry { row: *row_of(&self.rows, number), place: Place { source: self.id, number } }
    }
}

/// A part as it was at one moment.
#[derive(Debug, Clone)]
pub struct Frozen {
    pub id: u32,
    pub rows: Arc<Rows>,
    pub count: u32,
    pub ended: Bits,
}

impl Frozen {
    pub fn pending(&self) -> impl Iterator<Item = (u32, &Row)> {
        let pending = (0..self.count).filter(|number| !self.ended.contains(*number));
        pending.map(|number| (number, row_of(&self.rows, number)))
    }
}
