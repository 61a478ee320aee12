//! Reading a table: by number, by key, in order. Positional reads, not a mapping: a disk that fails under a mapping ends the
//! process, under a read it gives an error (docs/decisions/0007).

use std::cmp::Ordering;
use std::io;
use std::sync::Arc;

use super::{
    BLOCK, FORMAT_VERSION, Identity, Kind, MAGIC, PAYLOAD, SECTION_BYTES, SECTIONS_AT, SECTIONS_MAX, TableError,
};
use crate::disk::{Disk, File};

/// Blocks that are read at once where many rows are wanted.
const BLOCKS_AT_ONCE: u64 = 64;

/// An open table.
pub struct Table {
    name: Arc<str>,
    file: Arc<dyn File>,
    identity: Identity,
    blocks: u64,
    sections: Vec<Section>,
    /// What its first block holds, without the zeros behind it.
    header: Vec<u8>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A block of fences, kept while one key is looked for: bisection comes back to it most of the time.
#[derive(Default)]
struct Fences {
    block: u64,
    bytes: Vec<u8>,
}

/// One section of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    pub id: u32,
    /// Bytes of a row; 0 = no rows.
    pub width: usize,
    pub key: usize,
    /// Rows, or bytes.
    pub count: u64,
    first_block: u64,
    fences: u64,
}

impl Section {
    pub fn rows_per_block(&self) -> u64 {
        (PAYLOAD / self.width) as u64
    }

    fn blocks(&self) -> u64 {
        match self.width {
            0 => self.count.div_ceil(PAYLOAD as u64),
            _ => self.count.div_ceil(self.rows_per_block()),
        }
    }
}

impl Table {
    /// Opens a table of this store.
    pub fn open(disk: &dyn Disk, name: &str, store: [u8; 16]) -> Result<Self, TableError> {
        let table = Self::open_any(disk, name)?;
        if table.identity.store != store {
            return Err(TableError::Foreign { name: table.name });
        }
        Ok(table)
    }

    /// Opens a table of whatever store it is.
    pub fn open_any(disk: &dyn Disk, name: &str) -> Result<Self, TableError> {
        Self::open_by(disk, name, None)
    }

    /// Opens a table whose header is damaged, and known from elsewhere.
    pub fn open_with(disk: &dyn Disk, name: &str, header: &[u8]) -> Result<Self, TableError> {
        Self::open_by(disk, name, Some(header))
    }

    fn open_by(disk: &dyn Disk, name: &str, known: Option<&[u8]>) -> Result<Self, TableError> {
        let shared: Arc<str> = name.into();
        let fail = |operation| {
            let name = shared.clone();
            move |source: io::Error| TableError::Io { name, operation, source: Arc::new(source) }
        };
        let file = disk.open_to_read(name).map_err(fail("opening"))?;
        let mut header = vec![0; BLOCK];
        match known {
            Some(known) => header = block_of(known),
            None => file.read_at(&mut header, 0).map_err(fail("reading the header"))?,
        }
        let length = file.length().map_err(fail("finding out the length"))?;
        let table = Self::decode(shared, file, &header)?;
        if table.blocks * BLOCK as u64 > length {
            return Err(TableError::Malformed { name: table.name, what: "it is shorter than its header says" });
        }
        Ok(table)
    }

    fn decode(name: Arc<str>, file: Arc<dyn File>, header: &[u8]) -> Result<Self, TableError> {
        let malformed = |what| TableError::Malformed { name: name.clone(), what };
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        if header[..8] != MAGIC || u32_at(PAYLOAD) != crc32c::crc32c(&header[..PAYLOAD]) {
            return Err(TableError::Damaged { name, block: 0 });
        }
        let version = u32_at(8);
        if version != FORMAT_VERSION {
            return Err(TableError::Version { name, found: version });
        }
        if u64_at(16) != 0 {
            return Err(malformed("it has features that this program does not know"));
        }
        let identity = Identity {
            kind: Kind::parse(u32_at(12)).ok_or(malformed("it is of an unknown kind"))?,
            store: header[24..40].try_into().expect("sixteen bytes"),
            random: u64_at(40),
            number: u64_at(48),
        };
        let count = usize::try_from(u64_at(64)).ok().filter(|count| *count <= SECTIONS_MAX);
        let count = count.ok_or(malformed("it has too many sections"))?;
        let sections = (0..count).map(|index| {
            let at = SECTIONS_AT + index * SECTION_BYTES;
            let section = Section {
                id: u32_at(at),
                width: u32_at(at + 4) as usize,
                key: u32_at(at + 8) as usize,
                count: u64_at(at + 16),
                first_block: u64_at(at + 24),
                fences: u64_at(at + 32),
            };
            let is_sound = section.width <= PAYLOAD && section.key <= section.width;
            is_sound.then_some(section).ok_or(malformed("a section is malformed"))
        });
        let sections = sections.collect::<Result<_, _>>()?;
        let header = header[..SECTIONS_AT + count * SECTION_BYTES].to_vec();
        Ok(Self { file, identity, blocks: u64_at(56), sections, header, name })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    pub fn bytes(&self) -> u64 {
        self.blocks * BLOCK as u64
    }

    /// What [`Table::open_with`] takes.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// A whole block as it lies in the file, checked; the first one is made from what is known of it.
    pub fn block(&self, number: u64) -> Result<Vec<u8>, TableError> {
        if number == 0 {
            return Ok(block_of(&self.header));
        }
        let mut block = self.read(number, 1)?;
        let crc = crc32c::crc32c_append(self.identity.seed(number), &block);
        block.extend_from_slice(&crc.to_le_bytes());
        Ok(block)
    }

    pub fn section(&self, id: u32) -> Result<Section, TableError> {
        let found = self.sections.iter().find(|section| section.id == id).copied();
        found.ok_or_else(|| self.malformed("it lacks a section"))
    }

    pub fn malformed(&self, what: &'static str) -> TableError {
        TableError::Malformed { name: self.name.clone(), what }
    }

    /// Reads and checks every block.
    pub fn verify(&self) -> Result<(), TableError> {
        self.verify_from(0, u64::MAX).map(drop)
    }

    /// Reads and checks about `count` blocks from `block` on. Gives where to go on, and how many bytes were read.
    pub fn verify_from(&self, block: u64, count: u64) -> Result<(Option<u64>, u64), TableError> {
        // The header's block was checked when the table was opened.
        let first = block.max(1);
        let end = first.saturating_add(count.max(1)).min(self.blocks);
        let mut at = first;
        while at < end {
            let count = BLOCKS_AT_ONCE.min(end - at);
            self.read(at, count)?;
            at += count;
        }
        Ok(((at < self.blocks).then_some(at), at.saturating_sub(first) * BLOCK as u64))
    }

    /// The payloads of neighbouring blocks, checked, one after the other.
    fn read(&self, first: u64, count: u64) -> Result<Vec<u8>, TableError> {
        let blocks = usize::try_from(count).expect("few blocks are read at once");
        if first + count > self.blocks {
            return Err(self.malformed("a section reaches beyond its end"));
        }
        let mut bytes = vec![0; blocks * BLOCK];
        self.file.read_at(&mut bytes, first * BLOCK as u64).map_err(|source| TableError::Io {
            name: self.name.clone(),
            operation: "reading",
            source: Arc::new(source),
        })?;
        for number in 0..blocks {
            let block = &bytes[number * BLOCK..(number + 1) * BLOCK];
            let crc = crc32c::crc32c_append(self.identity.seed(first + number as u64), &block[..PAYLOAD]);
            if block[PAYLOAD..] != crc.to_le_bytes() {
                return Err(TableError::Damaged { name: self.name.clone(), block: first + number as u64 });
            }
            bytes.copy_within(number * BLOCK..number * BLOCK + PAYLOAD, number * PAYLOAD);
        }
        bytes.truncate(blocks * PAYLOAD);
        Ok(bytes)
    }

    /// Hands rows `from..to` to `visit`, in order, until it says that it has enough.
    pub fn rows(
        &self,
        section: &Section,
        from: u64,
        to: u64,
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), TableError> {
        let to = to.min(section.count);
        let per_block = section.rows_per_block();
        let mut row = from;
        while row < to {
            let block = row / per_block;
            let last = (to - 1) / per_block;
            let count = BLOCKS_AT_ONCE.min(last - block + 1);
            let bytes = self.read(section.first_block + block, count)?;
            let end = to.min((block + count) * per_block);
            while row < end {
                let within = row - block * per_block;
                let at = usize::try_from(within / per_block).expect("small") * PAYLOAD
                    + usize::try_from(within % per_block).expect("small") * section.width;
                row += 1;
                if !visit(&bytes[at..at + section.width]) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Row `number`.
    pub fn row(&self, section: &Section, number: u64) -> Result<Vec<u8>, TableError> {
        let mut found = Vec::new();
        self.rows(section, number, number + 1, &mut |row| {
            found = row.to_vec();
            false
        })?;
        if found.is_empty() { Err(self.malformed("a row is asked for that it does not have")) } else { Ok(found) }
    }

    /// The number of the first row whose key is not below `key`; the number of rows when there is none.
    pub fn lower_bound(&self, section: &Section, key: &[u8]) -> Result<u64, TableError> {
        assert_eq!(key.len(), section.key, "the section's key has {} bytes", section.key);
        // The last block whose first key is below the wanted one: an equal key may stand at its end.
        let (mut low, mut high) = (0, section.blocks());
        let mut fences = Fences::default();
        while low < high {
            let middle = low + (high - low) / 2;
            match self.fence(section, middle, &mut fences)?.cmp(key) {
                Ordering::Less => low = middle + 1,
                _ => high = middle,
            }
        }
        let Some(block) = low.checked_sub(1) else { return Ok(0) };
        let first = block * section.rows_per_block();
        let rows = section.rows_per_block().min(section.count - first);
        let bytes = self.read(section.first_block + block, 1)?;
        let row_key = |row: u64| {
            let at = usize::try_from(row).expect("small") * section.width;
            &bytes[at..at + section.key]
        };
        let (mut low, mut high) = (0, rows);
        while low < high {
            let middle = low + (high - low) / 2;
            if row_key(middle) < key { low = middle + 1 } else { high = middle }
        }
        Ok(first + low)
    }

    /// The first key of each block of the section, one after the other.
    pub fn fences(&self, section: &Section) -> Result<Vec<u8>, TableError> {
        assert!(section.key > 0, "a section with a key has fences");
        let per_block = (PAYLOAD / section.key) as u64;
        let mut out = Vec::with_capacity(usize::try_from(section.blocks()).unwrap_or(0) * section.key);
        let mut block = 0;
        while block < section.blocks().div_ceil(per_block) {
            let count = BLOCKS_AT_ONCE.min(section.blocks().div_ceil(per_block) - block);
            let bytes = self.read(section.fences + block, count)?;
            for payload in bytes.chunks_exact(PAYLOAD) {
                let fences = per_block.min(section.blocks() - block * per_block);
                out.extend_from_slice(&payload[..usize::try_from(fences).expect("small") * section.key]);
                block += 1;
            }
        }
        Ok(out)
    }

    fn fence<'a>(&self, section: &Section, block: u64, held: &'a mut Fences) -> Result<&'a [u8], TableError> {
        let per_block = (PAYLOAD / section.key) as u64;
        let wanted = section.fences + block / per_block;
        if held.bytes.is_empty() || held.block != wanted {
            *held = Fences { block: wanted, bytes: self.read(wanted, 1)? };
        }
        let at = usize::try_from(block % per_block).expect("small") * section.key;
        Ok(&held.bytes[at..at + section.key])
    }

    /// The row with exactly this key.
    pub fn find(&self, section: &Section, key: &[u8]) -> Result<Option<(u64, Vec<u8>)>, TableError> {
        let number = self.lower_bound(section, key)?;
        if number == section.count {
            return Ok(None);
        }
        let row = self.row(section, number)?;
        Ok((row[..section.key] == *key).then_some((number, row)))
    }

    /// Bytes `from..from + length` of a section of bytes.
    pub fn slice(&self, section: &Section, from: u64, length: u64) -> Result<Vec<u8>, TableError> {
        if from.checked_add(length).is_none_or(|end| end > section.count) {
            return Err(self.malformed("bytes are asked for that it does not have"));
        }
        let mut out = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        let mut at = from;
        while at < from + length {
            let block = at / PAYLOAD as u64;
            let last = (from + length - 1) / PAYLOAD as u64;
            let count = BLOCKS_AT_ONCE.min(last - block + 1);
            let bytes = self.read(section.first_block + block, count)?;
            let start = usize::try_from(at - block * PAYLOAD as u64).expect("small");
            let end = usize::try_from((from + length - block * PAYLOAD as u64).min(bytes.len() as u64)).expect("small");
            out.extend_from_slice(&bytes[start..end]);
            at += (end - start) as u64;
        }
        Ok(out)
    }
}

/// The block of a header.
fn block_of(header: &[u8]) -> Vec<u8> {
    let mut block = header.to_vec();
    block.resize(PAYLOAD, 0);
    let crc = crc32c::crc32c(&block);
    block.extend_from_slice(&crc.to_le_bytes());
    block
}
