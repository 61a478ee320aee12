//! Values as people write them on the command line: topics, back-offs, times, filters.

use std::time::Duration;

use base::{Timestamp, duration};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

pub const QUEUES_DEFAULT: u16 = 8;

/// What a topic takes, as the server is told; which of them it has is the server's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TopicType {
    Normal,
    Fifo,
    Delay,
    Transaction,
    Priority,
    Lite,
    Mixed,
}

impl TopicType {
    pub fn of_broker(self) -> broker::admin::TopicType {
        match self {
            Self::Normal => broker::admin::TopicType::Normal,
            Self::Fifo => broker::admin::TopicType::Fifo,
            Self::Delay => broker::admin::TopicType::Delay,
            Self::Transaction => broker::admin::TopicType::Transaction,
            Self::Mixed => broker::admin::TopicType::Mixed,
            Self::Priority => broker::admin::TopicType::Priority,
            Self::Lite => broker::admin::TopicType::Lite,
        }
    }
}

/// A topic to create: `name`, `name:type` or `name:type:queues`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicSpec {
    pub name: String,
    #[serde(rename = "type")]
    pub topic_type: TopicType,
    pub queues: u16,
}

/// A time on the command line: an instant, or so long before or after now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    At(Timestamp),
    Before(Duration),
    After(Duration),
}

impl Time {
    pub fn resolve(self, now: Timestamp) -> Timestamp {
        use base::duration::ms;
        match self {
            Self::At(at) => at,
            Self::Before(ago) => Timestamp(now.0.saturating_sub(ms(ago))),
            Self::After(ahead) => now.plus_ms(ms(ahead)),
        }
    }
}

/// Where a tail begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Earliest,
    Latest,
    Offset(u64),
    Time(Time),
}

pub fn topic_spec(text: &str) -> Result<TopicSpec, String> {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default().to_owned();
    base::TopicName::parse(&name).map_err(|error| error.to_string())?;
    let topic_type = match parts.next() {
        None => TopicType::Normal,
        Some(word) => TopicType::from_str(word, true).map_err(|_| {
            format!("{word:?} is no type of topics; write normal, fifo, delay, transaction, priority, lite or mixed")
        })?,
    };
    let queues = match parts.next() {
        None => QUEUES_DEFAULT,
        Some(number) => number.parse().map_err(|_| format!("{number:?} is no number of queues"))?,
    };
    match parts.next() {
        None => Ok(TopicSpec { name, topic_type, queues }),
        Some(_) => Err(format!("{text:?} has too many parts; write NAME:TYPE:QUEUES")),
    }
}

pub fn span(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

/// Things a second.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| *rate > 0.0 && *rate <= 1e6);
    rate.ok_or_else(|| format!("{text:?} is no rate; write a number above 0 and up to 1000000"))
}

/// A random (version 4) UUID of these bits.
pub fn uuid([high, low]: [u64; 2]) -> String {
    let high = high & !0xF000 | 0x4000;
    let low = low & !(0b11 << 62) | 0b10 << 62;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xFFFF,
        high & 0xFFFF,
        low >> 48,
        low & 0xFFFF_FFFF_FFFF
    )
}

pub fn size(text: &str) -> Result<usize, String> {
    let size: base::ByteSize = text.parse().map_err(|error: base::size::ParseSizeError| error.to_string())?;
    usize::try_from(size.0).map_err(|_| format!("{text:?} is larger than memory"))
}

/// `1s,5s,1m`, or `exp:FIRST:FACTOR:MAX`, in the server's own form.
pub fn backoff(text: &str) -> Result<Value, String> {
    let wrong = || format!("{text:?} is no back-off; write steps such as 1s,5s,1m, or exp:5s:2:2h");
    let whole = |part: &str| duration::parse(part).map(duration::format).map_err(|error| error.to_string());
    let Some(rest) = text.strip_prefix("exp:") else {
        let steps = text.split(',').map(whole).collect::<Result<Vec<_>, _>>()?;
        return Ok(json!({"kind": "steps", "steps": steps}));
    };
    let [first, factor, max] = rest.split(':').collect::<Vec<_>>()[..] else { return Err(wrong()) };
    let factor: u32 = factor.parse().map_err(|_| wrong())?;
    Ok(json!({"kind": "exponential", "first": whole(first)?, "factor": factor, "max": whole(max)?}))
}

/// RFC 3339, `-15m` or `+2h`.
pub fn time(text: &str) -> Result<Time, String> {
    if let Some(ago) = text.strip_prefix('-') {
        return span(ago).map(Time::Before);
    }
    if let Some(ahead) = text.strip_prefix('+') {
        return span(ahead).map(Time::After);
    }
    let wrong = || format!("{text:?} is no time; write RFC 3339, such as 2027-01-31T09:00:00Z, or -15m or +2h");
    let at: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    u64::try_from(at.as_millisecond()).map(|ms| Time::At(Timestamp(ms))).map_err(|_| wrong())
}

pub fn from(text: &str) -> Result<From, String> {
    match text {
        "earliest" => Ok(From::Earliest),
        "latest" => Ok(From::Latest),
        _ => match text.strip_prefix("offset:") {
            Some(number) => number.parse().map(From::Offset).map_err(|_| format!("{number:?} is no offset")),
            None => time(text).map(From::Time),
        },
    }
}

pub fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err(format!("{text:?} is no property; write NAME=VALUE")),
    }
}

/// Tags look like `a || b`; everything else is a condition in SQL.
pub fn filter(text: &str) -> Result<client::Filter, String> {
    let is_tag = |tag: &str| {
        let tag = tag.trim();
        !tag.is_empty() && tag.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '*'))
    };
    Ok(match text.trim() {
        "" | "*" => client::Filter::All,
        tags if tags.split("||").all(is_tag) => client::Filter::Tags(tags.into()),
        condition => client::Filter::Sql(condition.into()),
    })
}

/// RFC 3339 in UTC with milliseconds, as the server writes times.
pub fn rfc3339(at: Timestamp) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| at.0.to_string(), |at| format!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_have_a_name_and_perhaps_a_type_and_queues() {
        let spec = |name: &str, topic_type, queues| Ok(TopicSpec { name: name.into(), topic_type, queues });
        assert_eq!(topic_spec("orders"), spec("orders", TopicType::Normal, 8));
        assert_eq!(topic_spec("orders:fifo"), spec("orders", TopicType::Fifo, 8));
        assert_eq!(topic_spec("later:DELAY:2"), spec("later", TopicType::Delay, 2));
        for bad in ["", "a.b", "a:what", "a:fifo:many", "a:fifo:1:2", ":fifo"] {
            assert!(topic_spec(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn back_offs_are_steps_or_exponential() {
        assert_eq!(backoff("1s,90s"), Ok(json!({"kind": "steps", "steps": ["1s", "90s"]})));
        let exponential = json!({"kind": "exponential", "first": "5s", "factor": 2, "max": "2h"});
        assert_eq!(backoff("exp:5s:2:2h"), Ok(exponential));
        for bad in ["", "1", "1s,,2s", "exp:5s:2", "exp:5s:x:2h", "exp:5s:2:2h:1"] {
            assert!(backoff(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_are_instants_or_relative_to_now() {
        let now = Timestamp(1_767_225_600_000);
        for (text, ms) in [
            ("2026-01-01T00:00:00Z", 1_767_225_600_000),
            ("2026-01-01T01:00:00.250+01:00", 1_767_225_600_250),
            ("-15m", 1_767_224_700_000),
            ("+2h", 1_767_232_800_000),
        ] {
            assert_eq!(time(text).unwrap().resolve(now), Timestamp(ms), "{text}");
        }
        for bad in ["", "tomorrow", "15m", "2026-01-01", "-x"] {
            assert!(time(bad).is_err(), "{bad:?}");
        }
        assert_eq!(rfc3339(now), "2026-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_tail_begins_at_a_word_an_offset_or_a_time() {
        assert_eq!(from("earliest"), Ok(From::Earliest));
        assert_eq!(from("latest"), Ok(From::Latest));
        assert_eq!(from("offset:7"), Ok(From::Offset(7)));
        assert_eq!(from("-15m"), Ok(From::Time(Time::Before(Duration::from_secs(900)))));
        assert!(from("offset:x").is_err() && from("now").is_err());
    }

    #[test]
    fn tags_and_conditions_are_told_apart() {
        assert_eq!(filter("*"), Ok(client::Filter::All));
        assert_eq!(filter("paid || sent"), Ok(client::Filter::Tags("paid || sent".into())));
        assert_eq!(filter("region = 'eu'"), Ok(client::Filter::Sql("region = 'eu'".into())));
        assert_eq!(filter("a IS NULL"), Ok(client::Filter::Sql("a IS NULL".into())));
    }

    #[test]
    fn sizes_and_properties_are_read() {
        assert_eq!((size("1KiB"), size("1000")), (Ok(1024), Ok(1000)));
        assert_eq!(property("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(property("a").is_err() && property("=b").is_err() && size("x").is_err());
    }
}
