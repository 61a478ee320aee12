//! `carillon client`: who is connected to brokers.

use clap::{Args, Subcommand};
use serde::Deserialize;

use super::api::{Api, encode};
use super::group::about;
use super::{or_dash, read, say, unreachable, warn_of_unreachable};
use crate::args::Target;
use crate::exit::Failure;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Clients that brokers have heard of lately.
    #[command(
        after_help = "Examples:\n  carillon client list --group billing\n  carillon client list --role producer --json"
    )]
    List(List),
    /// One client.
    #[command(
        after_help = "Examples:\n  carillon client show host@1@0@abc\n  carillon client show host@1@0@abc --json"
    )]
    Show {
        /// Its id, as `client list` shows it.
        id: String,
    },
    /// End a client's connections, streams and polls. What it holds comes to others at once; it may come back.
    #[command(
        after_help = "Examples:\n  carillon client disconnect host@1@0@abc\n  carillon client disconnect host@1@0@abc --server broker-a:8080"
    )]
    Disconnect {
        /// Its id, as `client list` shows it.
        id: String,
    },
}

#[derive(Debug, Args)]
pub struct List {
    /// Only members of this group.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Only producers, push or simple consumers.
    #[arg(long, value_name = "producer|push|simple")]
    role: Option<String>,
    /// Only clients in this language.
    #[arg(long, value_name = "LANGUAGE")]
    language: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Client {
    client_id: String,
    role: Option<String>,
    group: Option<String>,
    topics: Vec<String>,
    language: String,
    version: String,
    address: Option<String>,
    last_seen_ms_ago: u64,
    streams: usize,
    #[serde(default)]
    brokers: Vec<String>,
}

pub async fn run(verb: Verb, target: &Target, output: &Output) -> Result<(), Failure> {
    let mut api = Api::new(&target.http);
    match verb {
        Verb::List(options) => list(&mut api, &options, output).await,
        Verb::Show { id } => show(&mut api, &id, output).await,
        Verb::Disconnect { id } => {
            let answer = api.delete(&format!("/clients/{}", encode(&id)), None).await?;
            warn_of_unreachable(unreachable(&answer.body));
            say(output, &answer.body, &id, format!("disconnected client {id}"))
        }
    }
}

async fn list(api: &mut Api, options: &List, output: &Output) -> Result<(), Failure> {
    let wanted = [("group", &options.group), ("role", &options.role), ("language", &options.language)];
    let wanted = wanted.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    let page = api.list_where("/clients", wanted).await?;
    let row = |client: &Client| {
        let seen = format!("{} ago", about(client.last_seen_ms_ago));
        let [role, group, address] = [&client.role, &client.group, &client.address].map(or_dash);
        let brokers = client.brokers.join(", ");
        vec![
            client.client_id.clone(),
            role,
            group,
            client.language.clone(),
            client.version.clone(),
            address,
            seen,
            brokers,
        ]
    };
    let header = ["CLIENT", "ROLE", "GROUP", "LANGUAGE", "VERSION", "ADDRESS", "SEEN", "BROKERS"];
    super::list((api, "/clients"), page, output, |client: &Client| &client.client_id, &header, row)
}

async fn show(api: &mut Api, id: &str, output: &Output) -> Result<(), Failure> {
    let path = format!("/clients/{}", encode(id));
    let Some(client) = read(api, &path, output, |client: &Client| vec![&client.client_id]).await? else {
        return Ok(());
    };
    output.heading(&format!("client {}", client.client_id))?;
    let topics = if client.topics.is_empty() { "-".into() } else { client.topics.join(", ") };
    output.fields(&[
        ("role", or_dash(&client.role)),
        ("group", or_dash(&client.group)),
        ("publishes", topics),
        ("language", client.language.clone()),
        ("version", client.version.clone()),
        ("address", or_dash(&client.address)),
        ("seen", format!("{} ago", about(client.last_seen_ms_ago))),
        ("streams", client.streams.to_string()),
        ("brokers", client.brokers.join(", ")),
    ])?;
    Ok(())
}
