//! `bench topics`: how long a new topic takes, until the call is answered and until every node leads to every broker.

use std::time::{Duration, Instant};

use clap::Args;
use client::{Client, Options as Connecting};
use futures_util::future::join;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::tally::Measure;
use super::{at_least_one, report};
use crate::admin::api::{Api, encode};
use crate::admin::node::Node;
use crate::admin::topic;
use crate::args::Target;
use crate::exit::{Exit, Failure};
use crate::output::{Form, Output};
use crate::runtime;
use crate::values::{TopicSpec, TopicType};

/// How often a node is asked. What is measured is no finer.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// A topic that is not everywhere by then is an error.
const EVERYWHERE_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub struct Options {
    /// Topics to make, one after the other; they are deleted at the end.
    #[arg(long, default_value = "100", value_parser = at_least_one, value_name = "N")]
    count: usize,
    /// What their names begin with.
    #[arg(long, default_value = "bench-topic-", value_name = "TEXT")]
    prefix: String,
    /// gRPC address of a node to ask for routes; may be repeated. Default: every broker and every name server that the
    /// server knows.
    #[arg(long = "node", value_name = "HOST:PORT")]
    nodes: Vec<String>,
    /// Write the result here, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<std::path::PathBuf>,
}

pub fn run(options: &Options, target: &Target, output: &Output) -> Result<(), Failure> {
    let (made, known, nodes) = runtime::block_on(measure(options, target))?;
    let result = json!({
        "topics": options.count,
        "nodes": nodes,
        "createLatency": milliseconds(&made.latency_us),
        "routesLatency": milliseconds(&known.latency_us),
    });
    if let Some(file) = &options.report {
        report::write(file, &result)?;
    }
    match output.form {
        Form::Json => output.document(&result)?,
        Form::Quiet => output.line(format!("{:.1}", at(&known.latency_us, 0.99)))?,
        Form::People => {
            output.heading(&format!("{} topics, asked of {}", options.count, nodes.join(", ")))?;
            output.fields(&[("created", line(&made.latency_us)), ("known everywhere", line(&known.latency_us))])?;
        }
    }
    Ok(())
}

async fn measure(options: &Options, target: &Target) -> Result<(Measure, Measure, Vec<String>), Failure> {
    let mut api = Api::new(&target.http);
    let brokers: Vec<Node> =
        api.list("/nodes").await?.items.into_iter().map(|node| api.read("/nodes", node)).collect::<Result<_, _>>()?;
    let mut expected: Vec<_> = brokers.iter().map(|broker| broker.name.clone()).collect();
    expected.sort_unstable();
    let mut nodes = options.nodes.clone();
    if nodes.is_empty() {
        nodes.extend(brokers.iter().map(|broker| broker.grpc.clone().unwrap_or_else(|| target.grpc.clone())));
        nodes
            .extend(brokers.iter().flat_map(|broker| &broker.nameservers).map(|nameserver| nameserver.address.clone()));
    }
    let mut clients = Vec::new();
    for node in &nodes {
        clients.push(Client::connect(node, Connecting::default()).await?);
    }
    let (mut made, mut known) = (Measure::new(), Measure::new());
    let mut result = Ok(());
    let mut names = Vec::new();
    for number in 0..options.count {
        let name = format!("{}{number}", options.prefix);
        result = one(&mut api, &name, &clients, &expected, (&mut made, &mut known)).await;
        names.push(name);
        if result.is_err() {
            break;
        }
    }
    for name in names {
        api.delete(&format!("/topics/{}?force=true", encode(&name)), None).await?;
    }
    result.map(|()| (made, known, nodes))
}

async fn one(
    api: &mut Api,
    name: &str,
    clients: &[Client],
    expected: &[String],
    (made, known): (&mut Measure, &mut Measure),
) -> Result<(), Failure> {
    let from = runtime::now();
    let spec = TopicSpec { name: name.into(), topic_type: TopicType::Normal, queues: 1 };
    let making = async {
        let (is_new, _) = topic::create(api, &spec).await?;
        match is_new {
            true => Ok(from.elapsed()),
            false => {
                Err(Failure::new(Exit::Refused, format!("topic {name} is there already; choose another --prefix")))
            }
        }
    };
    let looking = runtime::within(EVERYWHERE_WITHIN, everywhere(name, clients, expected, from));
    let (created, seen) = join(making, looking).await;
    made.record(created?, 1);
    let late =
        || Failure::new(Exit::Failed, format!("topic {name} is not on every broker after {EVERYWHERE_WITHIN:?}"));
    known.record(seen.ok_or_else(late)?, 1);
    Ok(())
}

/// Until every node has led to every broker.
async fn everywhere(name: &str, clients: &[Client], expected: &[String], from: Instant) -> Duration {
    for client in clients {
        // A node that does not know it yet says so; whatever else it says, it is asked again.
        while !client.brokers_of(name).await.is_ok_and(|brokers| brokers == expected) {
            runtime::wait(LOOK_EVERY).await;
        }
    }
    from.elapsed()
}

fn at(latency_us: &Histogram<u64>, quantile: f64) -> f64 {
    latency_us.value_at_quantile(quantile) as f64 / 1e3
}

fn milliseconds(latency_us: &Histogram<u64>) -> Value {
    json!({ "50pct": at(latency_us, 0.5), "99pct": at(latency_us, 0.99), "max": latency_us.max() as f64 / 1e3 })
}

fn line(latency_us: &Histogram<u64>) -> String {
    let max = latency_us.max() as f64 / 1e3;
    format!("p50 {:.1} ms, p99 {:.1} ms, max {max:.1} ms", at(latency_us, 0.5), at(latency_us, 0.99))
}
