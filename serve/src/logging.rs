//! What a server says on standard error while it runs.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::process::{Exit, Failure};
use crate::settings::{Log, LogFormat};

/// Starts the log, once in a process.
pub fn start(settings: &Log) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&settings.filter)
        .map_err(|error| Failure::new(Exit::Configuration, format!("log.filter = {:?}: {error}", settings.filter)))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let is_text = match settings.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    let started = match is_text {
        true => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        false => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}
