//! `carillon dev` as a process of its own, for tests that end it as they like.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::http;
use crate::port::Port;
use crate::process::{CARILLON, Process, run};

/// A server with one data directory, which may be ended and started again. Ports stay the same.
pub struct Server {
    data: PathBuf,
    arguments: Vec<String>,
    grpc: Port,
    http: Port,
    process: Process,
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
        Self { data: data.to_owned(), arguments, grpc: Port::free(), http: Port::free(), process }
    }

    /// Starts the process and returns when it is ready.
    pub async fn start(&mut self) {
        self.spawn();
        self.process.until_ready().await;
    }

    /// Starts the process and does not wait, for tests that end it on its way up.
    pub fn spawn(&mut self) {
        let port = |port: &Port| port.address().port().to_string();
        let (grpc, http) = (port(&self.grpc), port(&self.http));
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
        format!("http://{}", self.http.address())
    }

    /// Where clients connect.
    pub fn grpc(&self) -> String {
        self.grpc.address().to_string()
    }

    /// Runs an administration verb, which must succeed. Gives what it said.
    pub async fn administer(&self, verb: &[&str]) -> String {
        let output = carillon(&[verb, &["--server", &self.http()]].concat()).await;
        assert!(output.status.success(), "carillon {verb:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// One GET of health or metrics: head and body.
    pub async fn page(&self, path: &str) -> String {
        http::page(&self.http.address().to_string(), path).await
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
