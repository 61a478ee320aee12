//! The one place of this program that reads clocks, waits, and starts tasks and threads; what servers need too is theirs.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use serve::runtime::{block_on, now};

/// The wall clock, in microseconds since 1970: lateness of timers is below the millisecond of `base::Timestamp`.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock to the µs")]
pub fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

pub async fn wait(duration: Duration) {
    tokio::time::sleep(duration).await;
}

pub async fn wait_until(instant: Instant) {
    tokio::time::sleep_until(instant.into()).await;
}

/// `None` when `duration` was over first.
pub async fn within<T>(duration: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(duration, work).await.ok()
}

/// A background task of a connection; it ends when the connection does.
#[expect(clippy::disallowed_methods, reason = "the one place that starts tasks of this program")]
pub fn start(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(work);
}

/// A thread with a name, joined by whoever starts it.
pub fn thread<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.into()).spawn(work)
}
