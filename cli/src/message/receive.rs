//! `carillon receive`: consumes for real, as a member of a group.

use std::time::Duration;

use clap::Args;
use client::{Filter, Received, SimpleConsumer};
use serde_json::{Value, json};

use super::connect;
use super::format::{BodyForm, Shown};
use crate::args::Target;
use crate::exit::Failure;
use crate::output::{Form, Output};
use crate::runtime;
use crate::values;

/// Official servers cut larger batches to this.
const BATCH_MAX: usize = 32;
const POLL: Duration = Duration::from_secs(5);

/// Receive messages as a member of a group; acknowledged unless told otherwise.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  carillon receive orders --consumer-group billing\n  carillon receive orders --consumer-group billing --count 0 --wait 1h --json\n  carillon receive '%DLQ%billing' --consumer-group look --no-ack"
)]
#[command(group = clap::ArgGroup::new("settle").args(["ack", "nack", "no_ack"]))]
pub struct Options {
    /// Name of the topic.
    topic: String,
    /// Name of the consumer group.
    #[arg(long, value_name = "GROUP")]
    consumer_group: String,
    /// Stop after so many; 0 goes on until --wait is over.
    #[arg(long, default_value_t = 1, value_name = "N")]
    count: usize,
    /// How long to wait for the next message.
    #[arg(long, value_parser = values::span, default_value = "5s", value_name = "DURATION")]
    wait: Duration,
    /// How long received messages stay hidden from others.
    #[arg(long, value_parser = values::span, default_value = "30s", value_name = "DURATION")]
    invisible: Duration,
    /// The messages are done. This is the default.
    #[arg(long)]
    ack: bool,
    /// Give them back at once: they come again, as another attempt.
    #[arg(long)]
    nack: bool,
    /// Do nothing: they come again when their time is over.
    #[arg(long)]
    no_ack: bool,
    /// Tags such as `paid || sent`, or a condition such as `region = 'eu'`.
    #[arg(long, value_parser = values::filter, default_value = "*", value_name = "FILTER")]
    filter: Filter,
    /// How bodies are shown.
    #[arg(long, value_enum, default_value_t = BodyForm::Text)]
    body: BodyForm,
    /// How each message is shown, such as '%k %b\n'; `carillon tail --help` lists the letters.
    #[arg(long)]
    format: Option<String>,
}

pub async fn run(options: Options, target: &Target, output: &Output) -> Result<(), Failure> {
    let client = connect(target).await?;
    let consumer = client.simple_consumer(&options.consumer_group, &options.topic, options.filter.clone()).await?;
    let result = consume(&options, &consumer, output).await;
    // What is held goes back earlier with a goodbye; without one the server finds out by itself.
    let _is_courtesy = consumer.close().await;
    result
}

async fn consume(options: &Options, consumer: &SimpleConsumer, output: &Output) -> Result<(), Failure> {
    let mut taken = 0;
    let mut waiting_since = runtime::now();
    while options.count == 0 || taken < options.count {
        let left = options.wait.saturating_sub(waiting_since.elapsed());
        if left.is_zero() {
            if taken == 0 && output.form == Form::People {
                eprintln!("no message within {}", base::duration::format(options.wait));
            }
            break;
        }
        let wanted = if options.count == 0 { BATCH_MAX } else { (options.count - taken).min(BATCH_MAX) };
        let messages = consumer.receive(wanted, options.invisible, left.min(POLL)).await?;
        for mut message in messages {
            show(options, &message, output)?;
            settle(options, consumer, &mut message).await?;
            taken += 1;
            waiting_since = runtime::now();
        }
    }
    Ok(())
}

async fn settle(options: &Options, consumer: &SimpleConsumer, message: &mut Received) -> Result<(), Failure> {
    if options.no_ack {
        Ok(())
    } else if options.nack {
        Ok(consumer.change_invisible(message, Duration::ZERO).await?)
    } else {
        Ok(consumer.ack(message).await?)
    }
}

fn show(options: &Options, message: &Received, output: &Output) -> Result<(), Failure> {
    let shown = Shown {
        message_id: &message.message_id,
        topic: &message.topic,
        broker: "",
        queue: message.queue.0,
        offset: message.offset.0,
        tag: message.tag.as_deref(),
        keys: &message.keys,
        message_group: message.message_group.as_deref(),
        visible_since: message.stored_at.map(values::rfc3339),
        body: &message.body,
    };
    match (output.form, &options.format) {
        (Form::Json, _) => output.object(&object(message, options.body))?,
        (Form::Quiet, _) => output.line(&message.message_id)?,
        (Form::People, Some(format)) => output.raw(&shown.by_format(format, options.body))?,
        (Form::People, None) => output.line(shown.line(options.body))?,
    }
    Ok(())
}

/// With the keys of the admin API.
fn object(message: &Received, body: BodyForm) -> Value {
    json!({
        "message_id": message.message_id,
        "topic": message.topic,
        "queue": message.queue.0,
        "offset": message.offset.0,
        "attempt": message.attempt,
        "tag": message.tag,
        "keys": message.keys,
        "message_group": message.message_group,
        "properties": message.properties,
        "born_at": message.born_at.map(values::rfc3339),
        "stored_at": message.stored_at.map(values::rfc3339),
        "deliver_at": message.deliver_at.map(values::rfc3339),
        "receipt_handle": message.receipt_handle,
        "encoding": if message.is_compressed { "gzip" } else { "identity" },
        "size": message.body.len(),
        "body": body.render(&message.body),
    })
}
