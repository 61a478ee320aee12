//! The few files that the command itself reads and writes; the store's are reached through `storage`.

use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    #[expect(clippy::disallowed_methods, reason = "a file that the user names, not one of the store")]
    std::fs::read(path)
}

pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Readers see the old file or the new one, never a part.
#[expect(clippy::disallowed_methods, reason = "ports and reports: files for other programs, not of the store")]
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, path)
}

/// No error when it is not there.
pub fn remove(path: &Path) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "the ports of an earlier run, not a file of the store")]
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// How long each of some syncs of 4 KiB takes in a new file, which is removed again.
pub fn time_syncs(path: &Path, count: usize, now: impl Fn() -> Instant) -> io::Result<Vec<Duration>> {
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    let timed = (|| {
        let block = [0; 4096];
        // As in the log, the timed syncs carry no metadata.
        file.write_all(&block)?;
        file.sync_all()?;
        let once = |_| {
            file.rewind()?;
            file.write_all(&block)?;
            let began = now();
            file.sync_data()?;
            Ok(now() - began)
        };
        (0..count).map(once).collect()
    })();
    remove(path).and(timed)
}
