//! The upkeep thread: makes room ahead of the writer, seals, takes checkpoints, and scrubs in the time that is left.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::duration::ms;
use base::{Chance, Clock, LogPosition};
use parking_lot::{Condvar, Mutex};

use super::TimerInbox;
use super::headroom::Headroom;
use crate::checkpoint::CheckpointError;
use crate::disk::{Disk, Space};
use crate::inbox::Inbox;
use crate::log;
use crate::metrics::Metrics;
use crate::position::Positions;
use crate::request::{Answer, Done, Lane, ReplySink, ReplyTo, Request, Submission};
use crate::upkeep::{
    Damage, Errand, Files, Holdings, Merged, Owners, Policy, Retained, RetentionError, Standing, ThinError,
    Upkeep as Core,
};
use crate::writer::Reserve;

/// How often the free space is looked at, and whether something is due; more often when the schedule says so.
const UPKEEP_EVERY: Duration = Duration::from_millis(500);
/// How long upkeep leaves alone what failed.
const RETRY_MS: u64 = 5_000;
/// What a scrub reads at once: other work, and the end of the process, wait for so much at most.
const SCRUB_PIECE: u64 = 1 << 20;
/// A small store is read in no time; it is not read without a pause.
const SCRUB_ROUND_MS_MIN: u64 = 10 * 60_000;

/// The space that is kept free: a share of the file system or a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReserveRule {
    Percent(u8),
    Bytes(u64),
}

/// When upkeep does what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// The longest time between two checkpoints of a store that is written to.
    pub checkpoint_every: Duration,
    /// The most log between two checkpoints.
    pub checkpoint_bytes: u64,
    /// How often it is looked for segments that nobody wants.
    pub retain_every: Duration,
    pub retention: Policy,
    /// Bytes a second of what is no longer written that are read to find damage; 0 = none.
    pub verify_rate: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            checkpoint_every: Duration::from_secs(60),
            checkpoint_bytes: 512 << 20,
            retain_every: Duration::from_secs(10),
            retention: Policy::default(),
            verify_rate: 20 << 20,
        }
    }
}

/// What a store has, for those who watch it. What is not known is none.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub space: Option<Space>,
    /// How long the reserve will still be free.
    pub headroom: Option<Duration>,
    /// None until upkeep has looked for the first time.
    pub holdings: Option<Arc<Holdings>>,
}

/// What the upkeep thread is told, and tells.
#[derive(Default)]
pub(super) struct Upkeep {
    wanted: Mutex<Option<Wanted>>,
    pub bell: Condvar,
    pub reserve: Mutex<Reserve>,
    /// How far the log has come.
    pub positions: Mutex<Positions>,
    pub figures: Mutex<Figures>,
    pub failure: Mutex<Option<String>>,
    pub is_closed: AtomicBool,
}

/// The next segment, and the spare ones, of this size.
#[derive(Clone)]
struct Wanted {
    size: u64,
    slot: log::Slot,
    spares: log::Spares,
}

impl Upkeep {
    pub fn want(&self, size: u64, slot: log::Slot, spares: log::Spares) {
        let mut wanted = self.wanted.lock();
        if wanted.is_none() {
            *wanted = Some(Wanted { size, slot, spares });
            self.bell.notify_one();
        }
    }

    pub fn check_space(&self, disk: &dyn Disk, rule: ReserveRule) {
        match disk.space() {
            Ok(space) => {
                let reserve = match rule {
                    ReserveRule::Percent(percent) => space.total / 100 * u64::from(percent),
                    ReserveRule::Bytes(bytes) => bytes,
                };
                *self.reserve.lock() = Reserve::of(space, reserve);
                self.figures.lock().space = Some(space);
            }
            Err(error) => tracing::warn!(%error, "the free space of the data directory cannot be found out"),
        }
    }

    /// Wakes the thread, if it waits.
    pub fn ring(&self) {
        // With the lock: it has looked whether there is something to do, and does not wait yet.
        let _wanted = self.wanted.lock();
        self.bell.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }
}

/// Takes one value from one thread to another.
pub(super) struct Slot<T> {
    value: Mutex<Option<T>>,
    bell: Condvar,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { value: Mutex::new(None), bell: Condvar::new() }
    }
}

impl<T> Slot<T> {
    pub fn put(&self, value: T) {
        *self.value.lock() = Some(value);
        self.bell.notify_one();
    }

    fn wait(&self) -> T {
        let mut value = self.value.lock();
        loop {
            match value.take() {
                Some(value) => return value,
                None => self.bell.wait(&mut value),
            }
        }
    }
}

impl ReplySink for Slot<Answer> {
    fn deliver(&self, answers: &mut Vec<Answer>) {
        answers.drain(..).for_each(|answer| self.put(answer));
    }
}

/// The threads that upkeep asks.
pub(super) struct Others {
    pub inbox: Arc<Inbox>,
    pub timer: Arc<TimerInbox>,
}

impl Owners for Others {
    fn standing(&mut self) -> Result<Standing, CheckpointError> {
        match self.append(Request::Standing)? {
            Done::Standing(standing) => Ok(standing),
            other => Err(CheckpointError::Log(format!("answered {other:?}"))),
        }
    }

    fn timers(&mut self, errand: Errand) {
        let slot: Arc<Slot<()>> = Arc::default();
        let done = slot.clone();
        let errand: Errand = Box::new(move |timers| {
            errand(timers);
            done.put(());
        });
        self.timer.push(|work| work.errands.push(errand));
        slot.wait();
    }

    fn append(&mut self, request: Request) -> Result<Done, CheckpointError> {
        let slot: Arc<Slot<Answer>> = Arc::default();
        let reply = ReplyTo { sink: slot.clone(), ticket: 0 };
        let pushed = self.inbox.push(Lane::Background, Submission { request, reply });
        pushed.map_err(|(_, refused)| CheckpointError::Log(refused.to_string()))?;
        slot.wait().result.map_err(|refused| CheckpointError::Log(refused.to_string()))
    }
}

/// Drives the core.
pub(super) struct Driver {
    pub disk: Arc<dyn Disk>,
    pub core: Core,
    pub owners: Others,
    pub clock: Arc<dyn Clock>,
    pub metrics: Metrics,
    pub options: super::Options,
    pub shared: Arc<Upkeep>,
    headroom: Headroom,
    /// The writer's spare segments, once it has asked for some.
    spares: Option<log::Spares>,
    /// Of the holdings that are shown.
    shown: Option<(u64, usize, usize)>,
}

/// When the last checkpoint was taken, and where.
#[derive(Default, Clone, Copy)]
struct Last {
    at_ms: u64,
    position: LogPosition,
    retained_at_ms: u64,
    /// Something failed; not before this time again.
    not_before_ms: u64,
    scrub: Scrub,
}

/// How much may be scrubbed.
#[derive(Default, Clone, Copy)]
struct Scrub {
    /// Up to then the time was used.
    at_ms: u64,
    round_began_ms: u64,
    /// A round ended; the next one begins when it is time.
    is_resting: bool,
}

impl Scrub {
    /// The bytes that may be read now. What was not read in a second is not made up for.
    fn budget(&mut self, now_ms: u64, rate: u64) -> u64 {
        if self.is_resting && now_ms >= self.round_began_ms.saturating_add(SCRUB_ROUND_MS_MIN) {
            *self = Self { at_ms: now_ms, round_began_ms: now_ms, is_resting: false };
        }
        let passed_ms = now_ms.saturating_sub(self.at_ms).min(1_000);
        self.at_ms = now_ms;
        if self.is_resting { 0 } else { rate.saturating_mul(passed_ms) / 1_000 }
    }
}

impl Driver {
    pub fn new(
        disk: Arc<dyn Disk>,
        core: Core,
        owners: Others,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        options: super::Options,
        shared: Arc<Upkeep>,
    ) -> Self {
        let headroom = Headroom::default();
        Self { disk, core, owners, clock, metrics, options, shared, headroom, spares: None, shown: None }
    }

    pub fn run(mut self) {
        let mut chance = Chance::from_system();
        let schedule = self.options.upkeep;
        let turn = UPKEEP_EVERY.min(schedule.checkpoint_every).min(schedule.retain_every);
        let now_ms = self.clock.monotonic_ms();
        let scrub = Scrub { at_ms: now_ms, round_began_ms: now_ms, is_resting: false };
        let mut last = Last { at_ms: now_ms, scrub, ..Last::default() };
        last.position = self.core.newest().map_or(LogPosition(0), |newest| newest.durable);
        while !self.shared.is_closed() {
            let wanted = {
                let mut wanted = self.shared.wanted.lock();
                if wanted.is_none() && !self.has_more_to_do(&last) {
                    self.shared.bell.wait_for(&mut wanted, turn);
                }
                wanted.clone()
            };
            let began = self.clock.monotonic_ns();
            self.shared.check_space(&*self.disk, self.options.reserve);
            if let Some(wanted) = wanted {
                self.prepare(&wanted, &mut chance);
                self.spares = Some(wanted.spares);
                *self.shared.wanted.lock() = None;
            }
            if self.clock.monotonic_ms() >= last.not_before_ms && !self.shared.is_closed() {
                self.look_after(&mut last, false);
            }
            self.scrub(&mut last.scrub);
            self.show();
            self.metrics.upkeep_busy.inc_by((self.clock.monotonic_ns() - began) as f64 / 1e9);
        }
        self.look_after(&mut last, true);
    }

    /// Whether the next turn is due at once.
    fn has_more_to_do(&self, last: &Last) -> bool {
        let has_more = self.core.is_merging() || self.is_crowded();
        has_more && self.clock.monotonic_ms() >= last.not_before_ms && self.shared.failure.lock().is_none()
    }

    /// Young timers should become a run before they fill the memory that they may take.
    fn is_crowded(&self) -> bool {
        self.owners.timer.wants_run.load(Ordering::Relaxed)
    }

    /// Whether somebody waits for this thread, who does something else.
    fn is_wanted(&self) -> bool {
        self.shared.is_closed() || self.is_crowded() || self.shared.wanted.lock().is_some()
    }

    /// Files for the time to come.
    fn prepare(&self, Wanted { size, slot, spares }: &Wanted, chance: &mut Chance) {
        if slot.lock().is_none() && !self.shared.is_closed() {
            match log::prepare(&*self.disk, *size, chance.next_u64(), || ()) {
                Ok(prepared) => *slot.lock() = Some(prepared),
                Err(error) => {
                    tracing::warn!(%error, "the next segment cannot be prepared; the writer will allocate one");
                }
            }
        }
        while spares.lock().len() < log::SPARES {
            match log::allocate(&*self.disk, *size, chance.next_u64()) {
                Ok(spare) => spares.lock().push(spare),
                Err(error) => {
                    tracing::warn!(%error, "there is no room for a spare segment");
                    break;
                }
            }
        }
    }

    /// Tells those who watch.
    fn show(&mut self) {
        let damaged: u64 = self.core.holes().iter().map(|hole| hole.end.since(hole.start)).sum();
        self.metrics.quarantined_bytes.set(i64::try_from(damaged).unwrap_or(i64::MAX));
        let reserve = *self.shared.reserve.lock();
        self.headroom.note(self.clock.monotonic_ms(), reserve.free);
        self.shared.figures.lock().headroom = self.headroom.left(reserve.reserve);
        if let Some(spares) = &self.spares {
            let spares = spares.lock();
            let bytes = spares.iter().map(|spare| spare.size).sum();
            self.metrics.segments("spare", Files { count: spares.len() as u64, bytes });
        }
        let version = self.core.holdings_version();
        if self.shown == Some(version) {
            return;
        }
        let holdings = self.core.holdings();
        self.metrics.segments("active", holdings.active);
        self.metrics.segments("sealed", holdings.sealed);
        self.shared.figures.lock().holdings = Some(Arc::new(holdings));
        self.shown = Some(version);
    }

    /// Seals what is full, and takes a checkpoint when it is time, or when this is the end.
    fn look_after(&mut self, last: &mut Last, is_end: bool) {
        if let Err(error) = self.try_look_after(last, is_end) {
            tracing::error!(%error, "upkeep failed; it is tried again");
            last.not_before_ms = self.clock.monotonic_ms() + RETRY_MS;
        }
    }

    fn try_look_after(&mut self, last: &mut Last, is_end: bool) -> Result<(), UpkeepError> {
        if self.shared.failure.lock().is_some() {
            // What the log holds is unknown until a recovery.
            return Ok(());
        }
        if is_end {
            self.core.give_up_merge(&mut self.owners);
        }
        let standing = self.owners.standing()?;
        let applied = standing.positions.applied;
        while !self.shared.is_closed() && self.core.seal(applied)? {}
        self.core.mend_indexes()?;
        let Schedule { checkpoint_every, checkpoint_bytes, .. } = self.options.upkeep;
        let now_ms = self.clock.monotonic_ms();
        // A segment that cannot be thinned keeps nobody from a checkpoint.
        let let_go = if is_end { Ok(()) } else { self.let_go(last, now_ms) };
        let every_ms = ms(checkpoint_every);
        let written = applied.since(last.position.min(applied));
        let is_adrift = self.core.wants_checkpoint() && self.core.newest().is_some();
        let is_early = self.is_crowded() || is_adrift || written >= checkpoint_bytes;
        let is_due = is_early || (written > 0 && now_ms >= last.at_ms.saturating_add(every_ms));
        if is_due || is_end {
            let began = self.clock.monotonic_ns();
            let bytes = self.core.checkpoint(&mut self.owners, self.clock.now())?.bytes();
            let taken = self.clock.monotonic_ns() - began;
            self.metrics.checkpoint_duration.observe(taken as f64 / 1e9);
            self.metrics.checkpoint_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
            last.at_ms = self.clock.monotonic_ms();
            last.position = applied;
        }
        // One slice at least, so that runs become fewer however much comes.
        while !self.shared.is_closed()
            && self.core.merge_timers(&mut self.owners)? != Merged::Nothing
            && !self.is_wanted()
        {}
        self.mend_runs()?;
        let_go
    }

    /// Drops and thins what nobody wants, when it is time. Leaves the rest of the thinning for the next time when somebody
    /// waits for this thread.
    fn let_go(&mut self, last: &mut Last, now_ms: u64) -> Result<(), UpkeepError> {
        let Schedule { retain_every, retention, .. } = self.options.upkeep;
        if now_ms < last.retained_at_ms.saturating_add(ms(retain_every)) {
            return Ok(());
        }
        last.retained_at_ms = now_ms;
        let retained = self.core.retain(&mut self.owners, &retention, self.clock.now())?;
        self.note(&retained);
        while !self.is_wanted()
            && let Some(thinned) = self.core.thin(&mut self.owners, &retention, self.clock.now())?
        {
            self.metrics.thinned_bytes.inc_by(thinned.before.saturating_sub(thinned.after));
        }
        Ok(())
    }

    fn mend_runs(&mut self) -> Result<(), UpkeepError> {
        if self.core.has_doubtful_runs() || self.owners.timer.has_damaged_runs.load(Ordering::Relaxed) {
            let mut done = Vec::new();
            let mended = self.core.mend_runs(&mut self.owners, &mut done);
            for damage in done {
                if let Damage::Run { recovered, lost, .. } = damage {
                    self.metrics.timers_rebuilt.inc_by(recovered);
                    self.metrics.timers_lost.inc_by(lost);
                }
            }
            mended?;
        }
        Ok(())
    }

    /// Piece by piece, until the budget is used or somebody wants something else.
    fn scrub(&mut self, scrub: &mut Scrub) {
        let mut budget = scrub.budget(self.clock.monotonic_ms(), self.options.upkeep.verify_rate);
        while budget > 0 && !self.is_wanted() && self.shared.failure.lock().is_none() {
            let scrubbed = self.core.scrub(budget.min(SCRUB_PIECE));
            for damage in &scrubbed.found {
                match damage {
                    Damage::Unread { .. } => self.metrics.failed_reads.inc(),
                    _ => self.metrics.wrong_checksums.inc(),
                }
            }
            if scrubbed.is_round {
                scrub.is_resting = true;
                return;
            }
            budget = budget.saturating_sub(scrubbed.bytes);
        }
    }

    fn note(&self, retained: &Retained) {
        self.metrics.dropped_by_time.inc_by(retained.bytes_by_time);
        self.metrics.dropped_by_size.inc_by(retained.bytes_by_size);
        self.metrics.held_bytes.set(i64::try_from(retained.held_bytes).unwrap_or(i64::MAX));
    }
}

#[derive(Debug, thiserror::Error)]
enum UpkeepError {
    #[error(transparent)]
    Thin(#[from] ThinError),
    #[error(transparent)]
    Retention(#[from] RetentionError),
    #[error(transparent)]
    Seal(#[from] crate::upkeep::SealError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_reads_at_its_rate_makes_up_for_nothing_and_rests_after_a_round() {
        let mut scrub = Scrub::default();
        assert_eq!(scrub.budget(500, 1_000), 500);
        assert_eq!(scrub.budget(500, 1_000), 0);
        assert_eq!(scrub.budget(60_500, 1_000), 1_000);
        assert_eq!(scrub.budget(60_600, 0), 0);
        scrub.is_resting = true;
        assert_eq!(scrub.budget(61_000, 1_000), 0);
        assert_eq!(scrub.budget(SCRUB_ROUND_MS_MIN, 1_000), 0);
        assert_eq!(scrub.budget(SCRUB_ROUND_MS_MIN + 100, 1_000), 100);
    }
}
