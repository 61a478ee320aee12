//! `carillon tail`: looks at messages through the admin API; nothing is consumed, leased or counted.
//!
//! Keeps one position for each queue and asks the queues in turn. Order is that of each queue. What was stored before is
//! looked up where only some of it is wanted: the server knows keys and message groups, and need not show everything.

use std::time::Duration;

use base::{Clock, SystemClock};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::format::{BodyForm, LETTERS, Shown};
use crate::admin::api::{Api, ApiError, encode};
use crate::admin::topic::{Queue, Topic};
use crate::admin::{unreachable, warn_of_unreachable};
use crate::args::Target;
use crate::exit::{Exit, Failure};
use crate::output::{Form, Output};
use crate::runtime;
use crate::values::{self, From};

const PAGE: usize = 100;
/// Stored messages of one queue that are put in order before the first is shown.
const HISTORY_MAX: usize = 10_000;
/// People see half a second as at once, and an idle tail costs two calls a second and queue.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Look at messages without consuming them.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  carillon tail orders\n  carillon tail orders --from -15m --count 20 --body json\n  carillon tail orders --from earliest --format '%k %b\\n'\n  carillon tail orders --from -1h -g customer-7\n  carillon tail orders --from earliest --key invoice-4711 --no-follow"
)]
pub struct Options {
    /// Name of the topic.
    topic: String,
    /// earliest, latest, offset:N, a time, or -15m.
    #[arg(long, value_parser = values::from, default_value = "latest", value_name = "WHERE", allow_hyphen_values = true)]
    from: From,
    /// Stop after so many.
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Stop at the end instead of waiting for more.
    #[arg(long)]
    no_follow: bool,
    /// One queue only.
    #[arg(long, value_name = "N")]
    queue: Option<u16>,
    /// Only messages with this key.
    #[arg(long)]
    key: Option<String>,
    /// Only messages of this group.
    #[arg(short = 'g', long, value_name = "GROUP")]
    message_group: Option<String>,
    /// Only messages with this tag.
    #[arg(long)]
    tag: Option<String>,
    /// How each message is shown, such as '%k %b\n'.
    #[arg(long, long_help = LETTERS)]
    format: Option<String>,
    /// How bodies are shown.
    #[arg(long, value_enum, default_value_t = BodyForm::Text)]
    body: BodyForm,
    /// Lines say of which broker a message is: several have the topic.
    #[arg(skip)]
    names_brokers: bool,
}

/// What the server says about a message.
#[derive(Debug, Deserialize)]
struct Item {
    message_id: String,
    topic: String,
    #[serde(default)]
    broker: String,
    queue: u16,
    offset: u64,
    tag: Option<String>,
    #[serde(default)]
    keys: Vec<String>,
    message_group: Option<String>,
    visible_since: Option<String>,
    /// When it is text.
    body: Option<String>,
    /// When it is not.
    body_base64: Option<String>,
}

impl Item {
    fn bytes(&self) -> Vec<u8> {
        let decoded = self.body_base64.as_ref().and_then(|text| STANDARD.decode(text).ok());
        decoded.or_else(|| self.body.clone().map(String::into_bytes)).unwrap_or_default()
    }
}

/// A queue, and the value of `from` that gives what was not yet shown.
struct Place<'a> {
    queue: &'a Queue,
    from: String,
    /// Its broker did not answer the last time.
    is_away: bool,
}

pub async fn run(mut options: Options, target: &Target, output: &Output) -> Result<(), Failure> {
    let mut api = Api::new(&target.http);
    let path = format!("/topics/{}", encode(&options.topic));
    let answer = api.get(&path).await?;
    warn_of_unreachable(unreachable(&answer.body));
    let topic: Topic = api.read(&path, answer.body)?;
    options.names_brokers = topic.brokers().len() > 1;
    let mut places = places(&options, &topic);
    let mut left = options.count.unwrap_or(usize::MAX);
    if options.is_looked_up() {
        left -= history(&options, &mut api, &topic, left, output).await?;
        places.iter_mut().for_each(|place| place.from = format!("offset:{}", place.queue.next));
    }
    while left > 0 {
        let mut seen = 0;
        for place in &mut places {
            if left > 0 {
                let looked = look(&options, &mut api, place, left, output).await?;
                (seen, left) = (seen + looked.seen, left - looked.shown);
            }
        }
        if seen == 0 {
            if options.no_follow {
                break;
            }
            runtime::wait(LOOK_AGAIN_AFTER).await;
        }
    }
    Ok(())
}

fn places<'a>(options: &Options, topic: &'a Topic) -> Vec<Place<'a>> {
    let wanted = topic.queues.iter().filter(|queue| options.queue.is_none_or(|number| number == queue.queue));
    wanted.map(|queue| Place { queue, from: from(options, queue), is_away: false }).collect()
}

/// Each broker numbers queues of its own.
fn messages_of(topic: &str, queue: &Queue) -> String {
    let broker = match &*queue.broker {
        "" => String::new(),
        broker => format!("&broker={}", encode(broker)),
    };
    format!("/topics/{}/messages?queue={}{broker}", encode(topic), queue.queue)
}

fn from(options: &Options, queue: &Queue) -> String {
    match options.from {
        From::Earliest => "earliest".into(),
        // As an offset, so that what comes between now and the first look is not missed.
        From::Latest => format!("offset:{}", queue.next),
        From::Offset(offset) => format!("offset:{}", offset.max(queue.first)),
        From::Time(time) => format!("time:{}", values::rfc3339(time.resolve(SystemClock.now()))),
    }
}

/// Shows what is stored now of what is wanted, oldest first in each queue. Gives how many messages that was.
async fn history(
    options: &Options,
    api: &mut Api,
    topic: &Topic,
    left: usize,
    output: &Output,
) -> Result<usize, Failure> {
    let mut shown = 0;
    let by_key = options.key.is_some();
    let wanted = topic.queues.iter().filter(|queue| options.queue.is_none_or(|number| number == queue.queue));
    for queue in wanted {
        let (messages, from) = (messages_of(&options.topic, queue), encode(&from(options, queue)));
        let base = format!("{messages}&from={from}&limit={PAGE}{}", options.filters());
        let (mut path, mut found) = (base.clone(), Vec::new());
        loop {
            let page = api.page(&path).await?;
            page.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            for value in page.items {
                let item: Item = api.read(&path, value.clone())?;
                // What has come since is shown when the queue is followed.
                if item.offset < queue.next {
                    found.push((item, value));
                }
            }
            if found.len() > HISTORY_MAX {
                let what = format!("more than {HISTORY_MAX} stored messages are wanted; begin later with --from");
                return Err(Failure::new(Exit::Refused, what));
            }
            // By key they come newest first; otherwise in their order, so that enough is enough.
            match page.next_cursor {
                Some(cursor) if by_key || shown + found.len() < left => {
                    path = format!("{base}&cursor={}", encode(&cursor));
                }
                _ => break,
            }
        }
        found.sort_by_key(|(item, _)| item.offset);
        for (item, value) in found.into_iter().take(left - shown) {
            show(options, &item, &value, output)?;
            shown += 1;
        }
    }
    Ok(shown)
}

/// What came of one look at a queue.
struct Looked {
    seen: usize,
    shown: usize,
}

/// Shows the next messages of one queue, at most `left`, and moves its place behind those that were seen.
async fn look(
    options: &Options,
    api: &mut Api,
    place: &mut Place<'_>,
    left: usize,
    output: &Output,
) -> Result<Looked, Failure> {
    let messages = messages_of(&options.topic, place.queue);
    let path = format!("{messages}&from={}&limit={}", encode(&place.from), left.min(PAGE));
    let answer = match api.get(&path).await {
        // Others go on meanwhile, and so does this one when it is back.
        Err(ApiError::Refused(problem)) if ["unreachable", "node_not_found"].contains(&&*problem.code) => {
            if !place.is_away {
                eprintln!("warning: without queue {} of {}: {}", place.queue.queue, place.queue.broker, problem.detail);
            }
            place.is_away = true;
            return Ok(Looked { seen: 0, shown: 0 });
        }
        answer => answer?,
    };
    place.is_away = false;
    let items: Vec<Value> = api.read(&path, answer.body["items"].clone())?;
    let mut looked = Looked { seen: items.len(), shown: 0 };
    for value in items {
        let item: Item = api.read(&path, value.clone())?;
        place.from = format!("offset:{}", item.offset + 1);
        if options.wants(&item) {
            show(options, &item, &value, output)?;
            looked.shown += 1;
        }
    }
    Ok(looked)
}

impl Options {
    /// Whether what is stored is asked for by key, message group or tag. Topics that the server made know no keys.
    fn is_looked_up(&self) -> bool {
        let is_some = self.key.is_some() || self.message_group.is_some() || self.tag.is_some();
        is_some && self.from != From::Latest && !(self.key.is_some() && self.topic.starts_with('%'))
    }

    fn filters(&self) -> String {
        let of = |name: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!("&{name}={}", encode(value))).unwrap_or_default()
        };
        of("key", &self.key) + &of("message_group", &self.message_group) + &of("tag", &self.tag)
    }

    fn wants(&self, item: &Item) -> bool {
        let is = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        is(&self.message_group, &item.message_group)
            && is(&self.tag, &item.tag)
            && self.key.as_ref().is_none_or(|key| item.keys.contains(key))
    }
}

fn show(options: &Options, item: &Item, value: &Value, output: &Output) -> Result<(), Failure> {
    let body = item.bytes();
    let shown = Shown {
        message_id: &item.message_id,
        topic: &item.topic,
        broker: &item.broker,
        queue: item.queue,
        offset: item.offset,
        tag: item.tag.as_deref(),
        keys: &item.keys,
        message_group: item.message_group.as_deref(),
        visible_since: item.visible_since.clone(),
        body: &body,
    };
    match (output.form, &options.format) {
        (Form::Json, _) => output.object(value)?,
        (Form::Quiet, _) => output.line(&item.message_id)?,
        (Form::People, Some(format)) => output.raw(&shown.by_format(format, options.body))?,
        (Form::People, None) if options.names_brokers => {
            output.line(format!("{}/{}", item.broker, shown.line(options.body)))?;
        }
        (Form::People, None) => output.line(shown.line(options.body))?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(body: Value) -> Item {
        let mut value = serde_json::json!({"message_id": "m", "topic": "t", "queue": 0, "offset": 1});
        value.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    fn options() -> Options {
        Options {
            topic: "t".into(),
            from: From::Latest,
            count: None,
            no_follow: false,
            queue: None,
            key: None,
            message_group: None,
            tag: None,
            format: None,
            body: BodyForm::Text,
            names_brokers: false,
        }
    }

    #[test]
    fn only_what_was_asked_for_is_shown() {
        let item = item(serde_json::json!({"keys": ["k1", "k2"], "message_group": "g", "tag": "red"}));
        let some = |text: &str| Some(text.to_owned());
        assert!(options().wants(&item));
        assert!(Options { key: some("k2"), message_group: some("g"), tag: some("red"), ..options() }.wants(&item));
        assert!(!Options { key: some("k"), ..options() }.wants(&item));
        assert!(!Options { message_group: some("h"), ..options() }.wants(&item));
        assert!(!Options { tag: some("blue"), ..options() }.wants(&item));
    }

    #[test]
    fn what_is_stored_is_looked_up_where_the_server_can() {
        let some = |text: &str| Some(text.to_owned());
        let wanted = || Options { key: some("a b"), message_group: some("g&h"), from: From::Earliest, ..options() };
        assert_eq!(wanted().filters(), "&key=a%20b&message_group=g%26h");
        assert!(wanted().is_looked_up());
        assert!(!Options { from: From::Latest, ..wanted() }.is_looked_up());
        assert!(!Options { topic: "%DLQ%g".into(), ..wanted() }.is_looked_up());
        assert!(!Options { from: From::Earliest, ..options() }.is_looked_up());
    }

    #[test]
    fn bodies_come_as_text_or_as_base64() {
        assert_eq!(item(serde_json::json!({"body": "hello"})).bytes(), b"hello");
        assert_eq!(item(serde_json::json!({"body": null, "body_base64": "/wA="})).bytes(), [255, 0]);
        assert_eq!(item(serde_json::json!({})).bytes(), b"");
    }

    #[test]
    fn a_tail_starts_at_its_place_in_every_queue() {
        let topic: Topic = serde_json::from_value(serde_json::json!({"name": "t", "type": "normal", "queues": [
            {"broker": "b/1", "queue": 0, "first": 5, "next": 9}, {"queue": 1, "first": 0, "next": 3}]}))
        .unwrap();
        let asked: Vec<_> = topic.queues.iter().map(|queue| messages_of("%DLQ%g", queue)).collect();
        let path = "/topics/%25DLQ%25g/messages";
        assert_eq!(asked, [format!("{path}?queue=0&broker=b%2F1"), format!("{path}?queue=1")]);
        let froms = |from, queue| {
            let options = Options { from, queue, ..options() };
            places(&options, &topic).into_iter().map(|place| place.from).collect::<Vec<_>>()
        };
        assert_eq!(froms(From::Latest, None), ["offset:9", "offset:3"]);
        assert_eq!(froms(From::Offset(2), None), ["offset:5", "offset:2"]);
        assert_eq!(froms(From::Earliest, Some(1)), ["earliest"]);
    }
}
