//! Verifying what lies in a data directory: every batch, record and body of the log, what damage took, and every block of
//! what lies beside the log. Changes nothing.
//!
//! Each kind of file is one arm of [`Kind::of`] and, when something derived can be wrong about it, a module beside
//! [`losses`] whose findings join [`Verified`].

mod files;
mod losses;

use base::limits::LOG_BLOCK_BYTES;
use base::{LogPosition, QueueIndex, QueueOffset, TopicId};
use bytes::Bytes;

use crate::checkpoint;
use crate::codec::Malformed;
use crate::disk::Disk;
use crate::index;
use crate::log::recovery::{OpenError, Start};
use crate::log::segment::{self, PREPARED_PREFIX};
use crate::log::thin;
use crate::log::walk::{self, Step, Walked};
use crate::message::{self, BodyError, StoredMessage};
use crate::record::{self, Framed, Record};
use crate::table::TEMPORARY_PREFIX;
pub use files::{File, FileFlaw, Files, Finding, Known};
pub use losses::{Hole, Loss, Losses};

/// What a file of a data directory is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Segment,
    /// What is left of a sealed segment.
    Thin,
    /// What a sealed segment holds.
    Index,
    /// What a checkpoint is.
    Manifest,
    /// A table of a checkpoint, or its copy.
    Table,
    /// Holds nothing that could be damaged: the lock, the ports of a running server, files prepared for later segments or
    /// not yet complete.
    Passing,
    /// Not of this version.
    Unknown,
}

impl Kind {
    pub fn of(name: &str) -> Self {
        match name {
            _ if segment::parse_name(name).is_some() => Self::Segment,
            crate::disk::real::LOCK | "ports.json" => Self::Passing,
            _ if name.starts_with(PREPARED_PREFIX) || name.starts_with(TEMPORARY_PREFIX) => Self::Passing,
            _ if thin::parse_name(name).is_some() => Self::Thin,
            _ if index::parse_name(name).is_some() => Self::Index,
            _ if checkpoint::parse_manifest_name(name).is_some() => Self::Manifest,
            _ if checkpoint::parse_data_name(name).is_some() => Self::Table,
            _ => Self::Unknown,
        }
    }
}

/// What one segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub name: String,
    pub base: LogPosition,
    pub size: u64,
    /// Of its header, one copy is damaged and the other one serves.
    pub is_copy_damaged: bool,
    pub batches: u64,
    pub records: u64,
    pub bodies: u64,
    /// Of its batches, headers and padding included.
    pub bytes: u64,
}

/// What is wrong with a record of a sound batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFlaw {
    #[error("the record cannot be read: {0}")]
    Malformed(#[from] Malformed),
    #[error("the body cannot be used: {0}")]
    Body(#[from] BodyError),
    #[error("the body does not have the MD5 that was computed when it was sent")]
    Digest,
}

/// A record of a sound batch that is wrong all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongRecord {
    pub position: LogPosition,
    pub flaw: RecordFlaw,
    /// Where the message would be, when that much can be read.
    pub place: Option<(TopicId, Option<(QueueIndex, QueueOffset)>)>,
}

/// What came of verifying a directory.
#[derive(Debug)]
pub struct Verified {
    pub segments: Vec<Segment>,
    pub losses: Losses,
    pub wrong: Vec<WrongRecord>,
    pub walked: Walked,
    /// What lies beside the log.
    pub beside: Files,
    /// Files that this version knows nothing about.
    pub unknown: Vec<String>,
}

impl Verified {
    /// Nothing that was acknowledged is gone or wrong. A torn tail is none of it, nor what can be made anew.
    pub fn is_sound(&self) -> bool {
        self.losses.holes.is_empty()
            && self.losses.unexplained.is_empty()
            && self.wrong.is_empty()
            && self.walked.refusal.is_none()
            && self.beside.refusal.is_none()
            && !self.segments.iter().any(|segment| segment.is_copy_damaged)
    }

    /// Sound, and so is every file beside the log.
    pub fn is_whole(&self) -> bool {
        self.is_sound() && !self.beside.is_damaged()
    }
}

/// Where the newest checkpoint says that the log begins; none when there is no checkpoint.
pub fn start_of(disk: &dyn Disk) -> Result<Option<Start>, OpenError> {
    let newest = checkpoint::newest(disk);
    let newest = newest.map_err(|source| OpenError::Io { operation: "reading", name: "checkpoints".into(), source })?;
    Ok(newest.map(|manifest| manifest.start()))
}

/// Reads what lies beside the log, and of the log only what its segments are.
pub fn beside(disk: &dyn Disk) -> Result<Files, OpenError> {
    let names = list(disk)?;
    let mut known = Vec::new();
    for base in names.iter().filter_map(|name| segment::parse_name(name)) {
        let name = segment::name(base);
        let mut block = vec![0; LOG_BLOCK_BYTES as usize];
        let read = disk.open_to_read(&name).and_then(|file| file.read_at(&mut block, 0));
        read.map_err(|source| OpenError::Io { operation: "reading", name, source })?;
        if let Ok(segment::Header { base, size, cluster: store, .. }) = segment::Header::decode(&block) {
            known.push(Known { base, size, store });
        }
    }
    Ok(files::look(disk, &names, &known))
}

fn list(disk: &dyn Disk) -> Result<Vec<String>, OpenError> {
    let fail = |source| OpenError::Io { operation: "listing", name: "the data directory".into(), source };
    disk.list().map_err(fail)
}

/// Reads everything.
pub fn directory(disk: &dyn Disk) -> Result<Verified, OpenError> {
    let (mut segments, mut wrong, mut known) = (Vec::new(), Vec::new(), Vec::new());
    let mut losses = Losses::default();
    let start = start_of(disk)?;
    let walked = walk::walk(disk, start.as_ref(), &mut |step| match step {
        Step::Segment(entered) => {
            losses.enter(entered.header);
            let segment::Header { base, size, cluster: store, .. } = *entered.header;
            known.push(Known { base, size, store });
            segments.push(Segment {
                name: entered.name,
                base: entered.header.base,
                size: entered.header.size,
                is_copy_damaged: entered.is_copy_damaged,
                batches: 0,
                records: 0,
                bodies: 0,
                bytes: 0,
            });
        }
        Step::Batch(found) => {
            let segment: &mut Segment = segments.last_mut().expect("a batch lies in a segment");
            segment.batches += 1;
            segment.records += u64::from(found.header.records);
            segment.bytes += found.header.total();
            losses.batch(&found.header);
            let malformed = record::each(&found, &mut |position, framed| {
                segment.bodies += u64::from(framed.record.has_body());
                losses.record(position, &framed.record);
                if framed.record.has_body()
                    && let Err(flaw) = check_body(framed)
                {
                    wrong.push(WrongRecord { position, flaw, place: place(&framed.record) });
                }
            });
            if let Err((position, cause)) = malformed {
                wrong.push(WrongRecord { position, flaw: cause.into(), place: None });
            }
        }
        Step::Hole(hole) => losses.hole(hole),
    })?;
    losses.finish(walked.end);
    let names = list(disk)?;
    let beside = files::look(disk, &names, &known);
    let mut unknown: Vec<String> = names.into_iter().filter(|name| Kind::of(name) == Kind::Unknown).collect();
    unknown.sort_unstable();
    Ok(Verified { segments, losses, wrong, walked, beside, unknown })
}

/// Reads the message of a body record, and holds it to its checksums.
pub fn check_body(framed: &Framed<'_>) -> Result<StoredMessage, RecordFlaw> {
    let topic = place(&framed.record).map_or(TopicId::default(), |(topic, _)| topic);
    let message = message::decode(topic, &Bytes::copy_from_slice(framed.body))?;
    match message.md5 == message::digest(&message.body) {
        true => Ok(message),
        false => Err(RecordFlaw::Digest),
    }
}

/// Where a body record's message belongs.
fn place(record: &Record) -> Option<(TopicId, Option<(QueueIndex, QueueOffset)>)> {
    match record {
        Record::Message { head, queue, offset } => Some((head.topic, Some((*queue, *offset)))),
        Record::Delayed { head, .. } | Record::Prepared { head, .. } => Some((head.topic, None)),
        _ => None,
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
