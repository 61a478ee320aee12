//! Real files. The only place of this crate that touches `std::fs`.
//!
//! Whole blocks are written past the page cache (`O_DIRECT`) where the file system lets us: a group is written once and
//! read from the tail cache, so a second copy of it in the kernel would only cost (docs/decisions/0005). Reads go through
//! the page cache, which keeps what slow consumers read again; the kernel keeps the two coherent.

#![expect(clippy::disallowed_methods, reason = "this is the file that wraps std::fs")]

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::limits::LOG_BLOCK_BYTES;
use bytemuck::{Pod, Zeroable};

use super::{Disk, File, Space};

/// A directory, locked for as long as this lives.
#[derive(Debug)]
pub struct RealDisk {
    directory: PathBuf,
    access: Access,
    /// Held for its advisory lock; the kernel releases it when the process ends, however it ends. None where nobody has made
    /// one yet, and who only looks does not either.
    _lock: Option<fs::File>,
}

/// What the owner of a directory may do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Change,
    Look,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("data directory {path:?} is used by another process")]
    Locked { path: PathBuf },
    #[error("data directory {path:?} cannot be opened: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// The file whose lock says that a directory is in use.
pub const LOCK: &str = "lock";

impl RealDisk {
    /// Creates the directory if it is missing and locks it.
    pub fn open(directory: &Path) -> Result<Self, DirectoryError> {
        let fail = |source| DirectoryError::Io { path: directory.into(), source };
        fs::create_dir_all(directory).map_err(fail)?;
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(directory.join(LOCK))
            .map_err(fail)?;
        Self::locked(directory, Some(lock), Access::Change)
    }

    /// Locks the directory and never changes anything in it: whatever would is refused.
    pub fn open_to_look(directory: &Path) -> Result<Self, DirectoryError> {
        let fail = |source| DirectoryError::Io { path: directory.into(), source };
        fs::read_dir(directory).map_err(fail)?;
        let lock = match fs::File::open(directory.join(LOCK)) {
            Ok(lock) => Some(lock),
            // A copy of a directory, or one that no server has used.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(fail(error)),
        };
        Self::locked(directory, lock, Access::Look)
    }

    fn locked(directory: &Path, lock: Option<fs::File>, access: Access) -> Result<Self, DirectoryError> {
        match lock.as_ref().map_or(Ok(()), fs::File::try_lock) {
            Ok(()) => Ok(Self { directory: directory.into(), access, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(DirectoryError::Locked { path: directory.into() }),
            Err(fs::TryLockError::Error(source)) => Err(DirectoryError::Io { path: directory.into(), source }),
        }
    }

    fn check_change(&self) -> io::Result<()> {
        match self.access {
            Access::Change => Ok(()),
            Access::Look => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        assert!(!name.contains('/'), "names of a store have no separators: {name:?}");
        self.directory.join(name)
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str, length: u64) -> io::Result<Arc<dyn File>> {
        self.check_change()?;
        let path = self.path(name);
        let file = fs::OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path)?;
        let allocated = match length {
            0 => Ok(()),
            _ => rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length),
        };
        let result = match allocated {
            // Some file systems cannot allocate ahead; the length alone is enough there.
            Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(length),
            other => other.map_err(io::Error::from),
        };
        if let Err(error) = result {
            // A half-allocated file would only hold the space that is missing.
            fs::remove_file(&path)?;
            return Err(error);
        }
        Ok(Arc::new(RealFile { direct: open_direct(&path, self.access), file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let path = self.path(name);
        // Without the right to write, the kernel refuses what the access does not allow.
        let file = fs::OpenOptions::new().read(true).write(self.access == Access::Change).open(&path)?;
        Ok(Arc::new(RealFile { direct: open_direct(&path, self.access), file }))
    }

    fn open_to_read(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile { direct: None, file: fs::File::open(self.path(name))? }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_change()?;
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_change()?;
        fs::remove_file(self.path(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        fs::File::open(&self.directory)?.sync_all()
    }

    fn space(&self) -> io::Result<Space> {
        space(&self.directory)
    }
}

/// Of the file system that holds a directory, whoever uses it.
pub fn space(directory: &Path) -> io::Result<Space> {
    let status = rustix::fs::statvfs(directory)?;
    Ok(Space { free: status.f_bavail * status.f_frsize, total: status.f_blocks * status.f_frsize })
}

/// The same file for input and output past the page cache; none where the file system has no such thing.
fn open_direct(path: &Path, access: Access) -> Option<fs::File> {
    let flag = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).expect("flags of open are ints");
    fs::OpenOptions::new().read(true).write(access == Access::Change).custom_flags(flag).open(path).ok()
}

struct RealFile {
    file: fs::File,
    direct: Option<fs::File>,
}

const BLOCK: usize = LOG_BLOCK_BYTES as usize;

/// Direct input and output wants memory that is aligned as the device's blocks are.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(4096))]
struct Page([u8; BLOCK]);

/// Pages of a thread's [`SCRATCH`]: 1 MiB, so that a group is mostly one request to the device.
const SCRATCH_PAGES: usize = 256;

thread_local! {
    /// Between callers' memory and the device. Only the threads that write (log writer, upkeep) and a recovery have one. A
    /// copy costs a tenth of what the page cache takes for the same bytes.
    static SCRATCH: RefCell<Vec<Page>> = const { RefCell::new(Vec::new()) };
}

/// Lends this thread's scratch memory.
fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|pages| {
        pages.resize(SCRATCH_PAGES, Page::zeroed());
        work(bytemuck::cast_slice_mut(pages))
    })
}

/// Offsets or memory are not aligned as this device wants them, or the file system only pretended.
fn is_not_direct(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

impl RealFile {
    /// Writes `length` bytes in pieces that `fill` provides. Gives false when only the page cache can take them.
    fn write_direct(&self, offset: u64, length: usize, mut fill: impl FnMut(usize, &mut [u8])) -> io::Result<bool> {
        let is_whole_blocks = offset.is_multiple_of(LOG_BLOCK_BYTES) && length.is_multiple_of(BLOCK);
        let Some(direct) = self.direct.as_ref().filter(|_| is_whole_blocks) else { return Ok(false) };
        let written = with_scratch(|scratch| {
            let mut done = 0;
            while done < length {
                let piece = &mut scratch[..(length - done).min(SCRATCH_PAGES * BLOCK)];
                fill(done, piece);
                direct.write_all_at(piece, offset + done as u64)?;
                done += piece.len();
            }
            Ok(())
        });
        match written {
            Err(error) if is_not_direct(&error) => Ok(false),
            written => written.map(|()| true),
        }
    }

    /// Reads whole blocks around what is wanted, because the device gives nothing else.
    fn read_direct(direct: &fs::File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        with_scratch(|scratch| {
            let mut done = 0;
            while done < buffer.len() {
                let at = offset + done as u64;
                let within = usize::try_from(at % LOG_BLOCK_BYTES).expect("blocks are small");
                let wanted = (within + buffer.len() - done).next_multiple_of(BLOCK).min(SCRATCH_PAGES * BLOCK);
                let piece = &mut scratch[..wanted];
                direct.read_exact_at(piece, at - within as u64)?;
                let count = (wanted - within).min(buffer.len() - done);
                buffer[done..done + count].copy_from_slice(&piece[within..within + count]);
                done += count;
            }
            Ok(())
        })
    }
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_device(&self, buffer: &mut [u8], offset: u64) -> Option<io::Result<()>> {
        match Self::read_direct(self.direct.as_ref()?, buffer, offset) {
            Err(error) if is_not_direct(&error) => None,
            read => Some(read),
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let copy = |done: usize, piece: &mut [u8]| piece.copy_from_slice(&bytes[done..done + piece.len()]);
        if self.write_direct(offset, bytes.len(), copy)? {
            return Ok(());
        }
        self.file.write_all_at(bytes, offset)
    }

    fn zero_at(&self, offset: u64, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        if self.write_direct(offset, length, |_, piece| piece.fill(0))? {
            return Ok(());
        }
        self.file.write_all_at(&vec![0; length], offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        // Of the file, not of one descriptor, and with a flush of the device: it covers what went past the page cache.
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_odd_bytes_are_read_as_they_were_written_from_memory_and_device() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = RealDisk::open(directory.path()).expect("a new directory");
        let length = 3 << 20;
        let file = disk.create("a", length).expect("space");
        let mut expected = vec![0; length as usize];
        let pattern: Vec<u8> = (0..2 << 20).map(|n: u32| n.to_le_bytes()[usize::from(n.is_multiple_of(3))]).collect();
        // Whole blocks, more than the scratch holds at once; then odd places; then blocks over the odd ones.
        for (offset, count) in [(4096, pattern.len()), (5, 10_000), (2_500_000, 1), (8192, 4096)] {
            file.write_at(&pattern[..count], offset as u64).expect("space");
            expected[offset..offset + count].copy_from_slice(&pattern[..count]);
        }
        file.zero_at(1 << 20, 8192).expect("space");
        expected[1 << 20..(1 << 20) + 8192].fill(0);
        file.sync_data().expect("a healthy disk");
        for (offset, count) in [(0, expected.len()), (4095, 2), (1_000_001, 1_500_000), (expected.len() - 1, 1)] {
            let mut read = vec![1; count];
            file.read_at(&mut read, offset as u64).expect("is there");
            assert!(read == expected[offset..offset + count], "{count} bytes at {offset}");
            let mut read = vec![1; count];
            // Not every file system has direct input and output; where it has, it agrees.
            if let Some(result) = file.read_device(&mut read, offset as u64) {
                result.expect("is there");
                assert!(read == expected[offset..offset + count], "{count} bytes of the device at {offset}");
            }
        }
        assert!(file.read_at(&mut [0; 2], length - 1).is_err(), "beyond the end");
    }

    #[test]
    fn who_only_looks_changes_nothing_and_keeps_servers_away() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path();
        assert!(RealDisk::open_to_look(path).is_ok() && fs::read_dir(path).expect("it is there").count() == 0);
        let disk = RealDisk::open(path).expect("a new directory");
        disk.create("a", 4096).expect("space").write_at(&[1; 4096], 0).expect("space");
        assert!(matches!(RealDisk::open_to_look(path), Err(DirectoryError::Locked { .. })));
        drop(disk);
        let looking = RealDisk::open_to_look(path).expect("nobody uses it");
        assert!(matches!(RealDisk::open(path), Err(DirectoryError::Locked { .. })));
        let file = looking.open("a").expect("it is there");
        assert!(file.write_at(&[2; 4096], 0).is_err() && file.write_at(&[2], 1).is_err());
        assert!(looking.create("b", 1).is_err() && looking.rename("a", "b").is_err() && looking.remove("a").is_err());
        let mut bytes = [0; 4096];
        file.read_at(&mut bytes, 0).expect("it is there");
        assert_eq!(bytes, [1; 4096]);
    }
}
