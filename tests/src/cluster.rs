//! Name servers and brokers as processes of their own, on loopback.
//!
//! Whoever owns a node starts and ends it. Its ports stay the same.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{self, Answer};
use crate::port::Port;
use crate::process::{BROKER, NAMESERVER, Process};

/// The group of every topic.
pub const GROUP: &str = "readers";

/// A name server or a broker.
pub struct Node {
    name: String,
    process: Process,
    arguments: Vec<String>,
    /// Of a broker.
    data: Option<PathBuf>,
    grpc: Port,
    http: Port,
}

/// Name servers, and brokers that know all of them.
pub struct Cluster {
    pub nameservers: Vec<Node>,
    pub brokers: Vec<Node>,
    /// Held for its life: stores and logs.
    directory: TempDir,
}

impl Node {
    /// Nothing runs yet. `settings`: `key=value`, stronger than those that every test has.
    pub fn nameserver(directory: &Path, name: &str, settings: &[&str]) -> Self {
        let (listen, http) = (Port::free(), Port::free());
        let own = [
            format!("node.name={name}"),
            format!("listen={}", listen.address()),
            format!("http.listen={}", http.address()),
        ];
        let process = Process::new(NAMESERVER, directory.join(name).with_extension("log"));
        Self { name: name.into(), process, arguments: set(own, settings), data: None, grpc: listen, http }
    }

    /// As [`Self::nameserver`]. Store and log are called `directory/folder`; what it is called in routes is `name`.
    pub fn broker(directory: &Path, folder: &str, name: &str, nameservers: &[&Self], settings: &[&str]) -> Self {
        let (grpc, http) = (Port::free(), Port::free());
        let nameservers: Vec<_> = nameservers.iter().map(|nameserver| nameserver.address()).collect();
        let data = directory.join(folder);
        let own = [
            format!("node.name={name}"),
            format!("data={}", data.display()),
            format!("grpc.listen={}", grpc.address()),
            format!("http.listen={}", http.address()),
            format!("nameservers={}", nameservers.join(",")),
            "storage.log.segment_size=16MiB".into(),
            "runtime.workers=2".into(),
        ];
        let process = Process::new(BROKER, data.with_extension("log"));
        Self { name: name.into(), process, arguments: set(own, settings), data: Some(data), grpc, http }
    }

    /// A setting, `key=value`, stronger than those before. From its next start on.
    pub fn set(&mut self, setting: &str) {
        self.arguments.extend(["--set".to_owned(), setting.to_owned()]);
    }

    /// As it is called in routes and metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `host:port` for clients; of a name server for brokers too.
    pub fn address(&self) -> String {
        self.grpc.address().to_string()
    }

    /// Starts the process and returns when it is ready.
    pub async fn start(&mut self) {
        self.process.spawn(&self.arguments);
        self.process.until_ready().await;
    }

    /// SIGKILL, and the end of the process.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// SIGTERM, and the end of the process.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.process.terminate().await
    }

    /// SIGSTOP: its connections stay, and nothing answers.
    pub fn pause(&self) {
        self.process.pause();
    }

    pub fn resume(&self) {
        self.process.resume();
    }

    /// Memory that the process has now.
    pub fn resident_bytes(&self) -> u64 {
        self.process.resident_bytes()
    }

    /// What the kernel says of its process under `name`.
    pub fn status(&self, name: &str) -> String {
        self.process.status(name)
    }

    /// What it logged in all its lives.
    pub fn log(&self) -> String {
        self.process.log_from(0)
    }

    /// A file in the data directory of a broker; empty when it is not there.
    pub fn file(&self, name: &str) -> String {
        let data = self.data.as_ref().expect("a broker");
        serve::files::read_text(&data.join(name)).unwrap_or_default()
    }

    /// `host:port` of health and administration.
    pub fn http(&self) -> String {
        self.http.address().to_string()
    }

    /// A call of the admin API, `path` below `/api/v1`, that gives JSON or nothing.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = http::call(&self.http(), method, &format!("/api/v1{path}"), body.as_bytes()).await;
        let answer = answer.unwrap_or_else(|| panic!("no answer to {method} {path}; the log:\n{}", self.log()));
        (answer.status, answer.json().unwrap_or_default())
    }

    pub async fn get(&self, path: &str) -> Answer {
        http::get(&self.http(), path).await
    }

    /// The value of a metric; `labels` as they stand on the page, or a part of them that is enough.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let page = self.get("/metrics").await.body;
        let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let line = page.lines().filter(is_it).find(|line| line.contains(labels));
        let value = line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} {labels} in:\n{page}"))
    }

    /// Makes a topic of `kind`, such as `normal`, on this broker, for the group that gets all of its messages.
    pub async fn create_topic(&self, name: &str, kind: &str, queues: u16) {
        self.create("groups", &json!({ "name": GROUP })).await;
        self.create("topics", &json!({ "name": name, "type": kind, "queues": queues })).await;
    }

    /// POST of something new to the admin API.
    pub async fn create(&self, what: &str, new: &Value) {
        let (status, answer) = self.call("POST", &format!("/{what}"), new).await;
        assert!([200, 201].contains(&status), "{what} {new} on {}: {status} {answer}", self.name);
    }
}

impl Cluster {
    /// Everything runs; whether brokers are registered already is another question.
    pub async fn start(nameservers: usize, brokers: usize, settings: &[&str]) -> Self {
        Self::start_with(nameservers, brokers, settings, &[]).await
    }

    pub async fn start_with(nameservers: usize, brokers: usize, settings: &[&str], broker_settings: &[&str]) -> Self {
        let mut cluster = Self::prepare(nameservers, brokers, settings, broker_settings);
        for node in cluster.nameservers.iter_mut().chain(&mut cluster.brokers) {
            node.start().await;
        }
        cluster
    }

    /// As [`Self::start`], and nothing runs yet. Brokers are called broker-a, broker-b and so on.
    pub fn prepare(nameservers: usize, brokers: usize, settings: &[&str], broker_settings: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let nameservers: Vec<_> = (1..=nameservers)
            .map(|number| Node::nameserver(directory.path(), &format!("names-{number}"), settings))
            .collect();
        let known: Vec<_> = nameservers.iter().collect();
        let broker = |letter| {
            let name = format!("broker-{letter}");
            Node::broker(directory.path(), &name, &name, &known, broker_settings)
        };
        let brokers = ('a'..='z').take(brokers).map(broker).collect();
        Self { nameservers, brokers, directory }
    }

    /// Where more nodes may have their stores and logs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

fn set<const N: usize>(own: [String; N], settings: &[&str]) -> Vec<String> {
    let settings = own.into_iter().chain(settings.iter().map(|setting| (*setting).to_owned()));
    settings.flat_map(|setting| ["--set".to_owned(), setting]).collect()
}
