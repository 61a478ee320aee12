//! Recoveries, and the ends of the process that make them necessary.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use base::Chance;
use broker::subscription::Verdict;
use storage::checkpoint;
use storage::disk::Disk;
use storage::disk::sim::SimDisk;
use storage::metrics::Metrics;
use storage::store::{self, Recovered};

use super::super::oracle::must;
use super::super::snapshot::Snapshot;
use super::{Running, World, say};

impl World {
    /// Recovers the store from the disk as it is.
    pub fn recover(&mut self) {
        let chance = Chance::new(self.chance.next_u64());
        let recovered = self.open(&self.disk.clone(), chance);
        let recovered = recovered.unwrap_or_else(|error| panic!("a disk without damage does not open: {error}"));
        say!(self, "recovered: {:?}", recovered.report);
        must!(recovered.report.quarantined.is_empty(), "damage without damage: {:?}", recovered.report);
        self.take_over(recovered);
    }

    pub fn open(&self, disk: &SimDisk, chance: Chance) -> Result<Recovered, store::OpenError> {
        let metrics = Metrics::register(&prometheus::Registry::new()).expect("a fresh registry");
        store::recover(Arc::new(disk.clone()), self.options, self.clock.clone(), chance, metrics)
    }

    pub(super) fn take_over(&mut self, recovered: Recovered) {
        let Recovered { writer, timer, reader, upkeep, .. } = recovered;
        self.tally.segments = self.tally.segments.max(writer.log().segments().load().len() as u64);
        self.running = Some(Running {
            writer,
            timer,
            reader,
            upkeep: Some(upkeep),
            subs: Vec::new(),
            fetches: Vec::new(),
            inbox: VecDeque::new(),
            owners: HashMap::new(),
            next: 0,
        });
    }

    /// The process is gone: by a crash of the machine, or killed. Whatever was unanswered stays so.
    pub(super) fn restart(&mut self, is_power_lost: bool) {
        let running = self.running.take().expect("the process lives");
        let is_quiet = !self.disk.is_crashed() && running.writer.log().failure().is_none();
        let before = is_quiet.then(|| Snapshot::of(running.writer.views(), &running.timer));
        self.unanswered(&running);
        drop(running);
        must!(self.room.used() == 0, "{} bytes ahead are held by nobody", self.room.used());
        if is_power_lost || self.disk.is_crashed() {
            say!(self, "power loss");
            self.disk.restart();
        } else {
            say!(self, "killed");
            self.disk.restart_process();
        }
        self.is_armed = false;
        self.disk.set_capacity(u64::MAX);
        self.tally.restarts += 1;
        self.lose_newest_checkpoint();
        // Often the recovery itself is cut short, and the one after it too.
        let mut cut_short = 0;
        while self.chance.one_in(3) {
            self.disk.crash_after(self.chance.below(16));
            let chance = Chance::new(self.chance.next_u64());
            if let Err(error) = self.open(&self.disk.clone(), chance) {
                say!(self, "the recovery was cut short: {error}");
                cut_short += 1;
            }
            self.disk.restart();
        }
        self.tally.cuts.recovery += u64::from(cut_short > 0);
        self.tally.cuts.recovery_twice += u64::from(cut_short > 1);
        let twin = self.disk.image();
        self.recover();
        let twin = self.open(&twin, Chance::new(1)).unwrap_or_else(|error| panic!("the twin does not open: {error}"));
        let running = self.running.as_ref().expect("just recovered");
        let after = Snapshot::of(running.writer.views(), &running.timer);
        let of_twin = Snapshot::of(twin.writer.views(), &twin.timer);
        if let Some(difference) = after.difference(&of_twin) {
            panic!("two recoveries of one disk differ: {difference}");
        }
        if let Some(difference) = before.and_then(|before| before.difference(&after)) {
            panic!("committed before the restart and otherwise after it: {difference}");
        }
        self.resume();
    }

    /// Looks at what was recovered, and goes on with it.
    pub fn go_on_with(&mut self, recovered: Recovered) {
        self.take_over(recovered);
        self.resume();
    }

    fn resume(&mut self) {
        self.notice_runs();
        let now = self.now();
        let running = self.running.as_ref().expect("just recovered");
        self.oracle.recovered(&running.reader, &running.timer, now, &self.next_batch);
        self.start_cores();
        self.pump();
    }

    /// The process ends at a quiet moment.
    pub fn stop(&mut self) {
        let running = self.running.take().expect("the process lives");
        self.unanswered(&running);
        self.tally.restarts += 1;
    }

    /// Some of the time the newest manifest is gone. The older checkpoint, and the log, have everything.
    fn lose_newest_checkpoint(&mut self) {
        let numbers = checkpoint::numbers(&self.disk.list().expect("power"));
        if let [newest, _older, ..] = numbers[..]
            // Until the next one is taken, the removal of what is older still may come undone.
            && newest >= self.lost_checkpoint
            && self.chance.one_in(6)
        {
            say!(self, "checkpoint {newest} is gone");
            self.disk.remove(&checkpoint::manifest_name(newest)).expect("listed");
            self.disk.sync_directory().expect("power");
            self.lost_checkpoint = newest;
            self.tally.cuts.fallback += 1;
        }
    }

    /// What nobody was told about has an unknown outcome.
    pub(super) fn unanswered(&mut self, running: &Running) {
        for (index, sub) in running.subs.iter().enumerate() {
            for append in sub.appends.values() {
                self.oracle.maybe_appended(index, &append.changes);
            }
            let pair = &mut self.oracle.pairs[index];
            for asked in sub.settles.values() {
                let slot = asked.slot();
                match asked.settle.verdict {
                    // What came before a seek in the log is void, and what did not come before it has no effect.
                    Verdict::Ack | Verdict::Forward if asked.is_old => {}
                    Verdict::Ack | Verdict::Forward => drop(pair.acked_maybe.insert(slot)),
                    Verdict::Return { .. } => pair.forget_wait(slot),
                }
                if let Some(hold) = pair.holds.get_mut(&slot) {
                    hold.may_end = true;
                }
            }
        }
    }
}
