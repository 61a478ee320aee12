//! Values of parameters: how each is read, and how it is described.

use std::borrow::Cow;
use std::fmt;

use base::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error};

use super::fields::parse_time;

const FROM: &str = "it must be a number from ";

/// A path that takes no parameters.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Absent = false; without a value = true.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flag(pub bool);

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number<const MIN: u64, const MAX: u64>(pub u64);

/// A text that says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word(pub String);

/// RFC 3339, with any offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instant(pub Timestamp);

/// The limit that an error of [`Number`] names.
pub(super) fn limit_of(error: &str) -> Option<u64> {
    error.strip_prefix(FROM)?.split_once(" to ")?.1.parse().ok()
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match &*Cow::<str>::deserialize(from)? {
            "false" => Ok(Self(false)),
            "" | "true" => Ok(Self(true)),
            _ => Err(D::Error::custom("it must be true or false")),
        }
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Number<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = Cow::<str>::deserialize(from)?.parse().ok().filter(|number| (MIN..=MAX).contains(number));
        number.map(Self).ok_or_else(|| D::Error::custom(format_args!("{FROM}{MIN} to {MAX}")))
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Err(D::Error::custom("it must be at least one character long"));
        }
        Ok(Self(text))
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let time = parse_time(&Cow::<str>::deserialize(from)?).map(Self);
        time.ok_or_else(|| D::Error::custom("it must be a time such as 2026-01-31T12:00:00Z"))
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! described {
    ($type:ty, $schema:expr $(, $($parameter:tt)*)?) => {
        impl $(<$($parameter)*>)? JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

described!(Flag, json_schema!({"type": "boolean"}));
described!(Word, json_schema!({"type": "string", "minLength": 1}));
described!(Instant, json_schema!({"type": "string", "format": "date-time"}));
described!(
    Number<MIN, MAX>,
    json_schema!({"type": "integer", "minimum": MIN, "maximum": MAX}),
    const MIN: u64, const MAX: u64
);
