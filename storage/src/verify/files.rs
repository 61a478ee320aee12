//! What lies beside the log: index files, and checkpoints with their tables. Every block is read, nothing is changed.
//!
//! F1. A file counts as damaged for good only when a start could not make up for it: an index has its segment, half of a
//!     pair the other half, a checkpoint the one before it or the whole log.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use base::LogPosition;

use super::Kind;
use crate::checkpoint::{self, Manifest, ManifestError, RestoreError, TableRef};
use crate::disk::Disk;
use crate::index::{self, SegmentIndex};
use crate::log::segment;
use crate::log::thin::{self, Thin};
use crate::table::{self, TableError};

/// A file beside the log, or one of the log that is on its way out.
#[derive(Debug)]
pub struct File {
    pub name: String,
    pub bytes: u64,
    pub finding: Finding,
}

#[derive(Debug)]
pub enum Finding {
    Sound,
    /// Damaged or missing; what is left suffices to make it anew.
    Anew(FileFlaw),
    /// Damaged, and nothing is left to make up for it.
    Damaged(FileFlaw),
    /// Of another version of this program.
    Version(FileFlaw),
    /// A segment that has expired, or its index: goes when no checkpoint names it.
    Leaving,
    /// Nothing names it: left behind by a run that was cut short.
    Stray,
}

impl Finding {
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Anew(_) | Self::Damaged(_) | Self::Version(_) => true,
            Self::Sound | Self::Leaving | Self::Stray => false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FileFlaw {
    #[error("missing")]
    Missing,
    #[error("{0}")]
    Table(TableError),
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    #[error("it belongs to another store")]
    Foreign,
    #[error("it is the index of another segment")]
    OtherSegment,
    #[error("neither {table} nor its copy is sound")]
    Unusable { table: String },
    #[error("{0}")]
    Io(io::Error),
}

impl FileFlaw {
    fn is_version(&self) -> bool {
        match self {
            Self::Table(TableError::Version { .. })
            | Self::Manifest(ManifestError::Version { .. } | ManifestError::Features { .. }) => true,
            Self::Table(_) | Self::Manifest(_) | Self::Missing | Self::Foreign | Self::OtherSegment => false,
            Self::Unusable { .. } | Self::Io(_) => false,
        }
    }
}

impl From<TableError> for FileFlaw {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Self::Missing,
            TableError::Foreign { .. } => Self::Foreign,
            other => Self::Table(other),
        }
    }
}

/// Everything beside the log.
#[derive(Debug, Default)]
pub struct Files {
    pub files: Vec<File>,
    /// The checkpoint that a start would use.
    pub checkpoint: Option<u64>,
    /// Why a start would find nothing to begin with.
    pub refusal: Option<String>,
    /// That is so because no checkpoint is left, and not all of the log.
    pub is_nothing_left: bool,
    /// Every manifest that is there can be read: what none of them names, nobody needs.
    pub is_named_surely: bool,
}

impl Files {
    pub fn is_damaged(&self) -> bool {
        self.files.iter().any(|file| file.finding.is_damage())
    }

    /// What nothing names, and nothing needs.
    pub fn strays(&self) -> Vec<String> {
        let is_stray = |file: &&File| self.is_named_surely && matches!(file.finding, Finding::Stray);
        self.files.iter().filter(is_stray).map(|file| file.name.clone()).collect()
    }
}

/// A segment that belongs to the log.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub base: LogPosition,
    pub size: u64,
    pub store: [u8; 16],
}

/// Reads what lies beside the log whose segments are `known`.
pub fn look(disk: &dyn Disk, names: &[String], known: &[Known]) -> Files {
    let manifests: Vec<(u64, Result<Manifest, FileFlaw>)> = checkpoint::numbers(names)
        .into_iter()
        .map(|number| (number, checkpoint::read_manifest(disk, number).map_err(of_manifest)))
        .collect();
    let store = manifests.iter().find_map(|(_, manifest)| Some(manifest.as_ref().ok()?.store));
    let store = known.first().map(|known| known.store).or(store).unwrap_or_default();
    let mut looking = Looking { disk, names, known, store, files: Vec::new() };
    let tables = looking.tables(&manifests);
    let reaches_back = names.iter().filter_map(|name| segment::parse_name(name)).min();
    let is_log_whole = reaches_back.is_none_or(|first| first == LogPosition(0));
    let judged: Vec<(u64, Result<(), FileFlaw>)> =
        manifests.iter().map(|(number, read)| (*number, judge(read, &tables, store))).collect();
    let checkpoint = judged.iter().find(|(_, judged)| judged.is_ok()).map(|(number, _)| *number);
    let is_nothing_left = checkpoint.is_none() && !is_log_whole;
    let refusal = is_nothing_left.then(|| reasons(&judged));
    let is_named_surely = manifests.iter().all(|(_, read)| read.is_ok());
    let newer = judged.iter().take_while(|(number, _)| Some(*number) != checkpoint);
    let unknown = newer.filter_map(|(_, judged)| judged.as_ref().err()).find(|flaw| flaw.is_version());
    let unknown = unknown.map(|flaw| flaw.to_string());
    let is_nothing_left = is_nothing_left && unknown.is_none();
    let refusal = unknown.or(refusal);
    for (number, judged) in judged {
        let finding = match judged {
            Ok(()) => Finding::Sound,
            Err(flaw) => damaged(flaw, refusal.is_none()),
        };
        looking.file(checkpoint::manifest_name(number), finding);
    }
    looking.pairs(tables, refusal.is_none());
    looking.indexes(&manifests, checkpoint);
    looking.rest(&manifests);
    let mut files = looking.files;
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Files { files, checkpoint, refusal, is_nothing_left, is_named_surely }
}

/// Of both halves of a table.
type Halves = [Result<(), FileFlaw>; 2];

fn of_manifest(error: RestoreError) -> FileFlaw {
    match error {
        RestoreError::Manifest { source, .. } => source.into(),
        RestoreError::Io { source, .. } => FileFlaw::Io(source),
        RestoreError::Table { source, .. } => source.into(),
        RestoreError::Row { source, .. } => ManifestError::from(source).into(),
    }
}

fn damaged(flaw: FileFlaw, is_made_up_for: bool) -> Finding {
    match flaw {
        flaw if flaw.is_version() => Finding::Version(flaw),
        flaw if is_made_up_for => Finding::Anew(flaw),
        flaw => Finding::Damaged(flaw),
    }
}

/// Whether a checkpoint can be used.
fn judge(
    read: &Result<Manifest, FileFlaw>,
    tables: &BTreeMap<(table::Kind, u64), Halves>,
    store: [u8; 16],
) -> Result<(), FileFlaw> {
    let manifest = match read {
        Ok(manifest) => manifest,
        Err(FileFlaw::Manifest(error)) => return Err(error.clone().into()),
        Err(FileFlaw::Io(error)) => return Err(FileFlaw::Io(io::Error::new(error.kind(), error.to_string()))),
        Err(_) => return Err(ManifestError::Damaged.into()),
    };
    if manifest.store != store {
        return Err(FileFlaw::Foreign);
    }
    for (kind, TableRef { number, .. }) in manifest.tables() {
        if tables[&(kind, number)].iter().all(Result::is_err) {
            return Err(FileFlaw::Unusable { table: checkpoint::data_name(kind, number) });
        }
    }
    Ok(())
}

fn reasons(judged: &[(u64, Result<(), FileFlaw>)]) -> String {
    let flaw = |(number, judged): &(u64, Result<(), FileFlaw>)| {
        judged.as_ref().err().map(|flaw| format!("checkpoint {number}: {flaw}"))
    };
    let reasons: Vec<String> = judged.iter().filter_map(flaw).collect();
    let reasons = if reasons.is_empty() { "there is none".into() } else { reasons.join("; ") };
    format!("no checkpoint can be used, and the log no longer reaches back to its beginning: {reasons}")
}

struct Looking<'a> {
    disk: &'a dyn Disk,
    names: &'a [String],
    known: &'a [Known],
    store: [u8; 16],
    files: Vec<File>,
}

impl Looking<'_> {
    fn file(&mut self, name: String, finding: Finding) {
        let bytes = self.disk.open_to_read(&name).and_then(|file| file.length()).unwrap_or(0);
        self.files.push(File { name, bytes, finding });
    }

    /// Both halves of every table that a manifest names.
    fn tables(&self, manifests: &[(u64, Result<Manifest, FileFlaw>)]) -> BTreeMap<(table::Kind, u64), Halves> {
        let mut tables = BTreeMap::new();
        for manifest in manifests.iter().filter_map(|(_, manifest)| manifest.as_ref().ok()) {
            for (kind, TableRef { number, .. }) in manifest.tables() {
                let names = [checkpoint::data_name(kind, number), checkpoint::copy_name(kind, number)];
                let read = |name: String| {
                    let read = checkpoint::Pair::check(self.disk, &name, kind, number, self.store);
                    read.map(drop).map_err(FileFlaw::from)
                };
                tables.entry((kind, number)).or_insert_with(|| names.map(read));
            }
        }
        tables
    }

    fn pairs(&mut self, tables: BTreeMap<(table::Kind, u64), Halves>, can_start: bool) {
        for ((kind, number), halves) in tables {
            let is_half_left = halves.iter().any(Result::is_ok);
            let names = [checkpoint::data_name(kind, number), checkpoint::copy_name(kind, number)];
            for (name, half) in names.into_iter().zip(halves) {
                let finding = match half {
                    Ok(()) => Finding::Sound,
                    Err(flaw) => damaged(flaw, is_half_left || can_start),
                };
                self.file(name, finding);
            }
        }
    }

    /// The indexes that are there, and those that ought to be.
    fn indexes(&mut self, manifests: &[(u64, Result<Manifest, FileFlaw>)], checkpoint: Option<u64>) {
        let used = manifests.iter().find(|(number, _)| Some(*number) == checkpoint);
        let sealed_to = used.and_then(|(_, used)| used.as_ref().ok()).map(|used| used.replay_from).unwrap_or_default();
        let thinned: Vec<Known> = self.names.iter().filter_map(|name| self.what_is_left(name)).collect();
        for known in self.known.iter().chain(&thinned) {
            let name = index::name(known.base);
            if !self.names.contains(&name) && known.base >= sealed_to {
                continue;
            }
            let finding = match self.index(known) {
                Ok(()) => Finding::Sound,
                Err(flaw) => damaged(flaw, true),
            };
            self.file(name, finding);
        }
    }

    fn index(&self, known: &Known) -> Result<(), FileFlaw> {
        let index = SegmentIndex::open(self.disk, known.base, self.store)?;
        index.verify()?;
        match index.summary().size == known.size {
            true => Ok(()),
            false => Err(FileFlaw::OtherSegment),
        }
    }

    /// The segment of which only a thin file is there.
    fn what_is_left(&self, name: &str) -> Option<Known> {
        let base = thin::parse_name(name).filter(|base| !self.names.contains(&segment::name(*base)))?;
        // One that is damaged is told of when it is looked at itself.
        let header = Thin::open(self.disk, base).ok()?.header;
        Some(Known { base, size: header.size, store: header.cluster })
    }

    fn thinned(&self, base: LogPosition) -> Result<(), FileFlaw> {
        let segment = Thin::open(self.disk, base)?;
        if segment.header.cluster != self.store {
            return Err(FileFlaw::Foreign);
        }
        Ok(segment.thin.map_or(Ok(()), |thin| thin.verify())?)
    }

    /// What was not looked at, because nothing led there.
    fn rest(&mut self, manifests: &[(u64, Result<Manifest, FileFlaw>)]) {
        let manifests: Vec<&Manifest> = manifests.iter().filter_map(|(_, read)| read.as_ref().ok()).collect();
        let is_in = |manifest: &Manifest, base| manifest.segments.iter().any(|header| header.base == base);
        // Without a checkpoint that knows better, whatever there is of the log belongs to it.
        let is_left = |base: LogPosition| {
            manifests.first().is_some_and(|newest| base < newest.replay_from && !is_in(newest, base))
        };
        let seen: BTreeSet<String> = self.files.iter().map(|file| file.name.clone()).collect();
        for name in self.names.iter().filter(|name| !seen.contains(*name)) {
            if let Some(base) = thin::parse_name(name) {
                let finding = match self.thinned(base) {
                    Ok(()) => Finding::Sound,
                    // Until the whole segment goes, it is there to be read.
                    Err(flaw) => damaged(flaw, self.names.contains(&segment::name(base))),
                };
                self.file(name.clone(), finding);
                continue;
            }
            let base = match Kind::of(name) {
                Kind::Segment => segment::parse_name(name).filter(|base| is_left(*base)),
                Kind::Index => index::parse_name(name),
                Kind::Table => None,
                Kind::Manifest | Kind::Thin | Kind::Passing | Kind::Unknown => continue,
            };
            let is_segment = Kind::of(name) == Kind::Segment;
            let finding = match base {
                None if is_segment => continue,
                Some(base) if manifests.iter().any(|manifest| is_in(manifest, base)) => Finding::Leaving,
                _ => Finding::Stray,
            };
            self.file(name.clone(), finding);
        }
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
