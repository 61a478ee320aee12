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
use serve::arguments::Arguments;
use serve::process::{self, PortsFile};
use serve::{logging, stop};

use crate::exit::Failure;
use crate::values::{self, TopicSpec};
use server::Ports;

/// Run the whole server here: broker, admin API and metrics in one process.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  carillon dev\n  carillon dev --ephemeral --port-grpc 0 --port-http 0 --topics orders:fifo:8,reminders:delay\n  carillon dev --config broker.toml --set storage.log.flush=write\n\nSettings: flags beat CARILLON__SECTION__KEY variables beat the file beat the defaults.\nExit codes: 0 clean stop, 1 failure, 2 configuration, 3 data directory in use, 4 address in use, 5 no permission."
)]
pub struct Options {
    #[command(flatten)]
    arguments: Arguments,
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
    /// Port of the name server; 0 is any free one. Default 9876, or any free one when --port-grpc is given.
    #[arg(long, value_name = "PORT")]
    port_nameserver: Option<u16>,
}

pub fn run(options: Box<Options>, started: Instant) -> Result<(), Failure> {
    let config = settings::read(&options, std::env::vars())?;
    logging::start(&config.log)?;
    process::prepare();
    settings::warn_of_open_listeners(&config);
    let data = Data::prepare(&options, &config.data)?;
    let ports_file = PortsFile::clear(&data.path)?;
    let stop = stop::on_signals()?;
    let (mut topics, mut groups) = (options.topics.clone(), Vec::new());
    if options.demo {
        topics.extend(demo::topics());
        groups.extend(demo::groups());
    }
    let nameserver = settings::nameserver(&options, &config);
    let start = server::Start { config: config.clone(), nameserver, data: data.path.clone(), topics, groups };
    let topics = start.topics.clone();
    let mut shop = None;
    let ready = |ports: Ports| {
        let Ports { grpc, http, nameserver } = ports;
        ports_file.write(&[("grpc", Some(grpc)), ("http", http), ("nameserver", Some(nameserver))]);
        banner::print(&config, &data.path, &topics, ports, started);
        if options.demo {
            shop = demo::Demo::start(&banner::grpc(&config, ports)).inspect_err(Failure::report).ok();
        }
    };
    let result = server::run(start, ready, stop);
    drop(shop);
    Ok(result?)
}

/// The directory of this run. An ephemeral one is removed with this, whatever happened.
struct Data {
    path: PathBuf,
    is_ephemeral: bool,
}

impl Data {
    fn prepare(options: &Options, data: &str) -> Result<Self, Failure> {
        let path = if options.ephemeral {
            let chance = base::Chance::from_system().next_u64();
            std::env::temp_dir().join(format!("carillon-{}-{chance:016x}", std::process::id()))
        } else {
            data.into()
        };
        process::create_directory(&path)?;
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
