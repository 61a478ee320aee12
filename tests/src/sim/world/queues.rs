//! The queues as subscriptions of a run see them: message groups are looked up after few entries, and cannot be now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use base::limits::*;
use base::{QueueIndex, QueueOffset};
use broker::subscription::core::Keeping;
use broker::subscription::room::Room;
use broker::subscription::{Queues, Slot, Source, Stretch};
use storage::lookup::Wanted;
use storage::view::queue::{Bounds, Entry};

/// What lanes of this run keep: mostly so little that they have to be refilled, and that by look-ups.
pub fn keeping(seed: u64) -> Keeping {
    let of_limits = (LANE_FOLLOWERS_MAX, REFILL_WALKED_MAX);
    let (followers, walked) = [(1, 0), (2, 3), (4, 0), (2, 1_000), of_limits][(seed % 5) as usize];
    Keeping { followers, walked }
}

/// What all subscriptions of this run may fetch ahead: mostly so little that they take it from each other.
pub fn room(seed: u64) -> Room {
    Room::new([0, READ_AHEAD_BYTES_MIN, 3 * READ_AHEAD_BYTES_MIN, READ_AHEAD_OF_ALL_BYTES_MAX][(seed / 5 % 4) as usize])
}

/// Look-ups of all subscriptions of a run.
#[derive(Debug, Default)]
pub struct LookUps {
    pub done: AtomicU64,
    /// Those that could not look through everything, damaged files apart.
    pub halted: AtomicU64,
    /// Nothing goes wrong any more.
    pub is_well: AtomicBool,
}

pub struct Watched {
    pub queues: Queues,
    pub look_ups: Arc<LookUps>,
}

impl Source for Watched {
    fn queues(&self) -> usize {
        self.queues.queues()
    }

    fn bounds(&self, queue: QueueIndex) -> Bounds {
        self.queues.bounds(queue)
    }

    fn read(&self, from: QueueOffset, queue: QueueIndex, max: usize, out: &mut Vec<Entry>) -> QueueOffset {
        self.queues.read(from, queue, max, out)
    }

    fn entry(&self, slot: Slot) -> Option<Entry> {
        self.queues.entry(slot)
    }

    fn members(&self, queue: QueueIndex, wanted: &Wanted) -> Stretch {
        let mut stretch = self.queues.members(queue, wanted);
        let number = self.look_ups.done.fetch_add(1, Relaxed);
        if number % 2 == 1 && !self.look_ups.is_well.load(Relaxed) {
            // Somewhere from here on, on either side of a member.
            let halt = wanted.from.0 + number / 2 % 4;
            if halt < stretch.to.0 {
                stretch.entries.retain(|(offset, _)| offset.0 < halt);
                stretch.to = QueueOffset(halt);
                stretch.is_stuck = true;
                self.look_ups.halted.fetch_add(1, Relaxed);
            }
        }
        stretch
    }
}
