//! The few files that programs read and write beside a store: settings, ports, reports.

use std::io;
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

/// No error when it is not there.
pub fn remove(path: &Path) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "the ports of an earlier run, not a file of the store")]
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
