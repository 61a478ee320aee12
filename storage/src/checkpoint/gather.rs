//! Taking a checkpoint of the views: what changed since the one before, as tables.
//!
//! Queues come first, then progress: a seek that a pair does not hold yet lies behind every purge that its queue holds.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use base::LogPosition;

use super::files::{self, Pair};
use super::{Chain, Manifest, TableRef};
use crate::codec::Encode;
use crate::disk::{Disk, remove_if_there};
use crate::table::map::{self, MapWriter};
use crate::table::{self, Identity, Kind, Table, TableError};
use crate::view::SharedViews;
use crate::view::catalog::Catalog;
use crate::view::progress::rows::{self, KEY_BYTES};
use crate::view::queue::{Kept, QueueId};
use crate::view::timers::{Installed, MergeError, Snapshot};

pub(super) const CATALOG_KEY: usize = 9;
pub(super) const QUEUE_KEY: usize = 6;
pub(super) const TRANSACTION_KEY: usize = 8;

/// What a row of the catalog is.
pub(super) const NEXT_IDS: u8 = 0;
pub(super) const TOPIC: u8 = 1;
pub(super) const GROUP: u8 = 2;
pub(super) const SCHEDULE: u8 = 3;
pub(super) const BURIED_TOPIC: u8 = 4;
pub(super) const BURIED_GROUP: u8 = 5;

/// A chain is merged before it is longer.
const TABLES_MAX: usize = 12;

/// A checkpoint cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("a file cannot be written: {0}")]
    Write(#[from] io::Error),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("runs of timers cannot be merged: {0}")]
    Merge(MergeError),
    #[error("the log writer is gone")]
    Closed,
    #[error("the log cannot be made durable: {0}")]
    Log(String),
}

/// A checkpoint in the making.
pub struct Gathering<'a> {
    pub disk: &'a dyn Disk,
    pub store: [u8; 16],
    /// Gives each table a number of its own that nobody can guess.
    pub random: &'a mut dyn FnMut() -> u64,
    pub next_table: u64,
    /// The checkpoint that this one goes on from; none when it must hold everything.
    pub before: Option<&'a Manifest>,
    /// The newest one, whether or not this one goes on from it: the timers are as it left them.
    pub newest: Option<&'a Manifest>,
    /// Where the views had come to when that one was begun.
    pub since: LogPosition,
    pub replay_from: LogPosition,
}

impl Gathering<'_> {
    /// Writes what changed, and gives the chains of the new checkpoint.
    pub fn gather(
        &mut self,
        views: &SharedViews,
        queues: &BTreeSet<QueueId>,
        timers: Snapshot,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<(Vec<(Kind, Chain)>, Installed), CheckpointError> {
        meanwhile();
        let catalog = views.catalog.load_full();
        let mut chains = vec![(Kind::Queues, self.queues(&catalog, queues)?)];
        meanwhile();
        chains.push((Kind::Progress, self.progress(views)?));
        meanwhile();
        chains.push((Kind::Transactions, self.transactions(views)?));
        let (runs, ledgers, installed) = self.timers(timers)?;
        chains.extend([(Kind::Timers, runs), (Kind::Ledgers, ledgers)]);
        meanwhile();
        // The newest: what names a topic or a group that is younger than the rest finds it.
        let catalog = views.catalog.load_full();
        chains.push((Kind::Catalog, self.catalog(&catalog)?));
        for (kind, chain) in &mut chains {
            self.merge(*kind, chain, &catalog)?;
        }
        self.disk.sync_directory()?;
        Ok((chains, installed))
    }

    fn chain(&self, kind: Kind) -> Chain {
        self.before.map(|before| before.chain(kind)).unwrap_or_default()
    }

    pub(super) fn begin(&mut self, kind: Kind) -> (String, Identity) {
        let name = table::temporary(&files::data_name(kind, self.next_table));
        (name, Identity { kind, store: self.store, random: (self.random)(), number: self.next_table })
    }

    pub(super) fn publish(&mut self, kind: Kind, bytes: u64) -> Result<TableRef, CheckpointError> {
        Pair::publish(self.disk, kind, self.next_table, self.store)?;
        let table = TableRef { number: self.next_table, bytes };
        self.next_table += 1;
        Ok(table)
    }

    /// A table of keys and values that `fill` puts in; none when it puts nothing.
    fn map(
        &mut self,
        kind: Kind,
        key: usize,
        fill: &mut dyn FnMut(&mut Put<'_>) -> Result<(), CheckpointError>,
    ) -> Result<Option<TableRef>, CheckpointError> {
        let (name, identity) = self.begin(kind);
        let mut map = MapWriter::create(self.disk, &name, identity, key)?;
        let mut count = 0u64;
        fill(&mut |key, value| {
            count += 1;
            map.put(key, value)
        })?;
        if count == 0 {
            remove_if_there(self.disk, &name)?;
            return Ok(None);
        }
        let bytes = map.finish()?;
        self.publish(kind, bytes).map(Some)
    }

    fn catalog(&mut self, catalog: &Catalog) -> Result<Chain, CheckpointError> {
        let before = self.chain(Kind::Catalog);
        if before.covers == catalog.covers() && !before.tables.is_empty() {
            return Ok(before);
        }
        let mut rows: Vec<([u8; CATALOG_KEY], Vec<u8>)> = Vec::new();
        let mut add = |kind: u8, number: u64, encode: &dyn Fn(&mut Vec<u8>)| {
            let mut key = [0; CATALOG_KEY];
            key[0] = kind;
            key[1..].copy_from_slice(&number.to_be_bytes());
            let mut value = Vec::new();
            encode(&mut value);
            rows.push((key, value));
        };
        add(NEXT_IDS, 0, &|out| {
            out.varint(catalog.next_topic().0.into());
            out.varint(catalog.next_group().0.into());
        });
        catalog.topics().for_each(|topic| add(TOPIC, topic.spec.id.0.into(), &|out| topic.spec.encode(out)));
        catalog.groups().for_each(|group| add(GROUP, group.id.0.into(), &|out| group.encode(out)));
        for (number, schedule) in catalog.schedules().enumerate() {
            add(SCHEDULE, number as u64, &|out| {
                out.text(&schedule.name);
                out.blob(&schedule.content);
            });
        }
        for (number, (name, kind, at)) in catalog.buried_topics().enumerate() {
            add(BURIED_TOPIC, number as u64, &|out| {
                out.text(name.as_str());
                out.u8(kind as u8);
                out.varint(at.0);
            });
        }
        for (number, (name, at)) in catalog.buried_groups().enumerate() {
            add(BURIED_GROUP, number as u64, &|out| {
                out.text(name.as_str());
                out.varint(at.0);
            });
        }
        rows.sort_unstable();
        let table = self.map(Kind::Catalog, CATALOG_KEY, &mut |put| {
            rows.iter().try_for_each(|(key, value)| put(key, Some(value))).map_err(CheckpointError::from)
        })?;
        Ok(Chain { covers: catalog.covers(), tables: table.into_iter().collect() })
    }

    fn queues(&mut self, catalog: &Catalog, changed: &BTreeSet<QueueId>) -> Result<Chain, CheckpointError> {
        let mut chain = self.chain(Kind::Queues);
        let mut all = BTreeSet::new();
        let changed = match self.before {
            Some(_) => changed,
            None => {
                for topic in catalog.topics() {
                    all.extend(topic.queues.iter().map(|queue| queue.id()));
                }
                &all
            }
        };
        let table = self.map(Kind::Queues, QUEUE_KEY, &mut |put| {
            for id in changed {
                let queue = catalog.topic_by_id(id.topic).and_then(|topic| topic.queue(id.queue));
                let Some(kept) = queue.map(|queue| queue.kept()) else { continue };
                put(&queue_key(*id), Some(&queue_value(kept)))?;
            }
            Ok(())
        })?;
        chain.tables.extend(table);
        chain.covers = self.replay_from;
        Ok(chain)
    }

    fn progress(&mut self, views: &SharedViews) -> Result<Chain, CheckpointError> {
        let mut chain = self.chain(Kind::Progress);
        let since = if self.before.is_some() { self.since } else { LogPosition(0) };
        let mut pairs: Vec<_> = {
            let all = views.progress.lock();
            all.iter().map(|(pair, shared)| (*pair, shared.clone())).collect()
        };
        pairs.sort_unstable_by_key(|(pair, _)| *pair);
        let table = self.map(Kind::Progress, KEY_BYTES, &mut |put| {
            for (pair, shared) in &pairs {
                let taken = shared.lock().take_changed(since);
                if let Some(taken) = taken {
                    taken.rows(*pair, put)?;
                }
            }
            Ok(())
        })?;
        chain.tables.extend(table);
        chain.covers = since;
        Ok(chain)
    }

    fn transactions(&mut self, views: &SharedViews) -> Result<Chain, CheckpointError> {
        let mut chain = self.chain(Kind::Transactions);
        let (rows, covers) = {
            let mut transactions = views.transactions.lock();
            (transactions.take_changed(self.before.is_none()), transactions.covers())
        };
        let table = self.map(Kind::Transactions, TRANSACTION_KEY, &mut |put| {
            rows.iter()
                .try_for_each(|(origin, value)| put(&origin.0.to_be_bytes(), value.as_deref()))
                .map_err(CheckpointError::from)
        })?;
        chain.tables.extend(table);
        chain.covers = covers;
        Ok(chain)
    }

    /// Keeps a chain short: neighbours of like size become one, so that each row is written a few times in all.
    fn merge(&mut self, kind: Kind, chain: &mut Chain, catalog: &Catalog) -> Result<(), CheckpointError> {
        let Some(key) = map_key(kind) else { return Ok(()) };
        let mut count = 1;
        let mut bytes = chain.tables.last().map_or(0, |table| table.bytes);
        while count < chain.tables.len() {
            let next = chain.tables[chain.tables.len() - count - 1].bytes;
            if next > bytes.saturating_mul(2) && chain.tables.len() - count < TABLES_MAX {
                break;
            }
            bytes += next;
            count += 1;
        }
        if count < 2 {
            return Ok(());
        }
        let kept = chain.tables.len() - count;
        let mut tables: Vec<Arc<Table>> = Vec::new();
        for table in &chain.tables[kept..] {
            tables.push(Arc::new(Pair::open(self.disk, kind, table.number, self.store)?));
        }
        let mut merged = map::Chain::new(&tables)?;
        let table = self.map(kind, key, &mut |put| {
            while let Some((key, value)) = merged.next_pair()? {
                // What hides older tables' rows is needed as long as there are such.
                if kept > 0 || (value.is_some() && is_live(kind, &key, catalog)) {
                    put(&key, value.as_deref())?;
                }
            }
            Ok(())
        })?;
        chain.tables.truncate(kept);
        chain.tables.extend(table);
        Ok(())
    }
}

pub(super) fn queue_key(id: QueueId) -> [u8; QUEUE_KEY] {
    let mut key = [0; QUEUE_KEY];
    key[..4].copy_from_slice(&id.topic.0.to_be_bytes());
    key[4..].copy_from_slice(&id.queue.0.to_be_bytes());
    key
}

pub(super) fn queue_value(kept: Kept) -> Vec<u8> {
    let mut value = Vec::new();
    value.varint(kept.first.0);
    value.varint(kept.sealed.0);
    value
}

/// Puts a row into a table; no value: the key is no more.
type Put<'a> = dyn FnMut(&[u8], Option<&[u8]>) -> io::Result<()> + 'a;

/// Bytes of the keys of a kind whose tables map keys to values.
fn map_key(kind: Kind) -> Option<usize> {
    match kind {
        Kind::Catalog => Some(CATALOG_KEY),
        Kind::Queues => Some(QUEUE_KEY),
        Kind::Progress => Some(KEY_BYTES),
        Kind::Transactions => Some(TRANSACTION_KEY),
        Kind::Timers | Kind::Ledgers | Kind::Index | Kind::Thin => None,
    }
}

/// Whether what a row is about still exists.
fn is_live(kind: Kind, key: &[u8], catalog: &Catalog) -> bool {
    match kind {
        Kind::Queues => {
            let topic = base::TopicId(u32::from_be_bytes(key[..4].try_into().expect("four bytes")));
            catalog.topic_by_id(topic).is_some()
        }
        Kind::Progress => {
            let Ok(key) = key.try_into() else { return true };
            let (group, topic) = rows::pair_of(key);
            catalog.group_by_id(group).is_some() && catalog.topic_by_id(topic).is_some()
        }
        _ => true,
    }
}
