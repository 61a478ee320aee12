//! Opening a store, and the handle that everybody else holds of it.
//!
//! A store is recovered into its parts (writer, timer, views) by [`recover`]; servers hand the parts to threads
//! ([`crate::threads`]), simulations drive them themselves.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base::{Chance, Clock, GroupId, LogPosition, Term, TopicId};
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::cache::TailCache;
use crate::checkpoint::{self, Manifest, RestoreError, Restored};
use crate::codec::Malformed;
use crate::disk::Disk;
use crate::hash::HashKey;
use crate::log::recovery::{self, Found, Report};
use crate::log::segment;
use crate::log::{self, LogFailure, LogOptions, ReadError, Segments};
use crate::lookup::LookUps;
use crate::message::{self, BodyError, StoredMessage};
use crate::metrics::Metrics;
use crate::record::{self, Pointer, Record};
use crate::table::TEMPORARY_PREFIX;
use crate::timer::TimerCore;
use crate::upkeep::{Legacy, SealError, Upkeep, note_hole, open_all};
use crate::view::Views;
use crate::view::catalog::Catalog;
use crate::view::progress::Shared;
use crate::view::timers::Bounds;
use crate::view::transactions::Transactions;
use crate::watch::Watchers;
use crate::writer::Writer;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Log(#[from] recovery::OpenError),
    #[error("the batch at {position} has a valid checksum but cannot be read: {cause}")]
    Malformed { position: LogPosition, cause: Malformed },
    #[error("the store's first batch, with its identity, is lost to damage")]
    NoIdentity,
    #[error("the first batch of this term cannot be written: {0}")]
    Append(#[from] LogFailure),
    #[error("the data directory cannot be read: {0}")]
    Directory(io::Error),
    #[error(transparent)]
    Unknown(RestoreError),
    #[error(
        "no checkpoint can be used, and the log no longer reaches back to its beginning: {reasons}; `carillon doctor` says \
         what is left and what would be lost, `carillon doctor --fix` opens the store with what is left"
    )]
    NothingLeft { reasons: String },
    #[error("checkpoint {number} belongs to another store than the log")]
    Foreign { number: u64 },
    #[error(transparent)]
    Index(#[from] SealError),
}

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub log: LogOptions,
    /// This node's number.
    pub node: u64,
    pub tail_cache_bytes: usize,
    /// What of the timers is kept in memory.
    pub timers: Bounds,
}

/// A recovered store, in parts.
pub struct Recovered {
    pub writer: Writer,
    pub timer: TimerCore,
    pub reader: Reader,
    pub upkeep: Upkeep,
    pub report: Report,
}

/// Restores the newest checkpoint, reads the log from there on, and begins a new term. Everything acknowledged before is
/// served after.
pub fn recover(
    disk: Arc<dyn Disk>,
    options: Options,
    clock: Arc<dyn Clock>,
    mut chance: Chance,
    metrics: Metrics,
) -> Result<Recovered, OpenError> {
    let Beginning { kept, mut views, mut timer } = begin(&*disk, options.timers)?;
    let start = kept.last().map(Manifest::start);
    let mut malformed = None;
    let mut visit = |found: Found<'_>| {
        if let Err(cause) = replay(&mut views, &found) {
            malformed.get_or_insert(OpenError::Malformed { position: found.header.position, cause });
        }
        let events = views.take_timer_events();
        let end = found.header.position.plus(found.header.total());
        if end > timer.covers() {
            timer.apply(&events, end);
        }
    };
    let log_chance = Chance::new(chance.next_u64());
    let (mut log, report) = recovery::open(disk.clone(), options.log, start.as_ref(), log_chance, &mut visit)?;
    if let Some(error) = malformed {
        return Err(error);
    }
    if let Some(newest) = kept.last().filter(|newest| newest.store != log.cluster()) {
        return Err(OpenError::Foreign { number: newest.number });
    }
    // A log that lost all it had is not a new one.
    let is_new = kept.is_empty() && report.batches == 0 && report.quarantined.is_empty();
    if !is_new && views.hash_key.is_none() {
        return Err(OpenError::NoIdentity);
    }
    let holes = holes(&kept, &report);
    if !holes.is_empty() {
        views.keep_lost_offsets();
    }
    if let (Some(start), Some(hash_key)) = (&start, views.hash_key) {
        let all = log.segments().load_full();
        open_all(&*disk, &all, start.from, &views.shared(), hash_key, &mut || chance.next_u64())?;
    }
    views.ring();
    log.begin_term();
    let cache = Arc::new(TailCache::new(options.tail_cache_bytes));
    let mut writer = Writer::new(log, views, cache.clone(), clock, metrics);
    writer.append_own(&first_records(is_new, options.node, &mut chance))?;
    let reader = Reader::of(&writer, cache);
    let legacy = Legacy {
        store: writer.log().cluster(),
        hash_key: *reader.hash_key(),
        segments: writer.log().segments(),
        views: writer.views().shared(),
        kept,
        holes,
    };
    let upkeep = Upkeep::new(disk, Chance::new(chance.next_u64()), legacy);
    Ok(Recovered { writer, timer, reader, upkeep, report })
}

/// What the views are before the log is read.
struct Beginning {
    /// Newest last: the one that was restored.
    kept: Vec<Manifest>,
    views: Views,
    timer: TimerCore,
}

/// The newest checkpoint that can be used; nothing, where the log has everything.
fn begin(disk: &dyn Disk, timers: Bounds) -> Result<Beginning, OpenError> {
    let names = disk.list().map_err(OpenError::Directory)?;
    for name in names.iter().filter(|name| name.starts_with(TEMPORARY_PREFIX)) {
        disk.remove(name).map_err(OpenError::Directory)?;
    }
    let mut reasons = Vec::new();
    let mut numbers = checkpoint::numbers(&names).into_iter();
    while let Some(number) = numbers.next() {
        let restored =
            checkpoint::read_manifest(disk, number).and_then(|manifest| checkpoint::restore(disk, manifest, timers));
        match restored {
            Ok(Restored { manifest, views, timer }) => {
                let older = numbers.next().and_then(|number| checkpoint::read_manifest(disk, number).ok());
                return Ok(Beginning { kept: older.into_iter().chain([manifest]).collect(), views, timer });
            }
            Err(error) if error.is_unknown_version() => return Err(OpenError::Unknown(error)),
            Err(error) => {
                tracing::error!(%error, "a checkpoint cannot be used; an older one is tried");
                reasons.push(error.to_string());
            }
        }
    }
    let first = names.iter().filter_map(|name| segment::parse_name(name)).min();
    if first.is_some_and(|first| first > LogPosition(0)) {
        if reasons.is_empty() {
            reasons.push("there is none".into());
        }
        return Err(OpenError::NothingLeft { reasons: reasons.join("; ") });
    }
    Ok(Beginning { kept: Vec::new(), views: Views::default(), timer: TimerCore::with_bounds(timers) })
}

/// What was damaged before, and what was found to be now.
fn holes(kept: &[Manifest], report: &Report) -> Vec<Range<LogPosition>> {
    let mut holes = kept.last().map(|newest| newest.holes.clone()).unwrap_or_default();
    report.quarantined.iter().for_each(|found| note_hole(&mut holes, found.clone()));
    holes
}

/// What a term begins with; a new store's first batch also holds its identity.
fn first_records(is_new: bool, node: u64, chance: &mut Chance) -> Vec<Record> {
    let mut records = Vec::new();
    if is_new {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&chance.next_u64().to_le_bytes());
        key[8..].copy_from_slice(&chance.next_u64().to_le_bytes());
        records.push(Record::Members { hash_key: HashKey(key), voters: vec![node] });
    }
    records.push(Record::Epoch { node });
    records
}

fn replay(views: &mut Views, found: &Found<'_>) -> Result<(), Malformed> {
    let read = record::each(found, &mut |position, framed| {
        views.apply(&framed.record, Pointer { position, length: framed.length }, found.header.stored_at);
    });
    read.map_err(|(_, cause)| cause)
}

/// A stored message cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the record at {position} is damaged: {cause}")]
    Damaged { position: LogPosition, cause: BodyError },
}

impl FetchError {
    /// Whether the message is gone for good, as far as this node is concerned.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Read(ReadError::Gone(_)) | Self::Damaged { .. } => true,
            Self::Read(ReadError::Io { .. }) => false,
        }
    }
}

/// Everything of a store that can be read. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    catalog: Arc<ArcSwap<Catalog>>,
    catalog_watchers: Arc<Watchers>,
    progress: Arc<Mutex<HashMap<(GroupId, TopicId), Shared>>>,
    transactions: Arc<Mutex<Transactions>>,
    pub(crate) segments: Segments,
    cache: Arc<TailCache>,
    look_ups: Arc<LookUps>,
    hash_key: HashKey,
    term: Term,
}

impl Reader {
    fn of(writer: &Writer, cache: Arc<TailCache>) -> Self {
        let views = writer.views();
        let hash_key = views.hash_key.expect("the first batch of a store holds its key");
        let segments = writer.log().segments();
        Self {
            catalog: views.catalog.clone(),
            catalog_watchers: views.catalog_watchers.clone(),
            progress: views.progress.clone(),
            transactions: views.transactions.clone(),
            look_ups: Arc::new(LookUps::new(views.index.clone(), segments.clone(), cache.clone(), hash_key)),
            segments,
            cache,
            hash_key,
            term: writer.log().term(),
        }
    }

    /// Bodies by key and id. Reads the disk on the calling thread.
    pub(crate) fn look_ups(&self) -> &LookUps {
        &self.look_ups
    }

    /// What exists now.
    pub fn catalog(&self) -> arc_swap::Guard<Arc<Catalog>> {
        self.catalog.load()
    }

    /// Rung when what exists has changed.
    pub fn catalog_watchers(&self) -> &Watchers {
        &self.catalog_watchers
    }

    /// Progress of a pair, made when it does not exist yet.
    pub fn progress(&self, group: GroupId, topic: TopicId) -> Shared {
        self.progress.lock().entry((group, topic)).or_default().clone()
    }

    /// Progress of a pair, if the group has to do with the topic.
    pub fn progress_if_any(&self, group: GroupId, topic: TopicId) -> Option<Shared> {
        self.progress.lock().get(&(group, topic)).cloned()
    }

    /// Progress of every topic that a group has to do with.
    pub fn progress_of(&self, group: GroupId) -> Vec<(TopicId, Shared)> {
        let all = self.progress.lock();
        all.iter().filter(|((of, _), _)| *of == group).map(|((_, topic), shared)| (*topic, shared.clone())).collect()
    }

    pub fn transactions(&self) -> &Mutex<Transactions> {
        &self.transactions
    }

    pub fn hash_key(&self) -> &HashKey {
        &self.hash_key
    }

    /// The term that this process writes in.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The record's bytes, when they are still in memory.
    pub fn cached(&self, pointer: Pointer) -> Option<Bytes> {
        self.cache.get(pointer)
    }

    /// What lies before it is no longer in memory.
    pub fn warm_from(&self) -> LogPosition {
        self.cache.from()
    }

    /// A message from memory or disk; reads the disk on the calling thread.
    pub fn fetch(&self, pointer: Pointer) -> Result<StoredMessage, FetchError> {
        let bytes = match self.cached(pointer) {
            Some(bytes) => bytes,
            None => log::read(&self.segments, pointer)?.into(),
        };
        parse(pointer, &bytes)
    }
}

/// Checks the bytes of a body record and reads its message.
pub fn parse(pointer: Pointer, bytes: &Bytes) -> Result<StoredMessage, FetchError> {
    parse_body(pointer, bytes).map(|(_, message)| message)
}

/// As [`parse`], with the record that brought the body.
pub fn parse_body(pointer: Pointer, bytes: &Bytes) -> Result<(Record, StoredMessage), FetchError> {
    let damaged = |cause| FetchError::Damaged { position: pointer.position, cause };
    let framed = record::decode(bytes).map_err(|cause| damaged(cause.into()))?;
    let topic = match framed.record {
        Record::Message { head, .. } | Record::Delayed { head, .. } | Record::Prepared { head, .. } => head.topic,
        _ => return Err(damaged(Malformed { what: "body record" }.into())),
    };
    let message = message::decode(topic, &bytes.slice_ref(framed.body)).map_err(damaged)?;
    Ok((framed.record, message))
}
