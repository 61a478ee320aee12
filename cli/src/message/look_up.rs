//! `carillon message`: one message by its id, messages by their key, through the admin API. Nothing is consumed.

use base::{Clock, SystemClock};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;

use crate::admin::api::{Api, PAGE_MAX, Page, encode};
use crate::admin::{unreachable, warn_of_unreachable};
use crate::args::Target;
use crate::exit::Failure;
use crate::output::{Form, Output};
use crate::values::{self, Time};

#[derive(Debug, Subcommand)]
pub enum Verb {
    Get(Get),
    Find(Find),
}

/// Show one message: where it is, and how groups stand to it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  carillon message get 01AB… --topic orders\n  carillon message get 01AB… --body | jq ."
)]
pub struct Get {
    /// The message id.
    id: String,
    /// The topic it was sent to; needed where there are many.
    #[arg(short, long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Write the body as it is stored, and nothing else; with --json, add it.
    #[arg(long)]
    body: bool,
}

/// Find messages by their key, newest first.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  carillon message find --key invoice-4711 --topic orders\n  carillon message find --key invoice-4711 --from -2h --json"
)]
pub struct Find {
    #[arg(long)]
    key: String,
    /// The topic they were sent to; needed where there are many.
    #[arg(short, long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Only what was stored from then on: a time, or -15m.
    #[arg(long, value_parser = values::time, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<Time>,
    /// Only what was stored until then.
    #[arg(long, value_parser = values::time, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<Time>,
    /// Stop after so many.
    #[arg(long, value_name = "N", default_value_t = 100)]
    count: usize,
}

/// What the server says about a message.
#[derive(Debug, Deserialize)]
struct Found {
    message_id: String,
    #[serde(default)]
    broker: String,
    topic: String,
    state: String,
    queue: Option<u16>,
    offset: Option<u64>,
    visible_since: Option<String>,
    due: Option<String>,
    #[serde(rename = "type")]
    message_type: String,
    tag: Option<String>,
    #[serde(default)]
    keys: Vec<String>,
    message_group: Option<String>,
    #[serde(default)]
    properties: std::collections::BTreeMap<String, String>,
    born_at: String,
    stored_at: String,
    size: u64,
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    group: String,
    state: String,
    attempts: u32,
    client: Option<String>,
    next_try: Option<String>,
}

pub async fn run(verb: Verb, target: &Target, output: &Output) -> Result<(), Failure> {
    let mut api = Api::new(&target.http);
    match verb {
        Verb::Get(get) => show(&get, &mut api, output).await,
        Verb::Find(find) => list(&find, &mut api, output).await,
    }
}

async fn show(get: &Get, api: &mut Api, output: &Output) -> Result<(), Failure> {
    let topic = get.topic.as_ref().map(|topic| format!("?topic={}", encode(topic))).unwrap_or_default();
    let path = format!("/messages/{}{topic}", encode(&get.id));
    let body_path = format!("/messages/{}/body{topic}", encode(&get.id));
    if get.body && output.form != Form::Json {
        let body = api.bytes(&body_path).await?;
        return Ok(output.bytes(&body)?);
    }
    let mut document = api.get(&path).await?.body;
    warn_of_unreachable(unreachable(&document));
    if get.body {
        let body = api.bytes(&body_path).await?;
        document["body"] = std::str::from_utf8(&body).map_or(Value::Null, Value::from);
        document["body_base64"] = STANDARD.encode(&body).into();
    }
    match output.form {
        Form::Json => return Ok(output.document(&document)?),
        Form::Quiet => return Ok(output.line(api.read::<Found>(&path, document)?.message_id)?),
        Form::People => {}
    }
    let found: Found = api.read(&path, document)?;
    output.heading(&format!("message {}", found.message_id))?;
    let properties: Vec<String> = found.properties.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut fields = vec![
        ("topic", found.topic.clone()),
        ("state", found.state.clone()),
        ("broker", found.broker.clone()),
        ("where", found.place()),
        ("since", found.visible_since.clone().unwrap_or_default()),
        ("due", found.due.clone().unwrap_or_default()),
        ("type", found.message_type.clone()),
        ("tag", found.tag.clone().unwrap_or_default()),
        ("keys", found.keys.join(",")),
        ("message group", found.message_group.clone().unwrap_or_default()),
        ("properties", properties.join(" ")),
        ("born", found.born_at.clone()),
        ("stored", found.stored_at.clone()),
        ("body", format!("{} B", found.size)),
    ];
    fields.retain(|(_, value)| !value.is_empty());
    output.fields(&fields)?;
    if found.groups.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let row = |group: &Group| {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let attempts = group.attempts.to_string();
        vec![group.group.clone(), group.state.clone(), attempts, or_none(&group.client), or_none(&group.next_try)]
    };
    let header = ["GROUP", "STATE", "ATTEMPTS", "CLIENT", "NEXT TRY"];
    Ok(output.table(&header, found.groups.iter().map(row).collect())?)
}

async fn list(find: &Find, api: &mut Api, output: &Output) -> Result<(), Failure> {
    let now = SystemClock.now();
    let mut base = format!("/messages?key={}", encode(&find.key));
    if let Some(topic) = &find.topic {
        base += &format!("&topic={}", encode(topic));
    }
    for (name, time) in [("from", find.from), ("to", find.to)] {
        if let Some(time) = time {
            base += &format!("&{name}={}", encode(&values::rfc3339(time.resolve(now))));
        }
    }
    let mut whole = Page::default();
    loop {
        let limit = (find.count - whole.items.len()).clamp(1, PAGE_MAX);
        let rest = whole.next_cursor.as_ref().map(|cursor| format!("&cursor={}", encode(cursor))).unwrap_or_default();
        whole.add(api.page(&format!("{base}&limit={limit}{rest}")).await?);
        if whole.next_cursor.is_none() || whole.items.len() >= find.count {
            break;
        }
    }
    whole.items.truncate(find.count);
    whole.warn();
    if output.form == Form::Json {
        return Ok(output.document(&whole)?);
    }
    let found: Vec<Found> = api.read(&base, Value::Array(whole.items))?;
    if output.form == Form::Quiet {
        return Ok(found.iter().try_for_each(|found| output.line(&found.message_id))?);
    }
    let row = |found: &Found| {
        let when = found.visible_since.as_ref().or(found.due.as_ref()).unwrap_or(&found.stored_at);
        let (topic, state) = (found.topic.clone(), found.state.clone());
        let (broker, id) = (found.broker.clone(), found.message_id.clone());
        vec![when.clone(), topic, broker, found.place(), state, id, found.keys.join(",")]
    };
    let header = ["TIME", "TOPIC", "BROKER", "WHERE", "STATE", "ID", "KEYS"];
    Ok(output.table(&header, found.iter().map(row).collect())?)
}

impl Found {
    fn place(&self) -> String {
        match (self.queue, self.offset) {
            (Some(queue), Some(offset)) => format!("{queue}/{offset}"),
            _ => "-".into(),
        }
    }
}
