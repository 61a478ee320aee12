//! The files of checkpoints: manifests, and tables with their copies.

use std::io;
use std::sync::Arc;

use super::{Manifest, ManifestError};
use crate::disk::{Disk, File, remove_if_there};
use crate::table::{self, Kind, Table, TableError};

const MANIFEST_PREFIX: &str = "checkpoint-";
/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;
/// Pieces of a copy between two syncs, so that the last one is short.
const UNSYNCED_PIECES_MAX: u64 = 16;

pub fn manifest_name(number: u64) -> String {
    format!("{MANIFEST_PREFIX}{number:020}")
}

pub fn parse_manifest_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(MANIFEST_PREFIX)?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

pub fn data_name(kind: Kind, number: u64) -> String {
    format!("{}-{number:020}.table", kind.name())
}

pub fn copy_name(kind: Kind, number: u64) -> String {
    format!("{}-{number:020}.copy", kind.name())
}

/// The number in the name of a table or of its copy.
pub fn parse_data_name(name: &str) -> Option<u64> {
    let (stem, _) =
        name.split_once(".table").or_else(|| name.split_once(".copy")).filter(|(_, rest)| rest.is_empty())?;
    let (_, digits) = stem.rsplit_once('-')?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

/// A manifest in its file.
pub struct ManifestFile;

impl ManifestFile {
    /// Durable when it returns (K1).
    pub fn write(disk: &dyn Disk, manifest: &Manifest) -> io::Result<()> {
        let bytes = manifest.encode();
        let name = manifest_name(manifest.number);
        let temporary = table::temporary(&name);
        remove_if_there(disk, &temporary)?;
        let file = disk.create(&temporary, bytes.len() as u64)?;
        file.write_at(&bytes, 0)?;
        file.sync_all()?;
        table::publish(disk, &temporary, &name)
    }

    pub fn read(disk: &dyn Disk, number: u64) -> io::Result<Result<Manifest, ManifestError>> {
        let file = disk.open_to_read(&manifest_name(number))?;
        let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_at(&mut bytes, 0)?;
        Ok(Manifest::decode(&bytes))
    }
}

/// A table of a checkpoint and its copy (K4).
pub struct Pair;

impl Pair {
    /// Reads back the table that was just written under its temporary name, copies it, and gives both their names. The
    /// names are durable after the next sync of the directory.
    pub fn publish(disk: &dyn Disk, kind: Kind, number: u64, store: [u8; 16]) -> Result<(), TableError> {
        let mut publication = Publication::begin(disk, kind, number, store)?;
        while !publication.go_on(disk)? {}
        Ok(())
    }

    /// Opens whichever is sound, every block read, and mends the other. Where neither is, both are made anew if every block is
    /// sound in one of them.
    pub fn open(disk: &dyn Disk, kind: Kind, number: u64, store: [u8; 16]) -> Result<Table, TableError> {
        let names = [data_name(kind, number), copy_name(kind, number)];
        let open = |name: &str| Self::check(disk, name, kind, number, store);
        let (sound, damaged) = match open(&names[0]) {
            Ok(table) => match open(&names[1]) {
                Ok(_) => return Ok(table),
                Err(error) => (table, (1, error)),
            },
            Err(error) => match open(&names[1]) {
                Ok(table) => (table, (0, error)),
                Err(_) => {
                    Self::join(disk, &names).map_err(|_| error)?;
                    tracing::error!(table = names[0], "a table and its copy were damaged in different places");
                    return open(&names[0]);
                }
            },
        };
        let (index, error) = damaged;
        tracing::error!(%error, "a table is damaged; it is made anew from the other one");
        let (from, to) = (&names[1 - index], &names[index]);
        let mended = remove_if_there(disk, to).and_then(|()| write_copy(disk, from, sound.bytes(), to));
        if let Err(error) = mended.and_then(|()| disk.sync_directory()) {
            tracing::error!(table = to, %error, "a damaged table could not be made anew");
        }
        Ok(sound)
    }

    /// Makes both halves anew from the sound blocks of either.
    fn join(disk: &dyn Disk, names: &[String; 2]) -> Result<(), TableError> {
        let halves = match names.each_ref().map(|name| Table::open_any(disk, name)) {
            [Ok(one), Ok(two)] if one.header() == two.header() => [one, two],
            [Ok(one), Err(_)] => {
                let two = Table::open_with(disk, &names[1], one.header())?;
                [one, two]
            }
            [Err(_), Ok(two)] => [Table::open_with(disk, &names[0], two.header())?, two],
            [Ok(one), Ok(_)] => return Err(one.malformed("its copy is another table")),
            [Err(error), Err(_)] => return Err(error),
        };
        let temporary = table::temporary(&names[0]);
        let fail = |source: io::Error| TableError::Io {
            name: temporary.as_str().into(),
            operation: "writing",
            source: Arc::new(source),
        };
        remove_if_there(disk, &temporary).map_err(fail)?;
        let target = disk.create(&temporary, 0).map_err(fail)?;
        for number in 0..halves[0].blocks() {
            let block = halves[0].block(number).or_else(|_| halves[1].block(number))?;
            target.write_at(&block, number * table::BLOCK as u64).map_err(fail)?;
        }
        target.sync_all().map_err(fail)?;
        disk.rename(&temporary, &names[0]).map_err(fail)?;
        write_copy(disk, &names[0], halves[0].bytes(), &names[1]).map_err(fail)?;
        disk.sync_directory().map_err(fail)
    }

    /// Opens a table for one who turns to its copy where a block cannot be read: no block is read now. `header`: what is
    /// known of its first block, for when that is damaged too.
    pub fn open_unread(
        disk: &dyn Disk,
        kind: Kind,
        number: u64,
        store: [u8; 16],
        header: &[u8],
    ) -> Result<(Arc<Table>, Option<Arc<Table>>), TableError> {
        let open = |name: String| {
            let half = Self::half(disk, &name, kind, number, store);
            let opened = half.or_else(|error| match error.is_damage() && !header.is_empty() {
                true => Table::open_with(disk, &name, header).map_err(|_| error),
                false => Err(error),
            });
            opened.map(Arc::new)
        };
        match (open(data_name(kind, number)), open(copy_name(kind, number))) {
            (Ok(table), Ok(copy)) => Ok((table, Some(copy))),
            (Ok(one), Err(error)) | (Err(error), Ok(one)) => {
                tracing::error!(%error, "a table is damaged; the other one is used");
                Ok((one, None))
            }
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// Opens one half; no block is read now.
    pub fn half(disk: &dyn Disk, name: &str, kind: Kind, number: u64, store: [u8; 16]) -> Result<Table, TableError> {
        let table = Table::open(disk, name, store)?;
        let identity = table.identity();
        match (identity.kind, identity.number) == (kind, number) {
            true => Ok(table),
            false => Err(table.malformed("it is another table")),
        }
    }

    /// Opens one half, every block read.
    pub fn check(disk: &dyn Disk, name: &str, kind: Kind, number: u64, store: [u8; 16]) -> Result<Table, TableError> {
        let table = Self::half(disk, name, kind, number, store)?;
        table.verify()?;
        Ok(table)
    }

    pub fn remove(disk: &dyn Disk, name: &str) {
        if let Err(error) = remove_if_there(disk, name) {
            tracing::warn!(name, %error, "a file that is no longer needed cannot be removed");
        }
    }
}

/// [`Pair::publish`], piece by piece.
pub struct Publication {
    data: String,
    written: Table,
    /// Where reading back goes on. None: all of it was read, and is sound.
    unread: Option<u64>,
    copying: Copying,
}

impl Publication {
    pub fn begin(disk: &dyn Disk, kind: Kind, number: u64, store: [u8; 16]) -> Result<Self, TableError> {
        let data = data_name(kind, number);
        let temporary = table::temporary(&data);
        let written = Table::open(disk, &temporary, store)?;
        let copy = copy_name(kind, number);
        let copying = Copying::begin(disk, &temporary, written.bytes(), &copy).map_err(|e| failed(&copy, e))?;
        Ok(Self { data, written, unread: Some(0), copying })
    }

    /// Does a piece of it. True: both have their names.
    pub fn go_on(&mut self, disk: &dyn Disk) -> Result<bool, TableError> {
        if let Some(block) = self.unread {
            self.unread = self.written.verify_from(block, (PIECE / table::BLOCK) as u64)?.0;
            return Ok(false);
        }
        let mut copy = || {
            let is_copied = self.copying.go_on(disk)?;
            if is_copied {
                disk.rename(&table::temporary(&self.data), &self.data)?;
            }
            Ok(is_copied)
        };
        copy().map_err(|source| failed(&self.data, source))
    }
}

fn failed(name: &str, source: io::Error) -> TableError {
    TableError::Io { name: name.into(), operation: "copying", source: Arc::new(source) }
}

fn write_copy(disk: &dyn Disk, from: &str, bytes: u64, to: &str) -> io::Result<()> {
    let mut copying = Copying::begin(disk, from, bytes, to)?;
    while !copying.go_on(disk)? {}
    Ok(())
}

/// A file that is being copied.
struct Copying {
    source: Arc<dyn File>,
    target: Arc<dyn File>,
    bytes: u64,
    at: u64,
    to: String,
    piece: Vec<u8>,
}

impl Copying {
    fn begin(disk: &dyn Disk, from: &str, bytes: u64, to: &str) -> io::Result<Self> {
        let temporary = table::temporary(to);
        remove_if_there(disk, &temporary)?;
        let (source, target) = (disk.open_to_read(from)?, disk.create(&temporary, 0)?);
        Ok(Self { source, target, bytes, at: 0, to: to.into(), piece: vec![0; PIECE] })
    }

    /// True: the copy is durable, and has its name.
    fn go_on(&mut self, disk: &dyn Disk) -> io::Result<bool> {
        let length = usize::try_from((self.bytes - self.at).min(PIECE as u64)).expect("a piece is small");
        let piece = &mut self.piece[..length];
        self.source.read_at(piece, self.at)?;
        self.target.write_at(piece, self.at)?;
        self.at += length as u64;
        if self.at < self.bytes {
            if (self.at / PIECE as u64).is_multiple_of(UNSYNCED_PIECES_MAX) {
                self.target.sync_data()?;
            }
            return Ok(false);
        }
        self.target.sync_all()?;
        disk.rename(&table::temporary(&self.to), &self.to)?;
        Ok(true)
    }
}
