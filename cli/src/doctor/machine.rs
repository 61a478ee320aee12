//! The machine: limits of processes, how long its disk takes to sync, ports that are taken.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use super::{Finding, Level};
use crate::args::{GRPC_PORT, HTTP_PORT};
use crate::files;
use crate::runtime;

/// 10,000 connections, the default of grpc.connections_max, and what segments and threads take.
const OPEN_FILES_MIN: u64 = 11_000;
const SYNCS: usize = 32;
/// Every send waits for one sync, and perhaps for the one under way.
const SYNC_SLOW: Duration = Duration::from_millis(10);
const SYNC_TOO_SLOW: Duration = Duration::from_millis(100);
/// No device writes 4 KiB in that time.
const SYNC_UNBELIEVABLE: Duration = Duration::from_micros(10);

pub fn open_files() -> Finding {
    let limit = files::read_text(Path::new("/proc/self/limits")).ok().and_then(|text| soft_limit(&text));
    let Some(limit) = limit else {
        return Finding::new("open files", Level::Unknown, "the system does not say its limit");
    };
    let level = if limit < OPEN_FILES_MIN { Level::Warning } else { Level::Ok };
    let wanted =
        format!("; a server wants {OPEN_FILES_MIN} for its connections and segments (ulimit -n, LimitNOFILE=)");
    let advice = if level == Level::Ok { String::new() } else { wanted };
    let limit = if limit == u64::MAX { "any number".into() } else { limit.to_string() };
    Finding::new("open files", level, format!("{limit} for a process of this shell{advice}"))
}

/// The soft limit in the text of `/proc/self/limits`.
fn soft_limit(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Measured where the log is, with a file that a start of the server would remove if this were killed.
pub fn sync_time(directory: &Path) -> Finding {
    let name = format!("prepared-doctor-{:016x}", base::Chance::from_system().next_u64());
    let times = files::time_syncs(&directory.join(name), SYNCS, runtime::now);
    match times {
        Ok(mut times) => {
            times.sort_unstable();
            judge_sync(times[times.len() / 2], times[times.len() - 1])
        }
        Err(error) => Finding::new("sync time", Level::Unknown, format!("no file can be written: {error}")),
    }
}

fn judge_sync(median: Duration, longest: Duration) -> Finding {
    let (level, advice) = match median {
        _ if median < SYNC_UNBELIEVABLE => {
            (Level::Warning, "; so fast that nothing reaches a device: an OK would not survive a power cut")
        }
        _ if median >= SYNC_TOO_SLOW => (Level::Critical, "; every send waits for that"),
        _ if median >= SYNC_SLOW => (Level::Warning, "; every send waits for that"),
        _ => (Level::Ok, ""),
    };
    Finding::new("sync time", level, format!("median {median:.1?}, longest {longest:.1?} of {SYNCS}{advice}"))
}

/// Whether a server could listen with its defaults.
pub fn ports() -> Vec<Finding> {
    let check = |(check, port)| match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Finding::new(check, Level::Ok, format!("{port} is free")),
        Err(error) => Finding::new(check, Level::Warning, format!("{port} cannot be listened on: {error}")),
    };
    [("port grpc", GRPC_PORT), ("port http", HTTP_PORT)].map(check).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_found_among_the_others() {
        let text = "Limit            Soft Limit  Hard Limit  Units\nMax processes    1  2  processes\n\
            Max open files   1024        524288      files\n";
        assert_eq!(soft_limit(text), Some(1024));
        assert_eq!(soft_limit("Max open files unlimited unlimited files"), Some(u64::MAX));
        assert_eq!(soft_limit(""), None);
    }

    #[test]
    fn a_sync_is_too_slow_or_too_fast_to_be_true() {
        let level = |us| judge_sync(Duration::from_micros(us), Duration::from_secs(1)).level;
        assert_eq!(
            [level(1), level(500), level(20_000), level(200_000)],
            [Level::Warning, Level::Ok, Level::Warning, Level::Critical]
        );
    }
}
