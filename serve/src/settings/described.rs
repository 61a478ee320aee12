//! What operators are told of settings: a file with all of them and their defaults, and a page of documentation.
//!
//! Names, forms and reasons stand in a table beside the structs; defaults are those of the structs, and limits those that
//! [`Settings::check`] asks for. A key without a description, or a description without a key, is found by the test of
//! each server, which calls [`undescribed`].

use std::collections::BTreeMap;
use std::fmt::Write as _;

use toml::Value;

use super::layers::leaves;
use super::{Checks, Settings};

/// Comments of a file are broken here.
const COMMENT_COLUMNS: usize = 100;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// With its sections.
    pub name: &'static str,
    pub form: Form,
    /// Why it is there, and what it does, in whole sentences.
    pub why: &'static str,
}

/// How a value is written.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    Text,
    Path,
    /// `host:port`.
    Address,
    /// Several of them.
    Addresses,
    Size,
    Duration,
    /// Of what.
    Number(&'static str),
    Switch,
    Words(&'static [&'static str]),
}

impl Form {
    fn text(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Path => "path".into(),
            Self::Address => "`host:port`".into(),
            Self::Addresses => "list of `host:port`".into(),
            Self::Size => "size".into(),
            Self::Duration => "duration".into(),
            Self::Number(of) => format!("number of {of}"),
            Self::Switch => "`true`, `false`".into(),
            Self::Words(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        }
    }

    /// For keys that have no default.
    fn example(self) -> Value {
        let text = |text: &str| Value::String(text.into());
        match self {
            Self::Text => text("text"),
            Self::Path => text("/etc/carillon/file"),
            Self::Address => text("broker-a.example.com:8081"),
            Self::Addresses => Value::Array(vec![text("ns-1.example.com:9876")]),
            Self::Size => text("100GiB"),
            Self::Duration => text("30s"),
            Self::Number(_) => Value::Integer(1),
            Self::Switch => Value::Boolean(true),
            Self::Words(words) => text(words[0]),
        }
    }
}

/// A key with what the code says of it.
struct Entry {
    key: Key,
    /// None = there is no value unless one is given.
    default: Option<Value>,
    limits: Vec<String>,
}

/// Keys that exist and are not described, and those that are described, or described twice, and do not exist.
pub fn undescribed<C: Settings>() -> Vec<String> {
    let known = leaves(&table(&C::with_every_key()));
    let mut counts: BTreeMap<String, usize> = known.into_keys().map(|key| (key, 1)).collect();
    for key in C::described() {
        match counts.get_mut(key.name) {
            Some(missing @ 1) => *missing = 0,
            _ => drop(counts.insert(key.name.into(), 2)),
        }
    }
    counts.into_iter().filter(|(_, count)| *count > 0).map(|(key, _)| key).collect()
}

/// A file of settings with every key: what it does, what it may be, and its default. What has no default is commented out.
pub fn file<C: Settings>() -> String {
    let mut text = String::new();
    let mut section = "";
    for Entry { key, default, limits } in entries::<C>() {
        let (own, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
        if own != section {
            section = own;
            let _ = writeln!(text, "\n[{section}]");
        }
        text.push('\n');
        comment(&mut text, key.why);
        comment(&mut text, &format!("Values: {}.", values(key.form, &limits)));
        let _ = match default {
            Some(value) => writeln!(text, "{name} = {value}"),
            None => writeln!(text, "# {name} = {}", key.form.example()),
        };
    }
    text.trim_start().to_owned()
}

/// The same as a table of Markdown.
pub fn page<C: Settings>() -> String {
    let mut text = String::from("| Key | Default | Values | What it does |\n|---|---|---|---|\n");
    for Entry { key, default, limits } in entries::<C>() {
        let default = default.map_or_else(|| "none".into(), |value| format!("`{value}`"));
        let values = values(key.form, &limits).replace('|', "\\|");
        let _ = writeln!(text, "| `{}` | {default} | {values} | {} |", key.name, key.why);
    }
    text
}

fn entries<C: Settings>() -> Vec<Entry> {
    let defaults = leaves(&table(&C::default()));
    let mut checks = Checks::default();
    C::with_every_key().check(&mut checks);
    let mut limits = checks.limits();
    let entry = |key: Key| Entry {
        key,
        default: defaults.get(key.name).cloned(),
        limits: limits.remove(key.name).unwrap_or_default(),
    };
    C::described().into_iter().map(entry).collect()
}

fn table(settings: &impl Settings) -> toml::Table {
    match Value::try_from(settings) {
        Ok(Value::Table(table)) => table,
        other => panic!("settings are tables of plain values, and not {other:?}"),
    }
}

fn values(form: Form, limits: &[String]) -> String {
    let limits = limits.iter().map(|limit| limit.strip_prefix("must be ").unwrap_or(limit).to_owned());
    let form_text = || std::iter::once(form.text());
    let parts: Vec<_> = match form {
        // The limit of a text is its form.
        Form::Text if limits.len() > 0 => limits.collect(),
        // And the form of an address is its limit.
        Form::Address | Form::Addresses => form_text().collect(),
        _ => form_text().chain(limits).collect(),
    };
    parts.join("; ")
}

fn comment(text: &mut String, sentences: &str) {
    let mut width = 0;
    for word in sentences.replace('`', "").split_whitespace() {
        let word = unlinked(word);
        if width == 0 || width + 1 + word.len() > COMMENT_COLUMNS {
            text.push_str(if width == 0 { "#" } else { "\n#" });
            width = 1;
        }
        text.push(' ');
        text.push_str(&word);
        width += 1 + word.len();
    }
    text.push('\n');
}

/// Links are for the page: a file names what they lead to.
fn unlinked(word: &str) -> String {
    let parts =
        word.strip_prefix('[').and_then(|rest| rest.split_once("](")).and_then(|(_, rest)| rest.split_once(')'));
    parts.map_or_else(|| word.to_owned(), |(page, rest)| format!("docs/{page}{rest}"))
}
