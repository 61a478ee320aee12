//! Names of topics and groups: which are legal, and which mean something.
//!
//! The alphabet and lengths are those of the official clients and the reference server (gRPC specification §3.1).

use std::fmt;
use std::sync::Arc;

use crate::limits::{DERIVED_TOPIC_NAME_BYTES_MAX, GROUP_NAME_BYTES_MAX, NODE_NAME_BYTES_MAX, TOPIC_NAME_BYTES_MAX};

/// Prefix of the topic that holds a group's dead letters.
pub const DEAD_LETTER_PREFIX: &str = "%DLQ%";
/// Prefix of the topic that redriven messages of a group and topic go through.
pub const RETRY_PREFIX: &str = "%RETRY%";

const SYSTEM_TOPICS: [&str; 10] = [
    "TBW102",
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
];

/// Whether a broker, a name server or a cluster may be called so.
pub fn is_node_name(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= NODE_NAME_BYTES_MAX && !text.contains(char::is_control)
}

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{what} name is empty")]
    Empty { what: &'static str },
    #[error("{what} name has {length} bytes, the limit is {max}")]
    TooLong { what: &'static str, length: usize, max: usize },
    #[error("{what} name {name:?} has the character {character:?}; letters, digits, '_', '-', '%' and '|' are allowed")]
    Character { what: &'static str, name: String, character: char },
    #[error("{what} name {name:?} is kept for the system")]
    Reserved { what: &'static str, name: String },
}

/// The name of a topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// The name of a consumer group.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Arc<str>);

impl TopicName {
    /// A name that a client may use in a call. Derived topics are legal here: who may do what with them is not a
    /// question of the name.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let is_derived = name.starts_with(DEAD_LETTER_PREFIX) || name.starts_with(RETRY_PREFIX);
        let max = if is_derived { DERIVED_TOPIC_NAME_BYTES_MAX } else { TOPIC_NAME_BYTES_MAX };
        check("topic", name, max)?;
        if SYSTEM_TOPICS.contains(&name) || name.starts_with("rmq_sys_") {
            return Err(NameError::Reserved { what: "topic", name: name.into() });
        }
        Ok(Self(name.into()))
    }

    /// The topic that holds the dead letters of `group`.
    pub fn dead_letters_of(group: &GroupName) -> Self {
        Self(format!("{DEAD_LETTER_PREFIX}{group}").into())
    }

    /// True for topics that the server derives from groups: they are read, never written, by clients.
    pub fn is_derived(&self) -> bool {
        self.0.starts_with(DEAD_LETTER_PREFIX) || self.0.starts_with(RETRY_PREFIX)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl GroupName {
    pub fn parse(name: &str) -> Result<Self, NameError> {
        check("consumer group", name, GROUP_NAME_BYTES_MAX)?;
        if name.starts_with("CID_RMQ_SYS_") {
            return Err(NameError::Reserved { what: "consumer group", name: name.into() });
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > max {
        return Err(NameError::TooLong { what, length: name.len(), max });
    }
    match name.chars().find(|&c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '%' | '|'))) {
        None => Ok(()),
        Some(character) => Err(NameError::Character { what, name: name.into(), character }),
    }
}

macro_rules! text {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&*self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

text!(TopicName);
text!(GroupName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_alphabet_the_length_or_kept_for_the_system_are_refused() {
        for bad in ["", "  ", "a.b", "ü", &"x".repeat(128), "TBW102", "rmq_sys_x"] {
            assert!(TopicName::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["orders", "a|b%c_d-e", &"x".repeat(127), &format!("%DLQ%{}", "g".repeat(120))] {
            assert!(TopicName::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["", "a.b", &"g".repeat(121), "CID_RMQ_SYS_x"] {
            assert!(GroupName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
