//! Durations as people write them: `250ms`, `30s`, `2h`, `7d`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration; write a whole number with ms, s, m, h or d, such as \"30s\"")]
pub struct ParseDurationError {
    text: String,
}

// Longest suffix first: "ms" ends in "s".
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Whole milliseconds; what has too many for 64 bits is as long as can be.
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads one duration.
pub fn parse(text: &str) -> Result<Duration, ParseDurationError> {
    let trimmed = text.trim();
    UNITS
        .iter()
        .find_map(|(name, ms)| trimmed.strip_suffix(name).map(|digits| (digits, *ms)))
        .and_then(|(digits, ms)| digits.trim().parse::<u64>().ok()?.checked_mul(ms))
        .map(Duration::from_millis)
        .ok_or_else(|| ParseDurationError { text: text.into() })
}

/// Writes a duration in its largest whole unit.
pub fn format(duration: Duration) -> String {
    let ms = ms(duration);
    match UNITS.iter().rev().find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", ms / unit),
        None => "0s".into(),
    }
}

/// For `#[serde(with = "base::duration")]`.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

/// For `#[serde(with = "base::duration")]`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_in_their_largest_whole_unit() {
        for (text, ms) in [("250ms", 250), ("30s", 30_000), ("90m", 5_400_000), ("2h", 7_200_000), ("7d", 604_800_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)));
            assert_eq!(parse(&format(Duration::from_millis(ms))), Ok(Duration::from_millis(ms)));
        }
        assert_eq!(format(Duration::from_secs(3600)), "1h");
        for bad in ["", "s", "1", "1.5s", "-3s", "1w"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
