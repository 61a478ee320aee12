//! Writing a table: rows and bytes go in in order, blocks go out.

use std::io;
use std::sync::Arc;

use super::{BLOCK, FORMAT_VERSION, Identity, MAGIC, PAYLOAD, SECTION_BYTES, SECTIONS_AT, SECTIONS_MAX};
use crate::disk::{Disk, File, remove_if_there};

/// Bytes of complete blocks that wait to be written.
const PIECE: usize = 1 << 20;
/// What is written between two syncs: the last one, and whoever waits for the thread that writes, waits for so much at most.
const UNSYNCED_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Clone, Copy)]
struct Plan {
    id: u32,
    /// 0 = bytes, not rows.
    width: usize,
    key: usize,
    /// Rows, or bytes.
    count: u64,
    first_block: u64,
    fences: u64,
}

/// A table under construction.
pub struct TableWriter {
    file: Arc<dyn File>,
    identity: Identity,
    sections: Vec<Plan>,
    /// The first key of each block of the sections, in order.
    fences: Vec<Vec<u8>>,
    /// Complete blocks that were not written yet; the first of them is `written`.
    pending: Vec<u8>,
    written: u64,
    /// Blocks up to here were synced.
    synced: u64,
    /// The block under construction.
    block: Vec<u8>,
}

impl TableWriter {
    /// A new file of this name, in place of what a run that was cut short has left; see [`super::temporary`].
    pub fn create(disk: &dyn Disk, name: &str, identity: Identity) -> io::Result<Self> {
        remove_if_there(disk, name)?;
        let file = disk.create(name, 0)?;
        Ok(Self {
            file,
            identity,
            sections: Vec::new(),
            fences: Vec::new(),
            pending: Vec::new(),
            // The header's block comes last.
            written: 1,
            synced: 1,
            block: Vec::with_capacity(BLOCK),
        })
    }

    /// Rows of `width` bytes follow, sorted by their first `key` bytes; 0 = they are addressed by number.
    pub fn rows(&mut self, id: u32, width: usize, key: usize) -> io::Result<()> {
        assert!(width > 0 && width <= PAYLOAD && key <= width, "a row of {width} bytes with a key of {key}");
        self.section(Plan { id, width, key, count: 0, first_block: 0, fences: 0 })
    }

    /// Bytes follow.
    pub fn bytes(&mut self, id: u32) -> io::Result<()> {
        self.section(Plan { id, width: 0, key: 0, count: 0, first_block: 0, fences: 0 })
    }

    fn section(&mut self, mut plan: Plan) -> io::Result<()> {
        assert!(self.sections.len() < SECTIONS_MAX, "a table has at most {SECTIONS_MAX} sections");
        self.end_block()?;
        plan.first_block = self.next_block();
        self.sections.push(plan);
        self.fences.push(Vec::new());
        Ok(())
    }

    fn next_block(&self) -> u64 {
        self.written + (self.pending.len() / BLOCK) as u64
    }

    /// Adds a row to the present section.
    pub fn row(&mut self, row: &[u8]) -> io::Result<()> {
        let plan = *self.sections.last().expect("a section was begun");
        assert_eq!(row.len(), plan.width, "rows of a section have one width");
        if self.block.len() + row.len() > PAYLOAD {
            self.end_block()?;
        }
        if self.block.is_empty() {
            self.fences.last_mut().expect("one for each section").extend_from_slice(&row[..plan.key]);
        }
        self.block.extend_from_slice(row);
        self.sections.last_mut().expect("a section was begun").count += 1;
        Ok(())
    }

    /// Adds bytes to the present section; gives where they start in it.
    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<u64> {
        let plan = self.sections.last_mut().expect("a section was begun");
        assert_eq!(plan.width, 0, "a section of rows takes rows");
        let start = plan.count;
        plan.count += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.block.len() == PAYLOAD {
                self.end_block()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PAYLOAD - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
        }
        Ok(start)
    }

    fn end_block(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.block.resize(PAYLOAD, 0);
        let crc = crc32c::crc32c_append(self.identity.seed(self.next_block()), &self.block);
        self.pending.extend_from_slice(&self.block);
        self.pending.extend_from_slice(&crc.to_le_bytes());
        self.block.clear();
        if self.pending.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.file.write_at(&self.pending, self.written * BLOCK as u64)?;
        self.written += (self.pending.len() / BLOCK) as u64;
        self.pending.clear();
        if (self.written - self.synced) * BLOCK as u64 >= UNSYNCED_BYTES_MAX {
            self.file.sync_data()?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Writes fences and header, and syncs. Gives the number of bytes.
    pub fn finish(mut self) -> io::Result<u64> {
        self.end_block()?;
        for number in 0..self.sections.len() {
            let Plan { key, .. } = self.sections[number];
            let fences = std::mem::take(&mut self.fences[number]);
            self.sections[number].fences = self.next_block();
            if key == 0 {
                continue;
            }
            for fence in fences.chunks_exact(key) {
                if self.block.len() + key > PAYLOAD {
                    self.end_block()?;
                }
                self.block.extend_from_slice(fence);
            }
            self.end_block()?;
        }
        self.flush()?;
        let header = self.header();
        self.file.write_at(&header, 0)?;
        self.file.sync_all()?;
        Ok(self.written * BLOCK as u64)
    }

    fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&(self.identity.kind as u32).to_le_bytes());
        // Incompatible features; none is defined yet.
        out.extend_from_slice(&0u64.to_le_bytes());
        out.extend_from_slice(&self.identity.store);
        for number in [self.identity.random, self.identity.number, self.written, self.sections.len() as u64] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.resize(SECTIONS_AT, 0);
        for plan in &self.sections {
            out.extend_from_slice(&plan.id.to_le_bytes());
            out.extend_from_slice(&u32::try_from(plan.width).expect("below a block").to_le_bytes());
            out.extend_from_slice(&u32::try_from(plan.key).expect("below a block").to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            for number in [plan.count, plan.first_block, plan.fences] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        assert!(out.len() == SECTIONS_AT + self.sections.len() * SECTION_BYTES && out.len() <= PAYLOAD);
        out.resize(PAYLOAD, 0);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }
}
