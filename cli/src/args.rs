//! The command line as a whole: the verbs, and what all of them take.

use std::fmt;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::admin::{client, group, nameserver, node, topic};
use crate::bench;
use crate::check;
use crate::completion;
use crate::config;
use crate::context::{self, file::Context, file::Contexts};
use crate::dev;
use crate::doctor;
use crate::exit::{Exit, Failure};
use crate::log;
use crate::man;
use crate::message::{look_up, receive, send, tail};

pub const HTTP_PORT: u16 = 8080;
pub const GRPC_PORT: u16 = 8081;

#[derive(Debug, Parser)]
#[command(
    name = "carillon",
    version,
    about = "Carillon: ordered messages and messages for later, for any RocketMQ 5 client",
    after_help = "Examples:\n  carillon dev\n  carillon topic list --server http://127.0.0.1:8080\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 refused or conflict, 5 not allowed, 6 not reachable.",
    infer_subcommands = false,
    propagate_version = true
)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Common {
    /// HTTP address of the server: topics, groups, tail and metrics. Else $CARILLON_SERVER, the active context, or the
    /// host of --grpc or 127.0.0.1, port 8080.
    #[arg(long, global = true, value_name = "URL", help_heading = "Server and output")]
    pub server: Option<String>,
    /// gRPC address of the server: send, receive and bench. Else $CARILLON_GRPC, the active context, or the host of
    /// --server, port 8081.
    #[arg(long, global = true, value_name = "HOST:PORT", help_heading = "Server and output")]
    pub grpc: Option<String>,
    /// The server of this context, see `carillon context`.
    #[arg(long, global = true, value_name = "NAME", conflicts_with_all = ["server", "grpc"],
          help_heading = "Server and output")]
    pub context: Option<String>,
    /// One JSON document; one object a line from verbs that go on.
    #[arg(long, global = true, help_heading = "Server and output")]
    pub json: bool,
    /// Names or ids only.
    #[arg(short, long, global = true, conflicts_with = "json", help_heading = "Server and output")]
    pub quiet: bool,
    /// Colours; `auto` is: on a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, value_enum, default_value_t = Colour::Auto, value_name = "WHEN",
          help_heading = "Server and output")]
    pub color: Colour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Dev(Box<dev::Options>),
    /// Topics: create, list, describe, update, claim, delete.
    #[command(
        subcommand,
        after_help = "Examples:\n  carillon topic create orders --type fifo --queues 8\n  carillon topic list"
    )]
    Topic(topic::Verb),
    /// Consumer groups: create, list, describe, reset, delete.
    #[command(
        subcommand,
        after_help = "Examples:\n  carillon group create billing --attempts 6\n  carillon group describe billing"
    )]
    Group(group::Verb),
    /// Brokers of the cluster: list, show, drain, resume.
    #[command(subcommand, after_help = "Examples:\n  carillon node list\n  carillon node drain --server broker-a:8080")]
    Node(node::Verb),
    /// Name servers: what brokers they know, where a topic is.
    #[command(
        subcommand,
        after_help = "Examples:\n  carillon nameserver list --server ns-1:9877\n  carillon nameserver routes orders --server ns-1:9877"
    )]
    Nameserver(nameserver::Verb),
    /// Clients of the cluster: list, show, disconnect.
    #[command(
        subcommand,
        after_help = "Examples:\n  carillon client list --group billing\n  carillon client show host@1@0@abc"
    )]
    Client(client::Verb),
    Send(send::Options),
    Receive(receive::Options),
    Tail(tail::Options),
    /// Single messages: get one by its id, find some by their key.
    #[command(
        subcommand,
        after_help = "Examples:\n  carillon message find --key invoice-4711 --topic orders\n  carillon message get 01AB… --topic orders"
    )]
    Message(look_up::Verb),
    /// Load generator, for any server of the protocol.
    #[command(
        subcommand,
        after_help = "Examples:\n  carillon bench send --duration 10s\n  carillon bench e2e --rate 5000 --report e2e.json"
    )]
    Bench(bench::Scenario),
    /// The log of a data directory that no server uses: verify, dump.
    #[command(
        subcommand,
        after_help = "Examples:\n  carillon log verify ./data\n  carillon log dump ./data --from 4096 --to 65536"
    )]
    Log(log::Verb),
    Doctor(doctor::Options),
    Check(check::Options),
    /// Settings of servers, without a server: check a file, print one with all defaults.
    #[command(
        subcommand,
        after_help = "Examples:\n  carillon config default > broker.toml\n  carillon config check broker.toml"
    )]
    Config(config::Verb),
    /// Servers by name: add, use, list, show, remove.
    #[command(
        subcommand,
        after_help = "Examples:\n  carillon context add prod --server broker-a.example.com --use\n  carillon context list"
    )]
    Context(context::Verb),
    Completion(completion::Options),
    Man(man::Options),
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `host:port`.
    pub http: String,
    /// `host:port`.
    pub grpc: String,
}

/// Who said where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Flags,
    Variables,
    Context(String),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flags => f.write_str("--server, --grpc"),
            Self::Variables => f.write_str("CARILLON_SERVER, CARILLON_GRPC"),
            Self::Context(name) => write!(f, "context {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Common {
    /// Both addresses; the one that is not given is on the host of the other.
    pub fn target(&self) -> Result<Target, Failure> {
        self.target_and_origin().map(|(target, _)| target)
    }

    pub fn target_and_origin(&self) -> Result<(Target, Origin), Failure> {
        let contexts = || match context::path() {
            Ok(path) => Contexts::read(&path),
            // Whoever has no folder of settings has no contexts.
            Err(_) => Ok(Contexts::default()),
        };
        self.find(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()), contexts)
    }

    /// Flags, then variables, then the active context. Whoever names one of the two addresses puts the context aside:
    /// two halves of two servers would be none.
    fn find(
        &self,
        variable: impl Fn(&str) -> Option<String>,
        contexts: impl FnOnce() -> Result<Contexts, Failure>,
    ) -> Result<(Target, Origin), Failure> {
        let of = |flag: &Option<String>, name| {
            flag.clone().or_else(|| variable(name).filter(|value| self.context.is_none() && !value.is_empty()))
        };
        let given = Context { server: of(&self.server, "CARILLON_SERVER"), grpc: of(&self.grpc, "CARILLON_GRPC") };
        if given != Context::default() {
            let is_by_flag = self.server.is_some() || self.grpc.is_some();
            let origin = if is_by_flag { Origin::Flags } else { Origin::Variables };
            return Ok((resolve(&given, "")?, origin));
        }
        let contexts = contexts()?;
        match self.context.as_ref().or(contexts.active.as_ref()) {
            Some(name) => {
                let target = resolve(contexts.get(name)?, &format!("context {name}: "))?;
                Ok((target, Origin::Context(name.clone())))
            }
            None => Ok((resolve(&given, "")?, Origin::Default)),
        }
    }
}

/// Whether these are addresses; `whose` is said where they are not.
pub fn check(context: &Context, whose: &str) -> Result<(), Failure> {
    resolve(context, &format!("{whose}: ")).map(drop)
}

fn resolve(given: &Context, whose: &str) -> Result<Target, Failure> {
    let read = |what, given: &Option<String>, port| match given {
        None => Ok(None),
        Some(text) => address(text, port).map(Some).ok_or_else(|| wrong(whose, what, text, port)),
    };
    let http = read("--server", &given.server, HTTP_PORT)?;
    let grpc = read("--grpc", &given.grpc, GRPC_PORT)?;
    let host = |other: &Option<(String, u16)>| other.as_ref().map_or("127.0.0.1".into(), |(host, _)| host.clone());
    let (http, grpc) = (
        http.clone().unwrap_or_else(|| (host(&grpc), HTTP_PORT)),
        grpc.clone().unwrap_or_else(|| (host(&http), GRPC_PORT)),
    );
    Ok(Target { http: format!("{}:{}", http.0, http.1), grpc: format!("{}:{}", grpc.0, grpc.1) })
}

fn wrong(whose: &str, flag: &str, text: &str, port: u16) -> Failure {
    Failure::new(
        Exit::Usage,
        format!("{whose}{flag} {text:?} is no address in clear text; write one such as 127.0.0.1:{port}"),
    )
}

/// Host and port of `http://host:port/`, where all but the host may be missing.
fn address(text: &str, port: u16) -> Option<(String, u16)> {
    let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let parsed: http::uri::Authority = authority.parse().ok()?;
    // An authority without port is "host", one with a port that is none is "host:text".
    let has_port = authority.rsplit_once(':').is_some_and(|(_, rest)| !rest.ends_with(']'));
    let port = match (parsed.port_u16(), has_port) {
        (Some(port), _) => port,
        (None, false) => port,
        (None, true) => return None,
    };
    (!parsed.host().is_empty() && !authority.contains('@')).then(|| (parsed.host().to_owned(), port))
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
