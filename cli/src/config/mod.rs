//! `carillon config`: settings of servers, without a server.

mod page;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use serve::settings::{self, Layers, Problem, Settings, Source};

use crate::exit::{Exit, Failure};
use crate::files;
use crate::output::{Form, Output};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Look at a file of settings, and say what is wrong with it. Needs no server, and looks at nothing but the file.
    #[command(
        after_help = "Examples:\n  carillon config check /etc/carillon/broker.toml\n  carillon config check nameserver.toml --nameserver --json\n\nExit codes: 0 the settings are right, 1 they are not, 3 there is no such file."
    )]
    Check(Check),
    /// A file with every setting: what it does, what it may be, and its default.
    #[command(
        after_help = "Examples:\n  carillon config default > broker.toml\n  carillon config default --nameserver > nameserver.toml"
    )]
    Default(Which),
    /// The same as a page of Markdown, for both kinds of servers: docs/configuration.md.
    #[command(
        after_help = "Examples:\n  carillon config page > docs/configuration.md\n  carillon config page | grep retention"
    )]
    Page,
}

#[derive(Debug, Args)]
pub struct Check {
    /// TOML.
    file: PathBuf,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
pub struct Which {
    /// Of a name server. Default: of a broker.
    #[arg(long)]
    nameserver: bool,
}

pub fn run(verb: &Verb, output: &Output) -> Result<(), Failure> {
    match verb {
        Verb::Check(check) => match check.which.nameserver {
            true => look::<nameserver::config::Config>(&check.file, output),
            false => look::<broker::config::Config>(&check.file, output),
        },
        Verb::Default(which) => Ok(output.raw(&default(which.nameserver))?),
        Verb::Page => Ok(output.raw(&page::page())?),
    }
}

fn default(is_nameserver: bool) -> String {
    let (program, settings) = match is_nameserver {
        true => ("nameserver", settings::file::<nameserver::config::Config>()),
        false => ("broker", settings::file::<broker::config::Config>()),
    };
    format!(
        "# Settings of a Carillon {program}, with their defaults: `{program} --config FILE`.\n\
         # Flags beat CARILLON__SECTION__KEY variables, which beat this file, which beats the defaults.\n\
         # They are read at the start: a change takes effect when the {program} is started again.\n\
         # A line may be left out where its default is right.\n\n{settings}"
    )
}

fn look<C: Settings>(file: &Path, output: &Output) -> Result<(), Failure> {
    let name = file.display().to_string();
    let text = files::read_text(file).map_err(|error| {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        Failure::new(exit, format!("{name}: {error}"))
    })?;
    let mut layers = Layers::<C>::new();
    layers.file(&name, &text);
    let problems = layers.build().err().map(|refused| refused.problems).unwrap_or_default();
    match output.form {
        Form::Json => {
            let problems: Vec<_> = problems.iter().map(problem).collect();
            output.document(&json!({"file": name, "problems": problems}))?;
        }
        Form::Quiet => {}
        Form::People if problems.is_empty() => output.line(format!("{name}: the settings are right"))?,
        Form::People => problems.iter().try_for_each(|problem| output.line(problem.to_string()))?,
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Failed, "")) }
}

fn problem(problem: &Problem) -> Value {
    let place = match problem.origin() {
        Some(Source::File { place, .. }) => Some(*place),
        _ => None,
    };
    let (key, value, said, nearest) = match problem {
        Problem::Syntax { problem, .. } => (None, None, problem.as_str(), None),
        Problem::UnknownKey { key, value, nearest, .. } => (Some(&**key), Some(value), "unknown key", nearest.as_ref()),
        Problem::WrongValue { key, value, problem, .. } => (Some(&**key), Some(value), problem.as_str(), None),
        Problem::OutOfRange { key, value, limit, .. } => (Some(*key), Some(value), limit.as_str(), None),
    };
    json!({
        "line": place.map(|place| place.line),
        "column": place.map(|place| place.column),
        "key": key,
        "value": value,
        "problem": said,
        "did_you_mean": nearest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_files_are_right_and_say_the_defaults() {
        let mut layers = Layers::<broker::config::Config>::new();
        layers.file("broker.toml", &default(false));
        assert_eq!(layers.build(), Ok(broker::config::Config::default()));
        let mut layers = Layers::<nameserver::config::Config>::new();
        layers.file("nameserver.toml", &default(true));
        assert_eq!(layers.build(), Ok(nameserver::config::Config::default()));
    }

    #[test]
    fn the_page_in_the_repository_is_what_the_code_says() {
        let written = include_str!("../../../docs/configuration.md");
        let said = page::page();
        let differs = written.lines().zip(said.lines()).find(|(written, said)| written != said);
        assert!(
            written == said,
            "run: cargo run -p carillon-cli -- config page > docs/configuration.md\nfirst difference: {differs:?}"
        );
    }

    #[test]
    fn problems_have_their_place_for_programs_too() {
        let mut layers = Layers::<broker::config::Config>::new();
        layers.file("c.toml", "[storage]\nread_thraeds = 2\n\n[grpc]\n  listen = \"8081\"\n");
        let found: Vec<_> = layers.build().expect_err("two problems").problems.iter().map(problem).collect();
        let expected = json!([
            {"line": 2, "column": 1, "key": "storage.read_thraeds", "value": "2", "problem": "unknown key",
                "did_you_mean": "storage.read_threads"},
            {"line": 5, "column": 3, "key": "grpc.listen", "value": "\"8081\"", "did_you_mean": null,
                "problem": "write host:port, such as \"127.0.0.1:8081\"; port 0 is any free one"},
        ]);
        assert_eq!(Value::from(found), expected);
    }
}
