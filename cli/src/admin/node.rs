//! `carillon node`: brokers of the cluster, and draining one.

use std::time::Duration;

use base::duration;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::api::{Api, encode};
use super::{or_dash, read, say};
use crate::args::Target;
use crate::exit::{Exit, Failure};
use crate::output::{Form, Output};
use crate::{runtime, values};

const TIMEOUT: Duration = Duration::from_secs(60);
/// Of one call: shorter than what is waited for an answer.
const TURN: Duration = Duration::from_secs(5);

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Every broker that this one knows.
    #[command(after_help = "Examples:\n  carillon node list\n  carillon node list --json")]
    List,
    /// One broker: its state, addresses and name servers.
    #[command(after_help = "Examples:\n  carillon node show broker-a\n  carillon node show broker-a --json")]
    Show {
        /// Name of the broker.
        name: String,
    },
    /// Lead new messages elsewhere, and wait until nothing is out any more. Then it may be stopped.
    #[command(
        after_help = "Examples:\n  carillon node drain --server broker-a:8080\n  carillon node drain --node broker-b --timeout 5m --grace 0s\n\nExit codes: 0 nothing is out any more, 7 the time was over first; the broker stays drained either way."
    )]
    Drain(Drain),
    /// Take messages again.
    #[command(
        after_help = "Examples:\n  carillon node resume --server broker-a:8080\n  carillon node resume --node broker-b"
    )]
    Resume {
        /// Name of the broker; by default the one that is asked.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct Drain {
    /// Name of the broker; by default the one that is asked.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// How long to wait. Default 60s.
    #[arg(long, value_parser = values::span, value_name = "DURATION")]
    timeout: Option<Duration>,
    /// For how long messages are taken still. Default: 35 s, in which official clients ask for routes anew; 0 where there is
    /// no other broker.
    #[arg(long, value_parser = values::span, value_name = "DURATION")]
    grace: Option<Duration>,
}

#[derive(Debug, Deserialize)]
pub struct Node {
    pub name: String,
    here: bool,
    state: String,
    version: String,
    pub grpc: Option<String>,
    http: Option<String>,
    topics: usize,
    unreachable: Option<String>,
    #[serde(default)]
    pub nameservers: Vec<Nameserver>,
}

#[derive(Debug, Deserialize)]
pub struct Nameserver {
    pub address: String,
    registered: bool,
}

#[derive(Debug, Deserialize)]
struct Drained {
    quiet: bool,
    in_flight: u64,
    takes_for: String,
}

pub async fn run(verb: Verb, target: &Target, output: &Output) -> Result<(), Failure> {
    let mut api = Api::new(&target.http);
    match verb {
        Verb::List => list(&mut api, output).await,
        Verb::Show { name } => show(&mut api, &name, output).await,
        Verb::Drain(options) => drain(&mut api, &options, output).await,
        Verb::Resume { node } => {
            api.post(&format!("/node/resume{}", query_of(&node)), &json!({})).await?;
            say(output, &json!({"state": "ready"}), "ready", "takes messages again".into())
        }
    }
}

fn query_of(node: &Option<String>) -> String {
    node.as_deref().map(|node| format!("?node={}", encode(node))).unwrap_or_default()
}

async fn list(api: &mut Api, output: &Output) -> Result<(), Failure> {
    let page = api.list("/nodes").await?;
    let row = |node: &Node| {
        let mark = if node.here { format!("{} *", node.name) } else { node.name.clone() };
        vec![
            mark,
            node.state.clone(),
            node.version.clone(),
            or_dash(&node.grpc),
            or_dash(&node.http),
            node.topics.to_string(),
        ]
    };
    super::list(
        (api, "/nodes"),
        page,
        output,
        |node: &Node| &node.name,
        &["NAME", "STATE", "VERSION", "GRPC", "HTTP", "TOPICS"],
        row,
    )
}

async fn show(api: &mut Api, name: &str, output: &Output) -> Result<(), Failure> {
    let path = format!("/nodes/{}", encode(name));
    let Some(node) = read(api, &path, output, |node: &Node| vec![&node.name]).await? else { return Ok(()) };
    if let Some(reason) = &node.unreachable {
        eprintln!("warning: it does not answer, and this is what others know: {reason}");
    }
    output.heading(&format!("broker {}", node.name))?;
    output.fields(&[
        ("state", node.state.clone()),
        ("version", node.version.clone()),
        ("gRPC", or_dash(&node.grpc)),
        ("HTTP", or_dash(&node.http)),
        ("topics", node.topics.to_string()),
    ])?;
    if node.nameservers.is_empty() {
        return Ok(());
    }
    let row = |nameserver: &Nameserver| {
        let state = if nameserver.registered { "registered" } else { "not registered" };
        vec![nameserver.address.clone(), state.into()]
    };
    output.line("")?;
    Ok(output.table(&["NAME SERVER", "STATE"], node.nameservers.iter().map(row).collect())?)
}

async fn drain(api: &mut Api, options: &Drain, output: &Output) -> Result<(), Failure> {
    let deadline = runtime::now() + options.timeout.unwrap_or(TIMEOUT);
    loop {
        let left = deadline.saturating_duration_since(runtime::now());
        let mut body = json!({"timeout": duration::format(left.min(TURN))});
        if let Some(grace) = options.grace {
            body["grace"] = json!(duration::format(grace));
        }
        // Asked again it goes on, and does not begin anew.
        let answer = api.post(&format!("/node/drain{}", query_of(&options.node)), &body).await?;
        let drained: Drained = api.read(&format!("/node/drain{}", query_of(&options.node)), answer.body.clone())?;
        if drained.quiet {
            return say(output, &answer.body, "quiet", "drained: nothing is out any more".into());
        }
        if runtime::now() < deadline {
            continue;
        }
        if output.form == Form::Json {
            output.document(&answer.body)?;
        }
        let Drained { in_flight, takes_for, .. } = drained;
        let text = format!(
            "{in_flight} messages are out still, and messages are taken for {takes_for} more; it stays drained"
        );
        return Err(Failure::new(Exit::Partly, text));
    }
}
