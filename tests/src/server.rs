//! The built `carillon` as a process of its own, for tests that end it as they like.
//!
//! A server lives no longer than its [`Server`]: dropping it kills the process, also when a test panics.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::sources;

const READY_WITHIN: Duration = Duration::from_secs(60);
const ENDED_WITHIN: Duration = Duration::from_secs(30);
/// How long one GET may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
const LOG_LINES_SHOWN: usize = 40;

/// A server with one data directory, which may be ended and started again. Ports stay the same.
pub struct Server {
    data: PathBuf,
    arguments: Vec<String>,
    ports: Option<Ports>,
    running: Option<Running>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    grpc: u16,
    http: u16,
}

struct Running {
    child: Child,
    /// Held, or what the server says later would end it.
    said: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Where its store is.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Nothing runs yet. `arguments` are those of `carillon dev`, without data directory and ports.
    pub fn new(data: &Path, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { data: data.to_owned(), arguments, ports: None, running: None }
    }

    /// Starts the process and returns when it is ready.
    pub async fn start(&mut self) {
        self.spawn();
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
        self.ports.get_or_insert_with(|| read_ports(&self.data));
    }

    /// Starts the process and does not wait, for tests that end it on its way up. It must have been ready once.
    pub fn spawn(&mut self) {
        assert!(self.running.is_none(), "a server that runs is not started");
        let ports = self.ports.unwrap_or(Ports { grpc: 0, http: 0 });
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file());
        let mut command = Command::new(binary());
        command.args(["dev", "--port-grpc", &ports.grpc.to_string(), "--port-http", &ports.http.to_string()]);
        command.arg("--data").arg(&self.data).args(&self.arguments);
        // What somebody's shell sets must not reach a test.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARILLON_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.expect("a log beside the data directory"));
        let mut child = command.kill_on_drop(true).spawn().expect("the binary was built and can be started");
        let said = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        self.running = Some(Running { child, said });
    }

    /// SIGKILL, and the end of the process.
    pub async fn kill(&mut self) {
        let mut running = self.running.take().expect("a server that does not run is not killed");
        let status = running.child.try_wait().expect("a child can be asked");
        assert!(status.is_none(), "the server ended by itself with {status:?}; its log:\n{}", self.log());
        let killed = timeout(ENDED_WITHIN, running.child.kill()).await;
        killed.expect("the kernel ends what is killed").expect("it was running");
    }

    /// The process, while it runs.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().and_then(|running| running.child.id()).expect("it runs")
    }

    /// Memory that the process has now.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
        kib.expect("the kernel says so in KiB") * 1024
    }

    /// Where administration, health and metrics are.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.expect("it was ready once").http)
    }

    /// Where clients connect.
    pub fn grpc(&self) -> String {
        format!("127.0.0.1:{}", self.ports.expect("it was ready once").grpc)
    }

    /// Runs an administration verb, which must succeed. Gives what it said.
    pub async fn administer(&self, verb: &[&str]) -> String {
        let output = carillon(&[verb, &["--server", &self.http()]].concat()).await;
        assert!(output.status.success(), "carillon {verb:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// One GET of health or metrics: head and body.
    pub async fn page(&self, path: &str) -> String {
        let http = self.http();
        let address = http.strip_prefix("http://").expect("as it was made");
        let work = async {
            let mut stream = TcpStream::connect(address).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map(|_| answer)
        };
        timeout(ANSWERED_WITHIN, work).await.expect("an answer in time").expect("the server is there")
    }

    /// The end of what the server logged.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    /// What it logged in all its lives so far, behind the first `from` bytes.
    pub fn log_from(&self, from: usize) -> String {
        let mut text = String::new();
        let mut log = fs::OpenOptions::new().read(true).open(self.log_file()).expect("it was started");
        log.seek(SeekFrom::Start(from as u64)).and_then(|_| log.read_to_string(&mut text)).expect("lines of text");
        text
    }

    fn log_file(&self) -> PathBuf {
        self.data.with_extension("log")
    }
}

/// Runs a verb to its end.
pub async fn carillon(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    timeout(ENDED_WITHIN, command.output()).await.expect("a verb ends").expect("a verb starts")
}

fn read_ports(data: &Path) -> Ports {
    let text = fs::read_to_string(data.join("ports.json")).expect("written before the server says that it is ready");
    let ports: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let port = |name: &str| ports[name].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
    Ports { grpc: port("grpc"), http: port("http") }
}

/// The binary of the build that this test is from. Built here when it is missing or older than its sources, which
/// happens when this crate is tested alone.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().expect("a test knows its file");
        let deps = test.parent().filter(|folder| folder.file_name() == Some(OsStr::new("deps")));
        let folder = deps.and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
        let binary = folder.join("carillon");
        if !is_current(&binary) {
            build(folder);
        }
        assert!(binary.is_file(), "{} was not built", binary.display());
        binary
    })
}

fn is_current(binary: &Path) -> bool {
    let Ok(built) = binary.metadata().and_then(|metadata| metadata.modified()) else { return false };
    sources::all().iter().filter(|source| !source.is_test() && !source.path.starts_with("tests")).all(|source| {
        let changed = sources::root().join(&source.path).metadata().and_then(|metadata| metadata.modified());
        changed.is_ok_and(|changed| changed <= built)
    })
}

fn build(folder: &Path) {
    let profile = match folder.file_name().and_then(OsStr::to_str) {
        Some("debug") => "dev",
        Some(profile) => profile,
        None => panic!("{} names no profile", folder.display()),
    };
    let mut command = std::process::Command::new(env!("CARGO"));
    command.args(["build", "--locked", "--package", "carillon-cli", "--profile", profile]);
    let target = folder.parent().expect("a profile lies in a target directory");
    let status = command.current_dir(sources::root()).arg("--target-dir").arg(target).status();
    assert!(status.expect("cargo runs").success(), "carillon cannot be built");
}
