//! The numbers that stand for kinds of records on the disk. Never given twice, not even to another meaning.

use super::{Fact, Record};

pub const MESSAGE: u8 = 1;
pub const DELAYED: u8 = 2;
pub const PREPARED: u8 = 3;
pub const PUBLISH: u8 = 4;
pub const RETIRE: u8 = 5;
pub const MOVE: u8 = 6;
pub const SETTLE: u8 = 7;
pub const LEASE: u8 = 8;
pub const SUBSCRIBE: u8 = 9;
pub const SEEK: u8 = 10;
pub const PARK: u8 = 11;
pub const PURGE: u8 = 12;
pub const TOPIC: u8 = 13;
pub const GROUP: u8 = 14;
pub const SCHEDULE: u8 = 15;
pub const MEMBERS: u8 = 16;
pub const EPOCH: u8 = 17;
pub const MARK: u8 = 18;
pub const EXPIRE: u8 = 19;

impl Record {
    pub fn kind(&self) -> u8 {
        match self {
            Self::Message { .. } => MESSAGE,
            Self::Delayed { .. } => DELAYED,
            Self::Prepared { .. } => PREPARED,
            Self::Publish { .. } => PUBLISH,
            Self::Fact(Fact::Retire { .. }) => RETIRE,
            Self::Fact(Fact::Move { .. }) => MOVE,
            Self::Fact(Fact::Settle { .. }) => SETTLE,
            Self::Fact(Fact::Lease { .. }) => LEASE,
            Self::Fact(Fact::Subscribe { .. }) => SUBSCRIBE,
            Self::Fact(Fact::Seek { .. }) => SEEK,
            Self::Fact(Fact::Park { .. }) => PARK,
            Self::Fact(Fact::Purge { .. }) => PURGE,
            Self::Topic(_) => TOPIC,
            Self::Group(_) => GROUP,
            Self::Fact(Fact::Expire { .. }) => EXPIRE,
            Self::Fact(Fact::Schedule(_)) => SCHEDULE,
            Self::Members { .. } => MEMBERS,
            Self::Epoch { .. } => EPOCH,
            Self::Mark => MARK,
        }
    }

    /// Whether a body part follows the payload's own fields.
    pub fn has_body(&self) -> bool {
        matches!(self, Self::Message { .. } | Self::Delayed { .. } | Self::Prepared { .. })
    }
}
