//! Upkeep between, and in the midst of, everything else.

use base::Clock;
use storage::checkpoint::CheckpointError;
use storage::upkeep::{Errand, Owners, Standing};

use super::{World, say};

/// The world as upkeep sees it: others go on while it works.
struct Others<'a> {
    world: &'a mut World,
}

impl Owners for Others<'_> {
    fn standing(&mut self) -> Result<Standing, CheckpointError> {
        self.meanwhile();
        Ok(self.world.run().writer.standing())
    }

    fn timers(&mut self, errand: Errand) {
        errand(&mut self.world.run().timer);
    }

    fn meanwhile(&mut self) {
        if self.world.chance.one_in(2) {
            self.world.commit(2);
            self.world.pump();
        }
    }
}

impl World {
    /// One thing that upkeep does. What fails is tried again some other time.
    pub(super) fn upkeep(&mut self) {
        let Some(mut upkeep) = self.run().upkeep.take() else { return };
        let applied = self.run().writer.log().positions().applied;
        match self.chance.below(4) {
            0 => {
                let sealed = upkeep.seal(applied);
                say!(self, "sealing: {sealed:?}");
                self.tally.sealed += u64::from(matches!(sealed, Ok(true)));
            }
            1 => {
                let merged = upkeep.merge_timers(&mut Others { world: self });
                say!(self, "merge of timers: {merged:?}");
                self.tally.merged += u64::from(matches!(merged, Ok(true)));
            }
            _ => {
                let now = self.clock.now();
                let taken = upkeep.checkpoint(&mut Others { world: self }, now).map(|manifest| manifest.number);
                say!(self, "checkpoint: {taken:?}");
                self.tally.checkpoints += u64::from(taken.is_ok());
            }
        }
        if let Some(running) = &mut self.running {
            running.upkeep = Some(upkeep);
        }
    }
}
