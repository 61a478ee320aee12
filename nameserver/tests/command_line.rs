//! The `nameserver` command as whoever installs it meets it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by ending")]

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

fn nameserver(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nameserver"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARILLON_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn refused(arguments: &[&str], code: i32) -> String {
    let output = nameserver(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    error
}

#[test]
fn settings_are_looked_at_without_starting() {
    let checked = nameserver(&["--check", "--set", "listen=127.0.0.1:9876", "--set", "broker_expiry=5s"]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert_eq!(String::from_utf8(checked.stdout).unwrap(), "the settings are right\n");
}

#[test]
fn a_bad_setting_stops_the_start_and_is_named() {
    for check in [&["--check"][..], &[]] {
        let with = |setting| [check, &["--set", setting]].concat();
        let unknown = refused(&with("brokr_expiry=5s"), 2);
        assert!(unknown.contains("unknown key brokr_expiry") && unknown.contains("broker_expiry?"), "{unknown}");
        let small = refused(&with("broker_expiry=10ms"), 2);
        assert!(small.contains("broker_expiry = ") && small.contains("1s"), "{small}");
        let listen = refused(&with("listen=9876"), 2);
        assert!(listen.contains("listen = \"9876\""), "{listen}");
    }
    let missing = refused(&["--config", "/nowhere/nameserver.toml"], 2);
    assert!(missing.contains("/nowhere/nameserver.toml"), "{missing}");
    refused(&["--no-such-flag"], 2);
}

#[test]
fn an_address_in_use_is_said_so() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    for setting in ["listen", "http.listen"] {
        let own = format!("{setting}={address}");
        let arguments = ["--set", "listen=127.0.0.1:0", "--set", "http.listen=127.0.0.1:0", "--set", &own];
        let error = refused(&arguments, 4);
        assert!(error.contains(&address), "{error}");
    }
}
