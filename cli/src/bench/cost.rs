//! What load costs: CPU seconds of the server and of this program, and syncs of the server's log.
//!
//! The server's come from `/proc` when its process is named, else from its metrics; a server without either is measured
//! without them.

use std::time::Duration;

use crate::admin::api::Api;
use crate::files;
use crate::runtime;
use crate::series::sum;

/// The kernel shows CPU time to programs in hundredths of a second, whatever its own tick is.
const TICKS_PER_SECOND: f64 = 100.0;
/// A server that does not answer at once must not hold up the watch.
const METRICS_TIMEOUT: Duration = Duration::from_millis(500);
const SYNCS: &str = "carillon_log_sync_duration_seconds_count";
const PROCESS_CPU: &str = "process_cpu_seconds_total";

/// Amounts so far, or between two readings. None is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    pub server_cpu_seconds: Option<f64>,
    pub client_cpu_seconds: Option<f64>,
    pub syncs: Option<f64>,
}

impl Cost {
    pub fn since(&self, earlier: &Self) -> Self {
        let difference = |later: Option<f64>, earlier: Option<f64>| Some((later? - earlier?).max(0.0));
        Self {
            server_cpu_seconds: difference(self.server_cpu_seconds, earlier.server_cpu_seconds),
            client_cpu_seconds: difference(self.client_cpu_seconds, earlier.client_cpu_seconds),
            syncs: difference(self.syncs, earlier.syncs),
        }
    }
}

/// Reads costs.
#[derive(Debug)]
pub struct Meter {
    server_pid: Option<u32>,
    metrics: Option<Api>,
}

impl Meter {
    /// Metrics are read from `address` as long as they answer.
    pub fn new(server_pid: Option<u32>, address: &str) -> Self {
        Self { server_pid, metrics: Some(Api::new(address)) }
    }

    pub async fn read(&mut self) -> Cost {
        let metrics = self.metrics().await;
        let from_metrics = |name| metrics.as_deref().and_then(|text| sum(text, name));
        Cost {
            server_cpu_seconds: match self.server_pid {
                Some(pid) => cpu_seconds(&pid.to_string()),
                None => from_metrics(PROCESS_CPU),
            },
            client_cpu_seconds: cpu_seconds("self"),
            syncs: from_metrics(SYNCS),
        }
    }

    async fn metrics(&mut self) -> Option<String> {
        let answer = runtime::within(METRICS_TIMEOUT, self.metrics.as_mut()?.text("/metrics")).await;
        let text = answer.and_then(Result::ok);
        if text.is_none() {
            // Asking a server without metrics again would only delay the watch.
            self.metrics = None;
        }
        text
    }
}

fn cpu_seconds(process: &str) -> Option<f64> {
    let text = files::read_text(format!("/proc/{process}/stat").as_ref()).ok()?;
    stat_seconds(&text)
}

/// User and system time are the 14th and 15th field; the second is a name that may hold anything.
fn stat_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_name_with_blanks_and_brackets() {
        let stat = "17 (a) b (c)) S 1 17 17 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 4 0 100 0 0";
        assert_eq!(stat_seconds(stat), Some(3.0));
        assert_eq!(stat_seconds("nonsense"), None);
        assert!(cpu_seconds("self").is_some());
    }

    #[test]
    fn a_cost_is_known_only_when_both_readings_are() {
        let earlier = Cost { server_cpu_seconds: Some(1.0), client_cpu_seconds: None, syncs: Some(5.0) };
        let later = Cost { server_cpu_seconds: Some(1.5), client_cpu_seconds: Some(1.0), syncs: None };
        let expected = Cost { server_cpu_seconds: Some(0.5), client_cpu_seconds: None, syncs: None };
        assert_eq!(later.since(&earlier), expected);
    }
}
