//! SIGTERM and SIGINT: the first asks for a graceful stop, the second ends the process at once, which is safe: a crash
//! loses nothing that was acknowledged.
//!
//! They are heard on a thread of their own, so that the second one works while a start or a stop hangs.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::process::{Exit, Failure};
use crate::runtime;

/// Tells when to stop. Any number of clones, in any runtime.
#[derive(Debug, Clone)]
pub struct Stop {
    requested: watch::Receiver<bool>,
}

impl Stop {
    /// Resolves when the stop is requested, at once when it was.
    pub async fn requested(&mut self) {
        // The sender lives as long as the process; without one there is nobody to wait for.
        let _is_closed_at_the_end = self.requested.wait_for(|is_requested| *is_requested).await;
    }
}

/// Hears signals from now on.
pub fn on_signals() -> Result<Stop, Failure> {
    let (request, requested) = watch::channel(false);
    let heard = std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime::block_on(async move {
            let (Ok(mut terminate), Ok(mut interrupt)) =
                (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
            else {
                eprintln!("warning: signals cannot be heard; they end the process at once");
                // Dropping `request` would look like a request.
                return std::future::pending().await;
            };
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if request.send_replace(true) {
                    eprintln!("stopped at once");
                    std::process::exit(i32::from(u8::from(Exit::Failed)));
                }
                eprintln!("stopping; a second signal stops at once");
            }
        });
    });
    heard.map_err(|error| Failure::new(Exit::Failed, format!("no signals: {error}")))?;
    Ok(Stop { requested })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_heard_by_all_clones_also_later() {
        let (request, requested) = watch::channel(false);
        let mut first = Stop { requested };
        let mut second = first.clone();
        runtime::block_on(async {
            request.send_replace(true);
            first.requested().await;
            second.requested().await;
            first.requested().await;
        });
    }
}
