//! The JSON of brokers and clients (operations H3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::json::{DurationJson, UnreachableJson};

/// A broker, as this one knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeJson {
    pub name: String,
    /// Whether this is the broker that answers.
    pub here: bool,
    /// `ready`, `read_only` or `draining`.
    pub state: String,
    pub version: String,
    /// `host:port` that clients are told; null for one that is told what it was called by.
    pub grpc: Option<String>,
    /// `host:port` of the admin API; of the broker that answers, as it is set.
    pub http: Option<String>,
    pub topics: usize,
    /// Why this is only what others know of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
    /// Its name servers; known where one broker is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<NameserverJson>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NameserverJson {
    pub address: String,
    pub registered: bool,
}

/// Body of `POST /node/drain`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DrainJson {
    /// How long to wait until nothing is out any more; 60 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationJson>,
    /// For how long messages are taken still; by default as long as official clients may need to go elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<DurationJson>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DrainedJson {
    /// Messages are refused, and none is handed out and not settled.
    pub quiet: bool,
    pub in_flight: u64,
    /// For how long messages are taken still.
    pub takes_for: DurationJson,
}

impl From<crate::Drained> for DrainedJson {
    fn from(drained: crate::Drained) -> Self {
        let crate::Drained { is_quiet, in_flight, takes_for } = drained;
        Self { quiet: is_quiet, in_flight, takes_for: DurationJson(takes_for) }
    }
}

/// Answer to a DELETE of a client, when some brokers did not say whether they had it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DisconnectedJson {
    pub unreachable: Vec<UnreachableJson>,
}

/// A client that brokers have heard of lately.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClientJson {
    pub client_id: String,
    /// `producer`, `push`, `simple`, …; null before it has said so.
    pub role: Option<String>,
    pub group: Option<String>,
    /// Published by a producer.
    pub topics: Vec<String>,
    pub language: String,
    pub version: String,
    pub address: Option<String>,
    pub last_seen_ms_ago: u64,
    /// Telemetry streams that are open.
    pub streams: usize,
    /// Where it is connected.
    pub brokers: Vec<String>,
    /// Where one client is asked for: brokers that did not say whether they know it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<UnreachableJson>,
}
