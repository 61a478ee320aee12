//! The newest groups, in memory: what consumers that keep up are served from. Cold reads never enter it.
//!
//! A mutex, because the writer adds while readers look: both hold it for a look-up in a short deque.

use std::collections::VecDeque;

use base::LogPosition;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::record::Pointer;

#[derive(Debug)]
pub struct TailCache {
    state: Mutex<State>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Neighbours in the log, oldest first.
    groups: VecDeque<(LogPosition, Bytes)>,
    bytes: usize,
}

impl TailCache {
    pub fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), bytes_max }
    }

    /// The bytes a pointer names, without a copy; none when they are not here (any more).
    pub fn get(&self, pointer: Pointer) -> Option<Bytes> {
        let state = self.state.lock();
        let after = state.groups.partition_point(|(start, _)| *start <= pointer.position);
        let (start, bytes) = &state.groups[after.checked_sub(1)?];
        let from = usize::try_from(pointer.position.since(*start)).ok()?;
        let to = from.checked_add(usize::try_from(pointer.length).ok()?)?;
        (to <= bytes.len()).then(|| bytes.slice(from..to))
    }

    /// Where the oldest group begins; beyond every position when there is none.
    pub fn from(&self) -> LogPosition {
        self.state.lock().groups.front().map_or(LogPosition(u64::MAX), |(start, _)| *start)
    }

    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// Forgets what lies at or behind `from`: it was taken back, and other bytes will be there.
    pub(crate) fn truncate(&self, from: LogPosition) {
        let mut state = self.state.lock();
        while let Some((start, bytes)) = state.groups.pop_back() {
            state.bytes -= bytes.len();
            if start < from {
                let kept = usize::try_from(from.since(start)).map_or(bytes.len(), |kept| kept.min(bytes.len()));
                state.bytes += kept;
                state.groups.push_back((start, bytes.slice(..kept)));
                break;
            }
        }
    }

    pub(crate) fn push(&self, start: LogPosition, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        if bytes.len() > self.bytes_max {
            return;
        }
        let mut state = self.state.lock();
        state.bytes += bytes.len();
        state.groups.push_back((start, bytes));
        while state.bytes > self.bytes_max {
            let (_, oldest) = state.groups.pop_front().expect("bytes without groups");
            state.bytes -= oldest.len();
        }
    }
}
