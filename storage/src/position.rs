//! The named positions of a log, and the order they keep.
//!
//! N1. `applied ≤ committed ≤ appended` and `durable ≤ appended`.
//! N2. None of them goes back while a log is open, but for what a replica takes back; that was never committed.

use base::LogPosition;

/// How far everything has come. Each is the first byte that is not included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Positions {
    /// Handed to the file system.
    pub appended: LogPosition,
    /// Past a sync.
    pub durable: LogPosition,
    /// Will never be taken back; answers may name it.
    pub committed: LogPosition,
    /// In the views.
    pub applied: LogPosition,
}

impl Positions {
    pub fn at(position: LogPosition) -> Self {
        Self { appended: position, durable: position, committed: position, applied: position }
    }

    pub fn advance_appended(&mut self, to: LogPosition) {
        assert!(to >= self.appended, "N2: the tail never retreats: {to:?} < {:?}", self.appended);
        self.appended = to;
        self.check();
    }

    pub fn advance_durable(&mut self, to: LogPosition) {
        assert!(to >= self.durable, "N2: what is durable stays so: {to:?} < {:?}", self.durable);
        self.durable = to;
        self.check();
    }

    pub fn advance_committed(&mut self, to: LogPosition) {
        assert!(to >= self.committed, "N2: commit never retreats: {to:?} < {:?}", self.committed);
        self.committed = to;
        self.check();
    }

    pub fn advance_applied(&mut self, to: LogPosition) {
        assert!(to >= self.applied, "N2: nothing is unapplied: {to:?} < {:?}", self.applied);
        self.applied = to;
        self.check();
    }

    /// What lies behind `to` was taken back.
    pub fn retreat(&mut self, to: LogPosition) {
        assert!(to >= self.committed, "N2: what is committed stays: {to:?} < {:?}", self.committed);
        self.appended = to;
        self.durable = self.durable.min(to);
        self.check();
    }

    fn check(&self) {
        assert!(self.applied <= self.committed, "N1: {self:?}");
        assert!(self.committed <= self.appended, "N1: {self:?}");
        assert!(self.durable <= self.appended, "N1: {self:?}");
    }
}
