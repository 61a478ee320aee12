//! `carillon dev` as a process of its own, for tests that end it as they like.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::http;
use crate::process::{CARILLON, Process, run};

/// A server with one data directory, which may be ended and started again. Ports stay the same.
pub struct Server {
    data: PathBuf,
    arguments: Vec<String>,
    ports: Option<Ports>,
    process: Process,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    grpc: u16,
    http: u16,
}

impl Server {
    /// Where its store is.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Nothing runs yet. `arguments` are those of `carillon dev`, without data directory and ports.
    pub fn new(data: &Path, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let process = Process::new(CARILLON, data.with_extension("log"));
        Self { data: data.to_owned(), arguments, ports: None, process }
    }

    /// Starts the process and returns when it is ready.
    pub async fn start(&mut self) {
        self.spawn();
        self.process.until_ready().await;
        self.ports.get_or_insert_with(|| read_ports(&self.data));
    }

    /// Starts the process and does not wait, for tests that end it on its way up. It must have been ready once.
    pub fn spawn(&mut self) {
        let ports = self.ports.unwrap_or(Ports { grpc: 0, http: 0 });
        let (grpc, http) = (ports.grpc.to_string(), ports.http.to_string());
        let data = self.data.to_str().expect("a path of a test");
        let own = ["dev", "--port-grpc", &grpc, "--port-http", &http, "--data", data];
        let arguments: Vec<_> = own.into_iter().chain(self.arguments.iter().map(String::as_str)).collect();
        self.process.spawn(&arguments);
    }

    /// SIGKILL, and the end of the process.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// The process, while it runs.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Memory that the process has now.
    pub fn resident_bytes(&self) -> u64 {
        self.process.resident_bytes()
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
        http::page(http.strip_prefix("http://").expect("as it was made"), path).await
    }

    /// The end of what the server logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// What it logged in all its lives so far, behind the first `from` bytes.
    pub fn log_from(&self, from: usize) -> String {
        self.process.log_from(from)
    }
}

/// Runs a verb to its end.
pub async fn carillon(arguments: &[&str]) -> Output {
    run(CARILLON, arguments).await
}

fn read_ports(data: &Path) -> Ports {
    let text = fs::read_to_string(data.join("ports.json")).expect("written before the server says that it is ready");
    let ports: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let port = |name: &str| ports[name].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
    Ports { grpc: port("grpc"), http: port("http") }
}
