//! A thinned segment: of a sealed one, the records that somebody still wants, at their old positions. Layout:
//! docs/formats.md, "Thin file".
//!
//! Whoever reads bodies sees a file as long as the segment was; what was left out reads as zeros, which is no record.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use base::{LogPosition, Timestamp};

use super::segment::{Header, Segment};
use crate::codec::{Decoder, Encode, Malformed};
use crate::disk::{Disk, File};
use crate::index::Summary;
use crate::table::{self, Identity, Kind, Section, Table, TableError, TableWriter};

/// Rows by offset in the segment: length, when it was stored, and where its bytes are.
const DIRECTORY: u32 = 1;
const RECORDS: u32 = 2;
/// The segment's header block and summary, and how much was wanted of it.
const ORIGIN: u32 = 3;

const DIRECTORY_BYTES: usize = 24;
const DIRECTORY_KEY: usize = 4;

/// The file name of what is left of the segment that starts at `base`.
pub fn name(base: LogPosition) -> String {
    format!("{:020}.thin", base.0)
}

/// The base in such a name.
pub fn parse_name(name: &str) -> Option<LogPosition> {
    let digits = name.strip_suffix(".thin")?;
    (digits.len() == 20).then(|| digits.parse().ok().map(LogPosition))?
}

/// A record that was kept.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    pub position: LogPosition,
    pub stored_at: Timestamp,
    pub bytes: &'a [u8],
}

/// What is left of a segment.
pub struct Thin {
    table: Table,
    directory: Section,
    records: Section,
    header: Header,
    /// Of the segment as it was.
    summary: Summary,
    wanted: u64,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    offset: u64,
    length: u64,
    stored_at: Timestamp,
    at: u64,
}

fn parse_row(row: &[u8]) -> Row {
    let u64_at = |at: usize| u64::from_le_bytes(row[at..at + 8].try_into().expect("eight bytes"));
    Row {
        offset: u32::from_be_bytes(row[..4].try_into().expect("four bytes")).into(),
        length: u32::from_le_bytes(row[4..8].try_into().expect("four bytes")).into(),
        stored_at: Timestamp(u64_at(8)),
        at: u64_at(16),
    }
}

impl Thin {
    /// Opens what is left of a segment, as a segment.
    pub fn open(disk: &dyn Disk, base: LogPosition) -> Result<Segment, TableError> {
        let table = Table::open_any(disk, &name(base))?;
        let [directory, records, origin] = [DIRECTORY, RECORDS, ORIGIN].map(|id| table.section(id));
        let (directory, records, origin) = (directory?, records?, origin?);
        let bytes = table.slice(&origin, 0, origin.count)?;
        let (header, summary, wanted) =
            decode_origin(&bytes).map_err(|_| table.malformed("it does not say what it was made of"))?;
        let identity = table.identity();
        let is_its = header.base == base && identity.number == base.0 && identity.store == header.cluster;
        if !is_its || directory.width != DIRECTORY_BYTES || directory.key != DIRECTORY_KEY || records.width != 0 {
            return Err(table.malformed("it is what is left of another segment"));
        }
        let thin = Arc::new(Self { table, directory, records, header, summary, wanted });
        Ok(Segment { header, seed: header.seed(), file: thin.clone(), thin: Some(thin) })
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Bytes of its segment that belonged to topics of which something was wanted when it was made.
    pub fn wanted(&self) -> u64 {
        self.wanted
    }

    pub fn bytes(&self) -> u64 {
        self.table.bytes()
    }

    /// Reads and checks every block.
    pub fn verify(&self) -> Result<(), TableError> {
        self.table.verify()
    }

    /// Records that cannot be had any more.
    pub fn holes(&self) -> Result<Vec<Range<LogPosition>>, TableError> {
        let mut holes = Vec::new();
        self.table.rows(&self.directory, 0, u64::MAX, &mut |row| {
            // As whoever wants it would find it.
            let found = self.table.lower_bound(&self.directory, &row[..DIRECTORY_KEY]);
            let row = parse_row(row);
            let read = found.and_then(|_| self.table.slice(&self.records, row.at, row.length));
            if read.is_err_and(|error| error.is_damage()) {
                let position = self.header.base.plus(row.offset);
                holes.push(position..position.plus(row.length));
            }
            true
        })?;
        Ok(holes)
    }

    /// Every record that is left and can be read, in order. Gives those that cannot.
    pub fn each(&self, visit: &mut dyn FnMut(Kept<'_>)) -> Result<Vec<Range<LogPosition>>, TableError> {
        let mut holes = Vec::new();
        let mut failed = None;
        self.table.rows(&self.directory, 0, u64::MAX, &mut |row| {
            let row = parse_row(row);
            let position = self.header.base.plus(row.offset);
            match self.table.slice(&self.records, row.at, row.length) {
                Ok(bytes) => visit(Kept { position, stored_at: row.stored_at, bytes: &bytes }),
                Err(error) if error.is_damage() => holes.push(position..position.plus(row.length)),
                Err(error) => failed = Some(error),
            }
            failed.is_none()
        })?;
        failed.map_or(Ok(holes), Err)
    }

    /// The bytes of a record that was kept. None: it was not, or is damaged.
    pub fn record_at(&self, position: LogPosition) -> io::Result<Option<Vec<u8>>> {
        let Ok(offset) = u32::try_from(position.since(self.header.base)) else { return Ok(None) };
        let read = self.table.find(&self.directory, &offset.to_be_bytes()).and_then(|found| {
            let row = found.map(|(_, row)| parse_row(&row));
            row.map(|row| self.table.slice(&self.records, row.at, row.length)).transpose()
        });
        match read {
            Err(TableError::Io { source, .. }) => Err(io::Error::new(source.kind(), source.to_string())),
            Err(error) => {
                tracing::error!(%error, "what is left of a segment is damaged");
                Ok(None)
            }
            Ok(bytes) => Ok(bytes),
        }
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), TableError> {
        buffer.fill(0);
        let end = offset + buffer.len() as u64;
        let key = |offset: u64| u32::try_from(offset).unwrap_or(u32::MAX).to_be_bytes();
        // The record in front may reach into what is wanted.
        let first = self.table.lower_bound(&self.directory, &key(offset))?.saturating_sub(1);
        let mut rows = Vec::new();
        self.table.rows(&self.directory, first, u64::MAX, &mut |row| {
            let row = parse_row(row);
            let is_before_end = row.offset < end;
            if is_before_end && row.offset + row.length > offset {
                rows.push(row);
            }
            is_before_end
        })?;
        for row in rows {
            let (from, to) = (row.offset.max(offset), (row.offset + row.length).min(end));
            let bytes = self.table.slice(&self.records, row.at + (from - row.offset), to - from)?;
            let at = usize::try_from(from - offset).expect("inside the buffer");
            buffer[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }
}

impl File for Thin {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self.read(buffer, offset) {
            Err(TableError::Io { source, .. }) => Err(io::Error::new(source.kind(), source.to_string())),
            // As a damaged segment would: the record's own checksum says so.
            Err(error) => {
                tracing::error!(%error, "what is left of a segment is damaged");
                buffer.fill(0);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn read_device(&self, _: &mut [u8], _: u64) -> Option<io::Result<()>> {
        None
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn zero_at(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.header.size)
    }
}

/// Writes what is left of a segment.
pub struct ThinWriter {
    table: TableWriter,
    base: LogPosition,
    rows: Vec<u8>,
}

impl ThinWriter {
    pub fn create(disk: &dyn Disk, header: &Header, summary: &Summary, wanted: u64, random: u64) -> io::Result<Self> {
        let temporary = table::temporary(&name(header.base));
        let identity = Identity { kind: Kind::Thin, store: header.cluster, random, number: header.base.0 };
        let mut table = TableWriter::create(disk, &temporary, identity)?;
        table.bytes(ORIGIN)?;
        table.append(&encode_origin(header, summary, wanted))?;
        table.bytes(RECORDS)?;
        Ok(Self { table, base: header.base, rows: Vec::new() })
    }

    /// Records come in the order of their positions.
    pub fn keep(&mut self, record: &Kept<'_>) -> io::Result<()> {
        let offset = u32::try_from(record.position.since(self.base)).expect("segments are below 4 GiB");
        let length = u32::try_from(record.bytes.len()).expect("records are bounded");
        let at = self.table.append(record.bytes)?;
        self.rows.extend_from_slice(&offset.to_be_bytes());
        self.rows.extend_from_slice(&length.to_le_bytes());
        self.rows.extend_from_slice(&record.stored_at.0.to_le_bytes());
        self.rows.extend_from_slice(&at.to_le_bytes());
        Ok(())
    }

    /// Durable under its name when it returns. Gives its size.
    pub fn finish(mut self, disk: &dyn Disk) -> io::Result<u64> {
        self.table.rows(DIRECTORY, DIRECTORY_BYTES, DIRECTORY_KEY)?;
        for row in self.rows.chunks_exact(DIRECTORY_BYTES) {
            self.table.row(row)?;
        }
        let bytes = self.table.finish()?;
        let name = name(self.base);
        table::publish(disk, &table::temporary(&name), &name)?;
        Ok(bytes)
    }
}

fn encode_origin(header: &Header, summary: &Summary, wanted: u64) -> Vec<u8> {
    let mut out = Vec::new();
    out.blob(&header.encode());
    out.blob(&summary.encode());
    out.varint(wanted);
    out
}

fn decode_origin(bytes: &[u8]) -> Result<(Header, Summary, u64), Malformed> {
    let mut from = Decoder::new("origin of a thinned segment", bytes);
    let header = from.blob()?;
    if header.len() != super::segment::HEADER_BLOCK_BYTES {
        return Err(from.malformed());
    }
    let header = Header::decode(header).map_err(|_| from.malformed())?;
    let summary = Summary::decode(from.blob()?)?;
    let wanted = from.varint()?;
    from.end()?;
    Ok((header, summary, wanted))
}

#[cfg(test)]
#[path = "thin_tests.rs"]
mod tests;
