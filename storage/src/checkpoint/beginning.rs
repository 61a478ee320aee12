//! The tables of a checkpoint that is not taken but made up: it says where a log begins of which the older part is gone.

use std::sync::Arc;

use base::LogPosition;

use super::gather::{CATALOG_KEY, GROUP, NEXT_IDS, QUEUE_KEY, TOPIC, queue_key, queue_value};
use super::{Chain, CheckpointError, Pair, TableRef, copy_name, data_name, parse_data_name};
use crate::codec::{Decoder, Encode, Malformed};
use crate::disk::Disk;
use crate::table::map::{self, MapWriter};
use crate::table::{self, Identity, Kind, Table};
use crate::view::catalog::{GroupSpec, TopicSpec};
use crate::view::queue::{Kept, QueueId};

/// What must be known where a log begins.
pub(crate) struct Beginning {
    pub store: [u8; 16],
    pub at: LogPosition,
    /// By id, as the groups and queues.
    pub topics: Vec<TopicSpec>,
    pub groups: Vec<GroupSpec>,
    pub next_topic: u32,
    pub next_group: u32,
    pub queues: Vec<(QueueId, Kept)>,
}

/// What a table of a catalog says, whatever checkpoint named it.
#[derive(Debug, Default)]
pub(crate) struct KnownCatalog {
    pub topics: Vec<TopicSpec>,
    pub groups: Vec<GroupSpec>,
    pub next_topic: u32,
    pub next_group: u32,
}

impl KnownCatalog {
    /// The newest that can be read. Such a table holds everything.
    pub fn newest(disk: &dyn Disk, names: &[String], store: [u8; 16]) -> Option<Self> {
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| parse_data_name(name)).collect();
        numbers.sort_unstable_by(|one, other| other.cmp(one));
        let halves = numbers.into_iter().flat_map(|number| {
            [data_name(Kind::Catalog, number), copy_name(Kind::Catalog, number)].map(|name| (name, number))
        });
        let mut there = halves.filter(|(name, _)| names.contains(name));
        there.find_map(|(name, number)| {
            let table = Pair::check(disk, &name, Kind::Catalog, number, store).ok()?;
            Self::read(Arc::new(table)).ok()
        })
    }

    fn read(table: Arc<Table>) -> Result<Self, Malformed> {
        const MALFORMED: Malformed = Malformed { what: "table of a catalog" };
        let mut known = Self::default();
        let mut rows = map::Chain::new(&[table]).map_err(|_| MALFORMED)?;
        while let Some((key, value)) = rows.next_pair().map_err(|_| MALFORMED)? {
            let Some(value) = value else { continue };
            let mut from = Decoder::new("row of the catalog", &value);
            match key.first() {
                Some(&NEXT_IDS) => (known.next_topic, known.next_group) = (from.number()?, from.number()?),
                Some(&TOPIC) => known.topics.push(TopicSpec::decode(&mut from)?),
                Some(&GROUP) => known.groups.push(GroupSpec::decode(&mut from)?),
                _ => {}
            }
        }
        Ok(known)
    }
}

/// A row, by its key.
type Row = (Vec<u8>, Vec<u8>);

impl Beginning {
    /// Writes the tables, durable when it returns. Gives the chains, and the number of the next table.
    pub fn write(
        &self,
        disk: &dyn Disk,
        random: &mut dyn FnMut() -> u64,
        next_table: u64,
    ) -> Result<(Vec<(Kind, Chain)>, u64), CheckpointError> {
        let mut next_table = next_table;
        let mut chains = Vec::new();
        let filled = [(Kind::Catalog, CATALOG_KEY, self.catalog()), (Kind::Queues, QUEUE_KEY, self.queues())];
        for (kind, key, rows) in filled {
            let mut chain = Chain { covers: self.at, tables: Vec::new() };
            if !rows.is_empty() {
                let identity = Identity { kind, store: self.store, random: random(), number: next_table };
                let name = table::temporary(&data_name(kind, next_table));
                let mut map = MapWriter::create(disk, &name, identity, key)?;
                rows.iter().try_for_each(|(key, value)| map.put(key, Some(value)))?;
                let bytes = map.finish()?;
                Pair::publish(disk, kind, next_table, self.store)?;
                chain.tables.push(TableRef { number: next_table, bytes });
                next_table += 1;
            }
            chains.push((kind, chain));
        }
        let empty = [Kind::Progress, Kind::Transactions, Kind::Timers];
        chains.extend(empty.map(|kind| (kind, Chain { covers: self.at, tables: Vec::new() })));
        disk.sync_directory()?;
        Ok((chains, next_table))
    }

    fn catalog(&self) -> Vec<Row> {
        let key = |kind: u8, number: u64| [&[kind][..], &number.to_be_bytes()].concat();
        let mut ids = Vec::new();
        ids.varint(self.next_topic.into());
        ids.varint(self.next_group.into());
        let mut rows = vec![(key(NEXT_IDS, 0), ids)];
        for topic in &self.topics {
            let mut value = Vec::new();
            topic.encode(&mut value);
            rows.push((key(TOPIC, topic.id.0.into()), value));
        }
        for group in &self.groups {
            let mut value = Vec::new();
            group.encode(&mut value);
            rows.push((key(GROUP, group.id.0.into()), value));
        }
        rows
    }

    fn queues(&self) -> Vec<Row> {
        self.queues.iter().map(|(id, kept)| (queue_key(*id).to_vec(), queue_value(*kept))).collect()
    }
}
