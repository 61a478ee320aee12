//! How a server process begins and ends: its exit codes, and the file that tells other programs its ports.

use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::disable_transparent_huge_pages;

use crate::files;

/// Tells other programs which ports were chosen; in the data directory.
const PORTS_FILE: &str = "ports.json";

/// The ports that listen, told to other programs for as long as this lives.
#[derive(Debug)]
pub struct PortsFile {
    path: PathBuf,
}

impl PortsFile {
    /// Nobody who waits for the file in `directory` finds the ports of an earlier run.
    pub fn clear(directory: &Path) -> Result<Self, Failure> {
        let path = directory.join(PORTS_FILE);
        files::remove(&path).map_err(|error| Failure::file("remove", &path, &error))?;
        Ok(Self { path })
    }

    pub fn write(&self, ports: &[(&str, Option<u16>)]) {
        let ports: serde_json::Map<_, _> = ports.iter().map(|(name, port)| ((*name).into(), (*port).into())).collect();
        if let Err(error) = files::write(&self.path, serde_json::Value::Object(ports).to_string().as_bytes()) {
            tracing::error!(file = %self.path.display(), %error, "the chosen ports cannot be written");
        }
    }
}

impl Drop for PortsFile {
    /// The server has ended: nobody must find a port that another process may get.
    fn drop(&mut self) {
        if let Err(error) = files::remove(&self.path) {
            tracing::error!(file = %self.path.display(), %error, "the file of ports is left behind");
        }
    }
}

/// Bodies of messages are nobody else's business: what is made here is the owner's only.
pub fn create_directory(path: &Path) -> Result<(), Failure> {
    let created = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(|error| Failure::file("create", path, &error))
}

/// What a server asks of the system for itself. To be called before its threads begin.
pub fn prepare() {
    raise_file_limit();
    // The allocator asks for huge pages, of 2 MiB: of each it takes one piece, and gives it back, for all. Ten thousand
    // idle clients took two fifths more with them, and sends were no faster (docs/load.md).
    if let Err(error) = disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "the system may give out huge pages");
    }
}

/// Takes as many file handles as the system allows: every connection is one, and shells give a thousand.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, limit = limit.current, "the limit of open files stays as it is");
    }
}

/// The end of a server's `main`: what went wrong, for people and for the supervisor.
pub fn end(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit.into()
        }
    }
}

/// How a server ends (operations H2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    Configuration,
    /// The data directory is in use, or not ours.
    DataLocked,
    /// Another process listens there.
    AddressInUse,
    /// The operating system forbids it.
    NoPermission,
}

impl From<Exit> for u8 {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Configuration => 2,
            Exit::DataLocked => 3,
            Exit::AddressInUse => 4,
            Exit::NoPermission => 5,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(u8::from(exit))
    }
}

/// Why a server did not start, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    pub exit: Exit,
    text: String,
}

impl Failure {
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// Something cannot be done with a file or directory.
    pub fn file(what: &str, path: &Path, error: &io::Error) -> Self {
        let exit = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Exit::NoPermission,
            _ => Exit::Failed,
        };
        Self::new(exit, format!("cannot {what} {}: {error}", path.display()))
    }

    /// An address cannot be listened on.
    pub fn listen(setting: &str, address: &str, cause: &io::Error) -> Self {
        match cause.kind() {
            ErrorKind::AddrInUse => Self::new(Exit::AddressInUse, format!("{address} is in use by another process")),
            ErrorKind::PermissionDenied => {
                Self::new(Exit::NoPermission, format!("no permission for listening on {address}"))
            }
            _ => Self::new(Exit::Failed, format!("{setting} = {address:?} cannot be listened on: {cause}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_json() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(PORTS_FILE);
        let ports = PortsFile::clear(directory.path()).unwrap();
        ports.write(&[("grpc", Some(1)), ("http", None)]);
        let text = files::read_text(&file).unwrap();
        assert_eq!(text, r#"{"grpc":1,"http":null}"#);
        drop(ports);
        assert!(!file.exists(), "the ports go with who had them");
        // As a server that was killed leaves it.
        files::write(&file, b"old").unwrap();
        let _ports = PortsFile::clear(directory.path()).unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn each_reason_not_to_start_has_its_exit_code() {
        let exits = [Exit::Done, Exit::Failed, Exit::Configuration, Exit::DataLocked, Exit::AddressInUse];
        assert_eq!(exits.map(u8::from), [0, 1, 2, 3, 4]);
        let listen = |kind: ErrorKind| u8::from(Failure::listen("x", "y:1", &kind.into()).exit);
        assert_eq!([ErrorKind::AddrInUse, ErrorKind::PermissionDenied, ErrorKind::Other].map(listen), [4, 5, 1]);
        let file = |kind: ErrorKind| u8::from(Failure::file("open", Path::new("f"), &kind.into()).exit);
        assert_eq!([ErrorKind::PermissionDenied, ErrorKind::Other].map(file), [5, 1]);
    }
}
