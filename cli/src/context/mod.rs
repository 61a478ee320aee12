//! `carillon context`: servers by name, so that their addresses need not be said each time.

pub mod file;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::file::{Context, Contexts};
use crate::admin::or_dash;
use crate::args::{self, Common};
use crate::exit::{Exit, Failure};
use crate::output::{Form, Output};

const NAME_BYTES_MAX: usize = 64;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Give a server a name. The addresses are those of --server and --grpc.
    #[command(
        after_help = "Examples:\n  carillon context add prod --server broker-a.example.com --use\n  carillon context add test --server 10.0.0.7:8080 --grpc 10.0.0.7:9081 --replace"
    )]
    Add(Add),
    /// Use this one from now on, where neither flags nor CARILLON_SERVER say anything else.
    #[command(after_help = "Examples:\n  carillon context use prod\n  carillon context use --none")]
    Use {
        /// Name of the context.
        #[arg(required_unless_present = "none")]
        name: Option<String>,
        /// None: 127.0.0.1 again.
        #[arg(long, conflicts_with = "name")]
        none: bool,
    },
    /// All contexts; the active one is marked.
    #[command(after_help = "Examples:\n  carillon context list\n  carillon context list -q")]
    List,
    /// One context, or what calls use now and why.
    #[command(after_help = "Examples:\n  carillon context show\n  carillon context show prod --json")]
    Show {
        /// Name of the context. Default: what would be used now.
        name: Option<String>,
    },
    /// Forget a context. The server does not notice.
    #[command(after_help = "Examples:\n  carillon context remove test\n  carillon context remove test -q")]
    Remove {
        /// Name of the context.
        name: String,
    },
}

#[derive(Debug, Args)]
pub struct Add {
    /// Letters, digits, '_', '-', '.'; at most 64.
    #[arg(value_parser = name)]
    name: String,
    /// Use it from now on.
    #[arg(long = "use")]
    is_used: bool,
    /// In place of one with this name.
    #[arg(long)]
    replace: bool,
}

pub fn run(verb: &Verb, common: &Common, output: &Output) -> Result<(), Failure> {
    let path = path()?;
    let mut contexts = Contexts::read(&path)?;
    let (sentence, object, name) = match verb {
        Verb::Add(add) => {
            let context = Context { server: common.server.clone(), grpc: common.grpc.clone() };
            let sentence = insert(&mut contexts, add, context)?;
            (sentence, shown(&add.name, &contexts)?, add.name.as_str())
        }
        Verb::Use { name, .. } => {
            name.as_deref().map(|name| contexts.get(name)).transpose()?;
            contexts.active.clone_from(name);
            let sentence = name.as_ref().map_or_else(|| "no context is used".into(), |name| format!("using {name}"));
            (sentence, json!({"active": name}), name.as_deref().unwrap_or_default())
        }
        Verb::Remove { name } => {
            let object = shown(name, &contexts)?;
            contexts.contexts.remove(name);
            contexts.active.take_if(|active| active == name);
            (format!("removed {name}"), object, name.as_str())
        }
        Verb::List => return list(&contexts, output),
        Verb::Show { name: Some(name) } => return show(shown(name, &contexts)?, output),
        Verb::Show { name: None } => return current(common, output),
    };
    contexts.write(&path)?;
    match output.form {
        Form::Json => output.document(&object)?,
        Form::Quiet => output.line(name)?,
        Form::People => output.line(sentence)?,
    }
    Ok(())
}

/// Where the contexts of this user are.
pub fn path() -> Result<PathBuf, Failure> {
    file::path(|name| std::env::var_os(name)).ok_or_else(|| {
        Failure::new(Exit::Failed, "neither XDG_CONFIG_HOME nor HOME says where the file of contexts would be")
    })
}

fn insert(contexts: &mut Contexts, add: &Add, context: Context) -> Result<String, Failure> {
    let name = &add.name;
    if context == Context::default() {
        return Err(Failure::new(Exit::Usage, "a context needs --server, or --grpc, or both"));
    }
    args::check(&context, &format!("context {name}"))?;
    let there = contexts.contexts.get(name);
    if there.is_some_and(|there| *there != context) && !add.replace {
        return Err(Failure::new(Exit::Refused, format!("context {name} is there already; --replace changes it")));
    }
    let is_there = there.is_some();
    contexts.contexts.insert(name.clone(), context);
    if add.is_used {
        contexts.active = Some(name.clone());
    }
    let done = if is_there { "changed" } else { "added" };
    let is_active = contexts.active.as_ref() == Some(name);
    let hint = if is_active { ", in use".into() } else { format!("; `carillon context use {name}` uses it") };
    Ok(format!("{done} {name}{hint}"))
}

fn list(contexts: &Contexts, output: &Output) -> Result<(), Failure> {
    let names = contexts.contexts.keys();
    match output.form {
        Form::Json => {
            let items = names.map(|name| shown(name, contexts)).collect::<Result<Vec<_>, _>>()?;
            output.document(&json!({"items": items, "next_cursor": null}))?;
        }
        Form::Quiet => names.into_iter().try_for_each(|name| output.line(name))?,
        Form::People => {
            let row = |(name, context): (&String, &Context)| {
                let mark = if contexts.active.as_ref() == Some(name) { "*" } else { "" };
                vec![mark.into(), name.clone(), or_dash(&context.server), or_dash(&context.grpc)]
            };
            output.table(&["", "NAME", "SERVER", "GRPC"], contexts.contexts.iter().map(row).collect())?;
        }
    }
    Ok(())
}

fn shown(name: &str, contexts: &Contexts) -> Result<Value, Failure> {
    let context = contexts.get(name)?;
    let is_active = contexts.active.as_deref() == Some(name);
    Ok(json!({"name": name, "server": context.server, "grpc": context.grpc, "active": is_active}))
}

/// What a call without further flags uses.
fn current(common: &Common, output: &Output) -> Result<(), Failure> {
    let (target, origin) = common.target_and_origin()?;
    let name = match &origin {
        args::Origin::Context(name) => Some(name.as_str()),
        _ => None,
    };
    show(json!({"name": name, "from": origin.to_string(), "server": target.http, "grpc": target.grpc}), output)
}

fn show(object: Value, output: &Output) -> Result<(), Failure> {
    match output.form {
        Form::Json => output.document(&object)?,
        Form::Quiet => output.line(object["name"].as_str().unwrap_or_default())?,
        Form::People => {
            let text = |value: &Value| match value {
                Value::Null => "-".into(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let fields = object.as_object().map(|object| object.iter().collect::<Vec<_>>()).unwrap_or_default();
            let fields: Vec<_> = fields.into_iter().map(|(name, value)| (name.as_str(), text(value))).collect();
            output.fields(&fields)?;
        }
    }
    Ok(())
}

fn name(text: &str) -> Result<String, String> {
    let is_name = (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    match is_name {
        true => Ok(text.into()),
        false => Err(format!(
            "{text:?} is no name of a context; write 1 to {NAME_BYTES_MAX} letters, digits, '_', '-' or '.'"
        )),
    }
}
