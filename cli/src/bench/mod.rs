//! `carillon bench`: load and what it costs, on any server of the protocol.
//!
//! One file for each scenario; `engine` runs them on threads, `tally` keeps what they measure, `report` says it.

mod consume;
mod cost;
mod e2e;
mod engine;
mod fill;
mod order;
mod receive;
mod report;
mod send;
mod setup;
mod stamp;
mod tally;
mod timer;
mod topics;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::args::Target;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::values;

#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Send, and measure how long each call takes.
    #[command(
        after_help = "Examples:\n  carillon bench send --in-flight 64 --duration 10s\n  carillon bench send --rate 20000 --batch 32 --size 256B --report send.json"
    )]
    Send(Load),
    /// Fill a backlog, then measure how fast it is consumed.
    #[command(
        after_help = "Examples:\n  carillon bench receive --count 200000 --in-flight 16\n  carillon bench receive --count 200000 --ack-batch 32"
    )]
    Receive(receive::Options),
    /// Send and receive at once, and measure from the one to the other.
    #[command(
        after_help = "Examples:\n  carillon bench e2e --rate 5000\n  carillon bench e2e --rate 5000 --keys 100 --duration 1m --report e2e.json"
    )]
    E2e(e2e::Options),
    /// Send delayed messages, and measure how late they arrive.
    #[command(
        after_help = "Examples:\n  carillon bench timer --rate 1000 --lead 10s\n  carillon bench timer --rate 20000 --count 1000000 --lead 2m --preload"
    )]
    Timer(timer::Options),
    /// Send and receive in order, and check the order of every key.
    #[command(
        after_help = "Examples:\n  carillon bench order --keys 1000\n  carillon bench order --keys 100 --rate 2000 --duration 1m"
    )]
    Order(order::Options),
    /// Make topics, and measure until every node knows each of them.
    #[command(
        after_help = "Examples:\n  carillon bench topics --count 200\n  carillon bench topics --server broker-a:8080 --node ns-1:9876 --report topics.json"
    )]
    Topics(topics::Options),
}

/// The load, in all scenarios.
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// Topic. Default bench; bench-fifo with keys, bench-delay for timer: a topic has one type.
    #[arg(long)]
    pub topic: Option<String>,
    /// Messages a second, sent on time whether answers come or not; latency counts from the time a message was meant to
    /// be sent. Without it: as many as --in-flight calls give.
    #[arg(long, value_parser = rate, value_name = "N")]
    pub rate: Option<f64>,
    /// Calls at once, in all. Default 64; 1024 with --rate.
    #[arg(long, value_parser = at_least_one, value_name = "N")]
    pub in_flight: Option<usize>,
    /// Connections, in all.
    #[arg(long, default_value = "1", value_parser = at_least_one, value_name = "N")]
    pub connections: usize,
    /// Threads of this program; each has its own connections.
    #[arg(long, default_value = "1", value_parser = at_least_one, value_name = "N")]
    pub threads: usize,
    /// Size of a body.
    #[arg(long, default_value = "1KiB", value_parser = values::size)]
    pub size: usize,
    /// Messages in one send call.
    #[arg(long, default_value = "1", value_parser = at_least_one, value_name = "N")]
    pub batch: usize,
    /// Message groups to spread the messages over; 0 is none.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub keys: u32,
    /// How long to measure.
    #[arg(long, default_value = "10s", value_parser = values::span)]
    pub duration: Duration,
    /// How long to run before that.
    #[arg(long, default_value = "2s", value_parser = values::span)]
    pub warmup: Duration,
    /// Write the result here, as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Do not create topic and group through the admin API.
    #[arg(long)]
    pub no_create: bool,
    /// Queues of the topic when it is created.
    #[arg(long, default_value_t = values::QUEUES_DEFAULT, value_name = "N")]
    pub queues: u16,
    /// Process of the server on this machine, to count its CPU seconds. Default: what its /metrics say, if there are any.
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
}

/// The receiving side, in scenarios that have one.
#[derive(Debug, Clone, Args)]
pub struct Receiving {
    /// Consumer group.
    #[arg(long, default_value = "bench", value_name = "GROUP")]
    pub consumer_group: String,
    /// Messages asked for in one receive call.
    #[arg(long, default_value = "32", value_parser = at_least_one, value_name = "N")]
    pub receive_batch: usize,
    /// Messages acknowledged in one call.
    #[arg(long, default_value = "32", value_parser = at_least_one, value_name = "N")]
    pub ack_batch: usize,
    /// How long received messages stay hidden.
    #[arg(long, default_value = "1m", value_parser = values::span, value_name = "DURATION")]
    pub invisible: Duration,
}

const IN_FLIGHT_CLOSED: usize = 64;
/// At 20,000 a second this covers answers of 50 ms before the generator itself holds messages back.
const IN_FLIGHT_OPEN: usize = 1024;

impl Load {
    pub fn in_flight(&self) -> usize {
        self.in_flight.unwrap_or(if self.rate.is_some() { IN_FLIGHT_OPEN } else { IN_FLIGHT_CLOSED })
    }

    pub fn topic_or(&self, default: &str) -> String {
        self.topic.clone().unwrap_or_else(|| default.into())
    }

    /// Bodies that carry a stamp have room for it.
    fn check_stamped(&self) -> Result<(), Failure> {
        match self.size >= stamp::BYTES {
            true => Ok(()),
            false => Err(Failure::new(
                Exit::Usage,
                format!("--size {}: bodies carry {} bytes to be measured by", self.size, stamp::BYTES),
            )),
        }
    }
}

pub fn run(scenario: Scenario, target: &Target, output: &Output) -> Result<(), Failure> {
    match scenario {
        Scenario::Send(load) => send::run(load, target, output),
        Scenario::Receive(options) => receive::run(options, target, output),
        Scenario::E2e(options) => e2e::run(options, target, output),
        Scenario::Timer(options) => timer::run(options, target, output),
        Scenario::Order(options) => order::run(options, target, output),
        Scenario::Topics(options) => topics::run(&options, target, output),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("write a number above 0".into()),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("write a whole number above 0".into()),
    }
}
