//! `carillon log`: looks at the log of a data directory that no server uses. Changes nothing there.

mod dump;
mod fields;
mod verify;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use storage::disk::real::{DirectoryError, RealDisk};

use crate::exit::{Exit, Failure};
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Read every checksum of the log, its index files and checkpoints, and say what is damaged and whom it hits.
    #[command(
        after_help = "Examples:\n  carillon log verify ./data\n  carillon log verify /backup/monday --json | jq '.damaged[].losses'\n\nExit codes: 0 sound, 1 something is damaged, be it only a file that a start makes anew, 3 no such directory, 4 a server uses it."
    )]
    Verify(Directory),
    /// Show batches and records, one a line.
    #[command(
        after_help = "Examples:\n  carillon log dump ./data --from 4096 --to 65536\n  carillon log dump ./data --bodies --json | jq 'select(.kind == \"message\")'"
    )]
    Dump(dump::Options),
}

#[derive(Debug, Args)]
pub struct Directory {
    /// The data directory. No server may use it meanwhile.
    #[arg(value_name = "DIR")]
    path: PathBuf,
}

pub fn run(verb: Verb, output: &Output) -> Result<(), Failure> {
    match verb {
        Verb::Verify(directory) => verify::run(&open(&directory.path)?, output),
        Verb::Dump(options) => dump::run(&options, &open(&options.directory.path)?, output),
    }
}

/// Locks a directory without changing anything in it.
pub fn open(path: &Path) -> Result<RealDisk, Failure> {
    RealDisk::open_to_look(path).map_err(|error| match &error {
        DirectoryError::Locked { path } => Failure::new(
            Exit::Refused,
            format!("a server uses {}: stop it first, or look at a copy of the directory", path.display()),
        ),
        DirectoryError::Io { source, .. } => {
            let exit = match source.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => Exit::NotFound,
                ErrorKind::PermissionDenied => Exit::NotAllowed,
                _ => Exit::Failed,
            };
            Failure::new(exit, error.to_string())
        }
    })
}
