//! The few files that programs read and write beside a store: settings, ports, reports.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

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

/// As [`write`], of what is not made anew by itself: it is on the disk then, and nobody but the user can read it.
#[expect(clippy::disallowed_methods, reason = "settings of users and of clusters, not files of the store")]
pub fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Two processes at a time write files of their own; the later one stays.
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let keep = || {
        let mut file =
            std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    // The first error says what went wrong.
    keep().inspect_err(|_| drop(remove(&temporary)))
}

/// No error when it is not there.
pub fn remove(path: &Path) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "the ports of an earlier run, not a file of the store")]
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
