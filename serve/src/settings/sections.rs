//! Sections that every server has.

use std::time::Duration;

use base::limits::NODE_NAME_BYTES_MAX;
use base::name::is_node_name;
use serde::{Deserialize, Serialize};

use super::{Checks, Form, Key};

const SHUTDOWN_MAX: Duration = Duration::from_secs(3600);
const WORKERS_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// Name in routes and metrics.
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Name of this broker in routes and metrics.
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Empty = off.
    pub listen: String,
}

/// Without files: clear text, and a self-signed certificate for clients that insist on TLS.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    pub certificate_file: Option<String>,
    pub key_file: Option<String>,
    /// Refuse clear text.
    pub required: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text`, `json`, or `auto`: text on a terminal, JSON elsewhere.
    pub format: LogFormat,
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Auto,
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    #[serde(with = "base::duration")]
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// Network workers; 0 = cores − 1, at least 1.
    pub workers: usize,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { name: "DefaultCluster".into() }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self { name: "carillon".into() }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8080".into() }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".into() }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30) }
    }
}

impl Cluster {
    pub const DESCRIBED: [Key; 1] = [Key {
        name: "cluster.name",
        form: Form::Text,
        why: "What this cluster is called in routes and metrics; the same at all of its brokers and name servers. The \
            default is the one that tools for RocketMQ expect.",
    }];

    pub fn check(&self, checks: &mut Checks) {
        name(checks, "cluster.name", &self.name);
    }
}

impl Node {
    /// Brokers and name servers say different things of it.
    pub const fn described(why: &'static str) -> [Key; 1] {
        [Key { name: "node.name", form: Form::Text, why }]
    }

    pub fn check(&self, checks: &mut Checks) {
        name(checks, "node.name", &self.name);
    }
}

impl Http {
    pub const DESCRIBED: [Key; 1] = [Key {
        name: "http.listen",
        form: Form::Address,
        why: "Where the admin interface, health and metrics are, without a login yet: keep it to loopback or a network \
            of operators. Port 0 is any free one; empty (`\"\"`) turns it off.",
    }];

    pub fn check(&self, checks: &mut Checks) {
        if !self.listen.is_empty() {
            checks.address("http.listen", &self.listen);
        }
    }
}

impl Tls {
    pub const DESCRIBED: [Key; 3] = [
        Key {
            name: "tls.certificate_file",
            form: Form::Path,
            why: "The certificate that clients are shown, PEM, with its chain. Without it clients that insist on TLS are \
                shown one that the server made itself.",
        },
        Key { name: "tls.key_file", form: Form::Path, why: "The private key of the certificate, PEM." },
        Key {
            name: "tls.required",
            form: Form::Switch,
            why: "Refuse clear text on the gRPC port. Otherwise the first byte of a connection tells which of the two it \
                is. Brokers and name servers speak clear text with each other, so where there are name servers this \
                stays off.",
        },
    ];

    pub fn check(&self, checks: &mut Checks) {
        let is_pair = self.certificate_file.is_some() == self.key_file.is_some();
        let files = format!("{:?}, {:?}", self.certificate_file, self.key_file);
        checks.that(is_pair, "tls.certificate_file", &files, || "needs tls.key_file, and the other way round".into());
    }
}

impl Log {
    pub const DESCRIBED: [Key; 2] = [
        Key {
            name: "log.format",
            form: Form::Words(&["auto", "text", "json"]),
            why: "How lines of the log on stderr are written. `auto` is text on a terminal, JSON elsewhere.",
        },
        Key {
            name: "log.filter",
            form: Form::Text,
            why: "Which lines are written: a level (`error`, `warn`, `info`, `debug`), or levels by module such as \
                `info,broker=debug`.",
        },
    ];

    pub fn check(&self, checks: &mut Checks) {
        checks.that(!self.filter.trim().is_empty(), "log.filter", &self.filter, || "must not be empty".into());
    }
}

impl Shutdown {
    pub const DESCRIBED: [Key; 1] = [Key {
        name: "shutdown.timeout",
        form: Form::Duration,
        why: "How long calls in progress may take at a stop, before they are cut off. Nothing acknowledged is lost \
            either way.",
    }];

    pub fn check(&self, checks: &mut Checks) {
        checks.times("shutdown.timeout", self.timeout, Duration::ZERO, SHUTDOWN_MAX);
    }
}

impl Runtime {
    pub const DESCRIBED: [Key; 1] = [Key {
        name: "runtime.workers",
        form: Form::Number("threads"),
        why: "Threads that serve connections. 0 is one less than there are cores, and at least one.",
    }];

    pub fn check(&self, checks: &mut Checks) {
        checks.range("runtime.workers", self.workers, 0, WORKERS_MAX);
    }
}

fn name(checks: &mut Checks, key: &'static str, name: &str) {
    checks
        .that(is_node_name(name), key, name, || format!("1 to {NODE_NAME_BYTES_MAX} bytes without control characters"));
}
