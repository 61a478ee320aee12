//! `carillon send`: one message, the same one many times, one for each line, or as many as a template gives.

use std::io::{self, BufRead, IsTerminal, Lines, Read};
use std::path::PathBuf;
use std::time::Duration;

use base::{Chance, Clock, SystemClock, Timestamp};
use bytes::Bytes;
use clap::Args;
use client::{NewMessage, Producer, Resolution, Sent, Transaction};
use serde_json::json;

use super::connect;
use crate::args::Target;
use crate::exit::{Exit, Failure};
use crate::files;
use crate::output::{Form, Output};
use crate::{runtime, values};

/// Send messages.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  carillon send orders '{\"id\": 4711}' --key 4711 --message-group customer-7\n  carillon send reminders 'call back' --delay 10s\n  seq 100 | carillon send numbers --lines -\n  carillon send orders --template '{{n}} {{uuid}}' --count 1000 --rate 50"
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
    /// Messages a second, for --count and --lines. Without it: one after the other.
    #[arg(long, value_parser = values::rate, value_name = "N")]
    rate: Option<f64>,
    /// A body for each message; {{n}} is its number from 1 on, {{uuid}} is made anew.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["body", "file", "lines"])]
    template: Option<String>,
    /// As transactions: each is prepared, and committed at once. On TRANSACTION topics.
    #[arg(long)]
    tx: bool,
}

pub async fn run(options: Options, target: &Target, output: &Output) -> Result<(), Failure> {
    let mut bodies = options.bodies()?;
    let client = connect(target).await?;
    let producer = client.producer(&[&options.topic]).await?;
    let began = runtime::now();
    let mut number = 0_u32;
    while let Some(body) = bodies.next(&options)? {
        if let Some(rate) = options.rate {
            runtime::wait_until(began + Duration::from_secs_f64(f64::from(number) / rate)).await;
        }
        number = number.saturating_add(1);
        send(&options, &producer, body, output).await?;
    }
    // What was sent is stored; a goodbye that is lost changes nothing.
    let _is_courtesy = producer.close().await;
    Ok(())
}

async fn send(options: &Options, producer: &Producer, body: Bytes, output: &Output) -> Result<(), Failure> {
    let due = options.due(SystemClock.now());
    let message = options.message(body, due);
    if options.tx {
        let transaction = producer.send_prepared(message).await?;
        producer.end(&transaction, Resolution::Commit).await?;
        return Ok(show_committed(&transaction, output)?);
    }
    let sent = producer.send(message).await?;
    Ok(show(&options.topic, &sent, due, output)?)
}

fn show_committed(transaction: &Transaction, output: &Output) -> io::Result<()> {
    match output.form {
        Form::Quiet => output.line(&transaction.message_id),
        Form::Json => output.object(&json!({
            "message_id": transaction.message_id,
            "topic": transaction.topic,
            "transaction_id": transaction.transaction_id,
        })),
        Form::People => output.line(format!("{}  committed", transaction.message_id)),
    }
}

/// What is to be sent, one after the other.
enum Bodies {
    Same { body: Bytes, left: u64 },
    Lines(Lines<Box<dyn BufRead>>),
    Template { number: u64, chance: Chance },
}

impl Bodies {
    fn next(&mut self, options: &Options) -> io::Result<Option<Bytes>> {
        match self {
            Self::Same { left: 0, .. } => Ok(None),
            Self::Same { body, left } => {
                *left -= 1;
                Ok(Some(body.clone()))
            }
            Self::Lines(lines) => Ok(lines.next().transpose()?.map(Bytes::from)),
            Self::Template { number, .. } if *number == options.count => Ok(None),
            Self::Template { number, chance } => {
                *number += 1;
                let template = options.template.as_deref().unwrap_or_default();
                let uuid = values::uuid([chance.next_u64(), chance.next_u64()]);
                Ok(Some(template.replace("{{n}}", &number.to_string()).replace("{{uuid}}", &uuid).into()))
            }
        }
    }
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

    fn bodies(&self) -> Result<Bodies, Failure> {
        if self.template.is_some() {
            return Ok(Bodies::Template { number: 0, chance: Chance::from_system() });
        }
        let mut input = self.input()?;
        if self.lines {
            return Ok(Bodies::Lines(input.lines()));
        }
        let mut body = Vec::new();
        input.read_to_end(&mut body)?;
        Ok(Bodies::Same { body: body.into(), left: self.count })
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn bodies(arguments: &[&str]) -> Vec<String> {
        let options = Line::parse_from([&["send", "topic"], arguments].concat()).options;
        let mut bodies = options.bodies().unwrap();
        let next = || bodies.next(&options).unwrap().map(|body| String::from_utf8(body.to_vec()).unwrap());
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_template_gives_each_message_its_number_and_an_id_of_its_own() {
        assert_eq!(bodies(&["same", "--count", "2"]), ["same", "same"]);
        let made = bodies(&["--template", "{{n}}:{{uuid}}:{{other}}", "--count", "3"]);
        let parts: Vec<Vec<&str>> = made.iter().map(|body| body.split(':').collect()).collect();
        assert_eq!(parts.iter().map(|part| part[0]).collect::<Vec<_>>(), ["1", "2", "3"]);
        assert!(parts.iter().all(|part| part[1].len() == 36 && part[2] == "{{other}}"), "{made:?}");
        assert_ne!(parts[0][1], parts[1][1]);
    }
}
