//! How the command ends: a code that scripts may rely on, and a sentence for people.

use std::fmt;
use std::io;
use std::process::ExitCode;

use client::Code;
use serve::process;

use crate::admin::api::ApiError;

/// Exit codes of every verb but `dev`, which has those of a server, and `doctor` and `check`, which have those of a
/// monitoring plug-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    Usage,
    NotFound,
    Refused,
    NotAllowed,
    Unreachable,
    /// Done in part.
    Partly,
    /// `doctor` and `check`, as monitoring expects it.
    Warning,
    /// The same: something does not work, or will not.
    Critical,
    /// The same: it could not be found out.
    Unknown,
    /// `dev`, as every server.
    Server(process::Exit),
}

impl From<Exit> for u8 {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => 0,
            Exit::Failed | Exit::Warning => 1,
            Exit::Usage | Exit::Critical => 2,
            Exit::NotFound | Exit::Unknown => 3,
            Exit::Refused => 4,
            Exit::NotAllowed => 5,
            Exit::Unreachable => 6,
            Exit::Partly => 7,
            Exit::Server(exit) => exit.into(),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(u8::from(exit))
    }
}

/// Why the command ends early.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    text: String,
}

impl Failure {
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// Says it on standard error, once.
    pub fn report(&self) {
        if !self.text.is_empty() {
            eprintln!("error: {}", self.text);
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<process::Failure> for Failure {
    fn from(failure: process::Failure) -> Self {
        Self::new(Exit::Server(failure.exit), failure.to_string())
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        let exit = match (&error, error.code()) {
            _ if error.is_unreachable() => Exit::Unreachable,
            (client::Error::Endpoint { .. }, _) => Exit::Usage,
            (_, Some(code)) => exit_of(code),
            (_, None) => Exit::Failed,
        };
        Self::new(exit, with_sources(&error))
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let exit = match &error {
            ApiError::Unreachable { .. } | ApiError::TimedOut { .. } => Exit::Unreachable,
            ApiError::NotOurs { .. } => Exit::Failed,
            ApiError::Refused(problem) => match problem.status {
                404 | 410 => Exit::NotFound,
                401 | 403 => Exit::NotAllowed,
                400..=499 | 503 | 507 => Exit::Refused,
                504 => Exit::Unreachable,
                _ => Exit::Failed,
            },
        };
        Self::new(exit, with_sources(&error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The reader of our output has left, as `head` does: nobody to tell, and nothing went wrong.
            io::ErrorKind::BrokenPipe => Self::new(Exit::Done, ""),
            _ => Self::new(Exit::Failed, error.to_string()),
        }
    }
}

fn exit_of(code: Code) -> Exit {
    match i32::from(code as u16) {
        40_400..=40_499 => Exit::NotFound,
        40_100..=40_199 | 40_300..=40_399 => Exit::NotAllowed,
        40_800..=40_899 | 50_400..=50_499 => Exit::Unreachable,
        40_000..=43_999 => Exit::Refused,
        _ => Exit::Failed,
    }
}

/// An error and what caused it, in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Wrappers often repeat what they wrap.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::Problem;

    fn of_code(code: Code) -> u8 {
        Failure::from(client::Error::Refused { code: code as i32, text: String::new() }).exit.into()
    }

    fn of_status(status: u16) -> u8 {
        Failure::from(ApiError::Refused(Box::new(Problem { status, ..Problem::default() }))).exit.into()
    }

    #[test]
    fn exit_codes_follow_from_what_the_server_said() {
        assert_eq!([of_status(404), of_status(409), of_status(403), of_status(500)], [3, 4, 5, 1]);
        assert_eq!([of_status(422), of_status(429), of_status(503), of_status(504)], [4, 4, 4, 6]);
        assert_eq!([of_code(Code::TopicNotFound), of_code(Code::IllegalTopic)], [3, 4]);
        assert_eq!([of_code(Code::Unauthorized), of_code(Code::ProxyTimeout)], [5, 6]);
        assert_eq!([of_code(Code::TooManyRequests), of_code(Code::InternalServerError)], [4, 1]);
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.to_string().as_str()), (Exit::Done, ""));
    }

    #[test]
    fn the_codes_of_dev_are_those_of_a_server() {
        use process::Exit::{AddressInUse, Configuration, DataLocked, NoPermission};
        let exits = [Configuration, DataLocked, AddressInUse, NoPermission];
        let codes = exits.map(|exit| Failure::from(process::Failure::new(exit, "")).exit).map(u8::from);
        assert_eq!(codes, [2, 3, 4, 5]);
    }
}
