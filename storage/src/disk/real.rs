//! Real files. The only place of this crate that touches `std::fs`.

#![expect(clippy::disallowed_methods, reason = "this is the file that wraps std::fs")]

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, File, Space};

/// A directory, locked for as long as this lives.
#[derive(Debug)]
pub struct RealDisk {
    directory: PathBuf,
    /// Held for its advisory lock; the kernel releases it when the process ends, however it ends.
    _lock: fs::File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("data directory {path:?} is used by another process")]
    Locked { path: PathBuf },
    #[error("data directory {path:?} cannot be opened: {source}")]
    Io { path: PathBuf, source: io::Error },
}

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
            .open(directory.join("lock"))
            .map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { directory: directory.into(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(DirectoryError::Locked { path: directory.into() }),
            Err(fs::TryLockError::Error(source)) => Err(fail(source)),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        assert!(!name.contains('/'), "names of a store have no separators: {name:?}");
        self.directory.join(name)
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str, length: u64) -> io::Result<Arc<dyn File>> {
        let path = self.path(name);
        let file = fs::OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path)?;
        let allocated = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length);
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
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(self.path(name))?;
        Ok(Arc::new(RealFile(file)))
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
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        fs::File::open(&self.directory)?.sync_all()
    }

    fn space(&self) -> io::Result<Space> {
        let status = rustix::fs::statvfs(&self.directory)?;
        Ok(Space { free: status.f_bavail * status.f_frsize, total: status.f_blocks * status.f_frsize })
    }
}

struct RealFile(fs::File);

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
