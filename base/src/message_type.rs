//! Kinds of messages.

/// What kind of message a topic takes, or a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageType {
    Normal,
    Fifo,
    Delay,
    Transaction,
    Lite,
    Priority,
}

impl MessageType {
    /// As metrics and the admin API say it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Fifo => "fifo",
            Self::Delay => "delay",
            Self::Transaction => "transaction",
            Self::Lite => "lite",
            Self::Priority => "priority",
        }
    }
}
