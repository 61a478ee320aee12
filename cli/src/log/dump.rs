//! `carillon log dump`: one line for each segment, batch and record.

use base::LogPosition;
use clap::Args;
use serde_json::{Map, Value, json};
use storage::disk::Disk;
use storage::log::recovery::Found;
use storage::log::walk::{self, Step, Walked};
use storage::record;
use storage::record::Framed;
use storage::verify;

use super::Directory;
use super::fields::{self, Names};
use crate::exit::{Exit, Failure};
use crate::output::{Form, Output};

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub directory: Directory,
    /// Only batches at or after this position.
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
    /// Only batches before this position.
    #[arg(long, value_name = "POSITION")]
    to: Option<u64>,
    /// Show bodies of messages too.
    #[arg(long)]
    bodies: bool,
}

impl Options {
    fn is_wanted(&self, position: LogPosition) -> bool {
        self.from.is_none_or(|from| position.0 >= from) && self.to.is_none_or(|to| position.0 < to)
    }
}

/// Says lines until saying fails, then nothing more.
struct Lines<'a> {
    options: &'a Options,
    output: &'a Output,
    names: Names,
    result: Result<(), Failure>,
}

pub fn run(options: &Options, disk: &dyn Disk, output: &Output) -> Result<(), Failure> {
    let mut lines = Lines { options, output, names: Names::default(), result: Ok(()) };
    let start = storage::verify::start_of(disk);
    let walked = start.and_then(|start| walk::walk(disk, start.as_ref(), &mut |step| lines.step(step)));
    let walked = walked.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    lines.end(&walked);
    lines.result?;
    match walked.refusal {
        Some(refusal) => Err(Failure::new(Exit::Failed, refusal.to_string())),
        None => Ok(()),
    }
}

impl Lines<'_> {
    fn step(&mut self, step: Step<'_>) {
        match step {
            Step::Segment(entered) => {
                let header = entered.header;
                let fields = json!({"name": entered.name, "size": header.size, "index": header.base_index.0,
                    "term": header.base_term.0});
                // Also when its batches are not wanted, unless all of them lie outside.
                if self.options.to.is_none_or(|to| header.base.0 < to)
                    && self.options.from.is_none_or(|from| header.end().0 > from)
                {
                    self.say("", header.base, "segment", object(fields));
                }
            }
            Step::Batch(found) => self.batch(&found),
            Step::Hole(hole) => {
                if self.options.is_wanted(hole.range.start) {
                    let fields = json!({"to": hole.range.end.0, "why": hole.flaw.to_string()});
                    self.say("", hole.range.start, "damaged", object(fields));
                }
            }
        }
    }

    fn batch(&mut self, found: &Found<'_>) {
        let header = &found.header;
        let is_wanted = self.options.is_wanted(header.position);
        if is_wanted {
            let fields = json!({"index": header.index.0, "term": header.term.0, "records": header.records,
                "bytes": header.total(), "durable": header.durable().0, "stored_at": fields::time(header.stored_at)});
            self.say("  ", header.position, "batch", object(fields));
        }
        let read = record::each(found, &mut |position, framed| {
            self.names.learn(&framed.record);
            if is_wanted {
                self.record(position, framed);
            }
        });
        if let (Err((position, cause)), true) = (read, is_wanted) {
            self.say("    ", position, "unreadable", object(json!({"why": cause.to_string()})));
        }
    }

    fn record(&mut self, position: LogPosition, framed: &Framed<'_>) {
        let (kind, mut fields) = fields::of(&framed.record, &self.names);
        if framed.record.has_body() {
            match verify::check_body(framed) {
                Ok(message) => {
                    fields.extend(fields::of_message(&message));
                    if self.options.bodies {
                        fields.insert("body".into(), json!(String::from_utf8_lossy(&message.body)));
                    }
                }
                Err(flaw) => drop(fields.insert("wrong".into(), json!(flaw.to_string()))),
            }
        }
        self.say("    ", position, kind, fields);
    }

    fn end(&mut self, walked: &Walked) {
        if let Some((position, bytes)) = walked.report.torn
            && self.options.is_wanted(position)
        {
            self.say("", position, "torn", object(json!({"bytes": bytes})));
        }
        if self.options.is_wanted(walked.end) {
            self.say("", walked.end, "end", Map::new());
        }
    }

    fn say(&mut self, indent: &str, position: LogPosition, kind: &str, fields: Map<String, Value>) {
        if self.result.is_err() {
            return;
        }
        let said = match self.output.form {
            Form::Json => {
                let mut line = object(json!({"position": position.0, "kind": kind}));
                line.extend(fields);
                self.output.object(&line)
            }
            Form::Quiet => self.output.line(position.to_string()),
            Form::People => {
                let line = format!("{indent}{position} {kind} {}", fields::line(&fields));
                self.output.line(line.trim_end())
            }
        };
        self.result = said.map_err(Failure::from);
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("fields are written as an object: {other}"),
    }
}
