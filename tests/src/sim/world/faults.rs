//! What goes wrong: disks, clocks, clients, replies.

use base::{Clock, Timestamp};
use storage::disk::Disk;
use storage::writer::Reserve;

use super::scene::{CLIENTS, PAIRS};
use super::{World, say};

impl World {
    pub(super) fn set_wall(&mut self, to: Timestamp) {
        self.clock.set_wall(to);
        self.earliest = self.earliest.min(to);
        self.oracle.wall_set(self.clock.monotonic_ms());
    }

    pub fn advance(&mut self) {
        let ms = *self.chance.pick(&[1, 20, 1_000, 6_000, 31_000, 130_000]);
        if self.chance.one_in(12) {
            let wall = self.clock.now().0;
            let back = *self.chance.pick(&[1_000, 40_000, 200_000]);
            let to = if self.chance.one_in(2) { wall + back } else { wall - back };
            say!(self, "the wall clock is set from {wall} to {to}");
            self.set_wall(Timestamp(to));
        }
        self.clock.advance_ms(ms);
    }

    pub(super) fn client_comes_or_goes(&mut self) {
        let (client, _) = *self.chance.pick(&CLIENTS);
        if self.chance.one_in(2) {
            say!(self, "{client} falls silent");
            self.presence.away.insert(client.into());
            return;
        }
        self.says_good_bye(client);
    }

    /// A reply's failure may be noticed late, when the client has asked again already.
    pub(super) fn unwritten_late(&mut self) {
        let index = self.chance.below(PAIRS.len() as u64) as usize;
        let mut batches: Vec<u64> = self.oracle.pairs[index]
            .copies
            .iter()
            .filter(|(_, copies)| **copies > 0)
            .map(|(batch, _)| *batch)
            .collect();
        batches.sort_unstable();
        if !batches.is_empty() {
            let batch = *self.chance.pick(&batches);
            self.unwritten(index, batch);
        }
    }

    pub(super) fn prepare_segment(&mut self) {
        let (disk, size, random) = (self.disk.clone(), self.options.log.segment_bytes, self.chance.next_u64());
        let slot = self.run().writer.log().prepared();
        if slot.lock().is_none()
            && let Ok(prepared) = storage::log::prepare(&disk, size, random, || ())
        {
            *slot.lock() = Some(prepared);
        }
        if self.disk.is_crashed() {
            self.restart(true);
        }
    }

    pub(super) fn arm(&mut self) {
        self.is_armed = true;
        match self.chance.below(8) {
            0..=3 => {
                let operations = self.chance.below(16);
                say!(self, "the power will fail in {operations} operations");
                self.disk.crash_after(operations);
            }
            4..=5 => {
                let syncs = self.chance.below(4);
                say!(self, "a sync will fail in {syncs}");
                self.disk.fail_sync_after(syncs);
            }
            6 => {
                let space = self.disk.space().expect("power");
                let used = space.total - space.free;
                self.disk.set_capacity(used);
                say!(self, "the disk is full at {used}");
            }
            _ => {
                let reserve = Reserve { free: self.chance.below(2) * 100, reserve: 10 };
                say!(self, "reserve: {reserve:?}");
                self.run().writer.set_reserve(reserve);
                if self.chance.one_in(2) {
                    self.disk.set_capacity(u64::MAX);
                }
            }
        }
    }
}
