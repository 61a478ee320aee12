//! What a server's process takes.

use std::fs;

use tests::cluster::Node;

pub const MIB: usize = 1 << 20;
/// What changes beside what is held for clients: pages that the allocator keeps for a while, caches of this size, the
/// connections' own buffers.
pub const BESIDE: usize = 48 * MIB;

/// Resident memory, in bytes.
pub fn memory_of(node: &Node) -> usize {
    let text = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("the process runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

/// What the server holds for its clients, by its own account.
pub async fn held_by(node: &Node) -> usize {
    node.metric("carillon_memory_bytes", "pool=\"connections\"").await as usize
}

/// Refusals of one reason.
pub async fn refusals(node: &Node, reason: &str) -> u64 {
    node.metric("carillon_overload_refusals_total", &format!("reason=\"{reason}\"")).await as u64
}

/// The calls of a few clients that are there.
pub const LIMIT_AT_REST: usize = MIB;
