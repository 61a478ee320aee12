//! Making an index file from its segment.

use std::collections::BTreeMap;
use std::io;

use base::{BatchIndex, LogPosition, QueueOffset, Timestamp, TopicId};

use super::*;
use crate::hash::{HashKey, Lookup};
use crate::log::recovery::{Found, OpenError};
use crate::log::sealed;
use crate::log::thin::Kept;
use crate::record::{self, Framed, Pointer, Record};
use crate::table::{self, Identity, Kind, TableWriter};
use crate::{codec, message};

/// An index file cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the segment cannot be read: {0}")]
    Segment(#[from] OpenError),
    #[error(transparent)]
    Thin(#[from] table::TableError),
    #[error("the index file cannot be written: {0}")]
    Write(#[from] io::Error),
}

/// Where an index is made, and of what.
pub struct Site<'a> {
    pub disk: &'a dyn Disk,
    pub segment: &'a Segment,
    /// The first batch of the segment behind it.
    pub next_index: Option<BatchIndex>,
    pub hash_key: HashKey,
    /// Of the table's own.
    pub random: u64,
}

/// Reads a sealed segment and makes its index durable. What is damaged is left out, and named in the summary.
pub fn build(site: &Site<'_>) -> Result<(), BuildError> {
    let header = &site.segment.header;
    let mut gathered = Gathered::new(site.hash_key, header.base);
    if let Some(thin) = &site.segment.thin {
        // A scrub names what of it is damaged.
        let _damaged = thin.each(&mut |kept| gathered.kept(&kept))?;
        gathered.summary = thin.summary().clone();
    } else {
        let content = sealed::read(site.segment, site.next_index, &mut |found| gathered.batch(&found))?;
        gathered.summary = Summary {
            base: header.base,
            size: header.size,
            end: content.end,
            next_index: content.next_index,
            holes: content.holes,
            ..gathered.summary
        };
    }
    let name = name(header.base);
    let temporary = table::temporary(&name);
    let identity = Identity { kind: Kind::Index, store: header.cluster, random: site.random, number: header.base.0 };
    gathered.write(TableWriter::create(site.disk, &temporary, identity)?)?;
    table::publish(site.disk, &temporary, &name)?;
    Ok(())
}

/// What a segment holds.
struct Gathered {
    hash_key: HashKey,
    base: LogPosition,
    queues: BTreeMap<QueueId, (QueueOffset, Vec<Entry>)>,
    keys: Vec<(u64, u32)>,
    topics: BTreeMap<TopicId, TopicShare>,
    references: BTreeMap<(u64, TopicId), (Timestamp, u32)>,
    summary: Summary,
}

impl Gathered {
    fn new(hash_key: HashKey, base: LogPosition) -> Self {
        Self {
            hash_key,
            base,
            queues: BTreeMap::new(),
            keys: Vec::new(),
            topics: BTreeMap::new(),
            references: BTreeMap::new(),
            summary: Summary::default(),
        }
    }

    fn batch(&mut self, found: &Found<'_>) {
        let stored_at = found.header.stored_at;
        self.summary.batches += 1;
        self.summary.records += u64::from(found.header.records);
        self.summary.newest = self.summary.newest.max(stored_at);
        if self.summary.oldest == Timestamp::ZERO {
            self.summary.oldest = stored_at;
        }
        // A recovery has read this batch before, and would have refused it.
        let _is_read = record::each(found, &mut |position, framed| {
            self.record(framed, Pointer { position, length: framed.length }, stored_at);
        });
    }

    fn kept(&mut self, kept: &Kept<'_>) {
        let Ok(framed) = record::decode(kept.bytes) else { return };
        let pointer = Pointer { position: kept.position, length: framed.length };
        self.record(&framed, pointer, kept.stored_at);
    }

    fn record(&mut self, framed: &Framed<'_>, pointer: Pointer, stored_at: Timestamp) {
        match &framed.record {
            Record::Message { head, queue, offset } => {
                let entry = Entry::new(pointer, stored_at, head.group_hash, head.tag_hash, head.priority);
                self.entry(QueueId { topic: head.topic, queue: *queue }, *offset, entry);
            }
            Record::Publish { origin, head, queue, offset, visible_since, .. } => {
                let entry = Entry::new(*origin, *visible_since, head.group_hash, head.tag_hash, head.priority);
                self.entry(QueueId { topic: head.topic, queue: *queue }, *offset, entry);
                if origin.position < self.base {
                    let stretch = origin.position.0 / STRETCH_BYTES;
                    let reference = self.references.entry((stretch, head.topic)).or_default();
                    reference.0 = reference.0.max(*visible_since);
                    reference.1 += 1;
                }
            }
            _ => {}
        }
        if let Record::Message { head, .. } | Record::Delayed { head, .. } | Record::Prepared { head, .. } =
            &framed.record
        {
            self.topics.entry(head.topic).or_default().bytes += u64::from(pointer.length);
        }
        let offset = u32::try_from(pointer.position.since(self.base)).expect("segments are below 4 GiB");
        names(&self.hash_key, framed, &mut |hash| self.keys.push((hash, offset)));
    }

    fn entry(&mut self, id: QueueId, offset: QueueOffset, entry: Entry) {
        let share = self.topics.entry(id.topic).or_default();
        share.messages += 1;
        share.newest = share.newest.max(entry.visible_since);
        let (first, entries) = self.queues.entry(id).or_insert((offset, Vec::new()));
        // Q1: what damage took leaves lost entries behind.
        while first.0 + (entries.len() as u64) < offset.0 {
            entries.push(Entry::lost(entry.visible_since));
        }
        entries.push(entry);
    }

    fn write(mut self, mut table: TableWriter) -> io::Result<()> {
        let mut groups: Vec<(u64, u32)> = Vec::new();
        table.rows(DIRECTORY, DIRECTORY_BYTES, DIRECTORY_KEY)?;
        let mut first_row = 0u32;
        for (id, (first, entries)) in &self.queues {
            let count = u32::try_from(entries.len()).expect("a segment is below 4 GiB");
            let mut row = [0; DIRECTORY_BYTES];
            row[..DIRECTORY_KEY].copy_from_slice(&directory_key(*id));
            row[8..16].copy_from_slice(&first.0.to_le_bytes());
            row[16..20].copy_from_slice(&count.to_le_bytes());
            row[20..].copy_from_slice(&first_row.to_le_bytes());
            table.row(&row)?;
            for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.group_hash != 0) {
                let row = first_row + u32::try_from(index).expect("below the count");
                groups.push((self.hash_key.lookup_group(id.topic, entry.group_hash), row));
            }
            first_row += count;
        }
        table.rows(ENTRIES, ENTRY_BYTES, 0)?;
        for entry in self.queues.values().flat_map(|(_, entries)| entries) {
            table.row(&entry.encode())?;
        }
        write_lookup(&mut table, KEYS, &mut self.keys)?;
        write_lookup(&mut table, GROUPS, &mut groups)?;
        table.rows(TOPICS, TOPIC_BYTES, TOPIC_KEY)?;
        for (topic, share) in &self.topics {
            let mut row = topic.0.to_be_bytes().to_vec();
            for number in [share.messages, share.bytes, share.newest.0] {
                codec::Encode::u64(&mut row, number);
            }
            table.row(&row)?;
        }
        table.rows(REFERENCES, REFERENCE_BYTES, REFERENCE_KEY)?;
        for ((stretch, topic), (newest, count)) in &self.references {
            let mut row = stretch.to_be_bytes().to_vec();
            row.extend_from_slice(&topic.0.to_be_bytes());
            row.extend_from_slice(&newest.0.to_le_bytes());
            row.extend_from_slice(&count.to_le_bytes());
            table.row(&row)?;
        }
        table.bytes(SUMMARY)?;
        table.append(&self.summary.encode())?;
        table.finish().map(drop)
    }
}

/// What a record is found by: a body by its keys and its id, a publication by the body that it is of.
pub(crate) fn names(hash_key: &HashKey, framed: &Framed<'_>, name: &mut dyn FnMut(u64)) {
    match &framed.record {
        Record::Message { head, .. } | Record::Delayed { head, .. } | Record::Prepared { head, .. } => {
            let Some(envelope) = message::unchecked_envelope(framed.body) else { return };
            envelope.keys.iter().for_each(|key| name(hash_key.lookup(head.topic, Lookup::Key, key)));
            name(hash_key.lookup(head.topic, Lookup::Id, &envelope.message_id));
        }
        Record::Publish { origin, head, .. } => name(hash_key.lookup_origin(head.topic, origin.position)),
        _ => {}
    }
}

fn write_lookup(table: &mut TableWriter, id: u32, rows: &mut [(u64, u32)]) -> io::Result<()> {
    rows.sort_unstable();
    table.rows(id, LOOKUP_BYTES, LOOKUP_KEY)?;
    for (hash, target) in rows {
        let mut row = [0; LOOKUP_BYTES];
        row[..LOOKUP_KEY].copy_from_slice(&hash.to_be_bytes());
        row[LOOKUP_KEY..].copy_from_slice(&target.to_le_bytes());
        table.row(&row)?;
    }
    Ok(())
}
