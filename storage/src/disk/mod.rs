//! The file system as storage sees it: a directory of files with positional reads and writes.
//!
//! Two implementations: [`real`] for servers, [`sim`] for tests, which loses, tears and garbles what was not synced.
//! Whatever storage does to a disk goes through here, so that a simulated crash can happen between any two operations.

pub mod real;
pub mod sim;

use std::io;
use std::sync::Arc;

/// A directory of one store. Names have no separators.
pub trait Disk: Send + Sync {
    /// A new file of `length` allocated bytes that read as zero. Fails when the name exists. Writes may go beyond them.
    /// Neither name nor length is durable before [`File::sync_all`] and [`Disk::sync_directory`].
    fn create(&self, name: &str, length: u64) -> io::Result<Arc<dyn File>>;

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// As [`Disk::open`], for a file that nobody writes any more.
    fn open_to_read(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// All names, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Durable after [`Disk::sync_directory`]; until then either name may be found after a crash.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    fn sync_directory(&self) -> io::Result<()>;

    fn space(&self) -> io::Result<Space>;
}

/// An open file. Shared by the writer and the readers.
pub trait File: Send + Sync {
    /// Fills `buffer`; a read beyond the end is an error.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// As [`File::read_at`], but what the device holds, whatever the system has in memory. None where that cannot be had.
    ///
    /// After a failed sync the two may differ for good: the system calls pages clean that never reached the device.
    fn read_device(&self, buffer: &mut [u8], offset: u64) -> Option<io::Result<()>>;

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Writes zeros. Leaves nothing behind in memory where that can be had: nobody reads them.
    fn zero_at(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Everything written before is durable afterwards. After an error nothing is known about it, and another try proves
    /// nothing: the kernel may have dropped the dirty pages.
    fn sync_data(&self) -> io::Result<()>;

    /// As [`File::sync_data`], with length and allocation.
    fn sync_all(&self) -> io::Result<()>;

    fn length(&self) -> io::Result<u64>;
}

/// Bytes of the file system that holds a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub free: u64,
    pub total: u64,
}

/// Removes a file that may be there.
pub fn remove_if_there(disk: &dyn Disk, name: &str) -> io::Result<()> {
    match disk.remove(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
