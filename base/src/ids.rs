//! Numbers that must never be mixed up, each with a type of its own.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A topic, for ever: a dropped topic's number is never given to another.
    TopicId(u32)
);
number!(
    /// A consumer group, for ever.
    GroupId(u32)
);
number!(
    /// A queue of a topic, counted from 0.
    QueueIndex(u16)
);
number!(
    /// The place of a message in its queue; queues are dense, so the next one has the next number.
    QueueOffset(u64)
);
number!(
    /// A byte position in the commit log, counted from the first byte of its first segment.
    LogPosition(u64)
);
number!(
    /// The dense number of a batch in the log.
    BatchIndex(u64)
);
number!(
    /// Whose reign a batch was sequenced in: one more at every start of a single node.
    Term(u64)
);

impl QueueOffset {
    /// The offset after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LogPosition {
    /// The position `bytes` further on.
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }

    /// How far this lies behind `earlier`, which must not be later.
    pub fn since(self, earlier: Self) -> u64 {
        assert!(self.0 >= earlier.0, "{self:?} lies before {earlier:?}");
        self.0 - earlier.0
    }
}
