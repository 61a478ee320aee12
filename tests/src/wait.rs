//! Waiting for something to become so, and letting time pass.

use std::time::Duration;

use tokio::time::{interval, timeout};

/// How often it is looked whether something has come that is waited for.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What is told to others is known there within this time, on a slow machine too.
pub const KNOWN_WITHIN: Duration = Duration::from_secs(20);

/// Looks until something is so, which it has to be soon.
pub async fn until(what: &str, is_so: impl AsyncFnMut() -> bool) {
    until_within(KNOWN_WITHIN, what, is_so).await;
}

pub async fn until_within(within: Duration, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let look = async {
        let mut look = interval(LOOK_EVERY);
        loop {
            look.tick().await;
            if is_so().await {
                break;
            }
        }
    };
    assert!(timeout(within, look).await.is_ok(), "still not after {within:?}: {what}");
}

/// The pace of a load, or of what happens to servers. Nothing relies on what happens meanwhile.
pub async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}
