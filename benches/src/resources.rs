//! What this process takes.

/// Resident memory in MiB, now and at most.
pub fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        let kib: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
        kib / 1024
    };
    format!("RSS {} MiB, at most {} MiB", of("VmRSS"), of("VmHWM"))
}
