//! What a server's process takes.

use tests::cluster::Node;

pub const MIB: usize = 1 << 20;
/// What changes beside what is held for clients: pages that the allocator keeps for a while, caches of this size, the
/// connections' own buffers.
pub const BESIDE: usize = 48 * MIB;

/// Resident memory, in bytes.
pub fn memory_of(node: &Node) -> usize {
    usize::try_from(node.resident_bytes()).expect("it fits into memory")
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
