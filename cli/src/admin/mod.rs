//! Verbs that look at and change what a server has, through its admin API.

pub mod api;
pub mod client;
pub mod group;
pub mod nameserver;
pub mod node;
pub mod topic;

use std::io::{self, BufRead, IsTerminal, Write};

use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::output::{Form, Output};

/// What was done to an object, in the form that was asked for.
fn say(output: &Output, object: &Value, name: &str, sentence: String) -> Result<(), Failure> {
    match output.form {
        Form::Json => output.document(object)?,
        Form::Quiet => output.line(name)?,
        Form::People => output.line(sentence)?,
    }
    Ok(())
}

/// A change is done, and some brokers have yet to follow.
fn warn_of_pending(answer: &Value) {
    let pending = answer["pending_on"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<_> = pending.iter().filter_map(Value::as_str).collect();
    if !names.is_empty() {
        eprintln!("warning: not yet on {}; it gets there as soon as they can be reached", names.join(", "));
    }
}

/// Asks before something is lost. Where nobody can answer, `--yes` has to have been given.
fn confirm(what: &str, is_agreed: bool) -> Result<(), Failure> {
    if is_agreed {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, format!("{what}: this is not a terminal, so --yes is needed")));
    }
    eprint!("{what}. Go on? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failed, "nothing was done")),
    }
}
