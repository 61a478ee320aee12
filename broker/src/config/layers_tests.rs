//! The layers of `serve::settings`, over the settings of a broker.

use std::collections::BTreeMap;

use serve::settings::VARIABLE_PREFIX;
use toml::Value;

use super::*;

type Layers = serve::settings::Layers<Config>;

/// Every key with a value that is not its default, as text.
const OTHERS: [(&str, &str); 41] = [
    ("cluster.name", "other"),
    ("node.name", "other"),
    ("data", "other"),
    ("nameservers", "[\"a:1\", \"b:2\"]"),
    ("grpc.listen", "127.0.0.1:1"),
    ("grpc.advertise", "broker:1"),
    ("grpc.connections_max", "17"),
    ("http.listen", ""),
    ("tls.certificate_file", "c.pem"),
    ("tls.key_file", "k.pem"),
    ("tls.required", "true"),
    ("storage.log.segment_size", "2MiB"),
    ("storage.log.flush", "write"),
    ("storage.disk_reserve", "1GiB"),
    ("storage.tail_cache", "2MiB"),
    ("storage.read_threads", "3"),
    ("storage.checkpoint_every", "10ms"),
    ("storage.checkpoint_bytes", "1MiB"),
    ("storage.retention", "1s"),
    ("storage.retention_size", "4MiB"),
    ("storage.retention_size_first", "true"),
    ("storage.dead_letter_retention", "2s"),
    ("storage.retain_every", "20ms"),
    ("storage.behind_read_rate", "2MiB"),
    ("storage.verify_rate", "1MiB/s"),
    ("timer.delay_max", "1d"),
    ("topics.auto_create", "true"),
    ("topics.message_size_max", "1MiB"),
    ("groups.auto_create", "false"),
    ("groups.invisible_default", "30s"),
    ("groups.in_flight_max", "17"),
    ("transactions.check_after", "1s"),
    ("transactions.check_every", "1s"),
    ("transactions.checks_max", "3"),
    ("limits.writer_inbox", "17"),
    ("limits.memory", "65MiB"),
    ("limits.send_wait", "7ms"),
    ("log.format", "json"),
    ("log.filter", "debug"),
    ("shutdown.timeout", "1s"),
    ("runtime.workers", "2"),
];

fn leaves_of(config: &Config) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    collect(Value::try_from(config).unwrap(), "", &mut found);
    found
}

fn collect(value: Value, key: &str, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Table(table) => {
            let dot = if key.is_empty() { "" } else { "." };
            table.into_iter().for_each(|(name, value)| collect(value, &format!("{key}{dot}{name}"), found));
        }
        _ => drop(found.insert(key.into(), value)),
    }
}

type Others = Vec<(&'static str, &'static str)>;

/// All keys, but one of two that exclude each other.
fn others() -> [Others; 2] {
    ["nameservers", "tls.required"].map(|left_out| OTHERS.into_iter().filter(|(key, _)| *key != left_out).collect())
}

/// The texts must be those that were given, whichever way they went in.
fn assert_given(config: &Config, others: &Others) {
    let found = leaves_of(config);
    for &(key, text) in others {
        let value = found.get(key).unwrap_or_else(|| panic!("{key} is not there"));
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        assert_eq!(shown, text, "{key}");
    }
}

fn only_problem(layers: Layers) -> String {
    let refused = layers.build().expect_err("there is a problem");
    assert_eq!(refused.problems.len(), 1, "{refused}");
    refused.to_string()
}

#[test]
fn every_key_is_in_the_list_of_this_test() {
    let layers = Layers::new();
    let mut listed: Vec<_> = OTHERS.iter().map(|(key, _)| *key).collect();
    listed.sort_unstable();
    assert_eq!(layers.keys().collect::<Vec<_>>(), listed);
}

#[test]
fn every_key_is_taken_from_a_file() {
    for others in others() {
        let mut text = String::new();
        for (key, value) in &others {
            let is_bare = value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok() || value.starts_with('[');
            text += &if is_bare { format!("{key} = {value}\n") } else { format!("{key} = \"{value}\"\n") };
        }
        let mut layers = Layers::new();
        layers.file("c.toml", &text);
        assert_given(&layers.build().unwrap(), &others);
    }
}

#[test]
fn every_key_is_taken_from_the_environment() {
    let variable = |(key, value): &(&str, &str)| {
        (format!("{VARIABLE_PREFIX}{}", key.to_uppercase().replace('.', "__")), (*value).to_owned())
    };
    for others in others() {
        let mut layers = Layers::new();
        layers.environment(others.iter().map(variable));
        assert_given(&layers.build().unwrap(), &others);
    }
}

#[test]
fn every_key_is_taken_from_a_flag() {
    for others in others() {
        let mut layers = Layers::new();
        for (key, value) in &others {
            layers.assignment("--set", &format!("{key}={value}"));
        }
        assert_given(&layers.build().unwrap(), &others);
    }
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_preset() {
    let build = |depth: usize| {
        let mut layers = Layers::new();
        layers.preset("node.name", "preset");
        if depth > 0 {
            layers.file("c.toml", "[node]\nname = \"file\"");
        }
        if depth > 1 {
            layers.environment([("CARILLON__NODE__NAME".into(), "variable".into())]);
        }
        if depth > 2 {
            layers.assignment("--set", "node.name=flag");
        }
        layers.build().unwrap().node.name
    };
    assert_eq!([build(0), build(1), build(2), build(3)], ["preset", "file", "variable", "flag"]);
}

#[test]
fn nothing_given_is_the_default() {
    assert_eq!(Layers::new().build().unwrap(), Config::default());
    let mut layers = Layers::new();
    layers.environment([("CARILLON_SERVER".into(), "x".into()), ("PATH".into(), "y".into())]);
    assert_eq!(layers.build().unwrap(), Config::default(), "other variables are none of our business");
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest_known_one() {
    let mut layers = Layers::new();
    layers.file("c.toml", "[storage]\nread_threads = 2\n\n[storage.log]\nflsh = \"sync\"\n");
    assert_eq!(
        only_problem(layers),
        "c.toml:5:1: unknown key storage.log.flsh = \"sync\"; did you mean storage.log.flush?"
    );
    let mut layers = Layers::new();
    layers.environment([("CARILLON__STORAGE__LOG__FLUSH_".into(), "sync".into())]);
    assert!(only_problem(layers).starts_with("CARILLON__STORAGE__LOG__FLUSH_: unknown key storage.log.flush_"));
    let mut layers = Layers::new();
    layers.assignment("--set", "log.flush=sync");
    assert!(only_problem(layers).ends_with("did you mean storage.log.flush?"));
    let mut layers = Layers::new();
    layers.assignment("--set", "colour=red");
    assert_eq!(only_problem(layers), "--set colour=red: unknown key colour = \"red\"");
}

#[test]
fn a_section_is_no_key_and_a_key_no_section() {
    for text in ["storage = 3", "[node.name]\nx = 1"] {
        let mut layers = Layers::new();
        layers.file("c.toml", text);
        assert!(only_problem(layers).contains("unknown key"), "{text}");
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_named_with_its_key() {
    for (text, start) in [
        ("runtime.workers=many", "--set runtime.workers=many: runtime.workers = \"many\": a whole number"),
        ("runtime.workers=-1", "--set runtime.workers=-1: runtime.workers = -1: "),
        ("topics.auto_create=yes", "--set topics.auto_create=yes: topics.auto_create = \"yes\": write true or"),
        ("storage.log.flush=never", "--set storage.log.flush=never: storage.log.flush = \"never\": unknown variant"),
        ("shutdown.timeout=soon", "--set shutdown.timeout=soon: shutdown.timeout = \"soon\": \"soon\" is not a dur"),
        ("storage.tail_cache=big", "--set storage.tail_cache=big: storage.tail_cache = \"big\": \"big\" is not a si"),
        ("node.name", "--set node.name: write KEY=VALUE"),
    ] {
        let mut layers = Layers::new();
        layers.assignment("--set", text);
        let problem = only_problem(layers);
        assert!(problem.starts_with(start), "{problem}");
    }
}

#[test]
fn a_value_out_of_range_is_named_with_its_place_and_limit() {
    let mut layers = Layers::new();
    layers.file("c.toml", "storage = { log = { flush = \"sync\" }, tail_cache = \"1KiB\" }");
    assert!(only_problem(layers).starts_with("c.toml:1:39: storage.tail_cache = 1KiB: "));
    let mut layers = Layers::new();
    layers.file("c.toml", "[storage]\nread_threads = 99\n");
    assert_eq!(only_problem(layers), "c.toml:2:1: storage.read_threads = 99: must be 2 to 8");
}

#[test]
fn all_problems_are_told_at_once_and_a_broken_file_names_its_line() {
    let mut layers = Layers::new();
    layers.file("c.toml", "[storage]\nread_threads = = 2\n");
    layers.assignment("--set", "nod.name=x");
    layers.assignment("--set", "limits.writer_inbox=0");
    let refused = layers.build().expect_err("three problems");
    assert_eq!(refused.problems.len(), 3, "{refused}");
    assert!(refused.to_string().starts_with("c.toml:2:16: "), "{refused}");
}

#[test]
fn what_a_key_has_so_far_can_be_asked() {
    let mut layers = Layers::new();
    assert_eq!(layers.current("grpc.listen"), Some("0.0.0.0:8081"));
    layers.flag("--listen", "grpc.listen", "127.0.0.1:8081");
    assert_eq!(layers.current("grpc.listen"), Some("127.0.0.1:8081"));
}
