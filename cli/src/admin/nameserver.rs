//! `carillon nameserver`: what a name server knows. `--server` is its HTTP address, port 9877 by default.

use clap::Subcommand;
use serde::Deserialize;

use super::api::{Api, encode};
use super::read;
use crate::args::Target;
use crate::exit::Failure;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Brokers that are registered with it.
    #[command(
        after_help = "Examples:\n  carillon nameserver list --server ns-1:9877\n  carillon nameserver list --server ns-1:9877 --json"
    )]
    List,
    /// Where a topic is served.
    #[command(
        after_help = "Examples:\n  carillon nameserver routes orders --server ns-1:9877\n  carillon nameserver routes orders --server ns-1:9877 -q"
    )]
    Routes {
        /// Name of the topic.
        topic: String,
    },
}

#[derive(Debug, Deserialize)]
struct Broker {
    name: String,
    state: String,
    version: String,
    grpc: String,
    topics: usize,
}

#[derive(Debug, Deserialize)]
struct Route {
    brokers: Vec<Place>,
    left_out: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Place {
    broker: String,
    grpc: String,
    queues: u16,
    writable: bool,
    types: Vec<String>,
}

pub async fn run(verb: Verb, target: &Target, output: &Output) -> Result<(), Failure> {
    let mut api = Api::new(&target.http);
    match verb {
        Verb::List => list(&mut api, output).await,
        Verb::Routes { topic } => routes(&mut api, &topic, output).await,
    }
}

async fn list(api: &mut Api, output: &Output) -> Result<(), Failure> {
    let read = read(api, "/brokers", output, |brokers: &Vec<Broker>| brokers.iter().map(|b| &*b.name).collect());
    let Some(brokers) = read.await? else { return Ok(()) };
    let row = |broker: &Broker| {
        let texts = [&broker.name, &broker.state, &broker.version, &broker.grpc].map(String::clone);
        texts.into_iter().chain([broker.topics.to_string()]).collect()
    };
    Ok(output.table(&["BROKER", "STATE", "VERSION", "GRPC", "TOPICS"], brokers.iter().map(row).collect())?)
}

async fn routes(api: &mut Api, topic: &str, output: &Output) -> Result<(), Failure> {
    let path = format!("/routes/{}", encode(topic));
    let Some(route) =
        read(api, &path, output, |route: &Route| route.brokers.iter().map(|place| &*place.grpc).collect()).await?
    else {
        return Ok(());
    };
    let row = |place: &Place| {
        let access = if place.writable { "read, write" } else { "read" };
        let (queues, types) = (place.queues.to_string(), place.types.join(", "));
        vec![place.broker.clone(), place.grpc.clone(), queues, access.into(), types]
    };
    output.table(&["BROKER", "GRPC", "QUEUES", "ACCESS", "TYPES"], route.brokers.iter().map(row).collect())?;
    for broker in &route.left_out {
        output.line(format!("left out: {broker} has the topic too, and order would be lost"))?;
    }
    Ok(())
}
