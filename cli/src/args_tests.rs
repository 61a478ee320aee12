use clap::CommandFactory;

use super::*;

fn common(server: Option<&str>, grpc: Option<&str>) -> Common {
    Common {
        server: server.map(Into::into),
        grpc: grpc.map(Into::into),
        context: None,
        json: false,
        quiet: false,
        color: Colour::Auto,
    }
}

/// The verbs that do something, with their path.
fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    let path = format!("{path}{}", command.get_name());
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        leaves(inner, &format!("{path} "), found);
    }
    found.push((path, command.clone()));
}

/// Words of a shell line: quotes hold together, a pipe, the way to a file or a comment ends it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut is_word) = (Vec::new(), String::new(), None, false);
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => word.push(character),
            (None, '\'' | '"') => (quote, is_word) = (Some(character), true),
            (None, '|' | '>' | '#') => break,
            (None, ' ') if is_word => {
                words.push(std::mem::take(&mut word));
                is_word = false;
            }
            (None, ' ') => {}
            (None, _) => {
                word.push(character);
                is_word = true;
            }
        }
    }
    if is_word {
        words.push(word);
    }
    words
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_has_two_examples_in_its_help_and_all_of_them_can_be_read() {
    let mut verbs = Vec::new();
    leaves(&Cli::command(), "", &mut verbs);
    assert!(verbs.len() >= 18, "{}", verbs.len());
    for (path, verb) in verbs {
        let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples: Vec<_> = help.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        assert!(help.starts_with("Examples:") && examples.len() >= 2, "{path}: {help:?}");
        for example in examples {
            let command = example
                .split_once("| ")
                .map_or(example, |(first, second)| if second.starts_with("carillon") { second } else { first });
            Cli::command().try_get_matches_from(words(command)).unwrap_or_else(|error| panic!("{example}: {error}"));
            assert!(command.starts_with(path.as_str()), "{path}: {example}");
        }
    }
}

#[test]
fn a_typing_error_gets_a_suggestion_and_exit_code_2() {
    for (line, meant) in
        [("carillon topc list", "topic"), ("carillon topic lst", "list"), ("carillon dev --dta x", "--data")]
    {
        let error = Cli::command().try_get_matches_from(line.split(' ')).expect_err(line);
        assert!(error.to_string().contains(meant), "{error}");
        assert_eq!(error.exit_code(), i32::from(u8::from(Exit::Usage)));
    }
}

#[test]
fn the_conformance_scripts_calls_are_understood() {
    for line in [
        "carillon topic create orders --type fifo --queues 8",
        "carillon topic create orders --type lite --queues 1",
        "carillon topic create orders --type priority --queues 8",
        "carillon group create g --order auto --attempts 17",
        "carillon group create g --order always --attempts 3 --backoff 1s,2s",
        "carillon group create g --order always --attempts 3 --backoff exp:5s:2:2h",
    ] {
        Cli::command().try_get_matches_from(line.split(' ')).expect(line);
    }
}

#[test]
fn one_address_serves_for_both_ports_unless_the_second_is_given() {
    for (server, grpc, expected) in [
        (None, None, ("127.0.0.1:8080", "127.0.0.1:8081")),
        (Some("http://127.0.0.1:8080"), None, ("127.0.0.1:8080", "127.0.0.1:8081")),
        (Some("broker"), None, ("broker:8080", "broker:8081")),
        (Some("http://broker:9000/"), None, ("broker:9000", "broker:8081")),
        (Some("[::1]"), None, ("[::1]:8080", "[::1]:8081")),
        (Some("broker:9000"), Some("other:9001"), ("broker:9000", "other:9001")),
        (Some("broker"), Some("other"), ("broker:8080", "other:8081")),
        (None, Some("other:9001"), ("other:8080", "other:9001")),
    ] {
        let (target, _) = common(server, grpc).find(|_| None, || Ok(Contexts::default())).expect(expected.0);
        assert_eq!((target.http.as_str(), target.grpc.as_str()), expected);
    }
    for bad in ["https://broker", "broker:port", "", "a b", "user@broker"] {
        assert_eq!(common(Some(bad), None).target().expect_err(bad).exit, Exit::Usage);
    }
}

#[test]
fn flags_beat_variables_which_beat_the_active_context_and_no_server_is_made_of_two_halves() {
    let contexts = || {
        let context = |server: &str, grpc: &str| {
            let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            Context { server: text(server), grpc: text(grpc) }
        };
        let contexts = [("prod".into(), context("prod", "prod:1")), ("bad".into(), context("https://x", ""))];
        Ok(Contexts { active: Some("prod".into()), contexts: contexts.into() })
    };
    let variables = |name: &str| (name == "CARILLON_SERVER").then(|| "variable".to_owned());
    let found = |common: Common, variable: &dyn Fn(&str) -> Option<String>| {
        let (target, origin) = common.find(variable, contexts).expect("addresses");
        (target.http, target.grpc, origin)
    };
    let is = |http: &str, grpc: &str, origin| (http.to_owned(), grpc.to_owned(), origin);
    let prod = Origin::Context("prod".into());
    assert_eq!(found(common(None, None), &|_| None), is("prod:8080", "prod:1", prod.clone()));
    assert_eq!(found(common(None, None), &|_| Some(String::new())), is("prod:8080", "prod:1", prod.clone()));
    assert_eq!(found(common(None, None), &variables), is("variable:8080", "variable:8081", Origin::Variables));
    assert_eq!(found(common(Some("flag"), None), &variables), is("flag:8080", "flag:8081", Origin::Flags));
    assert_eq!(found(common(None, Some("flag:1")), &variables), is("variable:8080", "flag:1", Origin::Flags));
    let named = |name: &str| Common { context: Some(name.into()), ..common(None, None) };
    assert_eq!(found(named("prod"), &variables), is("prod:8080", "prod:1", prod));

    let missing = named("prd").find(variables, contexts).expect_err("there is none");
    assert!(missing.exit == Exit::NotFound && missing.to_string().ends_with("did you mean prod?"), "{missing}");
    let bad = named("bad").find(variables, contexts).expect_err("it has no address");
    assert!(bad.exit == Exit::Usage && bad.to_string().starts_with("context bad: --server \"https"), "{bad}");
    for both in [["--server", "x"], ["--grpc", "x"]] {
        let words = [&["carillon", "topic", "list", "--context", "prod"], &both[..]].concat();
        assert!(Cli::command().try_get_matches_from(words).is_err(), "{both:?} beside --context");
    }
}
