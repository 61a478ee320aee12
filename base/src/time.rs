//! Where "now" comes from.
//!
//! Due times are instants of the wall clock; relative waits (leases, back-off, polls) run on the monotonic clock, so a
//! wall clock that is set back neither prolongs a lease nor fires a timer twice.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z by the wall clock.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    pub const ZERO: Self = Self(0);
    /// The end of time: later than any due time that is accepted.
    pub const MAX: Self = Self(u64::MAX);

    /// This instant and `ms` more; stops at the end of time.
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; 0 when that lies later.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({})", self.0)
    }
}

/// The two clocks that a driver holds. Logic never holds one: it is told the time.
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// Milliseconds that have passed since some fixed point of this process; never goes back.
    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ns() / 1_000_000
    }

    /// As [`Clock::monotonic_ms`], in nanoseconds.
    fn monotonic_ns(&self) -> u64;
}

/// The clocks of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Timestamp(crate::duration::ms(since))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    fn monotonic_ns(&self) -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        // Counted from 1 s, so that "a second ago" is a time that exists. 2⁶⁴ ns are 584 years.
        1_000_000_000 + u64::try_from(start.elapsed().as_nanos()).expect("no process runs for 500 years")
    }
}

/// A clock for tests: it moves only when told to. Both clocks move together unless the wall clock is set.
#[derive(Debug)]
pub struct ManualClock {
    wall: AtomicU64,
    monotonic: AtomicU64,
}

impl ManualClock {
    pub fn at(wall: Timestamp) -> Self {
        Self { wall: AtomicU64::new(wall.0), monotonic: AtomicU64::new(1_000) }
    }

    /// Lets `ms` pass on both clocks.
    pub fn advance_ms(&self, ms: u64) {
        self.wall.fetch_add(ms, Ordering::Relaxed);
        self.monotonic.fetch_add(ms, Ordering::Relaxed);
    }

    /// Sets the wall clock, forward or back, as a time service may.
    pub fn set_wall(&self, wall: Timestamp) {
        self.wall.store(wall.0, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::Relaxed))
    }

    fn monotonic_ns(&self) -> u64 {
        self.monotonic.load(Ordering::Relaxed) * 1_000_000
    }
}
