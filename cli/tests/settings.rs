//! `carillon config` and `carillon context` as processes: files in, files out.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by ending")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// The command of a user whose settings are in `home`.
fn carillon(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARILLON_")) {
        command.env_remove(name);
    }
    command.env("XDG_CONFIG_HOME", home).stdin(Stdio::null()).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a file that a user wrote")]
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[test]
fn the_default_file_is_right_and_what_is_wrong_has_its_place() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("settings.toml");
    let path = file.to_str().unwrap();
    for kind in [&[][..], &["--nameserver"]] {
        write(&file, &said(&carillon(home.path(), &[&["config", "default"], kind].concat())));
        let checked = carillon(home.path(), &[&["config", "check", path], kind].concat());
        assert_eq!(said(&checked), format!("{path}: the settings are right\n"));
    }
    // A name server's file is not a broker's.
    assert_eq!(carillon(home.path(), &["config", "check", path]).status.code(), Some(1));

    write(&file, "data = \"/d\"\n[storage]\n  read_threads = 99\nlogs = 1\n");
    let checked = carillon(home.path(), &["config", "check", path]);
    assert_eq!(checked.status.code(), Some(1));
    let lines = String::from_utf8(checked.stdout).unwrap();
    let expected = [
        format!("{path}:4:1: unknown key storage.logs = 1"),
        format!("{path}:3:3: storage.read_threads = 99: must be 2 to 8"),
    ];
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
    write(&file, "[storage\n");
    let checked = carillon(home.path(), &["config", "check", path, "--json"]);
    let problems = &document(&checked)["problems"];
    assert_eq!((&problems[0]["line"], &problems[0]["key"]), (&json!(1), &Value::Null), "{problems}");
    assert_eq!(carillon(home.path(), &["config", "check", "/nowhere.toml"]).status.code(), Some(3));
}

#[test]
fn contexts_are_kept_for_their_user_only_and_used_until_something_else_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("not made yet");
    let run = |arguments: &[&str]| carillon(&home, arguments);
    let used = || document(&run(&["context", "show", "--json"]));
    assert_eq!(used()["server"], "127.0.0.1:8080");
    assert_eq!(said(&run(&["context", "list", "-q"])), "");
    assert!(!home.exists(), "whoever only looks makes nothing");

    said(&run(&["context", "add", "prod", "--server", "broker-a", "--use"]));
    said(&run(&["context", "add", "test", "--server", "10.0.0.7:1", "--grpc", "10.0.0.7:2"]));
    let file = home.join("carillon/contexts.toml");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(&home.join("carillon"))), (0o600, 0o700));
    let beside: Vec<_> = std::fs::read_dir(home.join("carillon")).unwrap().collect();
    assert_eq!(beside.len(), 1, "nothing is left over: {beside:?}");
    assert_eq!(
        used(),
        json!({"name": "prod", "from": "context prod", "server": "broker-a:8080", "grpc": "broker-a:8081"})
    );
    let one = document(&run(&["context", "show", "--json", "--context", "test"]));
    assert_eq!((&one["server"], &one["grpc"]), (&json!("10.0.0.7:1"), &json!("10.0.0.7:2")));
    assert_eq!(document(&run(&["context", "show", "--json", "--server", "x"]))["from"], "--server, --grpc");

    // The same again is no change, and another one is no accident.
    said(&run(&["context", "add", "test", "--server", "10.0.0.7:1", "--grpc", "10.0.0.7:2"]));
    assert_eq!(run(&["context", "add", "test", "--server", "other"]).status.code(), Some(4));
    said(&run(&["context", "add", "test", "--server", "other", "--replace"]));
    said(&run(&["context", "use", "test"]));
    assert_eq!(used()["server"], "other:8080");
    assert!(said(&run(&["context", "list"])).contains("*  test"));
    for (wrong, code) in [
        (&["context", "use", "tset"][..], 3),
        (&["context", "remove", "tset"], 3),
        (&["context", "add", "x"], 2),
        (&["context", "add", "x", "--server", "https://x"], 2),
        (&["context", "add", "a/b", "--server", "x"], 2),
        (&["topic", "list", "--context", "tset"], 3),
    ] {
        assert_eq!(run(wrong).status.code(), Some(code), "{wrong:?}");
    }
    said(&run(&["context", "remove", "test"]));
    assert_eq!(used()["from"], "default");
    said(&run(&["context", "use", "prod"]));
    said(&run(&["context", "use", "--none"]));
    assert_eq!((&used()["from"], said(&run(&["context", "list", "-q"]))), (&json!("default"), "prod\n".into()));

    // What cannot be read is said, where it matters.
    write(&file, "active = 3");
    let broken = run(&["topic", "list"]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&broken.stderr).contains("contexts.toml"), "{broken:?}");
    assert_eq!(run(&["topic", "list", "--server", "127.0.0.1:1"]).status.code(), Some(6));
}

#[test]
fn a_page_of_the_manual_is_made_for_each_verb() {
    let folder = tempfile::tempdir().unwrap();
    assert!(said(&carillon(folder.path(), &["man"])).contains(".TH carillon 1"));
    said(&carillon(folder.path(), &["man", "--directory", folder.path().to_str().unwrap()]));
    for page in ["carillon.1", "carillon-topic-create.1", "carillon-check.1"] {
        assert!(folder.path().join(page).is_file(), "{page}");
    }
    assert_eq!(carillon(folder.path(), &["man", "--directory", "/nowhere"]).status.code(), Some(1));
}
