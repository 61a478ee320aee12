//! `carillon check`: one question to a running broker, answered as a plug-in of a monitoring system.
//!
//! One line and an exit code. Each question asks the HTTP side of one broker once, and compares what it says with two
//! thresholds.

mod look;
mod threshold;

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::threshold::{Figure, Threshold};
use crate::args::Common;
use crate::doctor::Level;
use crate::exit::Failure;
use crate::output::{Form, Output};
use crate::runtime;

/// Shorter than what plug-ins are given themselves.
const ANSWERED_WITHIN: Duration = Duration::from_secs(9);

/// Ask one broker whether something is as it should be, as a monitoring system does.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  carillon check\n  carillon check lag --group billing --warning 5m --critical 100000\n  carillon check disk --warning 20% --critical 50GiB\n\nThresholds, and what they are where none is given (warning, critical):\n* ready   none: critical when /readyz says no, or nothing answers\n* lag     an age or a number of messages, reached by a group and topic (10m, 1h)\n* dlq     a number of dead letters of a group (1, 1000)\n* timers  how late the oldest due message is (5s, 60s)\n* disk    free space, as a share or a size, or the time until the disk is at its reserve (6h, 1h)\n\nExit codes: 0 ok, 1 warning, 2 critical, 3 unknown. One line, and figures behind a '|'."
)]
pub struct Options {
    #[arg(value_enum, default_value_t = What::Ready, value_name = "WHAT")]
    what: What,
    /// From here on it is a warning.
    #[arg(short, long, value_parser = threshold::read, value_name = "THRESHOLD")]
    warning: Option<Threshold>,
    /// From here on it is critical.
    #[arg(short, long, value_parser = threshold::read, value_name = "THRESHOLD")]
    critical: Option<Threshold>,
    /// lag, dlq: only this consumer group. Default: the worst of all.
    #[arg(short, long, value_name = "GROUP")]
    group: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// The server takes and hands out messages.
    Ready,
    /// How far consumer groups are behind.
    Lag,
    /// Dead letters that are kept.
    Dlq,
    /// Delayed messages that are due and not delivered yet.
    Timers,
    /// Space on the file system of the data directory.
    Disk,
}

impl What {
    fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Lag => "lag",
            Self::Dlq => "dlq",
            Self::Timers => "timers",
            Self::Disk => "disk",
        }
    }
}

/// What a question came to.
#[derive(Debug)]
struct Answer {
    level: Level,
    text: String,
    figures: Vec<Figure>,
}

impl Answer {
    fn unknown(text: impl Into<String>) -> Self {
        Self { level: Level::Unknown, text: text.into(), figures: Vec::new() }
    }

    /// Says which brokers did not tell what they know.
    fn without(self, unreachable: &[Value]) -> Self {
        let names: Vec<_> = unreachable.iter().filter_map(|broker| broker["broker"].as_str()).collect();
        match names.is_empty() {
            true => self,
            false => Self { text: format!("{}; without {}", self.text, names.join(", ")), ..self },
        }
    }
}

pub async fn run(options: &Options, common: &Common, output: &Output) -> Result<(), Failure> {
    let what = options.what;
    // A wrong line is not known to be anything: whoever watches has to see it.
    let answer = match (common.target(), threshold::misfit(options)) {
        (Err(failure), _) => Answer::unknown(failure.to_string()),
        (_, Some(misfit)) => Answer::unknown(misfit),
        (Ok(target), None) => {
            let answer = runtime::within(ANSWERED_WITHIN, look::look(options, &target)).await;
            answer.unwrap_or_else(|| {
                let text = format!("{} gave no answer within {} s", target.http, ANSWERED_WITHIN.as_secs());
                // A server that does not answer is not ready; of all else nothing is known.
                let level = if what == What::Ready { Level::Critical } else { Level::Unknown };
                Answer { level, text, figures: Vec::new() }
            })
        }
    };
    match output.form {
        Form::Json => {
            let figures: serde_json::Map<_, _> =
                answer.figures.iter().map(|figure| (figure.name.into(), json!(figure.value))).collect();
            let level = answer.level.name();
            output
                .document(&json!({"check": what.word(), "state": level, "detail": answer.text, "figures": figures}))?;
        }
        Form::Quiet => {}
        Form::People => output.line(line(what, &answer))?,
    }
    match answer.level {
        Level::Ok => Ok(()),
        bad => Err(Failure::new(bad.exit(), "")),
    }
}

/// `CARILLON LAG WARNING - text | figures`.
fn line(what: What, answer: &Answer) -> String {
    let (what, level) = (what.word().to_uppercase(), answer.level.name().to_uppercase());
    // What stands behind this character is read as figures; names of topics may have it.
    let text = answer.text.replace('|', "¦").replace('\n', " ");
    let figures: Vec<_> = answer.figures.iter().map(Figure::to_string).collect();
    let rest = if figures.is_empty() { String::new() } else { format!(" | {}", figures.join(" ")) };
    format!("CARILLON {what} {level} - {text}{rest}")
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
