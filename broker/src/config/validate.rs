//! The ranges of the settings. A value outside is refused with its key and limit; nothing is adjusted.

use std::time::Duration;

use base::{ByteSize, limits};
use serve::settings::{Checks, Key, Violation};

use super::{Config, Settings};

/// Positions within a segment are 32 bits wide.
const SEGMENT_BYTES_MAX: u64 = 4 << 30;
const TAIL_CACHE_BYTES_MIN: u64 = 1 << 20;
const READ_THREADS_MIN: usize = 2;
const READ_THREADS_MAX: usize = 8;
const CONNECTIONS_MAX: usize = 1_000_000;
const IN_FLIGHT_MAX: usize = 1_000_000;
const WRITER_INBOX_MAX: usize = 1 << 20;
const SEND_WAIT_MIN: Duration = Duration::from_millis(1);
const SEND_WAIT_MAX: Duration = Duration::from_secs(60);
const CHECKS_MAX: u32 = 1_000;
const DISK_RESERVE_PERCENT_MAX: u64 = 50;
/// Once in so long at the most: each time syncs the directory.
const UPKEEP_EVERY_MIN: Duration = Duration::from_millis(10);
const UPKEEP_EVERY_MAX: Duration = Duration::from_secs(3600);
const CHECKPOINT_BYTES_MIN: u64 = 1 << 20;
/// The segment that is written to, and the one that a checkpoint may still need.
const RETENTION_SEGMENTS_MIN: u64 = 2;

impl Settings for Config {
    fn with_every_key() -> Self {
        let mut config = Self { nameservers: vec![String::new()], ..Self::default() };
        config.grpc.advertise = Some(String::new());
        config.tls.certificate_file = Some(String::new());
        config.tls.key_file = Some(String::new());
        config.storage.retention_size = Some(ByteSize(0));
        config
    }

    fn described() -> Vec<Key> {
        super::described::keys()
    }

    fn check(&self, checks: &mut Checks) {
        self.check_network(checks);
        self.check_storage(checks);
        self.check_messaging(checks);
    }
}

impl Config {
    /// Refuses settings out of range, with all of them named.
    pub fn validate(&self) -> Result<(), Vec<Violation>> {
        let violations = serve::settings::violations(self);
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }

    fn check_network(&self, check: &mut Checks) {
        self.cluster.check(check);
        self.node.check(check);
        check.that(!self.data.trim().is_empty(), "data", &self.data, || "name a directory".into());
        for nameserver in &self.nameservers {
            check.address("nameservers", nameserver);
        }
        check.address("grpc.listen", &self.grpc.listen);
        if let Some(advertise) = &self.grpc.advertise {
            check.address("grpc.advertise", advertise);
        }
        self.http.check(check);
        check.range("grpc.connections_max", self.grpc.connections_max, 1, CONNECTIONS_MAX);
        self.tls.check(check);
        let is_reached = !self.tls.required || self.nameservers.is_empty();
        check
            .that(is_reached, "tls.required", "true", || "must be false with nameservers, who speak clear text".into());
        self.runtime.check(check);
        self.shutdown.check(check);
        self.log.check(check);
    }

    fn check_storage(&self, check: &mut Checks) {
        let storage = &self.storage;
        let (min, max) = (limits::SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        check.sizes("storage.log.segment_size", storage.log.segment_size, min, max);
        check.sizes("storage.tail_cache", storage.tail_cache, TAIL_CACHE_BYTES_MIN, u64::MAX);
        check.range("storage.read_threads", storage.read_threads, READ_THREADS_MIN, READ_THREADS_MAX);
        let rate = &storage.verify_rate;
        check.that(crate::server::parse_rate(rate).is_ok(), "storage.verify_rate", rate, || {
            "a size a second such as \"20MiB/s\", or \"0\"".into()
        });
        let reserve = &storage.disk_reserve;
        let is_reserve = match reserve.strip_suffix('%') {
            Some(percent) => percent.trim().parse::<u64>().is_ok_and(|percent| percent <= DISK_RESERVE_PERCENT_MAX),
            None => reserve.parse::<ByteSize>().is_ok(),
        };
        check.that(is_reserve, "storage.disk_reserve", reserve, || {
            format!("0% to {DISK_RESERVE_PERCENT_MAX}%, or a size such as \"2GiB\"")
        });
        self.check_upkeep(check);
        let max = Duration::from_millis(limits::DELAY_MS_MAX);
        check.times("timer.delay_max", self.timer.delay_max, Duration::from_millis(1), max);
    }

    fn check_upkeep(&self, check: &mut Checks) {
        let storage = &self.storage;
        check.times("storage.checkpoint_every", storage.checkpoint_every, UPKEEP_EVERY_MIN, UPKEEP_EVERY_MAX);
        check.times("storage.retain_every", storage.retain_every, UPKEEP_EVERY_MIN, UPKEEP_EVERY_MAX);
        check.sizes("storage.checkpoint_bytes", storage.checkpoint_bytes, CHECKPOINT_BYTES_MIN, u64::MAX);
        let [min, max] = [limits::RETENTION_MS_MIN, limits::RETENTION_MS_MAX].map(Duration::from_millis);
        check.times("storage.retention", storage.retention, min, max);
        check.times("storage.dead_letter_retention", storage.dead_letter_retention, min, max);
        if let Some(size) = storage.retention_size {
            let min = storage.log.segment_size.0.saturating_mul(RETENTION_SEGMENTS_MIN);
            check.sizes("storage.retention_size", size, min, u64::MAX);
            check.that(storage.retention_size_first, "storage.retention_size", &size.to_string(), || {
                "needs storage.retention_size_first = true: without it age alone decides".into()
            });
        }
    }

    fn check_messaging(&self, check: &mut Checks) {
        let max = limits::MESSAGE_BODY_BYTES_MAX as u64;
        check.sizes("topics.message_size_max", self.topics.message_size_max, 1, max);
        let invisible =
            (Duration::from_millis(limits::INVISIBLE_MS_MIN), Duration::from_millis(limits::INVISIBLE_MS_MAX));
        check.times("groups.invisible_default", self.groups.invisible_default, invisible.0, invisible.1);
        check.range("groups.in_flight_max", self.groups.in_flight_max, 1, IN_FLIGHT_MAX);
        let asked = (Duration::from_millis(1), Duration::from_millis(limits::TRANSACTION_CHECK_AFTER_MS_MAX));
        check.times("transactions.check_after", self.transactions.check_after, asked.0, asked.1);
        check.times("transactions.check_every", self.transactions.check_every, asked.0, asked.1);
        check.range("transactions.checks_max", self.transactions.checks_max, 1, CHECKS_MAX);
        check.range("limits.writer_inbox", self.limits.writer_inbox, 1, WRITER_INBOX_MAX);
        check.sizes("limits.memory", self.limits.memory, limits::MEMORY_BYTES_MIN, u64::MAX);
        check.times("limits.send_wait", self.limits.send_wait, SEND_WAIT_MIN, SEND_WAIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Edit = fn(&mut Config);

    #[test]
    fn the_defaults_are_within_their_ranges() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn every_key_is_described_and_the_file_of_all_keys_says_the_defaults() {
        let missing = serve::settings::undescribed::<Config>();
        assert!(missing.is_empty(), "in broker/src/config/described.rs, these are missing or too many: {missing:?}");
        let text = serve::settings::file::<Config>();
        let mut layers = serve::settings::Layers::<Config>::new();
        layers.file("default.toml", &text);
        assert_eq!(layers.build(), Ok(Config::default()), "{text}");
    }

    #[test]
    fn keys_without_a_default_are_in_the_file_too_as_comments_that_may_be_used() {
        let is_key = |line: &&str| {
            let parts = line.strip_prefix("# ").and_then(|rest| rest.split_once(" = "));
            parts.is_some_and(|(name, _)| !name.contains(' '))
        };
        let text = serve::settings::file::<Config>();
        assert_eq!(text.lines().filter(is_key).count(), 4, "{text}");
        let uncomment = |line: &str| if is_key(&line) { line[2..].to_owned() } else { line.to_owned() };
        let text: Vec<_> = text.lines().map(uncomment).collect();
        let mut layers = serve::settings::Layers::<Config>::new();
        layers.file("all.toml", &text.join("\n"));
        layers.assignment("--set", "storage.retention_size_first=true");
        let config = layers.build().unwrap();
        assert!(config.grpc.advertise.is_some() && config.tls.key_file.is_some(), "{config:?}");
    }

    #[test]
    fn each_value_out_of_range_is_refused_by_its_own_key() {
        let edits: [(&str, Edit); 40] = [
            ("cluster.name", |c| c.cluster.name = " ".into()),
            ("node.name", |c| c.node.name = "x".repeat(128)),
            ("data", |c| c.data = String::new()),
            ("nameservers", |c| c.nameservers = vec!["ns-1".into()]),
            ("grpc.listen", |c| c.grpc.listen = "8081".into()),
            ("grpc.listen", |c| c.grpc.listen = "::1:8081".into()),
            ("grpc.advertise", |c| c.grpc.advertise = Some("broker".into())),
            ("grpc.connections_max", |c| c.grpc.connections_max = 0),
            ("http.listen", |c| c.http.listen = ":8080".into()),
            ("tls.certificate_file", |c| c.tls.key_file = Some("key.pem".into())),
            ("tls.required", |c| (c.tls.required, c.nameservers) = (true, vec!["ns-1:9876".into()])),
            ("storage.log.segment_size", |c| c.storage.log.segment_size = ByteSize(1)),
            ("storage.log.segment_size", |c| c.storage.log.segment_size = ByteSize(8 << 30)),
            ("storage.tail_cache", |c| c.storage.tail_cache = ByteSize(0)),
            ("storage.read_threads", |c| c.storage.read_threads = 9),
            ("storage.verify_rate", |c| c.storage.verify_rate = "20MiB/h".into()),
            ("storage.disk_reserve", |c| c.storage.disk_reserve = "51%".into()),
            ("storage.disk_reserve", |c| c.storage.disk_reserve = "much".into()),
            ("storage.checkpoint_every", |c| c.storage.checkpoint_every = Duration::from_millis(9)),
            ("storage.checkpoint_every", |c| c.storage.checkpoint_every = Duration::from_secs(3601)),
            ("storage.checkpoint_bytes", |c| c.storage.checkpoint_bytes = ByteSize(1)),
            ("storage.retention", |c| c.storage.retention = Duration::from_millis(72)),
            ("storage.retention", |c| c.storage.retention = Duration::from_secs(1 << 40)),
            ("storage.retention_size", |c| c.storage.retention_size = Some(ByteSize(10 << 30))),
            ("storage.retention_size", |c| {
                c.storage.retention_size_first = true;
                c.storage.retention_size = Some(ByteSize(256 << 20));
            }),
            ("storage.dead_letter_retention", |c| c.storage.dead_letter_retention = Duration::ZERO),
            ("storage.retain_every", |c| c.storage.retain_every = Duration::from_millis(9)),
            ("storage.retain_every", |c| c.storage.retain_every = Duration::from_secs(3601)),
            ("timer.delay_max", |c| c.timer.delay_max = Duration::ZERO),
            ("topics.message_size_max", |c| c.topics.message_size_max = ByteSize(5 << 20)),
            ("groups.invisible_default", |c| c.groups.invisible_default = Duration::from_secs(9)),
            ("groups.in_flight_max", |c| c.groups.in_flight_max = 0),
            ("transactions.check_after", |c| c.transactions.check_after = Duration::from_secs(3601)),
            ("transactions.check_every", |c| c.transactions.check_every = Duration::ZERO),
            ("transactions.checks_max", |c| c.transactions.checks_max = 0),
            ("limits.writer_inbox", |c| c.limits.writer_inbox = 0),
            ("limits.memory", |c| c.limits.memory = ByteSize((64 << 20) - 1)),
            ("limits.send_wait", |c| c.limits.send_wait = Duration::ZERO),
            ("log.filter", |c| c.log.filter = String::new()),
            ("shutdown.timeout", |c| c.shutdown.timeout = Duration::from_secs(3601)),
        ];
        for (key, edit) in edits {
            let mut config = Config::default();
            edit(&mut config);
            let violations = config.validate().expect_err(key);
            assert_eq!(violations.iter().map(|v| v.key).collect::<Vec<_>>(), [key], "{violations:?}");
        }
    }

    #[test]
    fn an_empty_http_address_switches_it_off_and_ipv6_needs_brackets() {
        let mut config = Config::default();
        config.http.listen = String::new();
        config.grpc.listen = "[::1]:0".into();
        assert_eq!(config.validate(), Ok(()));
    }
}
