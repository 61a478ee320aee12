//! The commit log and everything that is derived from it. No async runtime, no wire protocol.
//!
//! One log, one writer thread; a body is written once, everything else is a pointer to it. `docs/formats.md` says what the
//! bytes on the disk mean, `docs/threads.md` who owns what.

pub mod codec;
pub mod disk;
pub mod hash;
pub mod message;
pub mod record;
pub mod view;
pub mod watch;
