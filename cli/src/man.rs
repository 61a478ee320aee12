//! `carillon man`: the command's own pages of the manual, from what `--help` says.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use crate::args::Cli;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Pages of the manual: the one of the command, or one for each verb as files.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  carillon man | man -l -\n  carillon man --directory /usr/local/share/man/man1")]
pub struct Options {
    /// Write a page for each verb there, carillon-topic-create.1 and so on; the directory has to exist.
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

pub fn run(options: &Options, output: &Output) -> Result<(), Failure> {
    match &options.directory {
        Some(directory) => clap_mangen::generate_to(Cli::command(), directory)
            .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", directory.display()))),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            Ok(output.bytes(&page)?)
        }
    }
}
