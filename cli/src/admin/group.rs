//! `carillon group`: create, list, describe, reset, delete.

use std::time::Duration;

use base::duration;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api::{Api, encode};
use super::{confirm, read, reset, say, warn_of_pending};
use crate::args::Target;
use crate::exit::Failure;
use crate::output::Output;
use crate::values;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create a consumer group; no error when it is there with the same settings.
    #[command(
        after_help = "Examples:\n  carillon group create billing --attempts 6 --backoff 1s,5s,1m\n  carillon group create mail --order never --backoff exp:5s:2:2h"
    )]
    Create(Create),
    /// All consumer groups.
    #[command(after_help = "Examples:\n  carillon group list\n  carillon group list -q")]
    List,
    /// One group: its settings, members, and how far it is.
    #[command(after_help = "Examples:\n  carillon group describe billing\n  carillon group describe billing --json")]
    Describe {
        /// Name of the group.
        name: String,
    },
    /// Let a group go on at another place of a topic, with its consumers online too.
    #[command(
        after_help = "Examples:\n  carillon group reset billing --topic orders --to -2h --dry-run\n  carillon group reset billing --topic orders --to offset:1200 --queue 3 --yes"
    )]
    Reset(reset::Reset),
    /// Delete a group, how far it is, and its dead letters.
    #[command(after_help = "Examples:\n  carillon group delete billing\n  carillon group delete billing --force --yes")]
    Delete(Delete),
}

#[derive(Debug, Args)]
pub struct Create {
    /// Letters, digits, '_', '-', '%', '|'; at most 120.
    name: String,
    /// When it consumes in order; `auto` is: on every FIFO topic.
    #[arg(long, default_value = "auto", value_parser = order, value_name = "auto|always|never")]
    order: String,
    /// Deliveries of a message in all, before it becomes a dead letter.
    #[arg(long, value_name = "N")]
    attempts: Option<u32>,
    /// Waits between attempts: steps 1s,5s,1m, or exp:FIRST:FACTOR:MAX.
    #[arg(long, value_parser = values::backoff, value_name = "BACKOFF")]
    backoff: Option<Value>,
    /// How long a message stays hidden when the client does not say.
    #[arg(long, value_parser = values::span, value_name = "DURATION")]
    invisible: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Name of the group.
    name: String,
    /// Also while consumers are connected.
    #[arg(long)]
    force: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Only say what would be lost.
    #[arg(long)]
    dry_run: bool,
}

/// What the server says about a group.
#[derive(Debug, Deserialize)]
struct Group {
    name: String,
    order: String,
    attempts_max: u32,
    backoff: Value,
    invisible: String,
    created_at: Option<String>,
    #[serde(default)]
    members: Vec<Member>,
    #[serde(default)]
    topics: Vec<GroupTopic>,
    #[serde(default)]
    dead_letters: u64,
}

#[derive(Debug, Deserialize)]
struct Member {
    client_id: String,
    #[serde(default)]
    broker: String,
    #[serde(default)]
    language: String,
    #[serde(default)]
    version: String,
    address: Option<String>,
    last_seen_ms_ago: u64,
}

#[derive(Debug, Deserialize)]
struct GroupTopic {
    topic: String,
    #[serde(default)]
    filter: String,
    lag_messages: u64,
    oldest_unacked_ms: u64,
    in_flight: u64,
    #[serde(default)]
    held: u64,
    retry_wait: u64,
    open_message_groups: u64,
    #[serde(default)]
    blocked_message_groups: u64,
    #[serde(default)]
    queues: Vec<GroupQueue>,
    #[serde(default)]
    expired_unread: u64,
    oldest_expires_in_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct GroupQueue {
    #[serde(default)]
    broker: String,
    queue: u16,
    floor: u64,
    next: u64,
    #[serde(default)]
    lag: u64,
}

impl Group {
    fn lag(&self) -> u64 {
        self.topics.iter().map(|topic| topic.lag_messages).sum()
    }
}

pub async fn run(verb: Verb, target: &Target, output: &Output) -> Result<(), Failure> {
    let mut api = Api::new(&target.http);
    match verb {
        Verb::Create(create) => {
            let answer = api.post("/groups", &create.body()).await?;
            let sentence = match answer.status == http::StatusCode::CREATED {
                true => format!("created group {}", create.name),
                false => format!("group {} is there with these settings", create.name),
            };
            warn_of_pending(&answer.body);
            say(output, &answer.body, &create.name, sentence)
        }
        Verb::List => list(&mut api, output).await,
        Verb::Describe { name } => describe(&mut api, &name, output).await,
        Verb::Reset(options) => reset::run(&mut api, &options, output).await,
        Verb::Delete(options) => delete(&mut api, &options, output).await,
    }
}

/// Makes sure that there is such a group, with the server's defaults.
pub async fn create_plain(api: &mut Api, name: &str) -> Result<(), Failure> {
    api.post("/groups", &json!({"name": name})).await?;
    Ok(())
}

impl Create {
    /// What was not said is left to the server, whose defaults depend on the order.
    fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("name".into(), json!(self.name));
        body.insert("order".into(), json!(self.order));
        if let Some(attempts) = self.attempts {
            body.insert("attempts_max".into(), json!(attempts));
        }
        if let Some(backoff) = &self.backoff {
            body.insert("backoff".into(), backoff.clone());
        }
        if let Some(invisible) = self.invisible {
            body.insert("invisible".into(), json!(duration::format(invisible)));
        }
        Value::Object(body)
    }
}

async fn list(api: &mut Api, output: &Output) -> Result<(), Failure> {
    let page = api.list("/groups").await?;
    let row = |group: &Group| {
        let counts = [group.members.len() as u64, group.topics.len() as u64, group.lag(), group.dead_letters];
        [group.name.clone(), group.order.clone(), group.attempts_max.to_string()]
            .into_iter()
            .chain(counts.map(|count| count.to_string()))
            .collect()
    };
    let header = ["NAME", "ORDER", "ATTEMPTS", "MEMBERS", "TOPICS", "LAG", "DEAD"];
    super::list((api, "/groups"), page, output, |group: &Group| &group.name, &header, row)
}

async fn describe(api: &mut Api, name: &str, output: &Output) -> Result<(), Failure> {
    let path = format!("/groups/{}", encode(name));
    let Some(group) = read(api, &path, output, |group: &Group| vec![&group.name]).await? else { return Ok(()) };
    output.heading(&format!("group {}", group.name))?;
    output.fields(&[
        ("order", group.order.clone()),
        ("attempts", group.attempts_max.to_string()),
        ("back-off", backoff_text(&group.backoff)),
        ("invisible", group.invisible.clone()),
        ("created", group.created_at.clone().unwrap_or_default()),
        ("dead letters", group.dead_letters.to_string()),
    ])?;
    output.line("")?;
    if group.topics.is_empty() {
        output.line("it has read no topic")?;
    } else {
        output.table(&TOPIC_HEADER, group.topics.iter().map(topic_row).collect())?;
        let behind = |topic: &GroupTopic| topic.queues.iter().any(|queue| queue.lag > 0);
        if group.topics.iter().any(behind) {
            output.line("")?;
            output.table(&QUEUE_HEADER, group.topics.iter().flat_map(queue_rows).collect())?;
        }
    }
    output.line("")?;
    if group.members.is_empty() {
        return Ok(output.line("no consumers are connected")?);
    }
    Ok(output.table(&MEMBER_HEADER, group.members.iter().map(member_row).collect())?)
}

async fn delete(api: &mut Api, options: &Delete, output: &Output) -> Result<(), Failure> {
    let path = format!("/groups/{}", encode(&options.name));
    let found = api.get(&path).await?;
    let group: Group = api.read(&path, found.body.clone())?;
    let loss = format!(
        "deletes group {} with its progress ({} messages behind), {} dead letters and {} members",
        group.name,
        group.lag(),
        group.dead_letters,
        group.members.len()
    );
    if options.dry_run {
        return say(output, &found.body, &group.name, format!("{loss} (dry run: nothing was done)"));
    }
    confirm(&format!("This {loss}"), options.yes)?;
    let query = if options.force { "?force=true" } else { "" };
    let answer = api.delete(&format!("{path}{query}"), found.etag).await?;
    warn_of_pending(&answer.body);
    say(output, &found.body, &group.name, format!("deleted group {}", group.name))
}

const TOPIC_HEADER: [&str; 11] = [
    "TOPIC",
    "FILTER",
    "LAG",
    "OLDEST",
    "EXPIRES IN",
    "IN FLIGHT",
    "HELD",
    "RETRY",
    "OPEN KEYS",
    "BLOCKED",
    "EXPIRED UNREAD",
];
const QUEUE_HEADER: [&str; 6] = ["TOPIC", "BROKER", "QUEUE", "FLOOR", "NEXT", "LAG"];
const MEMBER_HEADER: [&str; 6] = ["CLIENT", "LANGUAGE", "VERSION", "ADDRESS", "SEEN", "BROKER"];

/// Queues in which there is something to do.
fn queue_rows(topic: &GroupTopic) -> impl Iterator<Item = Vec<String>> {
    topic.queues.iter().filter(|queue| queue.lag > 0).map(|queue| {
        let numbers = [u64::from(queue.queue), queue.floor, queue.next, queue.lag].map(|number| number.to_string());
        [topic.topic.clone(), queue.broker.clone()].into_iter().chain(numbers).collect()
    })
}

fn topic_row(topic: &GroupTopic) -> Vec<String> {
    vec![
        topic.topic.clone(),
        topic.filter.clone(),
        topic.lag_messages.to_string(),
        about(topic.oldest_unacked_ms),
        topic.oldest_expires_in_ms.map_or_else(|| "-".into(), about),
        topic.in_flight.to_string(),
        topic.held.to_string(),
        topic.retry_wait.to_string(),
        topic.open_message_groups.to_string(),
        topic.blocked_message_groups.to_string(),
        topic.expired_unread.to_string(),
    ]
}

fn member_row(member: &Member) -> Vec<String> {
    let address = member.address.clone().unwrap_or_else(|| "-".into());
    let seen = format!("{} ago", about(member.last_seen_ms_ago));
    let Member { client_id, language, version, broker, .. } = member;
    vec![client_id.clone(), language.clone(), version.clone(), address, seen, broker.clone()]
}

/// A duration to one unit: people compare ages, they do not add them.
pub fn about(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..120_000 => format!("{}s", ms / 1_000),
        120_000..7_200_000 => format!("{}m", ms / 60_000),
        7_200_000..172_800_000 => format!("{}h", ms / 3_600_000),
        _ => format!("{}d", ms / 86_400_000),
    }
}

/// The form that `--backoff` takes.
fn backoff_text(backoff: &Value) -> String {
    let text = |name: &str| backoff[name].as_str().unwrap_or("?").to_owned();
    match backoff["kind"].as_str() {
        Some("steps") => {
            let steps = backoff["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
            steps.iter().map(|step| step.as_str().unwrap_or("?")).collect::<Vec<_>>().join(",")
        }
        Some("exponential") => format!("exp:{}:{}:{}", text("first"), backoff["factor"], text("max")),
        _ => backoff.to_string(),
    }
}

fn order(text: &str) -> Result<String, String> {
    match text {
        "auto" | "always" | "never" => Ok(text.into()),
        _ if text.starts_with("lite") => Err("groups of lite topics are not there yet".into()),
        _ => Err("write auto, always or never".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_said_is_told_to_the_server() {
        let mut create =
            Create { name: "g".into(), order: "auto".into(), attempts: None, backoff: None, invisible: None };
        assert_eq!(create.body(), json!({"name": "g", "order": "auto"}));
        create.attempts = Some(3);
        create.backoff = Some(values::backoff("1s").unwrap());
        create.invisible = Some(Duration::from_secs(60));
        let backoff = json!({"kind": "steps", "steps": ["1s"]});
        let expected = json!({"name": "g", "order": "auto", "attempts_max": 3, "backoff": backoff, "invisible": "1m"});
        assert_eq!(create.body(), expected);
    }

    #[test]
    fn back_offs_are_shown_as_they_are_written() {
        for text in ["1s,5s,1m", "exp:5s:2:2h"] {
            assert_eq!(backoff_text(&values::backoff(text).unwrap()), text);
        }
    }

    #[test]
    fn orders_of_lite_groups_are_refused_with_a_reason() {
        assert!(order("lite:orders").unwrap_err().contains("lite"));
        assert!(order("sometimes").is_err() && order("never").is_ok());
    }

    #[test]
    fn ages_have_one_unit() {
        assert_eq!([0, 999, 61_000, 3_600_000, 86_400_000].map(about), ["0ms", "999ms", "61s", "60m", "24h"]);
    }
}
