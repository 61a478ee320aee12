//! The `carillon` command: the whole server in one process, administration, messages by hand, and the load generator.

mod admin;
mod args;
mod bench;
mod check;
mod completion;
mod config;
mod context;
mod dev;
mod doctor;
mod exit;
mod files;
mod http;
mod log;
mod man;
mod message;
mod output;
mod ready;
mod runtime;
mod series;
mod values;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use exit::{Exit, Failure};
use output::Output;

/// Requests are allocated on one thread and freed on another (the log writer's): it does that better than the system's, and a
/// static build has nothing else worth using.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Called by a shell to complete a line, it answers here and ends.
    completion::answer();
    let started = runtime::now();
    // Wrong usage, help and version end here, with exit code 2 and 0.
    let cli = Cli::parse();
    match run(cli, started) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            failure.report();
            failure.exit.into()
        }
    }
}

fn run(cli: Cli, started: std::time::Instant) -> Result<(), Failure> {
    let output = Output::new(&cli.common);
    match cli.command {
        // These two make their own threads.
        Command::Dev(options) => dev::run(options, started),
        Command::Bench(scenario) => bench::run(scenario, &cli.common.target()?, &output),
        // Needs no server, and none may be there.
        Command::Log(verb) => log::run(verb, &output),
        Command::Doctor(options) => doctor::run(&options, &cli.common, &output),
        Command::Config(verb) => config::run(&verb, &output),
        Command::Context(verb) => context::run(&verb, &cli.common, &output),
        Command::Completion(options) => completion::run(&options, &output),
        Command::Man(options) => man::run(&options, &output),
        Command::Check(options) => runtime::block_on(check::run(&options, &cli.common, &output)),
        Command::Topic(verb) => runtime::block_on(admin::topic::run(verb, &cli.common.target()?, &output)),
        Command::Group(verb) => runtime::block_on(admin::group::run(verb, &cli.common.target()?, &output)),
        Command::Node(verb) => runtime::block_on(admin::node::run(verb, &cli.common.target()?, &output)),
        Command::Nameserver(verb) => runtime::block_on(admin::nameserver::run(verb, &cli.common.target()?, &output)),
        Command::Client(verb) => runtime::block_on(admin::client::run(verb, &cli.common.target()?, &output)),
        Command::Send(options) => runtime::block_on(message::send::run(options, &cli.common.target()?, &output)),
        Command::Receive(options) => runtime::block_on(message::receive::run(options, &cli.common.target()?, &output)),
        Command::Message(verb) => runtime::block_on(message::look_up::run(verb, &cli.common.target()?, &output)),
        Command::Tail(options) => runtime::block_on(message::tail::run(options, &cli.common.target()?, &output)),
    }
}
