//! `carillon send`: one message, the same one many times, or one for each line.

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::PathBuf;
use std::time::Duration;

use base::{Clock, SystemClock, Timestamp};
use bytes::Bytes;
use clap::Args;
use client::{NewMessage, Producer, Sent};
use serde_json::json;

use super::connect;
use crate::args::Target;
use crate::exit::{Exit, Failure};
use crate::files;
use crate::output::{Form, Output};
use crate::values;

/// Send messages.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  carillon send orders '{\"id\": 4711}' --key 4711 --message-group customer-7\n  carillon send reminders 'call back' --delay 10s\n  seq 100 | carillon send numbers --lines -"
)]
pub struct Options {
    /// Name of the topic.
    topic: String,
    /// What to send; `-` or nothing reads standard input.
    #[arg(conflicts_with = "file")]
    body: Option<String>,
    /// Read the body from a file.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Each line of the input is a message.
    #[arg(long)]
    lines: bool,
    /// What the message can be found by; may be repeated.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Messages of one group are delivered in order, on FIFO topics.
    #[arg(short = 'g', long, value_name = "GROUP")]
    message_group: Option<String>,
    /// Deliver after this time, on DELAY topics.
    #[arg(long, value_parser = values::span, value_name = "DURATION", conflicts_with = "at")]
    delay: Option<Duration>,
    /// Deliver at this time: RFC 3339, or +2h.
    #[arg(long, value_parser = values::time, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<values::Time>,
    /// What consumers may filter by.
    #[arg(long)]
    tag: Option<String>,
    /// A property; may be repeated.
    #[arg(long = "prop", value_parser = values::property, value_name = "NAME=VALUE")]
    properties: Vec<(String, String)>,
    /// Send it so many times.
    #[arg(long, default_value_t = 1, value_name = "N")]
    count: u64,
}

pub async fn run(options: Options, target: &Target, output: &Output) -> Result<(), Failure> {
    let input = options.input()?;
    let client = connect(target).await?;
    let producer = client.producer(&[&options.topic]).await?;
    if options.lines {
        for line in input.lines() {
            send(&options, &producer, Bytes::from(line?), output).await?;
        }
    } else {
        let mut body = Vec::new();
        let mut input = input;
        input.read_to_end(&mut body)?;
        let body = Bytes::from(body);
        for _ in 0..options.count {
            send(&options, &producer, body.clone(), output).await?;
        }
    }
    // What was sent is stored; a goodbye that is lost changes nothing.
    let _is_courtesy = producer.close().await;
    Ok(())
}

async fn send(options: &Options, producer: &Producer, body: Bytes, output: &Output) -> Result<(), Failure> {
    let due = options.due(SystemClock.now());
    let sent = producer.send(options.message(body, due)).await?;
    Ok(show(&options.topic, &sent, due, output)?)
}

fn show(topic: &str, sent: &Sent, due: Option<Timestamp>, output: &Output) -> io::Result<()> {
    match output.form {
        Form::Quiet => output.line(&sent.message_id),
        Form::Json => output.object(&json!({
            "message_id": sent.message_id,
            "topic": topic,
            "offset": sent.offset.0,
            "deliver_at": due.map(values::rfc3339),
            "recall_handle": sent.recall_handle,
        })),
        Form::People => match due {
            None => output.line(format!("{}  offset {}", sent.message_id, sent.offset)),
            Some(due) => {
                let handle = sent.recall_handle.as_deref().unwrap_or("-");
                output.line(format!("{}  due {}  recall handle {handle}", sent.message_id, values::rfc3339(due)))
            }
        },
    }
}

impl Options {
    fn input(&self) -> Result<Box<dyn BufRead>, Failure> {
        match (&self.body, &self.file) {
            (None, Some(file)) => match files::read(file) {
                Ok(bytes) => Ok(Box::new(io::Cursor::new(bytes))),
                Err(error) => Err(Failure::new(Exit::Failed, format!("{}: {error}", file.display()))),
            },
            (Some(body), _) if body != "-" => Ok(Box::new(io::Cursor::new(body.clone().into_bytes()))),
            (None, None) if io::stdin().is_terminal() => {
                Err(Failure::new(Exit::Usage, "nothing to send: give a body, --file, or something on standard input"))
            }
            _ => Ok(Box::new(io::stdin().lock())),
        }
    }

    fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let delay = self.delay.map(values::Time::After);
        delay.or(self.at).map(|time| time.resolve(now))
    }

    fn message(&self, body: Bytes, due: Option<Timestamp>) -> NewMessage {
        let mut message = NewMessage::new(self.topic.as_str(), body);
        for key in &self.keys {
            message = message.key(key.as_str());
        }
        for (name, value) in &self.properties {
            message = message.property(name.as_str(), value.as_str());
        }
        if let Some(group) = &self.message_group {
            message = message.message_group(group.as_str());
        }
        if let Some(tag) = &self.tag {
            message = message.tag(tag.as_str());
        }
        match due {
            Some(due) => message.deliver_at(due),
            None => message,
        }
    }
}
