//! Settings of a broker: numbers and switches an operator may change (operations page, part G). Unknown keys fail.
//!
//! `serve::settings` puts them together from file, environment and flags; `validate` refuses what is out of range.

mod described;
mod validate;

pub use serve::settings::{Cluster, Http, Log, LogFormat, Node, Runtime, Settings, Shutdown, Tls};

use std::time::Duration;

use base::ByteSize;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub cluster: Cluster,
    pub node: Node,
    /// Where messages are kept: one directory per store, locked while a broker runs.
    pub data: String,
    /// `host:port` of each name server; none = this broker alone answers routes.
    pub nameservers: Vec<String>,
    pub grpc: Grpc,
    pub http: Http,
    pub tls: Tls,
    pub storage: Storage,
    pub timer: Timer,
    pub topics: Topics,
    pub groups: Groups,
    pub transactions: Transactions,
    pub limits: Limits,
    pub log: Log,
    pub shutdown: Shutdown,
    pub runtime: Runtime,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grpc {
    pub listen: String,
    /// `host:port` for clients; none = the address they used to reach us.
    pub advertise: Option<String>,
    pub connections_max: usize,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    pub log: LogStore,
    /// Below this, new messages are refused: `"5%"` of the file system or a size.
    pub disk_reserve: String,
    /// Recent bodies kept in memory.
    pub tail_cache: ByteSize,
    pub read_threads: usize,
    /// The longest time between two checkpoints of a store that is written to: what a start replays at most.
    #[serde(with = "base::duration")]
    pub checkpoint_every: Duration,
    /// The most log between two checkpoints.
    pub checkpoint_bytes: ByteSize,
    /// How long messages of topics that say nothing themselves are kept, counted from when they became visible.
    #[serde(with = "base::duration")]
    pub retention: Duration,
    /// The most that the log may take; none = as much as there is. Works with `retention_size_first` only.
    pub retention_size: Option<ByteSize>,
    /// Whether limits of size, this one and those of topics, also take what is younger than its retention.
    pub retention_size_first: bool,
    /// How long dead letters are kept.
    #[serde(with = "base::duration")]
    pub dead_letter_retention: Duration,
    /// How often it is looked for segments that nobody wants.
    #[serde(with = "base::duration")]
    pub retain_every: Duration,
    /// Bytes a second that groups behind the tail cache may read, all together; 0 = as fast as they can.
    pub behind_read_rate: ByteSize,
    /// What the background scrub reads at most, such as `"20MiB/s"`; `"0"` turns it off.
    pub verify_rate: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogStore {
    pub segment_size: ByteSize,
    pub flush: Flush,
}

/// When a send is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Flush {
    /// After `fdatasync`.
    Sync,
    /// After the write: an OK does not survive a power cut.
    Write,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timer {
    #[serde(with = "base::duration")]
    pub delay_max: Duration,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Topics {
    /// Create unknown topics with the first message.
    pub auto_create: bool,
    pub message_size_max: ByteSize,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Groups {
    /// Create unknown groups at their first use.
    pub auto_create: bool,
    #[serde(with = "base::duration")]
    pub invisible_default: Duration,
    pub in_flight_max: usize,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Transactions {
    #[serde(with = "base::duration")]
    pub check_after: Duration,
    #[serde(with = "base::duration")]
    pub check_every: Duration,
    pub checks_max: u32,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests that wait for the log writer.
    pub writer_inbox: usize,
    /// Held for clients: requests that are received or worked on, answers that they have not taken.
    pub memory: ByteSize,
    /// Sends that stand in line for longer are refused, those of connections with more than a few.
    #[serde(with = "base::duration")]
    pub send_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster: Cluster::default(),
            node: Node::default(),
            data: "/var/lib/carillon".into(),
            nameservers: Vec::new(),
            grpc: Grpc::default(),
            http: Http::default(),
            tls: Tls::default(),
            storage: Storage::default(),
            timer: Timer::default(),
            topics: Topics::default(),
            groups: Groups::default(),
            transactions: Transactions::default(),
            limits: Limits::default(),
            log: Log::default(),
            shutdown: Shutdown::default(),
            runtime: Runtime::default(),
        }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self { listen: "0.0.0.0:8081".into(), advertise: None, connections_max: 10_000 }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            log: LogStore::default(),
            disk_reserve: "5%".into(),
            tail_cache: ByteSize(64 << 20),
            read_threads: 4,
            checkpoint_every: Duration::from_secs(60),
            checkpoint_bytes: ByteSize(512 << 20),
            retention: Duration::from_secs(72 * 3600),
            retention_size: None,
            retention_size_first: false,
            dead_letter_retention: Duration::from_secs(14 * 24 * 3600),
            retain_every: Duration::from_secs(10),
            behind_read_rate: ByteSize(0),
            verify_rate: "20MiB/s".into(),
        }
    }
}

impl Default for LogStore {
    fn default() -> Self {
        Self { segment_size: ByteSize(base::limits::SEGMENT_BYTES_DEFAULT), flush: Flush::Sync }
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self { delay_max: Duration::from_millis(base::limits::DELAY_MS_MAX) }
    }
}

impl Default for Topics {
    fn default() -> Self {
        Self { auto_create: false, message_size_max: ByteSize(base::limits::MESSAGE_BODY_BYTES_MAX as u64) }
    }
}

impl Default for Groups {
    fn default() -> Self {
        Self { auto_create: true, invisible_default: Duration::from_secs(60), in_flight_max: 10_000 }
    }
}

impl Default for Transactions {
    fn default() -> Self {
        Self { check_after: Duration::from_secs(6), check_every: Duration::from_secs(30), checks_max: 15 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            writer_inbox: base::limits::INBOX_REQUESTS_MAX,
            memory: ByteSize(base::limits::MEMORY_BYTES_DEFAULT),
            send_wait: Duration::from_millis(50),
        }
    }
}

#[cfg(test)]
mod layers_tests;
