//! Ranges of settings. A value outside is refused with its key and limit; nothing is adjusted.

use std::collections::BTreeMap;
use std::time::Duration;

use base::{ByteSize, duration};

/// A setting outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: {limit}")]
pub struct Violation {
    pub key: &'static str,
    pub value: String,
    /// What would be allowed, in words.
    pub limit: String,
}

/// Collects what is out of range, and the ranges that were asked for: what is documented is what is checked.
#[derive(Debug, Default)]
pub struct Checks {
    found: Vec<Violation>,
    limits: BTreeMap<&'static str, Vec<String>>,
}

impl Checks {
    pub fn found(self) -> Vec<Violation> {
        self.found
    }

    /// By key, in the words of violations.
    pub fn limits(self) -> BTreeMap<&'static str, Vec<String>> {
        self.limits
    }

    pub fn that(&mut self, is_right: bool, key: &'static str, value: &str, limit: impl FnOnce() -> String) {
        self.hold(is_right, key, || format!("{value:?}"), limit());
    }

    pub fn range<N: PartialOrd + std::fmt::Display>(&mut self, key: &'static str, value: N, min: N, max: N) {
        let is_right = min <= value && value <= max;
        self.hold(is_right, key, || value.to_string(), format!("must be {min} to {max}"));
    }

    pub fn sizes(&mut self, key: &'static str, value: ByteSize, min: u64, max: u64) {
        let limit = match max {
            u64::MAX => format!("must be at least {}", ByteSize(min)),
            _ => format!("must be {} to {}", ByteSize(min), ByteSize(max)),
        };
        self.hold((min..=max).contains(&value.0), key, || value.to_string(), limit);
    }

    pub fn times(&mut self, key: &'static str, value: Duration, min: Duration, max: Duration) {
        let limit = format!("must be {} to {}", duration::format(min), duration::format(max));
        self.hold((min..=max).contains(&value), key, || duration::format(value), limit);
    }

    pub fn address(&mut self, key: &'static str, text: &str) {
        let is_address = text.rsplit_once(':').is_some_and(|(host, port)| {
            let is_bracketed = host.starts_with('[') && host.ends_with(']');
            !host.is_empty() && (is_bracketed || !host.contains(':')) && port.parse::<u16>().is_ok()
        });
        self.that(is_address, key, text, || {
            "write host:port, such as \"127.0.0.1:8081\"; port 0 is any free one".into()
        });
    }

    fn hold(&mut self, is_right: bool, key: &'static str, value: impl FnOnce() -> String, limit: String) {
        let limits = self.limits.entry(key).or_default();
        if !limits.contains(&limit) {
            limits.push(limit.clone());
        }
        if !is_right {
            self.found.push(Violation { key, value: value(), limit });
        }
    }
}
