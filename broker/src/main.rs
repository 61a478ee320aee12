//! The `broker` process.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use broker::config::Config;
use broker::server::Server;
use clap::Parser;
use serve::arguments::Arguments;
use serve::process::{self, Failure, PortsFile};
use serve::settings::Layers;
use serve::{logging, runtime, stop};

/// Requests are allocated on one thread and freed on another (the log writer's): it does that better than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Take, keep and deliver messages.
#[derive(Debug, Parser)]
#[command(
    name = "broker",
    version,
    after_help = "Examples:\n  broker --config /etc/carillon/broker.toml --check\n  broker --data /var/lib/carillon --set node.name=broker-a --set nameservers=ns-1:9876,ns-2:9876\n\nSettings: flags beat CARILLON__SECTION__KEY variables beat the file beat the defaults; `carillon config default`\nprints all of them.\nExit codes: 0 clean stop, 1 failure, 2 configuration, 3 data directory in use, 4 address in use, 5 no permission."
)]
struct Options {
    #[command(flatten)]
    arguments: Arguments,
    /// Look at the settings, say what is wrong with them, and end.
    #[arg(long)]
    check: bool,
    /// Where messages are kept; the setting `data`.
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
}

fn main() -> ExitCode {
    let started = runtime::now();
    let options = Options::parse();
    process::end(run(&options, started))
}

fn run(options: &Options, started: Instant) -> Result<(), Failure> {
    let mut layers = Layers::<Config>::new();
    options.arguments.add(&mut layers, std::env::vars())?;
    if let Some(data) = &options.data {
        layers.flag("--data", "data", &data.display().to_string());
    }
    let config = options.arguments.build(layers)?;
    if options.check {
        println!("the settings are right");
        return Ok(());
    }
    logging::start(&config.log)?;
    process::prepare();
    let data = Path::new(&config.data);
    process::create_directory(data)?;
    let ports = PortsFile::clear(data)?;
    let mut stop = stop::on_signals()?;
    let server = Server::start(&config, data)?;
    server.tell_what_was_found();
    ports.write(&server.ports());
    say(&config, &server, started);
    runtime::block_on(async {
        stop.requested().await;
        server.stop(config.shutdown.timeout).await;
    });
    Ok(())
}

fn say(config: &Config, server: &Server, started: Instant) {
    println!(
        "Carillon broker {}, node {} of cluster {}",
        env!("CARGO_PKG_VERSION"),
        config.node.name,
        config.cluster.name
    );
    println!("  gRPC         {}  for RocketMQ 5 clients", server.grpc_address());
    if let Some(http) = server.http_address() {
        println!("  HTTP         http://{http}  admin API, health, /metrics");
    }
    println!("  data         {}", config.data);
    if !config.nameservers.is_empty() {
        println!("  nameservers  {}", config.nameservers.join(", "));
    }
    println!("ready in {} ms", started.elapsed().as_millis());
}
