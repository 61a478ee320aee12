//! Kinds of messages, to the protocol and back.

use base::MessageType;
use proto::v2;

pub fn to_protocol(kind: MessageType) -> v2::MessageType {
    match kind {
        MessageType::Normal => v2::MessageType::Normal,
        MessageType::Fifo => v2::MessageType::Fifo,
        MessageType::Delay => v2::MessageType::Delay,
        MessageType::Transaction => v2::MessageType::Transaction,
        MessageType::Lite => v2::MessageType::Lite,
        MessageType::Priority => v2::MessageType::Priority,
    }
}

/// None for one that only newer programs know, and for none.
pub fn from_protocol(number: i32) -> Option<MessageType> {
    match v2::MessageType::try_from(number).ok()? {
        v2::MessageType::Unspecified => None,
        v2::MessageType::Normal => Some(MessageType::Normal),
        v2::MessageType::Fifo => Some(MessageType::Fifo),
        v2::MessageType::Delay => Some(MessageType::Delay),
        v2::MessageType::Transaction => Some(MessageType::Transaction),
        v2::MessageType::Lite => Some(MessageType::Lite),
        v2::MessageType::Priority => Some(MessageType::Priority),
    }
}
