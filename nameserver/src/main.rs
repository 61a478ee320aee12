//! The `nameserver` process.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use nameserver::config::Config;
use nameserver::server::Server;
use serve::arguments::Arguments;
use serve::process::{self, Failure};
use serve::settings::Layers;
use serve::{logging, runtime, stop};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tell clients which broker serves which topic. Keeps nothing on disk; several may run side by side.
#[derive(Debug, Parser)]
#[command(
    name = "nameserver",
    version,
    after_help = "Examples:\n  nameserver\n  nameserver --config /etc/carillon/nameserver.toml --check\n  nameserver --set listen=0.0.0.0:9876 --set http.listen=\n\nSettings: flags beat CARILLON__SECTION__KEY variables beat the file beat the defaults; `carillon config default --nameserver`\nprints all of them.\nExit codes: 0 clean stop, 1 failure, 2 configuration, 4 address in use, 5 no permission."
)]
struct Options {
    #[command(flatten)]
    arguments: Arguments,
    /// Look at the settings, say what is wrong with them, and end.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let started = runtime::now();
    let options = Options::parse();
    process::end(run(&options, started))
}

fn run(options: &Options, started: Instant) -> Result<(), Failure> {
    let mut layers = Layers::<Config>::new();
    options.arguments.add(&mut layers, std::env::vars())?;
    let config = options.arguments.build(layers)?;
    if options.check {
        println!("the settings are right");
        return Ok(());
    }
    logging::start(&config.log)?;
    process::prepare();
    let mut stop = stop::on_signals()?;
    let server = Server::start(&config)?;
    println!("Carillon name server {}", env!("CARGO_PKG_VERSION"));
    println!("  listen  {}  for clients and brokers of cluster {}", server.address(), config.cluster.name);
    if let Some(http) = server.http_address() {
        println!("  HTTP    http://{http}  health, /metrics, /api/v1/brokers, /api/v1/routes/TOPIC");
    }
    println!("ready in {} ms", started.elapsed().as_millis());
    runtime::block_on(async {
        stop.requested().await;
        server.stop(config.shutdown.timeout).await;
    });
    Ok(())
}
