//! Opening a store from its newest sound checkpoint.

use std::io;
use std::sync::Arc;

use base::{GroupId, GroupName, LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId, TopicName};

use super::files::{self, ManifestFile, Pair};
use super::gather::{
    BURIED_GROUP, BURIED_TOPIC, CATALOG_KEY, GROUP, NEXT_IDS, QUEUE_KEY, SCHEDULE, TOPIC, TRANSACTION_KEY,
};
use super::runs::open_runs;
use super::{Manifest, ManifestError};
use crate::codec::{Decoder, Malformed};
use crate::disk::Disk;
use crate::record::ScheduleSpec;
use crate::table::map::Chain;
use crate::table::{Kind, Table, TableError};
use crate::timer::TimerCore;
use crate::view::Views;
use crate::view::catalog::{Catalog, GroupSpec, TopicKind, TopicSpec};
use crate::view::progress::rows::{KEY_BYTES, pair_of};
use crate::view::queue::Kept;
use crate::view::timers::Bounds;

/// A checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("checkpoint {number} cannot be read: {source}")]
    Io { number: u64, source: io::Error },
    #[error("checkpoint {number}: {source}")]
    Manifest { number: u64, source: ManifestError },
    #[error("checkpoint {number}: {source}")]
    Table { number: u64, source: TableError },
    #[error("checkpoint {number}: a {kind} table: {source}")]
    Row { number: u64, kind: &'static str, source: Malformed },
}

impl RestoreError {
    /// Whether another program may be able to use it: then nothing is to be made of an older one.
    pub fn is_unknown_version(&self) -> bool {
        matches!(
            self,
            Self::Manifest { source: ManifestError::Version { .. } | ManifestError::Features { .. }, .. }
                | Self::Table { source: TableError::Version { .. }, .. }
        )
    }
}

/// What a checkpoint gave.
pub struct Restored {
    pub manifest: Manifest,
    pub views: Views,
    pub timer: TimerCore,
}

/// Manifests by number, newest first.
pub fn numbers(names: &[String]) -> Vec<u64> {
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| files::parse_manifest_name(name)).collect();
    numbers.sort_unstable_by(|one, other| other.cmp(one));
    numbers
}

pub fn read_manifest(disk: &dyn Disk, number: u64) -> Result<Manifest, RestoreError> {
    let read = ManifestFile::read(disk, number).map_err(|source| RestoreError::Io { number, source })?;
    let manifest = read.map_err(|source| RestoreError::Manifest { number, source })?;
    if manifest.number != number {
        return Err(RestoreError::Manifest { number, source: ManifestError::Damaged });
    }
    Ok(manifest)
}

/// The newest manifest that can be read; its tables are not looked at.
pub fn newest(disk: &dyn Disk) -> io::Result<Option<Manifest>> {
    let names = disk.list()?;
    Ok(numbers(&names).into_iter().find_map(|number| read_manifest(disk, number).ok()))
}

/// Reads the tables that a manifest names.
pub fn restore(disk: &dyn Disk, manifest: Manifest, bounds: Bounds) -> Result<Restored, RestoreError> {
    let reading = Reading { disk, manifest: &manifest };
    let mut views = Views::default();
    views.hash_key = Some(manifest.hash_key);
    let mut timer = TimerCore::with_bounds(bounds);
    reading.catalog(&mut views)?;
    reading.queues(&views)?;
    reading.progress(&views)?;
    reading.transactions(&views)?;
    reading.timers(&mut timer)?;
    Ok(Restored { views, timer, manifest })
}

/// Takes a row: its key and its value.
type Visit<'a, const KEY: usize> = dyn FnMut(&[u8; KEY], &[u8]) -> Result<(), Malformed> + 'a;

struct Reading<'a> {
    disk: &'a dyn Disk,
    manifest: &'a Manifest,
}

impl Reading<'_> {
    fn table_error(&self, source: TableError) -> RestoreError {
        RestoreError::Table { number: self.manifest.number, source }
    }

    fn tables(&self, kind: Kind) -> Result<Vec<Arc<Table>>, RestoreError> {
        let chain = self.manifest.chain(kind);
        let open = |table: &super::TableRef| Pair::open(self.disk, kind, table.number, self.manifest.store);
        let tables: Result<Vec<_>, _> = chain.tables.iter().map(|table| open(table).map(Arc::new)).collect();
        tables.map_err(|source| self.table_error(source))
    }

    /// Hands every row of a chain to `visit`.
    fn rows<const KEY: usize>(&self, kind: Kind, visit: &mut Visit<'_, KEY>) -> Result<(), RestoreError> {
        let mut chain = Chain::new(&self.tables(kind)?).map_err(|source| self.table_error(source))?;
        let row = |source| RestoreError::Row { number: self.manifest.number, kind: kind.name(), source };
        while let Some((key, value)) = chain.next_pair().map_err(|source| self.table_error(source))? {
            let Some(value) = value else { continue };
            let key = key.as_slice().try_into().map_err(|_| row(Malformed { what: "key" }))?;
            visit(key, &value).map_err(row)?;
        }
        Ok(())
    }

    fn catalog(&self, views: &mut Views) -> Result<(), RestoreError> {
        let mut catalog = Catalog::new(views.index.clone());
        self.rows(Kind::Catalog, &mut |key: &[u8; CATALOG_KEY], value| {
            let mut from = Decoder::new("row of the catalog", value);
            match key[0] {
                NEXT_IDS => catalog.reserve_ids(from.number()?, from.number()?),
                TOPIC => catalog.apply_topic(&TopicSpec::decode(&mut from)?),
                GROUP => catalog.apply_group(&GroupSpec::decode(&mut from)?),
                SCHEDULE => catalog.apply_schedule(&ScheduleSpec {
                    name: from.text()?.into(),
                    is_dropped: false,
                    content: from.blob()?.into(),
                }),
                BURIED_TOPIC => {
                    let name = TopicName::parse(from.text()?).map_err(|_| from.malformed())?;
                    let kind = TopicKind::decode(&mut from)?;
                    catalog.bury_topic(name, kind, Timestamp(from.varint()?));
                }
                BURIED_GROUP => {
                    let name = GroupName::parse(from.text()?).map_err(|_| from.malformed())?;
                    catalog.bury_group(name, Timestamp(from.varint()?));
                }
                _ => return Err(from.malformed()),
            }
            from.end()
        })?;
        catalog.cover(self.manifest.chain(Kind::Catalog).covers);
        views.catalog.store(Arc::new(catalog));
        Ok(())
    }

    fn queues(&self, views: &Views) -> Result<(), RestoreError> {
        let catalog = views.catalog.load();
        self.rows(Kind::Queues, &mut |key: &[u8; QUEUE_KEY], value| {
            let topic = TopicId(u32::from_be_bytes(key[..4].try_into().expect("four bytes")));
            let queue = QueueIndex(u16::from_be_bytes(key[4..].try_into().expect("two bytes")));
            let mut from = Decoder::new("row of a queue", value);
            let kept = Kept { first: QueueOffset(from.varint()?), sealed: QueueOffset(from.varint()?) };
            // Of a topic that was dropped since.
            if let Some(queue) = catalog.topic_by_id(topic).and_then(|topic| topic.queue(queue)) {
                queue.restore(kept);
            }
            from.end()
        })
    }

    fn progress(&self, views: &Views) -> Result<(), RestoreError> {
        let catalog = views.catalog.load();
        let is_there = |(group, topic): (GroupId, TopicId)| {
            catalog.group_by_id(group).is_some() && catalog.topic_by_id(topic).is_some()
        };
        self.rows(Kind::Progress, &mut |key: &[u8; KEY_BYTES], value| {
            let pair = pair_of(key);
            if !is_there(pair) {
                return Ok(());
            }
            views.progress_of(pair.0, pair.1).lock().restore(key, value)
        })
    }

    fn transactions(&self, views: &Views) -> Result<(), RestoreError> {
        let mut transactions = views.transactions.lock();
        self.rows(Kind::Transactions, &mut |key: &[u8; TRANSACTION_KEY], value| {
            transactions.restore(LogPosition(u64::from_be_bytes(*key)), value)
        })?;
        transactions.cover(self.manifest.chain(Kind::Transactions).covers);
        Ok(())
    }

    fn timers(&self, timer: &mut TimerCore) -> Result<(), RestoreError> {
        let chains = [Kind::Timers, Kind::Ledgers].map(|kind| self.manifest.chain(kind));
        if chains[0].tables.len() != chains[1].tables.len() {
            let (number, source) = (self.manifest.number, ManifestError::Runs);
            return Err(RestoreError::Manifest { number, source });
        }
        let runs = open_runs(self.disk, self.manifest).map_err(|source| self.table_error(source))?;
        timer.restore(runs, chains[0].covers);
        Ok(())
    }
}
