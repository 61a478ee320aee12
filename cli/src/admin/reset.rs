//! `carillon group reset`: a group goes on at another place of a topic.

use base::{Clock, SystemClock};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, encode};
use super::{confirm, unreachable, warn_of_unreachable};
use crate::exit::{Exit, Failure};
use crate::output::{Form, Output};
use crate::values;

#[derive(Debug, Args)]
pub struct Reset {
    /// Name of the group.
    name: String,
    /// The topic; the group's other topics are left alone.
    #[arg(long)]
    topic: String,
    /// Where it goes on: a time is RFC 3339 or -2h; skip:N is so many further in each queue; group:OTHER where that one is.
    #[arg(
        long,
        value_parser = to,
        allow_hyphen_values = true,
        value_name = "earliest|latest|TIME|offset:N|skip:N|group:OTHER"
    )]
    to: To,
    /// Only on this broker; an offset needs it where several have the topic.
    #[arg(long, value_name = "NAME")]
    broker: Option<String>,
    /// Only this queue; an offset needs it.
    #[arg(long, value_name = "N")]
    queue: Option<u16>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Only say what would come again, and what would not come any more.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum To {
    Time(values::Time),
    /// As the server reads it.
    Place(Value),
}

#[derive(Debug, Deserialize)]
struct Done {
    queues: Vec<Queue>,
    repeated: u64,
    skipped: u64,
    #[serde(default)]
    unreachable: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Queue {
    broker: String,
    queue: u16,
    old: u64,
    new: u64,
    repeated: u64,
    skipped: u64,
}

pub async fn run(api: &mut Api, options: &Reset, output: &Output) -> Result<(), Failure> {
    let path = format!("/groups/{}/reset", encode(&options.name));
    let body = options.body();
    if !options.dry_run && !options.yes {
        let dry = api.post(&format!("{path}?dry_run=true"), &body).await?;
        let dry: Done = api.read(&path, dry.body)?;
        confirm(&format!("This {}", dry.sentence("resets", options)), false)?;
    }
    let query = if options.dry_run { "?dry_run=true" } else { "" };
    let answer = api.post(&format!("{path}{query}"), &body).await?;
    warn_of_unreachable(unreachable(&answer.body));
    let done: Done = api.read(&path, answer.body.clone())?;
    match output.form {
        Form::Json => output.document(&answer.body)?,
        Form::Quiet => output.line(&options.name)?,
        Form::People => {
            output.table(&HEADER, done.queues.iter().map(Queue::row).collect())?;
            let note = if options.dry_run { " (dry run: nothing was done)" } else { "" };
            output
                .line(format!("{}{note}", done.sentence(if options.dry_run { "resets" } else { "reset" }, options)))?;
        }
    }
    match done.unreachable.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(Exit::Partly, "not all brokers that have the topic say that it is done")),
    }
}

const HEADER: [&str; 6] = ["BROKER", "QUEUE", "OLD", "NEW", "REPEATED", "SKIPPED"];

impl Queue {
    fn row(&self) -> Vec<String> {
        let numbers = [u64::from(self.queue), self.old, self.new, self.repeated, self.skipped];
        [self.broker.clone()].into_iter().chain(numbers.map(|number| number.to_string())).collect()
    }
}

impl Done {
    fn sentence(&self, verb: &str, options: &Reset) -> String {
        let Reset { name, topic, .. } = options;
        let (repeated, skipped) = (self.repeated, self.skipped);
        format!("{verb} group {name} on topic {topic}: {repeated} messages come again, {skipped} are passed over")
    }
}

impl Reset {
    fn body(&self) -> Value {
        let to = match &self.to {
            To::Time(time) => json!({"time": values::rfc3339(time.resolve(SystemClock.now()))}),
            To::Place(place) => place.clone(),
        };
        let mut body = json!({"topic": self.topic, "to": to});
        if let Some(queue) = self.queue {
            body["queue"] = queue.into();
        }
        if let Some(broker) = &self.broker {
            body["broker"] = broker.as_str().into();
        }
        body
    }
}

fn to(text: &str) -> Result<To, String> {
    let number = |number: &str| number.parse::<u64>().map_err(|_| format!("{number:?} is no whole number"));
    let place = match text.split_once(':') {
        None if matches!(text, "earliest" | "latest") => json!(text),
        Some(("offset", offset)) => json!({"offset": number(offset)?}),
        Some(("skip", count)) => json!({"skip": number(count)?}),
        Some(("group", name)) => {
            base::GroupName::parse(name).map_err(|error| error.to_string())?;
            json!({"group": name})
        }
        _ => return values::time(text).map(To::Time),
    };
    Ok(To::Place(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_documented() {
        for (text, place) in [
            ("earliest", json!("earliest")),
            ("latest", json!("latest")),
            ("offset:7", json!({"offset": 7})),
            ("skip:10", json!({"skip": 10})),
            ("group:billing", json!({"group": "billing"})),
        ] {
            assert_eq!(to(text), Ok(To::Place(place)), "{text}");
        }
        assert_eq!(to("-2h"), Ok(To::Time(values::time("-2h").unwrap())));
        assert!(matches!(to("2027-01-31T09:00:00Z"), Ok(To::Time(_))), "a time has colons too");
        for bad in ["", "first", "offset:", "offset:-1", "skip:x", "group:", "group:a b"] {
            assert!(to(bad).is_err(), "{bad}");
        }
    }
}
