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
        let mut state = self.state.lock();
        if bytes.len() > self.bytes_max {
            // What is here would lie before a gap, and what is in the gap would count as being here.
            *state = State::default();
            return;
        }
        state.bytes += bytes.len();
        state.groups.push_back((start, bytes));
        while state.bytes > self.bytes_max {
            let (_, oldest) = state.groups.pop_front().expect("bytes without groups");
            state.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64, length: u32) -> Pointer {
        Pointer { position: LogPosition(position), length }
    }

    #[test]
    fn what_is_said_to_be_in_memory_is_there() {
        let cache = TailCache::new(100);
        cache.push(LogPosition(0), vec![1; 60]);
        cache.push(LogPosition(60), vec![2; 40]);
        assert_eq!((cache.from(), cache.get(at(0, 1))), (LogPosition(0), Some(Bytes::from_static(&[1]))));
        cache.push(LogPosition(100), vec![3; 10]);
        assert_eq!((cache.from(), cache.get(at(0, 1)), cache.bytes()), (LogPosition(60), None, 50));
        cache.push(LogPosition(110), vec![4; 101]);
        assert_eq!((cache.from(), cache.get(at(60, 1)), cache.bytes()), (LogPosition(u64::MAX), None, 0), "a gap");
        cache.push(LogPosition(211), vec![5; 1]);
        assert_eq!((cache.from(), cache.get(at(211, 1))), (LogPosition(211), Some(Bytes::from_static(&[5]))));
    }
}
