//! A few numbers that must not be lost, in a small file of their own. Layout: docs/formats.md, "Vote and purge cursor".
//!
//! The file has two slots in blocks of their own. Every value is written to both, one after the other, each with a sync.
//!
//! V1. What [`Slots::save`] returned for is in both slots: damage to one of them loses nothing.
//! V2. At any moment one slot is whole: a torn write leaves the value before, or the new one.
//! V3. What was read is written again before anybody sees it: after a failed sync the page cache may show what the device
//!     never had.

use std::io;
use std::sync::Arc;

use base::Chance;
use base::limits::LOG_BLOCK_BYTES;

use crate::disk::{Disk, File};
use crate::log::segment::PREPARED_PREFIX;

const SLOT_BYTES: usize = 64;
const SLOTS: [u64; 2] = [0, LOG_BLOCK_BYTES];

/// What a slot holds.
pub type Words = [u64; 3];

/// Why a value cannot be read or saved.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    #[error("both copies in {name} are damaged: what this node promised is not known any more")]
    Damaged { name: &'static str },
    #[error("{operation} of {name} failed: {source}")]
    Io { operation: &'static str, name: &'static str, source: io::Error },
    #[error("{name} takes nothing any more: an earlier write to it failed")]
    Failed { name: &'static str },
}

pub struct Slots {
    name: &'static str,
    magic: [u8; 8],
    file: Arc<dyn File>,
    counter: u64,
    words: Words,
    /// A write or a sync failed: what the disk holds is not known before a new start.
    is_failed: bool,
}

impl Slots {
    /// Opens the file; makes it, with zeros for a value, where there is none.
    pub fn open(disk: &dyn Disk, name: &'static str, magic: [u8; 8], chance: &mut Chance) -> Result<Self, SlotsError> {
        let fail = |operation| move |source| SlotsError::Io { operation, name, source };
        let file = match disk.open(name) {
            Ok(file) => file,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                create(disk, name, magic, chance).map_err(fail("creation"))?
            }
            Err(error) => return Err(fail("opening")(error)),
        };
        let mut newest: Option<(u64, Words)> = None;
        for offset in SLOTS {
            let mut slot = [0; SLOT_BYTES];
            file.read_at(&mut slot, offset).map_err(fail("reading"))?;
            newest = newest.max(decode(&slot, magic));
        }
        let (counter, words) = newest.ok_or(SlotsError::Damaged { name })?;
        let mut slots = Self { name, magic, file, counter, words, is_failed: false };
        slots.save(words)?;
        Ok(slots)
    }

    pub fn words(&self) -> Words {
        self.words
    }

    /// Durable when it returns. After an error either value may be found at the next start, and nothing more is taken.
    pub fn save(&mut self, words: Words) -> Result<(), SlotsError> {
        if self.is_failed {
            return Err(SlotsError::Failed { name: self.name });
        }
        let slot = encode(self.counter + 1, words, self.magic);
        for offset in SLOTS {
            let written = self.file.write_at(&slot, offset).and_then(|()| self.file.sync_data());
            written.map_err(|source| {
                self.is_failed = true;
                SlotsError::Io { operation: "writing", name: self.name, source }
            })?;
        }
        self.counter += 1;
        self.words = words;
        Ok(())
    }
}

/// Whole from the first moment that it has its name: later, two bad slots mean damage, not a torn first write.
fn create(disk: &dyn Disk, name: &str, magic: [u8; 8], chance: &mut Chance) -> io::Result<Arc<dyn File>> {
    let prepared = format!("{PREPARED_PREFIX}{:016x}", chance.next_u64());
    let file = disk.create(&prepared, LOG_BLOCK_BYTES * SLOTS.len() as u64)?;
    for offset in SLOTS {
        file.write_at(&encode(0, Words::default(), magic), offset)?;
    }
    file.sync_all()?;
    disk.rename(&prepared, name)?;
    disk.sync_directory()?;
    Ok(file)
}

fn encode(counter: u64, words: Words, magic: [u8; 8]) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&magic);
    for (number, word) in [counter].into_iter().chain(words).enumerate() {
        slot[8 + number * 8..16 + number * 8].copy_from_slice(&word.to_le_bytes());
    }
    let crc = crc32c::crc32c(&slot[..SLOT_BYTES - 4]);
    slot[SLOT_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8; SLOT_BYTES], magic: [u8; 8]) -> Option<(u64, Words)> {
    let word = |number: usize| u64::from_le_bytes(slot[number * 8..number * 8 + 8].try_into().expect("eight bytes"));
    let crc = crc32c::crc32c(&slot[..SLOT_BYTES - 4]);
    let is_whole = slot[..8] == magic && slot[SLOT_BYTES - 4..] == crc.to_le_bytes();
    is_whole.then(|| (word(1), [word(2), word(3), word(4)]))
}
