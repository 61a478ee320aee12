//! `carillon client`: who is connected to a broker.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, encode};
use super::group::about;
use crate::args::Target;
use crate::exit::Failure;
use crate::output::{Form, Output};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Clients that this broker has heard of lately.
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
}

pub async fn run(verb: Verb, target: &Target, output: &Output) -> Result<(), Failure> {
    let mut api = Api::new(&target.http);
    match verb {
        Verb::List(options) => list(&mut api, &options, output).await,
        Verb::Show { id } => show(&mut api, &id, output).await,
    }
}

async fn list(api: &mut Api, options: &List, output: &Output) -> Result<(), Failure> {
    let wanted = [("group", &options.group), ("role", &options.role), ("language", &options.language)];
    let wanted = wanted.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    let items = api.list_where("/clients", wanted).await?;
    if output.form == Form::Json {
        return Ok(output.document(&json!({"items": items, "next_cursor": null}))?);
    }
    let clients: Vec<Client> = api.read("/clients", Value::Array(items))?;
    if output.form == Form::Quiet {
        return Ok(clients.iter().try_for_each(|client| output.line(&client.client_id))?);
    }
    let row = |client: &Client| {
        let seen = format!("{} ago", about(client.last_seen_ms_ago));
        let [role, group, address] = [&client.role, &client.group, &client.address].map(or_dash);
        vec![client.client_id.clone(), role, group, client.language.clone(), client.version.clone(), address, seen]
    };
    let header = ["CLIENT", "ROLE", "GROUP", "LANGUAGE", "VERSION", "ADDRESS", "SEEN"];
    Ok(output.table(&header, clients.iter().map(row).collect())?)
}

async fn show(api: &mut Api, id: &str, output: &Output) -> Result<(), Failure> {
    let path = format!("/clients/{}", encode(id));
    let answer = api.get(&path).await?;
    if output.form == Form::Json {
        return Ok(output.document(&answer.body)?);
    }
    let client: Client = api.read(&path, answer.body)?;
    if output.form == Form::Quiet {
        return Ok(output.line(&client.client_id)?);
    }
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
    ])?;
    Ok(())
}

fn or_dash(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| "-".into())
}
