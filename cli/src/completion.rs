//! `carillon completion`: what a shell has to know to complete lines, and the answers it asks for while one types.
//!
//! Names come from the server that the line is for, when it answers at once. Nothing is ever said about one that does not:
//! a line is being typed.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use clap::{Args, Command, CommandFactory, Parser, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{self, EnvCompleter, Shells};

use crate::admin::api::{Api, encode};
use crate::args::{Cli, Common};
use crate::context::{self, file::Contexts};
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::runtime;

/// Set by the shell that asks.
const VARIABLE: &str = "CARILLON_COMPLETE";
/// Whoever presses a key does not wait for longer.
const ANSWERED_WITHIN: Duration = Duration::from_millis(300);
/// More would fill screens.
const NAMES_MAX: usize = 1_000;

/// What a shell needs to complete verbs, flags, and the names of topics, groups, brokers, clients and contexts.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  carillon completion bash > ~/.local/share/bash-completion/completions/carillon\n  carillon completion fish > ~/.config/fish/completions/carillon.fish\n\nFor zsh: source <(carillon completion zsh), after compinit. Names are asked of the server that the line is for; it\nhas 300 ms to answer."
)]
pub struct Options {
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub fn run(options: &Options, output: &Output) -> Result<(), Failure> {
    let name = options.shell.to_possible_value().expect("no shell is hidden");
    let shell = SHELLS.completer(name.get_name()).ok_or_else(|| Failure::new(Exit::Usage, "no such shell"))?;
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "carillon", "carillon", "carillon", &mut script)?;
    Ok(output.bytes(&script)?)
}

/// Ends the process when a shell has asked for completions.
pub fn answer() {
    CompleteEnv::with_factory(command).var(VARIABLE).shells(SHELLS).complete();
}

const SHELLS: Shells<'static> = Shells(&[
    &Mended { shell: env::Bash, script: &[], complete: Some(complete_parted) },
    &Mended { shell: env::Zsh, script: ZSH, complete: None },
    &Mended { shell: env::Fish, script: FISH, complete: None },
]);

/// Zsh hands words over as they were typed: without their quotes they are what the command will be given. A tilde that
/// is completed like any other letter would be quoted, and stand for itself.
const ZSH: &[(&str, &str)] = &[
    (
        "    local completions=(",
        "    local -a line=(\"${(@Q)words}\")\n    line[CURRENT]=\"${(Q)PREFIX}\"\n    local completions=(",
    ),
    ("\"${words[@]}\"", "\"${(@)line}\""),
    (
        "    if [[ -n $completions ]]; then",
        "    compset -P '\\~/' && completions=(\"${(@)completions#\\~/}\")\n\n    if [[ -n $completions ]]; then",
    ),
];
/// Fish takes the quotes off all words but the one that is being typed.
const FISH: &[(&str, &str)] = &[("(commandline --current-token)", "(commandline --current-token | string unescape)")];

/// How the words of a command line are completed, and the candidates written.
type Complete = fn(&mut Command, Vec<OsString>, Option<&Path>, &mut dyn Write) -> Result<(), io::Error>;

/// As the library's, with other text in some places of its script, or completed in another way.
struct Mended<C> {
    shell: C,
    script: &'static [(&'static str, &'static str)],
    complete: Option<Complete>,
}

impl<C: EnvCompleter> EnvCompleter for Mended<C> {
    fn name(&self) -> &'static str {
        self.shell.name()
    }

    fn is(&self, name: &str) -> bool {
        self.shell.is(name)
    }

    fn write_registration(
        &self,
        var: &str,
        name: &str,
        bin: &str,
        completer: &str,
        buf: &mut dyn Write,
    ) -> Result<(), io::Error> {
        let mut script = Vec::new();
        self.shell.write_registration(var, name, bin, completer, &mut script)?;
        let script = String::from_utf8(script).map_err(io::Error::other)?;
        let mended = self.script.iter().fold(script, |script, (theirs, ours)| script.replacen(theirs, ours, 1));
        buf.write_all(mended.as_bytes())
    }

    fn write_complete(
        &self,
        cmd: &mut Command,
        args: Vec<OsString>,
        current_dir: Option<&Path>,
        buf: &mut dyn Write,
    ) -> Result<(), io::Error> {
        match self.complete {
            Some(complete) => complete(cmd, args, current_dir, buf),
            None => self.shell.write_complete(cmd, args, current_dir, buf),
        }
    }
}

/// Bash parts words at more than blanks: an address with a port comes as three.
fn complete_parted(
    cmd: &mut Command,
    args: Vec<OsString>,
    current_dir: Option<&Path>,
    buf: &mut dyn Write,
) -> Result<(), io::Error> {
    let variable = |name: &str| std::env::var(name).ok();
    let index = variable("_CLAP_COMPLETE_INDEX").and_then(|index| index.parse().ok()).unwrap_or_default();
    let separator = variable("_CLAP_IFS").unwrap_or_else(|| "\n".into());
    let words = args.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let Joined { words, index, begun } = Joined::new(words, index);
    let words = words.into_iter().map(OsString::from).collect();
    let candidates = clap_complete::engine::complete(cmd, words, index, current_dir)?;
    let values = candidates.iter().map(|candidate| candidate.get_value().to_string_lossy());
    // What stands before the last parting is on the line already.
    let rest: Vec<_> = values.map(|value| value.strip_prefix(&*begun).unwrap_or(&value).to_owned()).collect();
    buf.write_all(rest.join(&separator).as_bytes())
}

/// Words as the command will be given them.
#[derive(Debug, PartialEq, Eq)]
struct Joined {
    words: Vec<String>,
    /// The one that is being typed.
    index: usize,
    /// The part of it that the shell took for words of their own.
    begun: String,
}

impl Joined {
    fn new(parts: Vec<String>, at: usize) -> Self {
        let mut joined = Self { words: Vec::new(), index: 0, begun: String::new() };
        let mut is_parting = false;
        for (part, number) in parts.into_iter().zip(0..) {
            let was_parting = is_parting;
            is_parting = !part.is_empty() && part.chars().all(|character| "=:@".contains(character));
            let begun = match joined.words.last_mut() {
                Some(last) if was_parting || is_parting => {
                    let begun = last.clone();
                    last.push_str(&part);
                    begun
                }
                _ => {
                    joined.words.push(part);
                    String::new()
                }
            };
            if number == at {
                (joined.index, joined.begun) = (joined.words.len() - 1, begun);
            }
        }
        joined
    }
}

/// What the name that stands in some place is a name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Topic,
    Group,
    Node,
    Client,
    Context,
}

impl Kind {
    /// Of an argument of the verb at `path`. Names of what is being created are the user's.
    fn of(path: &[&str], argument: &str) -> Option<Self> {
        match (path, argument) {
            (_, "context") | (["context", "use" | "show" | "remove"], "name") => Some(Self::Context),
            ([.., "create"], "name") => None,
            (_, "topic") | (["topic", ..], "name") => Some(Self::Topic),
            (_, "group" | "consumer_group") | (["group", ..], "name") => Some(Self::Group),
            (["node", ..], "name") => Some(Self::Node),
            (["client", ..], "id") => Some(Self::Client),
            _ => None,
        }
    }

    /// Where the admin API lists them, and what of each is its name.
    fn list(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Topic => Some(("/topics", "name")),
            Self::Group => Some(("/groups", "name")),
            Self::Node => Some(("/nodes", "name")),
            Self::Client => Some(("/clients", "client_id")),
            Self::Context => None,
        }
    }
}

/// The command line with completers in every place that has a name in it.
fn command() -> Command {
    with_completers(Cli::command(), &mut Vec::new())
}

fn with_completers(command: Command, path: &mut Vec<String>) -> Command {
    let at: Vec<_> = path.iter().map(String::as_str).collect();
    let command = command.mut_args(|argument| match Kind::of(&at, argument.get_id().as_str()) {
        Some(kind) => argument.add(ArgValueCompleter::new(move |current: &OsStr| candidates(kind, current))),
        None => argument,
    });
    command.mut_subcommands(|inner| {
        path.push(inner.get_name().to_owned());
        let inner = with_completers(inner, path);
        path.pop();
        inner
    })
}

fn candidates(kind: Kind, current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(begun) = current.to_str() else { return Vec::new() };
    let names = match kind.list() {
        Some((path, name)) => asked(path, name),
        None => contexts(),
    };
    names.into_iter().filter(|name| name.starts_with(begun)).map(CompletionCandidate::new).collect()
}

fn contexts() -> Vec<String> {
    let contexts = context::path().and_then(|path| Contexts::read(&path)).unwrap_or_default();
    contexts.contexts.into_keys().collect()
}

fn asked(path: &str, name: &str) -> Vec<String> {
    let words = std::env::args_os().skip_while(|word| word != "--").map(|word| word.to_string_lossy().into_owned());
    let words = Joined::new(words.collect(), 0).words;
    let Ok(target) = common(&words).target() else { return Vec::new() };
    let ask = async {
        let mut api = Api::new(&target.http);
        // One page: whoever has more topics types more of their names.
        api.page(&format!("{path}?limit={}", encode(&NAMES_MAX.to_string()))).await
    };
    let page = runtime::block_on(async { runtime::within(ANSWERED_WITHIN, ask).await });
    let items = page.and_then(Result::ok).map(|page| page.items).unwrap_or_default();
    items.iter().filter_map(|item| item[name].as_str().map(str::to_owned)).collect()
}

/// Which server the line is for. It is not finished, so only these flags are looked for.
fn common(words: &[String]) -> Common {
    let of = |flag: &str| {
        let after = |(at, word): (usize, &String)| match word.strip_prefix(flag)? {
            "" => words.get(at + 1).cloned(),
            rest => rest.strip_prefix('=').map(str::to_owned),
        };
        words.iter().enumerate().filter_map(after).next_back()
    };
    let common = Cli::parse_from(["carillon", "check"]).common;
    Common { server: of("--server"), grpc: of("--grpc"), context: of("--context"), ..common }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_where_they_stand_and_not_where_something_is_made() {
        for (path, argument, kind) in [
            (&["topic", "describe"][..], "name", Some(Kind::Topic)),
            (&["topic", "create"], "name", None),
            (&["send"], "topic", Some(Kind::Topic)),
            (&["receive"], "consumer_group", Some(Kind::Group)),
            (&["group", "delete"], "name", Some(Kind::Group)),
            (&["client", "list"], "group", Some(Kind::Group)),
            (&["client", "show"], "id", Some(Kind::Client)),
            (&["node", "show"], "name", Some(Kind::Node)),
            (&["message", "get"], "id", None),
            (&["context", "use"], "name", Some(Kind::Context)),
            (&["context", "add"], "name", None),
            (&["topic", "list"], "context", Some(Kind::Context)),
        ] {
            assert_eq!(Kind::of(path, argument), kind, "{path:?} {argument}");
        }
        command().debug_assert();
    }

    #[test]
    fn scripts_of_the_library_still_have_the_places_that_are_mended() {
        let script = |shell: &dyn EnvCompleter| {
            let mut script = Vec::new();
            shell.write_registration(VARIABLE, "carillon", "carillon", "carillon", &mut script).unwrap();
            String::from_utf8(script).unwrap()
        };
        for (theirs, mended, places) in
            [(script(&env::Zsh), script(SHELLS.0[1]), ZSH), (script(&env::Fish), script(SHELLS.0[2]), FISH)]
        {
            for (before, after) in places {
                assert!(theirs.matches(before).count() == 1 && mended.contains(after), "{before} in:\n{theirs}");
            }
        }
    }

    #[test]
    fn words_that_bash_has_parted_are_put_together() {
        let joined = |line: &[&str], at| Joined::new(line.iter().map(|word| (*word).to_owned()).collect(), at);
        let is = |words: &[&str], index, begun: &str| {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            Joined { words, index, begun: begun.into() }
        };
        let line = ["carillon", "--server", "=", "a", ":", "1", "topic", "describe", "o"];
        assert_eq!(joined(&line, 8), is(&["carillon", "--server=a:1", "topic", "describe", "o"], 4, ""));
        let line = ["carillon", "client", "show", "host", "@", "1", "@", "a"];
        assert_eq!(joined(&line, 7), is(&["carillon", "client", "show", "host@1@a"], 3, "host@1@"));
        assert_eq!(joined(&["carillon", ""], 1), is(&["carillon", ""], 1, ""));
    }

    #[test]
    fn the_server_of_an_unfinished_line_is_found() {
        let of = |line: &str| {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            let common = common(&words);
            (common.server, common.grpc, common.context)
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(of("-- carillon --server a:1 topic describe "), (text("a:1"), None, None));
        assert_eq!(of("-- carillon topic --server=b --grpc c:2 describe o"), (text("b"), text("c:2"), None));
        assert_eq!(of("-- carillon topic describe --context"), (None, None, None));
        assert_eq!(of("-- carillon topic describe --context p"), (None, None, text("p")));
    }
}
