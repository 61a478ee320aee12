//! `carillon topic`: create, list, describe, delete.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, encode};
use super::{confirm, say};
use crate::args::Target;
use crate::exit::Failure;
use crate::output::{Form, Output};
use crate::values::{QUEUES_DEFAULT, TopicSpec, TopicType};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create a topic; no error when it is there with the same settings.
    #[command(
        after_help = "Examples:\n  carillon topic create orders --type fifo --queues 8\n  carillon topic create reminders --type delay"
    )]
    Create(Create),
    /// All topics.
    #[command(after_help = "Examples:\n  carillon topic list\n  carillon topic list --json | jq '.items[].name'")]
    List,
    /// One topic with its queues.
    #[command(
        after_help = "Examples:\n  carillon topic describe orders\n  carillon topic describe '%DLQ%billing' --json"
    )]
    Describe {
        /// Name of the topic.
        name: String,
    },
    /// Delete a topic and what it holds.
    #[command(after_help = "Examples:\n  carillon topic delete orders\n  carillon topic delete orders --force --yes")]
    Delete(Delete),
}

#[derive(Debug, Args)]
pub struct Create {
    /// Letters, digits, '_', '-', '%', '|'; at most 127.
    name: String,
    /// What it takes; the type stays.
    #[arg(long = "type", value_enum, default_value_t = TopicType::Normal, value_name = "TYPE")]
    topic_type: TopicType,
    /// A FIFO topic's number of queues stays; order does not depend on it.
    #[arg(long, default_value_t = QUEUES_DEFAULT, value_name = "N")]
    queues: u16,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Name of the topic.
    name: String,
    /// Also when messages, timers or prepared transactions are lost with it.
    #[arg(long)]
    force: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Only say what would be lost.
    #[arg(long)]
    dry_run: bool,
}

/// What the server says about a topic.
#[derive(Debug, Deserialize)]
pub struct Topic {
    pub name: String,
    #[serde(rename = "type")]
    pub topic_type: String,
    pub created_at: Option<String>,
    pub queues: Vec<Queue>,
    #[serde(default)]
    pub timers_pending: u64,
    #[serde(default)]
    pub transactions_prepared: u64,
}

#[derive(Debug, Deserialize)]
pub struct Queue {
    pub queue: u16,
    pub first: u64,
    pub next: u64,
    pub newest_at: Option<String>,
}

impl Topic {
    fn messages(&self) -> u64 {
        self.queues.iter().map(|queue| queue.next.saturating_sub(queue.first)).sum()
    }
}

pub async fn run(verb: Verb, target: &Target, output: &Output) -> Result<(), Failure> {
    let mut api = Api::new(&target.http);
    match verb {
        Verb::Create(create) => {
            let Create { name, topic_type, queues } = create;
            let spec = TopicSpec { name, topic_type, queues };
            let (is_new, topic) = self::create(&mut api, &spec).await?;
            let kind = format!("{topic_type:?}").to_lowercase();
            let sentence = match is_new {
                true => format!("created topic {} ({kind}, {queues} queues)", spec.name),
                false => format!("topic {} is there with these settings", spec.name),
            };
            say(output, &topic, &spec.name, sentence)
        }
        Verb::List => list(&mut api, output).await,
        Verb::Describe { name } => describe(&mut api, &name, output).await,
        Verb::Delete(options) => delete(&mut api, &options, output).await,
    }
}

/// Makes sure that there is such a topic; true when it is new.
pub async fn create(api: &mut Api, spec: &TopicSpec) -> Result<(bool, Value), Failure> {
    let answer = api.post("/topics", &json!(spec)).await?;
    Ok((answer.status == http::StatusCode::CREATED, answer.body))
}

async fn list(api: &mut Api, output: &Output) -> Result<(), Failure> {
    let items = api.list("/topics").await?;
    if output.form == Form::Json {
        return Ok(output.document(&json!({"items": items, "next_cursor": null}))?);
    }
    let topics: Vec<Topic> = api.read("/topics", Value::Array(items))?;
    if output.form == Form::Quiet {
        return Ok(topics.iter().try_for_each(|topic| output.line(&topic.name))?);
    }
    let row = |topic: &Topic| {
        let counts = [topic.messages(), topic.timers_pending, topic.transactions_prepared];
        [topic.name.clone(), topic.topic_type.clone(), topic.queues.len().to_string()]
            .into_iter()
            .chain(counts.map(|count| count.to_string()))
            .collect()
    };
    let header = ["NAME", "TYPE", "QUEUES", "MESSAGES", "TIMERS", "PREPARED"];
    Ok(output.table(&header, topics.iter().map(row).collect())?)
}

async fn describe(api: &mut Api, name: &str, output: &Output) -> Result<(), Failure> {
    let path = format!("/topics/{}", encode(name));
    let answer = api.get(&path).await?;
    if output.form == Form::Json {
        return Ok(output.document(&answer.body)?);
    }
    let topic: Topic = api.read(&path, answer.body)?;
    if output.form == Form::Quiet {
        return Ok(output.line(&topic.name)?);
    }
    output.heading(&format!("topic {}", topic.name))?;
    output.fields(&[
        ("type", topic.topic_type.clone()),
        ("created", topic.created_at.clone().unwrap_or_default()),
        ("messages", topic.messages().to_string()),
        ("timers pending", topic.timers_pending.to_string()),
        ("transactions prepared", topic.transactions_prepared.to_string()),
    ])?;
    output.line("")?;
    let row = |queue: &Queue| {
        let newest = queue.newest_at.clone().unwrap_or_else(|| "-".into());
        vec![queue.queue.to_string(), queue.first.to_string(), queue.next.to_string(), newest]
    };
    Ok(output.table(&["QUEUE", "FIRST", "NEXT", "NEWEST"], topic.queues.iter().map(row).collect())?)
}

async fn delete(api: &mut Api, options: &Delete, output: &Output) -> Result<(), Failure> {
    let path = format!("/topics/{}", encode(&options.name));
    let found = api.get(&path).await?;
    let topic: Topic = api.read(&path, found.body.clone())?;
    let loss = format!(
        "deletes topic {} with {} messages, {} pending timers and {} prepared transactions",
        topic.name,
        topic.messages(),
        topic.timers_pending,
        topic.transactions_prepared
    );
    if options.dry_run {
        return say(output, &found.body, &topic.name, format!("{loss} (dry run: nothing was done)"));
    }
    confirm(&format!("This {loss}"), options.yes)?;
    let query = if options.force { "?force=true" } else { "" };
    api.delete(&format!("{path}{query}"), found.etag).await?;
    say(output, &found.body, &topic.name, format!("deleted topic {}", topic.name))
}
