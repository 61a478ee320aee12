//! How a group consumes: the words of what is stored, told to other brokers and shown.

use std::time::Duration;

/// When a group consumes in order. The numbers are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum GroupOrder {
    /// On every FIFO topic.
    #[default]
    Auto = 1,
    Always = 2,
    Never = 3,
}

/// Waits between attempts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backoff {
    /// One after the other; the last one repeats.
    Steps(Vec<Duration>),
    Exponential {
        first: Duration,
        factor: u32,
        max: Duration,
    },
}

impl Backoff {
    /// The wait after `attempts` attempts, at least 1.
    pub fn after(&self, attempts: u32) -> Duration {
        let step = attempts.max(1) - 1;
        match self {
            Self::Steps(steps) => {
                let index = usize::try_from(step).unwrap_or(usize::MAX).min(steps.len().saturating_sub(1));
                steps.get(index).copied().unwrap_or_default()
            }
            Self::Exponential { first, factor, max } => {
                let scaled = factor.checked_pow(step).and_then(|scale| first.checked_mul(scale));
                scaled.unwrap_or(*max).min(*max)
            }
        }
    }
}
