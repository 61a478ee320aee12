use clap::Parser;
use serve::process::Exit;

use super::*;
use crate::files;

#[derive(Parser)]
struct Only {
    #[command(flatten)]
    options: Options,
}

fn options(flags: &[&str]) -> Options {
    let flags = std::iter::once("dev").chain(flags.iter().copied());
    Only::try_parse_from(flags).unwrap_or_else(|error| panic!("{error}")).options
}

fn listeners(flags: &[&str], variables: &[(&str, &str)]) -> (String, String) {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let config = settings::read(&options(flags), variables).unwrap();
    (config.grpc.listen, config.http.listen)
}

#[test]
fn a_server_for_oneself_listens_on_loopback_and_creates_topics() {
    let config = settings::read(&options(&[]), []).unwrap();
    assert!(config.topics.auto_create);
    let expected = ("127.0.0.1:8081".to_owned(), "127.0.0.1:8080".to_owned());
    assert_eq!((config.grpc.listen, config.http.listen), expected);
}

#[test]
fn flags_for_address_and_ports_change_their_half_of_the_listener() {
    let pair = |grpc: &str, http: &str| (grpc.to_owned(), http.to_owned());
    let variable = [("CARILLON__GRPC__LISTEN", "10.0.0.1:9000")];
    assert_eq!(listeners(&["--listen", "0.0.0.0"], &[]), pair("0.0.0.0:8081", "0.0.0.0:8080"));
    assert_eq!(listeners(&["--port-grpc", "0"], &[]), pair("127.0.0.1:0", "127.0.0.1:8080"));
    assert_eq!(listeners(&["--port-grpc", "1"], &variable), pair("10.0.0.1:1", "127.0.0.1:8080"));
    assert_eq!(listeners(&["--listen", "::1", "--port-http", "2"], &variable), pair("[::1]:9000", "[::1]:2"));
    assert_eq!(listeners(&["--listen", "0.0.0.0", "--set", "http.listen="], &[]), pair("0.0.0.0:8081", ""));
    let off = [("CARILLON__HTTP__LISTEN", "")];
    assert_eq!(listeners(&["--listen", "0.0.0.0"], &off).1, "", "an address alone switches nothing on");
    assert_eq!(listeners(&["--port-http", "3"], &off).1, "127.0.0.1:3");
}

#[test]
fn a_file_is_weaker_than_the_environment_and_flags() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broker.toml");
    files::write(&file, b"[node]\nname = \"file\"\n[cluster]\nname = \"file\"\n[log]\nfilter = \"debug\"").unwrap();
    let flags = ["--config", file.to_str().unwrap(), "--set", "node.name=flag"];
    let variables = [("CARILLON__NODE__NAME", "v"), ("CARILLON__CLUSTER__NAME", "v")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = settings::read(&options(&flags), variables).unwrap();
    assert_eq!([config.node.name, config.cluster.name, config.log.filter], ["flag", "v", "debug"]);
}

#[test]
fn a_wrong_setting_or_a_missing_file_is_exit_2_and_named() {
    for (flags, part) in [
        (vec!["--set", "storage.log.flsh=sync"], "did you mean storage.log.flush?"),
        (vec!["--set", "groups.in_flight_max=0"], "must be 1 to"),
        (vec!["--config", "/nowhere/broker.toml"], "/nowhere/broker.toml"),
    ] {
        let failure = settings::read(&options(&flags), []).expect_err(part);
        assert_eq!(failure.exit, Exit::Configuration);
        assert!(failure.to_string().contains(part), "{failure}");
    }
}

#[test]
fn topics_are_parted_by_commas() {
    let topics = options(&["--topics", "orders:fifo:8,later:delay"]).topics;
    assert_eq!(topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["orders", "later"]);
}

#[test]
fn an_ephemeral_directory_is_gone_afterwards_and_a_named_one_stays() {
    let data = Data::prepare(&options(&["--ephemeral"]), "unused").unwrap();
    let path = data.path.clone();
    assert!(path.is_dir());
    drop(data);
    assert!(!path.exists());

    let directory = tempfile::tempdir().unwrap();
    let named = directory.path().join("a/b");
    drop(Data::prepare(&options(&[]), named.to_str().unwrap()).unwrap());
    assert!(named.is_dir());
}
