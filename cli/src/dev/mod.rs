//! `carillon dev`: the whole server in one process, for the machine one works on.
//!
//! Everything around the server is here: settings, data directory, signals, and what is said when it is ready. The
//! server itself is [`server::run`].

mod banner;
mod demo;
mod server;
mod settings;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serve::process::{self, PORTS_FILE};
use serve::{logging, stop};

use crate::exit::{Exit, Failure};
use crate::files;
use crate::values::{self, TopicSpec};
use server::Ports;

const DATA_DEFAULT: &str = "./data";

/// Run the whole server here: broker, admin API and metrics in one process.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  carillon dev\n  carillon dev --ephemeral --port-grpc 0 --port-http 0 --topics orders:fifo:8,reminders:delay\n  carillon dev --config broker.toml --set storage.log.flush=write\n\nSettings: flags beat CARILLON__SECTION__KEY variables beat the file beat the defaults.\nExit codes: 0 clean stop, 1 failure, 2 configuration, 3 data directory in use, 4 address in use, 5 no permission."
)]
pub struct Options {
    /// Where messages are kept. Default ./data.
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
    /// Keep nothing: a new directory that is removed at the end.
    #[arg(long, conflicts_with = "data")]
    ephemeral: bool,
    /// Address to listen on; another one than loopback opens the server to others, without a login. Default 127.0.0.1.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<IpAddr>,
    /// Port for RocketMQ clients; 0 is any free one. Default 8081.
    #[arg(long, value_name = "PORT")]
    port_grpc: Option<u16>,
    /// Port of the admin API, health and metrics; 0 is any free one. Default 8080.
    #[arg(long, value_name = "PORT")]
    port_http: Option<u16>,
    /// Topics to have from the start, as NAME, NAME:TYPE or NAME:TYPE:QUEUES.
    #[arg(long, value_parser = values::topic_spec, value_delimiter = ',', value_name = "TOPIC,...")]
    topics: Vec<TopicSpec>,
    /// Produce and consume something, so that there is something to look at: orders in steps, some failing, and reminders.
    #[arg(long)]
    demo: bool,
    /// A setting, such as storage.log.flush=write; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A file with settings, TOML.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub fn run(options: Box<Options>, started: Instant) -> Result<(), Failure> {
    let config = settings::read(&options, std::env::vars())?;
    logging::start(&config.log)?;
    settings::warn_of_open_listeners(&config);
    let data = Data::prepare(&options)?;
    let ports_file = data.path.join(PORTS_FILE);
    // Whoever waits for this file must not find the ports of an earlier run.
    files::remove(&ports_file).map_err(|error| process::Failure::file("remove", &ports_file, &error))?;
    let stop = stop::on_signals().map_err(|error| Failure::new(Exit::Failed, format!("no signals: {error}")))?;
    let (mut topics, mut groups) = (options.topics.clone(), Vec::new());
    if options.demo {
        topics.extend(demo::topics());
        groups.extend(demo::groups());
    }
    let start = server::Start { config: config.clone(), data: data.path.clone(), topics: topics.clone(), groups };
    let mut shop = None;
    let ready = |ports: Ports| {
        if let Err(error) = process::write_ports(&ports_file, &[("grpc", Some(ports.grpc)), ("http", ports.http)]) {
            tracing::error!(file = %ports_file.display(), %error, "the chosen ports cannot be written");
        }
        banner::print(&config, &data.path, &topics, ports, started);
        if options.demo {
            shop = demo::Demo::start(&banner::grpc(&config, ports)).inspect_err(Failure::report).ok();
        }
    };
    let result = server::run(start, ready, stop);
    drop(shop);
    // The server has ended: nobody must find a port that another process may get.
    let removed = files::remove(&ports_file).map_err(|error| process::Failure::file("remove", &ports_file, &error));
    result?;
    Ok(removed?)
}

/// The directory of this run. An ephemeral one is removed with this, whatever happened.
struct Data {
    path: PathBuf,
    is_ephemeral: bool,
}

impl Data {
    fn prepare(options: &Options) -> Result<Self, Failure> {
        let path = match (&options.data, options.ephemeral) {
            (_, true) => {
                let chance = base::Chance::from_system().next_u64();
                std::env::temp_dir().join(format!("carillon-{}-{chance:016x}", std::process::id()))
            }
            (Some(path), false) => path.clone(),
            (None, false) => DATA_DEFAULT.into(),
        };
        files::create_directories(&path).map_err(|error| process::Failure::file("create", &path, &error))?;
        Ok(Self { path, is_ephemeral: options.ephemeral })
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if self.is_ephemeral
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("warning: {} is left behind: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
#[path = "dev_tests.rs"]
mod tests;
