//! Built binaries as processes of their own, for tests that end, pause and start them again as they like.
//!
//! A process lives no longer than its [`Process`]: dropping it kills it, also when a test panics.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::sources;

const READY_WITHIN: Duration = Duration::from_secs(60);
/// Longer than servers wait for calls in progress unless they are told otherwise.
const ENDED_WITHIN: Duration = Duration::from_secs(60);
const LOG_LINES_SHOWN: usize = 40;

/// A binary of this workspace.
#[derive(Debug, Clone, Copy)]
pub struct Binary {
    name: &'static str,
    package: &'static str,
}

pub const CARILLON: Binary = Binary { name: "carillon", package: "carillon-cli" };
pub const NAMESERVER: Binary = Binary { name: "nameserver", package: "carillon-nameserver" };
pub const BROKER: Binary = Binary { name: "broker", package: "carillon-broker" };
const BINARIES: [Binary; 3] = [CARILLON, NAMESERVER, BROKER];

impl Binary {
    /// Where it is, built.
    pub fn path(self) -> PathBuf {
        folder().join(self.name)
    }
}

/// A server that may be ended and started again, with a log of all its lives.
pub struct Process {
    binary: Binary,
    log: PathBuf,
    running: Option<Running>,
}

struct Running {
    child: Child,
    /// Held, or what the server says later would end it.
    said: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Nothing runs yet. What it writes to stderr goes to the file `log`.
    pub fn new(binary: Binary, log: PathBuf) -> Self {
        Self { binary, log, running: None }
    }

    /// Starts it and does not wait.
    pub fn spawn(&mut self, arguments: &[impl AsRef<OsStr>]) {
        assert!(self.running.is_none(), "a server that runs is not started");
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log);
        let mut command = command(self.binary);
        command.args(arguments).stdout(Stdio::piped()).stderr(log.expect("a log beside the data directory"));
        let mut child = command.spawn().expect("the binary was built and can be started");
        let said = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        self.running = Some(Running { child, said });
    }

    /// Returns when the server says that it is ready.
    pub async fn until_ready(&mut self) {
        let running = self.running.as_mut().expect("it was just started");
        loop {
            let line = timeout(READY_WITHIN, running.said.next_line()).await;
            match line {
                Ok(Ok(Some(line))) if line.starts_with("ready in") => break,
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) => panic!("the server ended instead of being ready; its log:\n{}", self.log()),
                Ok(Err(error)) => panic!("the server cannot be heard: {error}"),
                Err(_) => panic!("the server is not ready after {READY_WITHIN:?}; its log:\n{}", self.log()),
            }
        }
    }

    /// SIGKILL, and the end of the process.
    pub async fn kill(&mut self) {
        let mut running = self.take_running();
        let killed = timeout(ENDED_WITHIN, running.child.kill()).await;
        killed.expect("the kernel ends what is killed").expect("it was running");
    }

    /// SIGTERM, and what the process says as it ends.
    pub async fn terminate(&mut self) -> ExitStatus {
        let mut running = self.take_running();
        send(&running.child, Signal::TERM);
        let ended = timeout(ENDED_WITHIN, running.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("the server does not end; its log:\n{}", self.log())).expect("it was running")
    }

    /// SIGSTOP: its connections stay, and nothing answers.
    pub fn pause(&self) {
        send(&self.running().child, Signal::STOP);
    }

    /// After [`Self::pause`].
    pub fn resume(&self) {
        send(&self.running().child, Signal::CONT);
    }

    /// The process, while it runs.
    pub fn pid(&self) -> u32 {
        self.running().child.id().expect("it was not waited for")
    }

    /// Memory that the process has now.
    pub fn resident_bytes(&self) -> u64 {
        let kib = self.status("VmRSS").strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
        kib.expect("the kernel says so in KiB") * 1024
    }

    /// What the kernel says of it under `name`.
    pub fn status(&self, name: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let line = lines.find(|(known, _)| *known == name);
        line.unwrap_or_else(|| panic!("no {name} in:\n{status}")).1.trim().to_owned()
    }

    /// The end of what the server logged.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    /// What it logged in all its lives so far, behind the first `from` bytes.
    pub fn log_from(&self, from: usize) -> String {
        let mut text = String::new();
        let mut log = fs::OpenOptions::new().read(true).open(&self.log).expect("it was started");
        log.seek(SeekFrom::Start(from as u64)).and_then(|_| log.read_to_string(&mut text)).expect("lines of text");
        text
    }

    /// The process, which must not have ended by itself.
    fn take_running(&mut self) -> Running {
        let mut running = self.running.take().expect("a server that does not run is not ended");
        let status = running.child.try_wait().expect("a child can be asked");
        assert!(status.is_none(), "the server ended by itself with {status:?}; its log:\n{}", self.log());
        running
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    kill_process(pid.expect("it was not waited for"), signal).expect("it runs");
}

/// Runs a binary to its end.
pub async fn run(binary: Binary, arguments: &[impl AsRef<OsStr>]) -> Output {
    let mut command = command(binary);
    timeout(ENDED_WITHIN, command.args(arguments).output()).await.expect("it ends").expect("it starts")
}

fn command(binary: Binary) -> Command {
    let mut command = Command::new(binary.path());
    // What somebody's shell sets must not reach a test.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARILLON_")) {
        command.env_remove(name);
    }
    // Contexts of whoever runs the tests are none of theirs.
    command.env("XDG_CONFIG_HOME", "/dev/null");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Where the binaries of the build are that this test is from. Built here when one is missing or older than its
/// sources, which happens when this crate is tested alone.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let test = std::env::current_exe().expect("a test knows its file");
        let deps = test.parent().filter(|folder| folder.file_name() == Some(OsStr::new("deps")));
        let folder = deps.and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
        if !BINARIES.iter().all(|binary| is_current(&folder.join(binary.name))) {
            build(folder);
        }
        for binary in BINARIES {
            assert!(folder.join(binary.name).is_file(), "{} was not built in {}", binary.name, folder.display());
        }
        folder.to_owned()
    })
}

/// Whether a binary is newer than all that it was built from, which cargo wrote down beside it.
fn is_current(binary: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    let Ok(built) = changed(binary) else { return false };
    let Ok(text) = fs::read_to_string(binary.with_extension("d")) else { return false };
    let Some((_, sources)) = text.split_once(": ") else { return false };
    // A blank within a path stands behind a backslash.
    let sources = sources.replace("\\ ", "\0");
    let mut sources = sources.split_whitespace().map(|source| source.replace('\0', " "));
    sources.all(|source| changed(Path::new(&source)).is_ok_and(|changed| changed <= built))
}

fn build(folder: &Path) {
    let profile = match folder.file_name().and_then(OsStr::to_str) {
        Some("debug") => "dev",
        Some(profile) => profile,
        None => panic!("{} names no profile", folder.display()),
    };
    let mut command = std::process::Command::new(env!("CARGO"));
    command.args(["build", "--locked", "--profile", profile]);
    command.args(BINARIES.iter().flat_map(|binary| ["--package", binary.package]));
    let target = folder.parent().expect("a profile lies in a target directory");
    let status = command.current_dir(sources::root()).arg("--target-dir").arg(target).status();
    assert!(status.expect("cargo runs").success(), "the binaries cannot be built");
}
