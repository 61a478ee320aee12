//! When the disk will be full, if it goes on as it did.

use std::collections::VecDeque;
use std::time::Duration;

/// How far back is looked.
const WINDOW_MS: u64 = 10 * 60 * 1000;
/// How often it is noted what is free.
const STEP_MS: u64 = 10_000;
/// A shorter time says nothing about the next hours.
const SEEN_MS_MIN: u64 = 60_000;
/// A year: longer is not told.
const LONGEST: Duration = Duration::from_secs(31_536_000);

/// What was free, oldest first.
#[derive(Debug, Default)]
pub struct Headroom {
    samples: VecDeque<(u64, u64)>,
}

impl Headroom {
    pub fn note(&mut self, now_ms: u64, free: u64) {
        if self.samples.back().is_some_and(|(at, _)| now_ms < at.saturating_add(STEP_MS)) {
            return;
        }
        self.samples.push_back((now_ms, free));
        while self.samples.front().is_some_and(|(at, _)| at.saturating_add(WINDOW_MS) < now_ms) {
            self.samples.pop_front();
        }
    }

    /// How long `reserve` will still be free; none while it is too early to say.
    pub fn left(&self, reserve: u64) -> Option<Duration> {
        let (&(from_ms, before), &(to_ms, free)) = (self.samples.front()?, self.samples.back()?);
        let seen_ms = to_ms.saturating_sub(from_ms);
        if seen_ms < SEEN_MS_MIN {
            return None;
        }
        let left = u128::from(free.saturating_sub(reserve)) * u128::from(seen_ms);
        let left_ms = left.checked_div(u128::from(before.saturating_sub(free)));
        let left_ms = left_ms.map_or(u64::MAX, |ms| u64::try_from(ms).unwrap_or(u64::MAX));
        Some(Duration::from_millis(left_ms).min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_time_left_follows_from_what_was_taken_in_ten_minutes() {
        let mut headroom = Headroom::default();
        headroom.note(0, 1_000 * MIB);
        assert_eq!(headroom.left(0), None, "one look says nothing");
        headroom.note(30_000, 970 * MIB);
        assert_eq!(headroom.left(0), None, "half a minute says nothing");
        headroom.note(60_000, 940 * MIB);
        assert_eq!(headroom.left(40 * MIB), Some(Duration::from_secs(900)), "1 MiB a second, 900 MiB to go");
        assert_eq!(headroom.left(941 * MIB), Some(Duration::ZERO));
        // Ten quiet minutes later the burst is forgotten.
        for step in 7..=67 {
            headroom.note(step * 10_000, 940 * MIB);
        }
        assert_eq!(headroom.left(0), Some(LONGEST), "nothing fills");
        headroom.note(690_000, 999 * MIB);
        assert_eq!(headroom.left(0), Some(LONGEST), "it empties");
    }

    #[test]
    fn what_is_noted_does_not_grow() {
        let mut headroom = Headroom::default();
        (0..1_000_000).step_by(500).for_each(|ms| headroom.note(ms, MIB));
        assert!(headroom.samples.len() <= 62, "{}", headroom.samples.len());
    }
}
