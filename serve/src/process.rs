//! How a server process begins and ends: its exit codes, and the file that tells other programs its ports.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::ExitCode;

/// Tells other programs which ports were chosen; in the data directory.
pub const PORTS_FILE: &str = "ports.json";

/// Writes the ports that listen. Readers see the old file or the new one, never a part.
#[expect(clippy::disallowed_methods, reason = "a file for other programs, not of a store")]
pub fn write_ports(file: &Path, ports: &[(&str, Option<u16>)]) -> io::Result<()> {
    let ports: serde_json::Map<_, _> = ports.iter().map(|(name, port)| ((*name).into(), (*port).into())).collect();
    let temporary = file.with_extension("new");
    std::fs::write(&temporary, serde_json::Value::Object(ports).to_string())?;
    std::fs::rename(&temporary, file)
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
        write_ports(&file, &[("grpc", Some(1)), ("http", None)]).unwrap();
        let text = std::io::read_to_string(std::fs::OpenOptions::new().read(true).open(&file).unwrap()).unwrap();
        assert_eq!(text, r#"{"grpc":1,"http":null}"#);
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
