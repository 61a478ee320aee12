//! Measures what a store costs at sizes that no test has. The load generator for whole servers is `carillon bench`.
//!
//! `cargo run --release -p carillon-benches -- timers --within 1s`. Asserts no time: it prints what it saw.

mod attempts;
mod queues;
mod resources;
mod store;
mod timers;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// As the server has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(about = "What a store costs at sizes that no test has")]
struct Arguments {
    /// Where the files go, for as long as it runs.
    #[arg(long, global = true, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
    #[command(subcommand)]
    scale: Scale,
}

#[derive(Debug, Subcommand)]
enum Scale {
    /// Pending timers, spread over a time.
    Timers {
        #[arg(long, default_value_t = 100_000_000)]
        count: u64,
        /// All are due within so many seconds.
        #[arg(long, default_value = "3600", value_parser = seconds, value_name = "SECONDS")]
        within: Duration,
    },
    /// Queues that each hold a few messages.
    Queues {
        #[arg(long, default_value_t = 1_000_000)]
        count: u64,
        /// Messages in each.
        #[arg(long, default_value_t = 2)]
        messages: u64,
    },
    /// Messages of one group that have failed and wait for another try.
    Attempts {
        #[arg(long, default_value_t = 10_000_000)]
        count: u64,
    },
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: u64 = text.trim_end_matches('s').parse().map_err(|error| format!("{text:?}: {error}"))?;
    Ok(Duration::from_secs(number.max(1)))
}

fn main() {
    let Arguments { directory, scale } = Arguments::parse();
    let directory = tempfile::tempdir_in(directory).expect("a directory for the files");
    match scale {
        Scale::Timers { count, within } => timers::measure(directory.path(), count, within),
        Scale::Queues { count, messages } => queues::measure(directory.path(), count, messages),
        Scale::Attempts { count } => attempts::measure(directory.path(), count),
    }
}
