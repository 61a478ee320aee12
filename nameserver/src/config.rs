//! Settings of a name server (operations page, part G).

use std::time::Duration;

use base::ByteSize;
use base::limits::{MEMORY_BYTES_DEFAULT, MEMORY_BYTES_MIN};
use serde::{Deserialize, Serialize};
use serve::settings::{Checks, Cluster, Form, Http, Key, Log, Node, Runtime, Settings, Shutdown, Tls};

const EXPIRY_MIN: Duration = Duration::from_secs(1);
const EXPIRY_MAX: Duration = Duration::from_secs(3600);
const CONNECTIONS_MAX: usize = 1_000_000;

/// What operators are told of what only a name server has.
const OWN: [Key; 4] = [
    Key {
        name: "listen",
        form: Form::Address,
        why: "Where clients and brokers connect, in clear text or TLS. Port 0 is any free one.",
    },
    Key {
        name: "connections_max",
        form: Form::Number("connections"),
        why: "Connections of clients and brokers at once; one more is closed. Each takes an open file, see \
            [deployment](deployment.md).",
    },
    Key {
        name: "broker_expiry",
        form: Form::Duration,
        why: "How long a broker may be silent before it is left out of routes. One whose connection ends is left out \
            after 1.5 s.",
    },
    Key {
        name: "limits.memory",
        form: Form::Size,
        why: "Bytes held for clients: requests that are being received or passed on, and answers that they have not taken. \
            What does not fit is refused at once (TOO_MANY_REQUESTS), see [load](load.md).",
    },
];
const NODE: [Key; 1] = Node::described("What this name server is called in its metrics.");

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub cluster: Cluster,
    pub node: Node,
    /// Where clients and brokers come.
    pub listen: String,
    pub connections_max: usize,
    /// A broker that says nothing for so long is forgotten; those whose connection has ended are at once.
    #[serde(with = "base::duration")]
    pub broker_expiry: Duration,
    pub http: Http,
    pub tls: Tls,
    pub log: Log,
    pub shutdown: Shutdown,
    pub runtime: Runtime,
    pub limits: Limits,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Held for clients: requests that are received or passed on, answers that they have not taken.
    pub memory: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: ByteSize(MEMORY_BYTES_DEFAULT) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster: Cluster::default(),
            node: Node { name: "nameserver".into() },
            listen: "0.0.0.0:9876".into(),
            connections_max: 10_000,
            broker_expiry: Duration::from_secs(30),
            http: Http { listen: "127.0.0.1:9877".into() },
            tls: Tls::default(),
            log: Log::default(),
            shutdown: Shutdown::default(),
            runtime: Runtime::default(),
            limits: Limits::default(),
        }
    }
}

impl Settings for Config {
    fn with_every_key() -> Self {
        let tls = Tls { certificate_file: Some(String::new()), key_file: Some(String::new()), required: false };
        Self { tls, ..Self::default() }
    }

    fn described() -> Vec<Key> {
        let parts: [&[Key]; 8] = [
            &OWN,
            &Cluster::DESCRIBED,
            &NODE,
            &Http::DESCRIBED,
            &Tls::DESCRIBED,
            &Log::DESCRIBED,
            &Shutdown::DESCRIBED,
            &Runtime::DESCRIBED,
        ];
        parts.concat()
    }

    fn check(&self, checks: &mut Checks) {
        self.cluster.check(checks);
        self.node.check(checks);
        checks.address("listen", &self.listen);
        checks.range("connections_max", self.connections_max, 1, CONNECTIONS_MAX);
        checks.times("broker_expiry", self.broker_expiry, EXPIRY_MIN, EXPIRY_MAX);
        self.http.check(checks);
        self.tls.check(checks);
        checks
            .that(!self.tls.required, "tls.required", "true", || "must be false: brokers speak clear text here".into());
        self.log.check(checks);
        self.shutdown.check(checks);
        self.runtime.check(checks);
        checks.sizes("limits.memory", self.limits.memory, MEMORY_BYTES_MIN, u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_described_and_the_file_of_all_keys_says_the_defaults() {
        let missing = serve::settings::undescribed::<Config>();
        assert!(missing.is_empty(), "in OWN, these are missing or too many: {missing:?}");
        let text = serve::settings::file::<Config>();
        let mut layers = serve::settings::Layers::<Config>::new();
        layers.file("default.toml", &text);
        assert_eq!(layers.build(), Ok(Config::default()), "{text}");
    }

    #[test]
    fn the_defaults_are_within_their_ranges_and_values_out_of_them_are_refused() {
        assert!(serve::settings::violations(&Config::default()).is_empty());
        type Edit = fn(&mut Config);
        let edits: [(&str, Edit); 6] = [
            ("listen", |c| c.listen = "9876".into()),
            ("connections_max", |c| c.connections_max = 0),
            ("broker_expiry", |c| c.broker_expiry = Duration::from_millis(999)),
            ("http.listen", |c| c.http.listen = ":1".into()),
            ("tls.required", |c| c.tls.required = true),
            ("limits.memory", |c| c.limits.memory = ByteSize(1 << 20)),
        ];
        for (key, edit) in edits {
            let mut config = Config::default();
            edit(&mut config);
            let found: Vec<_> = serve::settings::violations(&config).into_iter().map(|found| found.key).collect();
            assert_eq!(found, [key]);
        }
    }
}
