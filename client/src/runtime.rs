//! The one place of this crate that starts tasks, waits, and asks the machine for time, chance and its name.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;

/// A task that ends with its owner: dropping this cancels it.
#[derive(Debug)]
pub(crate) struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that starts tasks of this crate; each has an owner")]
pub(crate) fn start(work: impl Future<Output = ()> + Send + 'static) -> Task {
    Task(tokio::spawn(work))
}

pub(crate) async fn wait(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// `None` when `duration` was over first.
pub(crate) async fn within<T>(duration: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(duration, work).await.ok()
}

/// Name of this machine for client ids; the server shows it and reads nothing from it.
pub(crate) fn host() -> String {
    // No portable call in the standard library: the kernel's own copy, then what shells export.
    let from_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = from_kernel.trim();
    if name.is_empty() { std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".into()) } else { name.to_owned() }
}
