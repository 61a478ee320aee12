//! What a run says at its end: a few lines for people, JSON for programs.
//!
//! Beside our own names the JSON has those of the OpenMessaging benchmark (`publishRate`, `aggregatedPublishLatency99pct`
//! …, in milliseconds), so that its tools can draw it.

use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::Load;
use super::engine::Outcome;
use super::setup::Place;
use super::tally::Measure;
use crate::exit::{Exit, Failure};
use crate::files;
use crate::output::{Form, Output};

const QUANTILES: [(&str, f64); 5] =
    [("50pct", 0.5), ("75pct", 0.75), ("95pct", 0.95), ("99pct", 0.99), ("999pct", 0.999)];

#[derive(Debug)]
pub struct Report<'a> {
    scenario: &'static str,
    load: &'a Load,
    place: &'a Place,
    outcome: &'a Outcome,
}

impl<'a> Report<'a> {
    pub fn new(scenario: &'static str, load: &'a Load, place: &'a Place, outcome: &'a Outcome) -> Self {
        Self { scenario, load, place, outcome }
    }

    /// Says it, and writes the file that was asked for.
    pub fn finish(&self, output: &Output) -> Result<(), Failure> {
        if let Some(file) = &self.load.report {
            write(file, &self.json())?;
        }
        match output.form {
            Form::Json => output.document(&self.json())?,
            Form::Quiet => output.line(format!("{:.0}", self.rate()))?,
            Form::People => {
                output.heading(&self.title())?;
                output.fields(&self.lines())?;
            }
        }
        // A run in which nothing got through has measured nothing.
        match self.messages() {
            0 => Err(Failure::new(Exit::Failed, "no message got through")),
            _ => Ok(()),
        }
    }

    /// What the rate and the costs are about.
    fn messages(&self) -> u64 {
        let tally = &self.outcome.tally;
        match self.scenario {
            "send" => tally.send.messages,
            "receive" => self.outcome.settled,
            _ => tally.deliver.messages,
        }
    }

    fn seconds(&self) -> f64 {
        let window = self.outcome.window;
        let duration = match (self.scenario, self.outcome.tally.settled_at) {
            ("receive", Some(settled_at)) => settled_at - window.start,
            ("receive", None) => Duration::ZERO,
            _ => window.end - window.measured_from,
        };
        duration.as_secs_f64()
    }

    fn rate(&self) -> f64 {
        if self.seconds() > 0.0 { self.messages() as f64 / self.seconds() } else { 0.0 }
    }

    /// Sent while it was measured, received or not: what the CPU was spent on.
    fn per_million(&self, amount: Option<f64>) -> Option<f64> {
        let messages = self.messages().max(self.outcome.tally.send.messages);
        amount.filter(|_| messages > 0).map(|amount| amount * 1e6 / messages as f64)
    }

    fn title(&self) -> String {
        let load = self.load;
        let pace = load.rate.map_or_else(|| format!("{} in flight", load.in_flight()), |rate| format!("{rate} /s"));
        format!(
            "bench {}: topic {}, {} B, {pace}, batch {}, {} connections",
            self.scenario, self.place.topic, load.size, load.batch, load.connections
        )
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let tally = &self.outcome.tally;
        let mib = self.rate() * self.load.size as f64 / f64::from(1 << 20);
        let rate =
            format!("{:.0} messages/s, {mib:.1} MiB/s, {} in {:.1} s", self.rate(), self.messages(), self.seconds());
        let mut lines = vec![("rate", rate)];
        let deliver = if self.scenario == "timer" { "lateness" } else { "send to receive" };
        if tally.refused.messages > 0 {
            let refused = tally.refused.messages as f64 / self.seconds().max(f64::MIN_POSITIVE);
            lines.push(("refused", format!("{refused:.0} messages/s, TOO_MANY_REQUESTS, not among the errors")));
        }
        let measures = [
            ("send", &tally.send),
            ("send call", &tally.send_call),
            ("refusal", &tally.refused),
            (deliver, &tally.deliver),
            ("receive call", &tally.receive),
            ("ack", &tally.ack),
        ];
        for (name, measure) in measures {
            // Without a rate a message is meant to be sent when it is.
            let is_twin = name == "send call" && self.load.rate.is_none();
            if !measure.latency_us.is_empty() && !is_twin {
                lines.push((name, latency_line(&measure.latency_us)));
            }
        }
        let cost = &self.outcome.cost;
        let amounts = [
            ("server", cost.server_cpu_seconds, "CPU seconds"),
            ("client", cost.client_cpu_seconds, "CPU seconds"),
            ("syncs", cost.syncs, "syncs"),
        ];
        for (name, amount, unit) in amounts {
            if let Some(amount) = self.per_million(amount) {
                lines.push((name, format!("{amount:.1} {unit} per million messages")));
            }
        }
        for (name, count) in self.counts() {
            if count > 0 {
                lines.push((name, count.to_string()));
            }
        }
        let errors: u64 = tally.errors.values().sum();
        lines.push(("errors", errors.to_string()));
        lines.extend(tally.errors.iter().map(|(text, count)| ("", format!("{count} × {text}"))));
        lines
    }

    /// What should be none, but for `stale`.
    fn counts(&self) -> [(&'static str, u64); 7] {
        let tally = &self.outcome.tally;
        let missing = match self.scenario {
            "send" => 0,
            _ => self.outcome.sent.saturating_sub(self.outcome.settled),
        };
        [
            ("not sent in time", tally.unsent),
            ("not received", missing),
            ("early", tally.early),
            ("scheduled late", tally.scheduled_late),
            ("out of order", tally.out_of_order),
            ("repeated", tally.repeated),
            ("of other runs", tally.stale),
        ]
    }

    fn json(&self) -> Value {
        let (tally, load) = (&self.outcome.tally, self.load);
        let mut report = Map::new();
        let mut put = |name: &str, value: Value| report.insert(name.into(), value);
        put("scenario", json!(self.scenario));
        put("topic", json!(self.place.topic));
        put("messageSize", json!(load.size));
        put("batch", json!(load.batch));
        put("keys", json!(load.keys));
        put("connections", json!(load.connections));
        put("threads", json!(load.threads));
        put("in_flight", json!(load.in_flight()));
        put("target_rate", json!(load.rate));
        put("seconds", json!(self.seconds()));
        put("messages", json!(self.messages()));
        put("rate", json!(self.rate()));
        put("sent", json!(self.outcome.sent));
        put("settled", json!(self.outcome.settled));
        put("errors", json!(tally.errors));
        put("refused", json!(tally.refused.messages));
        put("refusal_us", latency_json(&tally.refused));
        for (name, count) in self.counts() {
            put(&name.replace(' ', "_"), json!(count));
        }
        let cost = &self.outcome.cost;
        put("server_cpu_seconds_per_million", json!(self.per_million(cost.server_cpu_seconds)));
        put("client_cpu_seconds_per_million", json!(self.per_million(cost.client_cpu_seconds)));
        put("syncs_per_million", json!(self.per_million(cost.syncs)));
        let measures = [
            ("send", "aggregatedPublishLatency", &tally.send),
            ("send_call", "", &tally.send_call),
            ("deliver", "aggregatedEndToEndLatency", &tally.deliver),
            ("receive_call", "", &tally.receive),
            ("ack", "", &tally.ack),
        ];
        for (name, _, measure) in measures {
            put(&format!("{name}_us"), latency_json(measure));
        }
        put("publishRate", json!([tally.send.messages as f64 / self.seconds().max(f64::MIN_POSITIVE)]));
        for (_, prefix, measure) in measures {
            if !prefix.is_empty() && !measure.latency_us.is_empty() {
                report.extend(openmessaging(prefix, &measure.latency_us));
            }
        }
        Value::Object(report)
    }
}

/// The file that was asked for.
pub fn write(file: &Path, report: &Value) -> Result<(), Failure> {
    let written = files::write(file, format!("{report:#}\n").as_bytes());
    written.map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", file.display())))
}

fn latency_line(latency_us: &Histogram<u64>) -> String {
    let at = |quantile| people(latency_us.value_at_quantile(quantile));
    let max = people(latency_us.max());
    format!("p50 {}, p99 {}, p99.9 {}, max {max}", at(0.5), at(0.99), at(0.999))
}

fn latency_json(measure: &Measure) -> Value {
    let latency = &measure.latency_us;
    if latency.is_empty() {
        return Value::Null;
    }
    json!({
        "count": latency.len(),
        "mean": latency.mean(),
        "p50": latency.value_at_quantile(0.5),
        "p90": latency.value_at_quantile(0.9),
        "p99": latency.value_at_quantile(0.99),
        "p99.9": latency.value_at_quantile(0.999),
        "p99.99": latency.value_at_quantile(0.9999),
        "max": latency.max(),
    })
}

/// In milliseconds, as that benchmark has them.
fn openmessaging(prefix: &str, latency_us: &Histogram<u64>) -> Vec<(String, Value)> {
    let ms = |us: f64| json!(us / 1000.0);
    let mut values =
        vec![(format!("{prefix}Avg"), ms(latency_us.mean())), (format!("{prefix}Max"), ms(latency_us.max() as f64))];
    let quantile =
        |(name, quantile): (&str, f64)| (format!("{prefix}{name}"), ms(latency_us.value_at_quantile(quantile) as f64));
    values.extend(QUANTILES.map(quantile));
    values
}

/// Three digits and a unit.
fn people(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use clap::Parser;

    use super::super::cost::Cost;
    use super::super::engine::Window;
    use super::super::tally::Tally;
    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        load: Load,
    }

    fn outcome(start: Instant) -> Outcome {
        let mut tally = Tally::new();
        tally.send.messages = 2_000;
        tally.send.record(Duration::from_micros(1_500), 2_000);
        tally.refused.record(Duration::from_micros(300), 6_000);
        tally.refused.messages = 6_000;
        let cost = Cost { server_cpu_seconds: Some(0.02), client_cpu_seconds: Some(0.01), syncs: None };
        let end = start + Duration::from_secs(2);
        Outcome { tally, cost, window: Window { start, measured_from: start, end }, sent: 2_100, settled: 0 }
    }

    #[test]
    fn rate_and_costs_are_those_of_the_measured_time() {
        let load = Only::parse_from(["x"]).load;
        let place = Place { grpc: "h:1".into(), topic: "t".into() };
        let outcome = outcome(crate::runtime::now());
        let report = Report::new("send", &load, &place, &outcome);
        let json = report.json();
        assert_eq!(json["rate"], json!(1000.0));
        assert_eq!(json["server_cpu_seconds_per_million"], json!(10.0));
        assert_eq!(json["syncs_per_million"], Value::Null);
        assert_eq!(json["send_us"]["count"], json!(2000));
        assert_eq!(json["deliver_us"], Value::Null);
        assert!(json["aggregatedPublishLatency99pct"].as_f64().is_some_and(|ms| (ms - 1.5).abs() < 0.01));
        assert_eq!((&json["refused"], &json["refusal_us"]["count"]), (&json!(6000), &json!(6000)));
        let lines = report.lines();
        assert_eq!(lines[1].1, "3000 messages/s, TOO_MANY_REQUESTS, not among the errors");
        assert_eq!(lines[0].1, "1000 messages/s, 1.0 MiB/s, 2000 in 2.0 s");
        assert!(lines.iter().any(|(name, text)| *name == "errors" && text == "0"));
    }

    #[test]
    fn latencies_are_shown_with_a_unit_people_read() {
        assert_eq!([999, 1_500, 2_500_000].map(people), ["999 µs", "1.50 ms", "2.50 s"]);
    }
}
