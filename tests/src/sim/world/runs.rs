//! Runs of timers that are damaged in both halves, before a start and while the store lives.

use base::Timestamp;
use storage::checkpoint::{self, CheckpointError, Pair};
use storage::request::{Done, Request};
use storage::table::{BLOCK, Kind};
use storage::timer::{Effects, TimerCore};
use storage::upkeep::{Damage, Errand, Owners, Standing, Upkeep};
use storage::writer::Writer;

use super::super::Tally;
use super::super::oracle::must;
use super::upkeep::Others;
use super::{World, say};

/// The owners of what upkeep looks at, while nothing else goes on.
pub struct Quiet<'a> {
    pub writer: &'a mut Writer,
    pub timer: &'a mut TimerCore,
}

impl Owners for Quiet<'_> {
    fn standing(&mut self) -> Result<Standing, CheckpointError> {
        Ok(self.writer.standing())
    }

    fn timers(&mut self, errand: Errand) {
        errand(self.timer);
    }

    fn append(&mut self, request: Request) -> Result<Done, CheckpointError> {
        panic!("{request:?} mends nothing")
    }
}

impl Quiet<'_> {
    /// Reads everything, as upkeep does from a start on, and makes anew what is damaged.
    pub fn mend(&mut self, upkeep: &mut Upkeep, tally: &mut Tally) {
        while !upkeep.scrub(u64::MAX).is_round {}
        upkeep.mend_indexes().expect("a healthy disk");
        self.mend_runs(upkeep, tally);
    }

    fn mend_runs(&mut self, upkeep: &mut Upkeep, tally: &mut Tally) {
        let mut done = Vec::new();
        upkeep.mend_runs(self, &mut done).expect("a healthy disk");
        tally.rebuilt(&done);
    }
}

impl Tally {
    /// The log has everything: nothing is lost.
    pub fn rebuilt(&mut self, found: &[Damage]) {
        for damage in found {
            let Damage::Run { recovered, lost, .. } = damage else { continue };
            must!(*lost == 0, "the log is sound, yet: {damage:?}");
            self.rebuilt += 1;
            self.recovered += recovered;
        }
    }
}

impl World {
    /// Flips a bit of the same block in both halves of a run that the newest checkpoint names. False: it names none that
    /// is sound. Where a half has rotted before, more would be damaged than a run can be made whole from.
    pub fn strike_run(&mut self, upkeep: &Upkeep) -> bool {
        let Some(newest) = upkeep.newest() else { return false };
        let halves =
            |number| [checkpoint::data_name(Kind::Timers, number), checkpoint::copy_name(Kind::Timers, number)];
        let is_sound = |number: &u64| {
            let check = |name: &String| Pair::check(&self.disk, name, Kind::Timers, *number, newest.store).is_ok();
            halves(*number).iter().all(check)
        };
        let runs = newest.tables().filter(|(kind, _)| *kind == Kind::Timers).map(|(_, table)| table.number);
        let runs: Vec<u64> = runs.filter(is_sound).collect();
        if runs.is_empty() {
            return false;
        }
        let number = *self.chance.pick(&runs);
        let blocks = self.disk.content(&halves(number)[0]).expect("it is sound").len() / BLOCK;
        let block = self.chance.below(blocks as u64);
        for name in halves(number) {
            let (byte, bit) = (block * BLOCK as u64 + self.chance.below(BLOCK as u64), self.chance.below(8) as u8);
            say!(self, "bit {bit} of byte {byte} of {name} flips");
            must!(self.disk.flip(&name, byte, bit), "{name} has {blocks} blocks");
        }
        true
    }

    /// Upkeep makes damaged runs whole, while others go on.
    pub(super) fn mend_runs(&mut self, upkeep: &mut Upkeep) {
        if !upkeep.has_doubtful_runs() && self.run().timer.timers().damaged_runs().is_empty() {
            return;
        }
        let mut done = Vec::new();
        let mended = upkeep.mend_runs(&mut Others { world: self }, &mut done);
        say!(self, "runs are mended: {done:?} {mended:?}");
        self.tally.rebuilt(&done);
        let is_excused = self.is_armed || self.disk.is_crashed();
        must!(mended.is_ok() || is_excused, "a run cannot be mended on a healthy disk: {mended:?}");
    }

    /// A time at which nothing can be due, and not much earlier than need be.
    fn before_all_due(&self) -> Timestamp {
        let messages = self.oracle.messages.values();
        // Of other topics the oracle knows no messages.
        let running = self.running.as_ref().expect("the process lives");
        let mut topics = running.timer.timers().pending_by_topic().into_keys();
        let has_others = topics.any(|topic| !self.topics[..3].contains(&topic));
        if has_others || messages.clone().any(|message| message.is_moving) {
            return Timestamp(self.earliest.0 - 10);
        }
        let dues = messages.filter(|message| message.slot.is_none()).filter_map(|message| message.due);
        Timestamp(dues.min().unwrap_or(self.earliest).0 - 1)
    }

    /// After a start: what cannot be listed is found, by a cursor that meets it or by a scrub, and rebuilt.
    pub(super) fn notice_runs(&mut self) {
        if self.run().timer.timers().all().is_ok() {
            return;
        }
        if self.chance.one_in(2) {
            // Nothing is due so early, but the window begins to be filled.
            let early = self.before_all_due();
            let mut effects = Effects::default();
            self.run().timer.due(early, u64::MAX, &mut effects);
            must!(effects.submit.is_empty(), "something is due before the beginning: {effects:?}");
        }
        let running = self.running.as_mut().expect("the process lives");
        let upkeep = running.upkeep.as_mut().expect("upkeep is at home");
        let mut quiet = Quiet { writer: &mut running.writer, timer: &mut running.timer };
        if !quiet.timer.timers().damaged_runs().is_empty() {
            self.tally.met += 1;
            quiet.mend_runs(upkeep, &mut self.tally);
        }
        if quiet.timer.timers().all().is_err() {
            quiet.mend(upkeep, &mut self.tally);
        }
        let listed = self.run().timer.timers().all();
        let first = listed.unwrap_or_else(|error| panic!("timers cannot be read after everything was mended: {error}"));
        let next = self.run().timer.timers().next_due();
        let first = first.first().map(|timer| timer.due);
        must!(first.is_none_or(|first| next.is_some_and(|next| next <= first)), "{next:?} is late for {first:?}");
    }
}
