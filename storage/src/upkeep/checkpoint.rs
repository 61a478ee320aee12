//! Taking checkpoints, and removing what no kept one needs.

use std::collections::BTreeSet;

use base::Timestamp;

use super::{Owners, Upkeep, at_timers};
use crate::checkpoint::{
    CheckpointError, Gathering, Manifest, ManifestFile, Merge, Pair, parse_data_name, parse_manifest_name,
};
use crate::view::timers::Installed;

/// Checkpoints that are kept.
const KEPT: usize = 2;

impl Upkeep {
    /// Takes a checkpoint. After an error the store is as it was, and the next one holds everything.
    pub fn checkpoint(&mut self, owners: &mut dyn Owners, now: Timestamp) -> Result<&Manifest, CheckpointError> {
        let taken = self.take(owners, now);
        self.is_adrift = taken.is_err();
        let (manifest, installed) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                at_timers(owners, |timers| timers.timers_mut().snapshot_failed());
                return Err(error);
            }
        };
        at_timers(owners, |timers| timers.timers_mut().installed(installed)).free();
        // All runs that are in use are named now.
        self.unnamed.clear();
        self.doubtful.is_named = false;
        self.queues.clear();
        self.kept.push(manifest);
        if self.kept.len() > KEPT {
            self.kept.remove(0);
        }
        self.sweep();
        self.remove_left();
        Ok(self.kept.last().expect("just pushed"))
    }

    fn take(&mut self, owners: &mut dyn Owners, now: Timestamp) -> Result<(Manifest, Installed), CheckpointError> {
        let begun = owners.standing()?.positions.applied;
        let mut timers = at_timers(owners, |timers| timers.snapshot()).expect("checkpoints come one after the other");
        // They were told of everything applied before they were asked.
        timers.covers = timers.covers.max(begun);
        self.queues.extend(std::mem::take(&mut *self.views.purged.lock()));
        let before = self.kept.last().filter(|_| !self.is_adrift);
        let chance = &mut self.chance;
        let mut gathering = Gathering {
            disk: &*self.disk,
            store: self.store,
            random: &mut || chance.next_u64(),
            next_table: self.next_table,
            before,
            newest: self.kept.last(),
            since: self.since,
            replay_from: self.sealed_to,
        };
        let gathered = gathering.gather(&self.views, &self.queues, timers, &mut || owners.meanwhile());
        // Numbers are not used twice, not even those of tables that came to nothing.
        self.next_table = gathering.next_table + 1;
        let (chains, installed) = gathered?;
        // K3: what the tables hold beyond `begun` is durable too.
        let standing = owners.standing()?;
        let manifest = Manifest {
            number: self.next_number,
            store: self.store,
            hash_key: self.hash_key,
            replay_from: self.sealed_to,
            durable: standing.positions.durable,
            next_index: standing.next_index,
            term: standing.term,
            stored_at: standing.stored_at,
            taken_at: now,
            next_table: self.next_table,
            chains,
            segments: self.segments.load().iter().map(|segment| segment.header).collect(),
            holes: self.holes.clone(),
        };
        self.next_number += 1;
        ManifestFile::write(&*self.disk, &manifest)?;
        self.since = begun;
        Ok((manifest, installed))
    }

    /// Removes manifests and tables that no kept checkpoint names.
    fn sweep(&mut self) {
        let Ok(names) = self.disk.list() else { return };
        let kept: BTreeSet<u64> = self.kept.iter().map(|manifest| manifest.number).collect();
        let tables: BTreeSet<u64> =
            self.kept.iter().flat_map(|manifest| manifest.tables().map(|(_, table)| table.number)).collect();
        // First what names, then what is named: a manifest that a crash brings back must find its tables.
        let old = names.iter().filter(|name| parse_manifest_name(name).is_some_and(|number| !kept.contains(&number)));
        let old: Vec<&String> = old.collect();
        old.iter().for_each(|name| Pair::remove(&*self.disk, name));
        if !old.is_empty() && self.disk.sync_directory().is_err() {
            return;
        }
        let merging: BTreeSet<u64> = self.merge.iter().flat_map(Merge::tables).collect();
        let is_needed =
            |number: &u64| [&tables, &self.unnamed, &merging].iter().any(|numbers| numbers.contains(number));
        for name in names.iter().filter(|name| parse_data_name(name).is_some_and(|number| !is_needed(&number))) {
            Pair::remove(&*self.disk, name);
        }
    }
}
