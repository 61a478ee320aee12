//! The few files that the command itself reads and writes; the store's are reached through `storage`.

use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

pub use serve::files::{read, read_text, remove, write};

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

/// As [`serve::files::keep`]. Folders on the way are made.
pub fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    serve::files::keep(path, bytes)
}
