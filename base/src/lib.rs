//! The nouns that every part of Carillon shares: ids, positions, time, chance, names, sizes and limits.
//!
//! Nothing here does IO, holds state beyond a counter, or depends on another crate of the workspace.

pub mod chance;
pub mod duration;
pub mod group;
pub mod ids;
pub mod limits;
pub mod message_type;
pub mod name;
pub mod size;
pub mod time;

pub use chance::Chance;
pub use group::{Backoff, GroupOrder};
pub use ids::{BatchIndex, GroupId, LogPosition, QueueIndex, QueueOffset, Term, TopicId};
pub use message_type::MessageType;
pub use name::{GroupName, NameError, TopicName};
pub use size::ByteSize;
pub use time::{Clock, ManualClock, SystemClock, Timestamp};
