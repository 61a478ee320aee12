//! The `broker` command as whoever installs it meets it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by ending")]

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

fn broker(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_broker"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARILLON_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn refused(arguments: &[&str], code: i32) -> String {
    let output = broker(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    error
}

#[test]
fn settings_are_looked_at_without_starting() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().join("data");
    let path = data.to_str().unwrap();
    let checked = broker(&["--check", "--data", path, "--set", "nameservers=ns-1:9876,ns-2:9876"]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert_eq!(String::from_utf8(checked.stdout).unwrap(), "the settings are right\n");
    assert!(!data.exists(), "nothing is made");
}

#[test]
fn a_bad_setting_stops_the_start_and_is_named() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().join("data");
    for check in [&["--check"][..], &[]] {
        let with = |setting| [check, &["--data", data.to_str().unwrap(), "--set", setting]].concat();
        let unknown = refused(&with("nameserver=ns-1:9876"), 2);
        assert!(unknown.contains("unknown key nameserver") && unknown.contains("nameservers?"), "{unknown}");
        let address = refused(&with("nameservers=ns-1"), 2);
        assert!(address.contains("nameservers = ") && address.contains("ns-1"), "{address}");
        assert!(!data.exists(), "nothing is made");
    }
    refused(&["--no-such-flag"], 2);
}

#[test]
fn an_address_in_use_is_said_so() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    for setting in ["grpc.listen", "http.listen"] {
        let own = format!("{setting}={address}");
        let free = ["--set", "grpc.listen=127.0.0.1:0", "--set", "http.listen=127.0.0.1:0", "--set", &own];
        let error = refused(&[&["--data", data.path().to_str().unwrap()][..], &free].concat(), 4);
        assert!(error.contains(&address), "{error}");
    }
}
