//! Mending a store that no server uses: what a start and its upkeep would mend, and a store that does not start because no
//! checkpoint of it is left and its log no longer reaches back to its beginning.
//!
//! G1. What remains is told before anything is done, and looking changes nothing.
//! G2. A topic that is known by its number alone gets a name, so that its messages can be read.
//! G3. Numbers of topics and groups that were seen are not given out again.

mod remains;

use std::io;
use std::sync::Arc;

use base::limits::LOG_BLOCK_BYTES;
use base::{Chance, Clock};
use parking_lot::Mutex;

pub use remains::{GroupRemains, KeyRemains, Remains, TopicRemains, look};

use crate::checkpoint::CheckpointError;
use crate::disk::Disk;
use crate::log::recovery::OpenError as LogError;
use crate::log::{CommitRule, LogFailure, LogOptions, segment};
use crate::metrics::Metrics;
use crate::record::Fact;
use crate::request::{Answer, Change, Done, ReplySink, ReplyTo, Request, Submission};
use crate::store::{self, OpenError, Recovered};
use crate::timer::TimerCore;
use crate::upkeep::{Errand, Owners, SealError, Standing};
use crate::verify;
use crate::writer::Writer;

/// A store cannot be mended. What was done up to then is what a start would have done.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    #[error("a file cannot be read or written: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Append(#[from] LogFailure),
    #[error("metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("nothing is left of the log")]
    NoSegment,
}

/// Opens the store as a start does, reads everything once, makes anew what is damaged and can be, removes what nothing
/// names, and takes a checkpoint.
pub fn tend(disk: &Arc<dyn Disk>, clock: &Arc<dyn Clock>, mut chance: Chance) -> Result<(), SalvageError> {
    let names = disk.list()?;
    let verified = verify::directory(&**disk)?;
    let strays = verified.beside.strays();
    let mut open = Open::new(disk, clock, &mut chance, &names)?;
    open.settle()?;
    for name in strays.iter().filter(|name| names.contains(name)) {
        crate::checkpoint::Pair::remove(&**disk, name);
    }
    disk.sync_directory()?;
    Ok(())
}

/// Opens a store of which only these remains are left, and makes it one that starts.
pub fn begin_anew(
    disk: &Arc<dyn Disk>,
    clock: &Arc<dyn Clock>,
    mut chance: Chance,
    remains: &Remains,
) -> Result<(), SalvageError> {
    let names = disk.list()?;
    if remains.key == KeyRemains::Lost {
        // What they know is found by hashes of the old key.
        for name in names.iter().filter(|name| crate::index::parse_name(name).is_some()) {
            disk.remove(name)?;
        }
    }
    remains.write_beginning(&**disk, &mut chance, clock.now())?;
    let mut open = Open::new(disk, clock, &mut chance, &names)?;
    for (topic, queue, below) in remains.beginnings() {
        // Nobody has to read what is gone, and no backlog counts it.
        let is_there = open.recovered.reader.catalog().topic_by_id(topic).is_some();
        if is_there {
            open.owners().0.append(Request::one(Change::Fact(Fact::Expire { topic, queue, below })))?;
        }
    }
    open.recovered.upkeep.begin_anew();
    open.settle()
}

/// A store that is open without threads.
struct Open {
    recovered: Recovered,
    clock: Arc<dyn Clock>,
}

impl Open {
    fn new(
        disk: &Arc<dyn Disk>,
        clock: &Arc<dyn Clock>,
        chance: &mut Chance,
        names: &[String],
    ) -> Result<Self, SalvageError> {
        let newest = names.iter().filter_map(|name| segment::parse_name(name)).max().ok_or(SalvageError::NoSegment)?;
        let mut block = vec![0; LOG_BLOCK_BYTES as usize];
        disk.open_to_read(&segment::name(newest))?.read_at(&mut block, 0)?;
        let header = segment::Header::decode(&block);
        let header = header.map_err(|source| LogError::Version { name: segment::name(newest), source })?;
        let log = LogOptions { segment_bytes: header.size, commit: CommitRule::OnSync };
        let options = store::Options { log, node: 1, tail_cache_bytes: 0, timers: Default::default() };
        let metrics = Metrics::register(&prometheus::Registry::new())?;
        let chance = Chance::new(chance.next_u64());
        let recovered = store::recover(disk.clone(), options, clock.clone(), chance, metrics)?;
        Ok(Self { recovered, clock: clock.clone() })
    }

    fn owners(&mut self) -> (Alone<'_>, &mut crate::upkeep::Upkeep) {
        let Recovered { writer, timer, upkeep, .. } = &mut self.recovered;
        (Alone { writer, timer }, upkeep)
    }

    /// Two checkpoints, as every store has that is well.
    fn settle(&mut self) -> Result<(), SalvageError> {
        let now = self.clock.now();
        let (mut alone, upkeep) = self.owners();
        let applied = alone.writer.log().positions().applied;
        while upkeep.seal(applied)? {}
        while !upkeep.scrub(u64::MAX).is_round {}
        upkeep.mend_runs(&mut alone, &mut Vec::new())?;
        upkeep.mend_indexes()?;
        for _ in 0..2 {
            upkeep.checkpoint(&mut alone, now)?;
        }
        alone.writer.mark()?;
        Ok(())
    }
}

/// The owners of what upkeep looks at, where nobody else is at work.
pub(crate) struct Alone<'a> {
    pub writer: &'a mut Writer,
    pub timer: &'a mut TimerCore,
}

impl Owners for Alone<'_> {
    fn standing(&mut self) -> Result<Standing, CheckpointError> {
        Ok(self.writer.standing())
    }

    fn timers(&mut self, errand: Errand) {
        let covers = self.writer.log().positions().applied;
        self.timer.apply(&self.writer.take_timer_events(), covers);
        errand(self.timer);
    }

    fn append(&mut self, request: Request) -> Result<Done, CheckpointError> {
        let sink: Arc<Answers> = Arc::default();
        let reply = ReplyTo { sink: sink.clone(), ticket: 0 };
        for mut delivery in self.writer.commit(&mut vec![Submission { request, reply }]) {
            delivery.sink.deliver(&mut delivery.answers);
        }
        let answer = sink.0.lock().pop().ok_or(CheckpointError::Closed)?;
        answer.result.map_err(|refused| CheckpointError::Log(refused.to_string()))
    }
}

#[derive(Default)]
struct Answers(Mutex<Vec<Answer>>);

impl ReplySink for Answers {
    fn deliver(&self, answers: &mut Vec<Answer>) {
        self.0.lock().append(answers);
    }
}

#[cfg(test)]
#[path = "salvage_tests.rs"]
mod tests;
