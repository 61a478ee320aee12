//! `carillon topic`: create, list, describe, update, claim, delete.

use std::collections::BTreeSet;
use std::time::Duration;

use base::{ByteSize, duration};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api::{Api, encode};
use super::{confirm, read, say, warn_of_pending};
use crate::args::Target;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::values::{self, QUEUES_DEFAULT, TopicSpec, TopicType};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create a topic; no error when it is there with the same settings.
    #[command(
        after_help = "Examples:\n  carillon topic create orders --type fifo --queues 8\n  carillon topic create reminders --type delay --retention 30d"
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
    /// Change a topic: more queues, another retention.
    #[command(
        after_help = "Examples:\n  carillon topic update orders --retention 30d --retention-size 10GiB\n  carillon topic update orders --retention default --retention-size none"
    )]
    Update(Update),
    /// Let an ordered topic live on this broker, when the one that it lives on is away for good.
    #[command(
        after_help = "Examples:\n  carillon topic claim orders --server broker-b:8080\n  carillon topic claim orders --yes"
    )]
    Claim {
        /// Name of the topic.
        name: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
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
    /// How long messages are kept, counted from when they became visible; the server has a default.
    #[arg(long, value_parser = values::span, value_name = "DURATION")]
    retention: Option<Duration>,
    /// How many bytes of messages are kept.
    #[arg(long, value_name = "SIZE")]
    retention_size: Option<ByteSize>,
}

#[derive(Debug, Args)]
pub struct Update {
    /// Name of the topic.
    name: String,
    /// Only more than there are, and not on FIFO topics.
    #[arg(long, value_name = "N")]
    queues: Option<u16>,
    /// How long messages are kept, or `default`.
    #[arg(long, value_parser = |text: &str| unless("default", text, values::span), value_name = "DURATION")]
    retention: Option<Setting<Duration>>,
    /// How many bytes of messages are kept, or `none`.
    #[arg(long, value_parser = |text: &str| unless("none", text, byte_size), value_name = "SIZE")]
    retention_size: Option<Setting<ByteSize>>,
}

/// A value, or the word for there being none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting<T> {
    Unset,
    To(T),
}

fn unless<T>(word: &str, text: &str, parse: fn(&str) -> Result<T, String>) -> Result<Setting<T>, String> {
    if text == word { Ok(Setting::Unset) } else { parse(text).map(Setting::To) }
}

fn byte_size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|error: base::size::ParseSizeError| error.to_string())
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
    pub retention: Option<Retention>,
    #[serde(default)]
    pub brokers: Vec<TopicCopy>,
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// As one of the brokers has it.
#[derive(Debug, Deserialize)]
pub struct TopicCopy {
    pub broker: String,
    #[serde(rename = "type")]
    pub topic_type: Option<String>,
    pub queues: u16,
    pub changed_at: String,
    #[serde(default)]
    pub differs: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Retention {
    pub time: String,
    #[serde(default)]
    pub time_is_default: bool,
    pub size: Option<String>,
}

impl Retention {
    fn text(&self) -> String {
        let default = if self.time_is_default { " (default)" } else { "" };
        let size = self.size.as_ref().map(|size| format!(", {size}")).unwrap_or_default();
        format!("{}{default}{size}", self.time)
    }
}

#[derive(Debug, Deserialize)]
pub struct Queue {
    #[serde(default)]
    pub broker: String,
    pub queue: u16,
    pub first: u64,
    pub next: u64,
    pub newest_at: Option<String>,
}

impl Topic {
    /// That have queues of it.
    pub fn brokers(&self) -> BTreeSet<&str> {
        self.queues.iter().map(|queue| queue.broker.as_str()).collect()
    }

    fn messages(&self) -> u64 {
        self.queues.iter().map(|queue| queue.next.saturating_sub(queue.first)).sum()
    }
}

pub async fn run(verb: Verb, target: &Target, output: &Output) -> Result<(), Failure> {
    let mut api = Api::new(&target.http);
    match verb {
        Verb::Create(create) => {
            let Create { name, topic_type, queues, .. } = create;
            let spec = TopicSpec { name, topic_type, queues };
            let mut body = json!(spec);
            let retention = retention_body(create.retention.map(Setting::To), create.retention_size.map(Setting::To));
            if !retention.is_empty() {
                body["retention"] = Value::Object(retention);
            }
            let answer = api.post("/topics", &body).await?;
            let (is_new, topic) = (answer.status == http::StatusCode::CREATED, answer.body);
            let kind = format!("{topic_type:?}").to_lowercase();
            let sentence = match is_new {
                true => format!("created topic {} ({kind}, {queues} queues)", spec.name),
                false => format!("topic {} is there with these settings", spec.name),
            };
            warn_of_pending(&topic);
            say(output, &topic, &spec.name, sentence)
        }
        Verb::List => list(&mut api, output).await,
        Verb::Describe { name } => describe(&mut api, &name, output).await,
        Verb::Update(changes) => update(&mut api, &changes, output).await,
        Verb::Claim { name, yes } => claim(&mut api, &name, yes, output).await,
        Verb::Delete(options) => delete(&mut api, &options, output).await,
    }
}

/// Makes sure that there is such a topic; true when it is new.
pub async fn create(api: &mut Api, spec: &TopicSpec) -> Result<(bool, Value), Failure> {
    let answer = api.post("/topics", &json!(spec)).await?;
    Ok((answer.status == http::StatusCode::CREATED, answer.body))
}

/// What is said of a retention; null sets it back.
fn retention_body(time: Option<Setting<Duration>>, size: Option<Setting<ByteSize>>) -> Map<String, Value> {
    let mut retention = Map::new();
    if let Some(time) = time {
        let value = if let Setting::To(time) = time { json!(duration::format(time)) } else { Value::Null };
        retention.insert("time".into(), value);
    }
    if let Some(size) = size {
        let value = if let Setting::To(size) = size { json!(size) } else { Value::Null };
        retention.insert("size".into(), value);
    }
    retention
}

async fn claim(api: &mut Api, name: &str, yes: bool, output: &Output) -> Result<(), Failure> {
    let what = format!("what the broker of topic {name} holds stays there, and messages go on here without it");
    confirm(&what, yes)?;
    api.post(&format!("/topics/{}/claim", encode(name)), &Value::Null).await?;
    say(output, &json!({ "name": name }), name, format!("topic {name} lives on this broker"))
}

async fn update(api: &mut Api, changes: &Update, output: &Output) -> Result<(), Failure> {
    let mut body = Map::new();
    if let Some(queues) = changes.queues {
        body.insert("queues".into(), json!(queues));
    }
    let retention = retention_body(changes.retention, changes.retention_size);
    if !retention.is_empty() {
        body.insert("retention".into(), Value::Object(retention));
    }
    if body.is_empty() {
        let what = "nothing to change: give --queues, --retention or --retention-size";
        return Err(Failure::new(Exit::Usage, what));
    }
    let path = format!("/topics/{}", encode(&changes.name));
    let answer = api.patch(&path, &Value::Object(body)).await?;
    warn_of_pending(&answer.body);
    let topic: Topic = api.read(&path, answer.body.clone())?;
    for warning in &topic.warnings {
        eprintln!("warning: {warning}");
    }
    let retention = topic.retention.as_ref().map(Retention::text).unwrap_or_default();
    let sentence = format!("topic {} has {} queues and keeps messages for {retention}", topic.name, topic.queues.len());
    say(output, &answer.body, &topic.name, sentence)
}

async fn list(api: &mut Api, output: &Output) -> Result<(), Failure> {
    let page = api.list("/topics").await?;
    let row = |topic: &Topic| {
        let counts = [topic.messages(), topic.timers_pending, topic.transactions_prepared];
        [topic.name.clone(), topic.topic_type.clone(), topic.queues.len().to_string()]
            .into_iter()
            .chain(counts.map(|count| count.to_string()))
            .chain([topic.retention.as_ref().map(Retention::text).unwrap_or_default()])
            .chain([topic.brokers().into_iter().collect::<Vec<_>>().join(", ")])
            .collect()
    };
    let header = ["NAME", "TYPE", "QUEUES", "MESSAGES", "TIMERS", "PREPARED", "RETENTION", "BROKERS"];
    super::list((api, "/topics"), page, output, |topic: &Topic| &topic.name, &header, row)
}

async fn describe(api: &mut Api, name: &str, output: &Output) -> Result<(), Failure> {
    let path = format!("/topics/{}", encode(name));
    let Some(topic) = read(api, &path, output, |topic: &Topic| vec![&topic.name]).await? else { return Ok(()) };
    output.heading(&format!("topic {}", topic.name))?;
    output.fields(&[
        ("type", topic.topic_type.clone()),
        ("created", topic.created_at.clone().unwrap_or_default()),
        ("messages", topic.messages().to_string()),
        ("timers pending", topic.timers_pending.to_string()),
        ("transactions prepared", topic.transactions_prepared.to_string()),
        ("retention", topic.retention.as_ref().map(Retention::text).unwrap_or_default()),
    ])?;
    output.line("")?;
    if !topic.brokers.is_empty() {
        let row = |copy: &TopicCopy| {
            let differs = if copy.differs.is_empty() { "-".into() } else { copy.differs.join(", ") };
            let topic_type = copy.topic_type.clone().unwrap_or_else(|| "?".into());
            vec![copy.broker.clone(), topic_type, copy.queues.to_string(), copy.changed_at.clone(), differs]
        };
        let header = ["BROKER", "TYPE", "QUEUES", "CHANGED", "DIFFERS"];
        output.table(&header, topic.brokers.iter().map(row).collect())?;
        output.line("")?;
    }
    let row = |queue: &Queue| {
        let newest = queue.newest_at.clone().unwrap_or_else(|| "-".into());
        let numbers = [queue.first, queue.next].map(|offset| offset.to_string());
        [queue.broker.clone(), queue.queue.to_string()].into_iter().chain(numbers).chain([newest]).collect()
    };
    Ok(output.table(&["BROKER", "QUEUE", "FIRST", "NEXT", "NEWEST"], topic.queues.iter().map(row).collect())?)
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
    let answer = api.delete(&format!("{path}{query}"), found.etag).await?;
    warn_of_pending(&answer.body);
    say(output, &found.body, &topic.name, format!("deleted topic {}", topic.name))
}
