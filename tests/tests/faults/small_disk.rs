//! A file system of its own for a data directory, small enough to be filled.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What it holds in all.
pub const BYTES: usize = 96 << 20;

/// Unmounted when dropped.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// An ext4 in a file; where that is not allowed, memory. Gives why neither can be had.
    pub fn mount(at: &Path) -> Result<Self, String> {
        fs::DirBuilder::new().recursive(true).create(at).map_err(|error| error.to_string())?;
        let (mounted, image) = (path(at), path(&at.with_extension("img")));
        let size = format!("{BYTES}");
        let ext4 = run("truncate", &["-s", &size, &image])
            .and_then(|()| run("mkfs.ext4", &["-q", "-F", &image]))
            .and_then(|()| run("mount", &["-o", "loop", &image, &mounted]));
        let Err(no_ext4) = ext4 else { return Ok(Self { at: at.into() }) };
        println!("no ext4 in a file ({no_ext4}), so memory");
        let memory = run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", &mounted]);
        memory.map(|()| Self { at: at.into() }).map_err(|error| format!("no file system can be mounted: {error}"))
    }

    /// A file of somebody else's: so many bytes, or all that there is room for.
    pub fn fill(&self, name: &str, bytes: Option<usize>) {
        let file = fs::OpenOptions::new().create_new(true).append(true).open(self.at.join(name));
        let mut file = file.expect("a file takes no room yet");
        let chunk = vec![1; 1 << 20];
        let mut left = bytes.unwrap_or(BYTES);
        // The last room is less than a chunk.
        for size in [chunk.len(), 4096] {
            while left >= size {
                match file.write_all(&chunk[..size]) {
                    Ok(()) => left -= size,
                    Err(full) if full.kind() == ErrorKind::StorageFull && bytes.is_none() => break,
                    Err(error) => panic!("{name} cannot be written: {error}"),
                }
            }
        }
        match file.sync_all() {
            Err(error) if error.kind() != ErrorKind::StorageFull => panic!("{name} cannot be written: {error}"),
            _ => {}
        }
    }

    pub fn free(&self, name: &str) {
        #[expect(clippy::disallowed_methods, reason = "a file of the test's own")]
        fs::remove_file(self.at.join(name)).expect("it is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A server that a failed test leaves is killed with it, but later.
        if run("umount", &[&path(&self.at)]).is_err() {
            let _is_said = run("umount", &["-l", &path(&self.at)]).map_err(|error| eprintln!("{error}"));
        }
    }
}

fn path(path: &Path) -> String {
    path.to_str().expect("temporary directories have plain names").to_owned()
}

/// Runs a program; gives what it complained about.
fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
