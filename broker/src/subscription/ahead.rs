//! Read-ahead: bodies that are fetched before a poll asks for them, while a subscription reads behind the tail cache.
//!
//! Whatever is fetched was read into the window before; what is fetched next is what was read first. A message whose body
//! is under way is not handed out before it has come, so its lease does not run while the disk works.
//!
//! H1. Bodies here and under way are bounded in number and in bytes, and those of all subscriptions together by the
//!     [`Room`] there is for them; a job's bytes count until the last of its bodies is gone, because they are slices of
//!     shared buffers.
//! H2. A body is kept only for a message that may be handed out. One that is settled, unwanted or sought away is dropped,
//!     even if it comes later.
//! H3. Bodies that hand-outs pass over (of closed lanes) make room for others.
//! H4. Bodies that nobody asks for any more, because consumers have stopped or have all they may, make room for other
//!     subscriptions. They are fetched again when messages are handed out as fast as before.

use std::collections::VecDeque;

use base::LogPosition;
use base::limits::*;
use hashbrown::HashMap;
use storage::message::StoredMessage;
use storage::reads::Urgency;
use storage::record::Pointer;
use storage::view::queue::Entry;

use super::core::{Core, Order, State, lane_of};
use super::reading::READ_STEP;
use super::room::{Held, Room};
use super::{Effect, Now, Slot, Ticket};

/// A job is half of what may be here, so that one half is handed out while the other comes.
const JOB_ENTRIES_MAX: usize = READ_AHEAD_ENTRIES_MAX / 2;
const JOB_BYTES_MAX: u64 = READ_AHEAD_BYTES_MAX / 2;
/// Whoever has fewer messages before it is not far behind.
const FAR_ENTRIES_MIN: usize = READ_STEP;
/// A body that was not wanted for this many hand-outs is passed over.
const PASSED_OVER: u64 = 2 * READ_AHEAD_ENTRIES_MAX as u64;

#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// What there is for all subscriptions.
    room: Room,
    /// As it was told last.
    tick: u64,
    /// When something was handed out, or came, last.
    used_at: u64,
    /// What was here was dropped (H4), and nothing was handed out since, or only now and then.
    is_slow: bool,
    /// What lies before it has left the tail cache.
    warm_from: LogPosition,
    /// What was read last lies there.
    is_behind: bool,
    /// What was read there and not fetched, oldest first; some of it was handed out or settled since.
    wanted: VecDeque<(Slot, Pointer)>,
    wanted_bytes: u64,
    bodies: HashMap<Slot, Body>,
    /// Those that have a body under way or here, oldest first.
    jobs: VecDeque<Job>,
    next: Ticket,
    handed_out: u64,
    /// Something was handed out since the last look.
    has_moved: bool,
}

#[derive(Debug)]
enum Body {
    UnderWay(Ticket),
    Here(Ticket, Box<StoredMessage>),
}

#[derive(Debug)]
struct Job {
    ticket: Ticket,
    wanted: Vec<(Slot, Pointer)>,
    held: Held,
    has_arrived: bool,
    /// Bodies of it that are under way or here.
    left: usize,
    /// Hand-outs before it.
    since: u64,
}

impl Ahead {
    /// An entry was read into the window.
    pub(super) fn read(&mut self, slot: Slot, entry: &Entry) {
        let pointer = entry.pointer();
        self.is_behind = pointer.position < self.warm_from;
        if self.is_behind {
            if self.wanted.len() >= WINDOW_POINTERS_MAX {
                self.wanted.clear();
                self.wanted_bytes = 0;
            }
            self.wanted.push_back((slot, pointer));
            self.wanted_bytes += u64::from(pointer.length);
        }
    }

    pub(super) fn it_is(&mut self, tick: u64) {
        self.tick = tick;
    }

    pub(super) fn is_under_way(&self, slot: Slot) -> bool {
        matches!(self.bodies.get(&slot), Some(Body::UnderWay(_)))
    }

    /// The body of a message that is handed out, if it is here.
    pub(super) fn take(&mut self, slot: Slot) -> Option<StoredMessage> {
        match self.remove(slot)? {
            Body::Here(_, message) => Some(*message),
            Body::UnderWay(_) => None,
        }
    }

    /// The message will not be handed out, or not now (H2).
    pub(super) fn forget(&mut self, slot: Slot) {
        drop(self.remove(slot));
    }

    fn remove(&mut self, slot: Slot) -> Option<Body> {
        let body = self.bodies.remove(&slot)?;
        let (Body::UnderWay(ticket) | Body::Here(ticket, _)) = &body;
        let index = self.jobs.iter().position(|job| job.ticket == *ticket).expect("a body is of a job");
        self.jobs[index].left -= 1;
        if self.jobs[index].left == 0 {
            self.jobs.remove(index);
        }
        Some(body)
    }

    fn handed_out(&mut self, messages: usize) {
        self.is_slow &= self.idle_at() <= self.tick;
        self.has_moved |= !self.is_slow;
        self.used_at = self.tick;
        self.handed_out += messages as u64;
        let is_passed_over = |job: &&Job| self.handed_out - job.since > PASSED_OVER;
        if let Some(oldest) = self.jobs.front().filter(is_passed_over) {
            self.drop_bodies(oldest.ticket, oldest.wanted.clone());
        }
    }

    /// Drops what is here of a job; what is under way is waited for.
    fn drop_bodies(&mut self, ticket: Ticket, of: Vec<(Slot, Pointer)>) {
        for (slot, _) in of {
            if matches!(self.bodies.get(&slot), Some(Body::Here(owner, _)) if *owner == ticket) {
                self.forget(slot);
            }
        }
    }

    /// When bodies that are here are dropped, if nothing is handed out until then.
    fn idle_at(&self) -> u64 {
        self.used_at + READ_AHEAD_IDLE_MS
    }

    /// The same, if there are any.
    pub(super) fn next_wake(&self) -> Option<u64> {
        self.jobs.iter().any(|job| job.has_arrived).then(|| self.idle_at())
    }

    /// Gives up what nobody asks for (H4).
    fn end_if_idle(&mut self) {
        if self.next_wake().is_none_or(|at| at > self.tick) {
            return;
        }
        self.is_slow = true;
        let arrived = self.jobs.iter().filter(|job| job.has_arrived);
        let arrived: Vec<_> = arrived.map(|job| (job.ticket, job.wanted.clone())).collect();
        for (ticket, wanted) in arrived.into_iter().rev() {
            for (slot, pointer) in wanted.iter().rev() {
                self.wanted.push_front((*slot, *pointer));
                self.wanted_bytes += u64::from(pointer.length);
            }
            self.drop_bodies(ticket, wanted);
        }
    }

    /// How urgent a read of this subscription is: those far behind wait for each other.
    fn urgency(&self) -> Urgency {
        let is_far = self.is_behind && self.wanted.len() + self.bodies.len() >= FAR_ENTRIES_MIN;
        if is_far { Urgency::Behind } else { Urgency::Live }
    }

    fn held(&self) -> u64 {
        self.jobs.iter().map(|job| job.held.bytes()).sum()
    }

    /// Whether one more job may be under way (H1).
    fn has_room(&self) -> bool {
        let held = self.held();
        let share = self.room.share(held);
        share > 0 && held <= share / 2 && self.bodies.len() <= READ_AHEAD_ENTRIES_MAX - JOB_ENTRIES_MAX
    }

    /// Others have all the room: what is read meanwhile is fetched when it is handed out.
    fn keep_within_a_job(&mut self) {
        while self.wanted.len() > JOB_ENTRIES_MAX && self.room.share(self.held()) == 0 {
            let (_, pointer) = self.wanted.pop_front().expect("just seen");
            self.wanted_bytes -= u64::from(pointer.length);
        }
    }

    /// Whether there is something to fetch beyond what is known.
    fn wants_to_read(&self) -> bool {
        self.is_behind && self.wanted.len() < JOB_ENTRIES_MAX && self.wanted_bytes < JOB_BYTES_MAX
    }

    /// Begins the next job, if there is room for it.
    fn begin(&mut self, may_be_handed_out: impl Fn(Slot) -> bool) -> Option<(Ticket, Vec<Pointer>)> {
        let held = self.held();
        let mut room = self.room.take(held)?;
        let bytes_max = (held + room.bytes()) / 2;
        let (mut wanted, mut bytes) = (Vec::new(), 0);
        while wanted.len() < JOB_ENTRIES_MAX {
            let Some((slot, pointer)) = self.wanted.front().copied() else { break };
            let is_wanted = !self.bodies.contains_key(&slot) && may_be_handed_out(slot);
            let more = u64::from(pointer.length) + READ_AHEAD_ENTRY_BYTES;
            // One alone may be larger than a job.
            if is_wanted && bytes + more > if wanted.is_empty() { room.bytes() } else { bytes_max } {
                break;
            }
            self.wanted.pop_front();
            self.wanted_bytes -= u64::from(pointer.length);
            if is_wanted {
                self.bodies.insert(slot, Body::UnderWay(self.next + 1));
                wanted.push((slot, pointer));
                bytes += more;
            }
        }
        if wanted.is_empty() {
            return None;
        }
        room.keep(bytes);
        self.next += 1;
        let (ticket, left, since) = (self.next, wanted.len(), self.handed_out);
        let pointers = wanted.iter().map(|(_, pointer)| *pointer).collect();
        self.jobs.push_back(Job { ticket, wanted, held: room, has_arrived: false, left, since });
        Some((ticket, pointers))
    }

    /// A job is over; what it could not bring is read when it is handed out. Gives what was under way until now.
    fn arrived(&mut self, ticket: Ticket, mut bodies: Vec<Option<StoredMessage>>) -> Vec<Slot> {
        let Some(job) = self.jobs.iter_mut().find(|job| job.ticket == ticket) else { return Vec::new() };
        job.has_arrived = true;
        let mut slots: Vec<Slot> = job.wanted.iter().map(|(slot, _)| *slot).collect();
        bodies.resize_with(slots.len(), || None);
        let mut bodies = bodies.into_iter();
        slots.retain(|slot| {
            let arrived = bodies.next().flatten();
            let is_awaited = matches!(self.bodies.get(slot), Some(Body::UnderWay(of)) if *of == ticket);
            match arrived {
                Some(message) if is_awaited => drop(self.bodies.insert(*slot, Body::Here(ticket, Box::new(message)))),
                None if is_awaited => self.forget(*slot),
                _ => {}
            }
            is_awaited
        });
        slots
    }
}

impl Core {
    /// What lies before this position of the log has left the tail cache. Told before [`Core::finish`].
    pub fn warm_from(&mut self, position: LogPosition) {
        self.ahead.warm_from = position;
    }

    /// Bodies are fetched ahead within this room, which others share.
    pub fn read_ahead_within(&mut self, room: Room) {
        self.ahead.room = room;
    }

    /// Bodies that are here or under way.
    pub fn fetched_ahead(&self) -> usize {
        self.ahead.bodies.len()
    }

    pub(super) fn handed_out(&mut self, messages: usize) {
        self.ahead.handed_out(messages);
    }

    /// The bodies of a reply, as far as they are here, and how urgent it is to read the others.
    pub(super) fn bodies_of(&mut self, slots: &[Slot]) -> (Vec<Option<StoredMessage>>, Urgency) {
        let urgency = self.ahead.urgency();
        (slots.iter().map(|slot| self.ahead.take(*slot)).collect(), urgency)
    }

    /// After a hand-out: reads on, and fetches what comes next.
    pub(super) fn look_ahead(&mut self, now: Now) {
        self.ahead.end_if_idle();
        self.ahead.keep_within_a_job();
        if !std::mem::take(&mut self.ahead.has_moved) {
            return;
        }
        let mut goes_on = true;
        while goes_on && self.ahead.has_room() {
            while goes_on && self.ahead.wants_to_read() {
                let known = self.items.len();
                // Where little of what is read is kept, reading on is for nothing: followers of closed lanes are left out.
                goes_on = self.read_on(now) && self.items.len() - known >= READ_STEP / 2;
            }
            let urgency = self.ahead.urgency();
            let items = &self.items;
            let may_be_handed_out =
                |slot| items.get(&slot).is_some_and(|item| item.state != State::Leased && !item.is_settling);
            let Some((ticket, pointers)) = self.ahead.begin(may_be_handed_out) else { return };
            self.effects.push(Effect::Fetch { ticket, urgency, pointers });
        }
    }

    /// Bodies have come; who waits for them may have them.
    pub(super) fn fetched(&mut self, ticket: Ticket, bodies: Vec<Option<StoredMessage>>, now: Now) {
        self.ahead.used_at = now.tick;
        for slot in self.ahead.arrived(ticket, bodies) {
            let Some(item) = self.items.get(&slot) else { continue };
            let key = lane_of(slot, &item.entry);
            if matches!(&self.order, Order::Lanes(lanes) if lanes.front(key) == Some(slot)) {
                self.list_if_ready(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use base::{QueueIndex, QueueOffset, Timestamp};

    use super::*;

    /// Entries of this length lie before it, none of them in the tail cache.
    fn ahead(room: &Room, entries: u64, length: u32) -> Ahead {
        let mut ahead = Ahead { warm_from: LogPosition(u64::MAX), room: room.clone(), ..Ahead::default() };
        for offset in 0..entries {
            let pointer = Pointer { position: LogPosition(offset * u64::from(length)), length };
            ahead.read((QueueIndex(0), QueueOffset(offset)), &Entry::new(pointer, Timestamp(1), 0, 0, 0));
        }
        ahead
    }

    fn jobs(ahead: &mut Ahead) -> Vec<usize> {
        let mut jobs = Vec::new();
        while ahead.has_room()
            && let Some((_, pointers)) = ahead.begin(|_| true)
        {
            jobs.push(pointers.len());
        }
        jobs
    }

    #[test]
    fn large_bodies_fill_it_sooner_than_many() {
        let room = Room::default();
        let mut large = ahead(&room, 100, 1 << 20);
        assert!(!large.wants_to_read(), "enough for a job is known");
        assert_eq!(jobs(&mut large), [3, 3], "H1: with what they take beside their records");
        let mut larger = ahead(&room, 100, 6 << 20);
        assert_eq!(jobs(&mut larger), [1], "H1: one is always fetched");
        assert_eq!(room.used(), 12 * ((1 << 20) + READ_AHEAD_ENTRY_BYTES) - 5 * READ_AHEAD_ENTRY_BYTES);
    }

    #[test]
    fn what_is_wanted_in_vain_is_a_job_and_no_more() {
        let room = Room::new(READ_AHEAD_BYTES_MIN);
        let mut ahead = ahead(&room, 100_000, 100);
        ahead.keep_within_a_job();
        assert_eq!((ahead.wanted.len(), ahead.wanted_bytes), (JOB_ENTRIES_MAX, JOB_ENTRIES_MAX as u64 * 100));
        assert_eq!(jobs(&mut ahead), [0; 0], "there is no room");
    }
}
