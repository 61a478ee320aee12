//! The commit log and everything that is derived from it. No async runtime, no wire protocol.
//!
//! One log, one writer thread; a body is written once, everything else is a pointer to it. `docs/formats.md` says what the
//! bytes on the disk mean, `docs/threads.md` who owns what.

pub mod cache;
pub mod checkpoint;
pub mod codec;
pub mod disk;
pub mod hash;
pub mod inbox;
pub mod index;
pub mod log;
pub mod lookup;
pub mod message;
pub mod metrics;
pub mod position;
pub mod reads;
pub mod record;
pub mod replica;
pub mod request;
pub mod salvage;
mod sequencer;
pub mod store;
pub mod table;
pub mod threads;
pub mod timer;
pub mod upkeep;
pub mod verify;
pub mod view;
pub mod watch;
pub mod writer;
