//! Verbs that look at and change what a server has, through its admin API.

pub mod api;
pub mod client;
pub mod group;
pub mod nameserver;
pub mod node;
pub mod reset;
pub mod topic;

use std::io::{self, BufRead, IsTerminal, Write};

use serde::de::DeserializeOwned;
use serde_json::Value;

use self::api::{Api, Page};
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

/// Brokers that did not answer: what they know is missing in the answer.
pub fn warn_of_unreachable(unreachable: &[Value]) {
    for broker in unreachable {
        let text = |name: &str| broker[name].as_str().unwrap_or("?").to_owned();
        eprintln!("warning: without {}: {}", text("broker"), text("reason"));
    }
}

/// The brokers that an answer names so.
pub fn unreachable(answer: &Value) -> &[Value] {
    answer["unreachable"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A list in the form that was asked for. `name`: all that is said of an item when only names are wanted.
fn list<T: DeserializeOwned>(
    (api, path): (&Api, &str),
    page: Page,
    output: &Output,
    name: impl Fn(&T) -> &str,
    header: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    if output.form == Form::Json {
        return Ok(output.document(&page)?);
    }
    let items: Vec<T> = api.read(path, Value::Array(page.items))?;
    if output.form == Form::Quiet {
        return Ok(items.iter().try_for_each(|item| output.line(name(item)))?);
    }
    Ok(output.table(header, items.iter().map(row).collect())?)
}

/// What the server says, for people. None when another form was asked for, and given: all of it, or its `names` only.
async fn read<T: DeserializeOwned>(
    api: &mut Api,
    path: &str,
    output: &Output,
    names: impl Fn(&T) -> Vec<&str>,
) -> Result<Option<T>, Failure> {
    let answer = api.get(path).await?;
    warn_of_unreachable(unreachable(&answer.body));
    if output.form == Form::Json {
        output.document(&answer.body)?;
        return Ok(None);
    }
    let read: T = api.read(path, answer.body)?;
    if output.form == Form::Quiet {
        names(&read).into_iter().try_for_each(|name| output.line(name))?;
        return Ok(None);
    }
    Ok(Some(read))
}

pub fn or_dash(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| "-".into())
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
