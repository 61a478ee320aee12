//! What a replica keeps beside its log: whom it voted for, and up to where it needs no log any more.

use base::{BatchIndex, Chance, Term};

use super::slots::{Slots, SlotsError};
use crate::disk::Disk;

/// A batch, named as replicas name it: two logs that hold the same are equal up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchId {
    pub term: Term,
    pub index: BatchIndex,
}

/// Whom this node follows, or wants to be followed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    pub term: Term,
    pub node: u64,
    /// A majority granted it: `node` leads.
    pub is_committed: bool,
}

const IS_THERE: u64 = 1;
const IS_COMMITTED: u64 = 2;

pub(super) struct VoteFile(Slots);

impl VoteFile {
    pub fn open(disk: &dyn Disk, chance: &mut Chance) -> Result<Self, SlotsError> {
        Slots::open(disk, "vote", *b"CARIVOTE", chance).map(Self)
    }

    pub fn read(&self) -> Option<Vote> {
        let [term, node, flags] = self.0.words();
        let vote = Vote { term: Term(term), node, is_committed: flags & IS_COMMITTED != 0 };
        (flags & IS_THERE != 0).then_some(vote)
    }

    pub fn save(&mut self, vote: Vote) -> Result<(), SlotsError> {
        let flags = IS_THERE | if vote.is_committed { IS_COMMITTED } else { 0 };
        self.0.save([vote.term.0, vote.node, flags])
    }
}

pub(super) struct PurgeFile(Slots);

impl PurgeFile {
    pub fn open(disk: &dyn Disk, chance: &mut Chance) -> Result<Self, SlotsError> {
        Slots::open(disk, "purged", *b"CARIPURG", chance).map(Self)
    }

    pub fn read(&self) -> Option<BatchId> {
        let [term, index, flags] = self.0.words();
        (flags & IS_THERE != 0).then_some(BatchId { term: Term(term), index: BatchIndex(index) })
    }

    pub fn save(&mut self, purged: BatchId) -> Result<(), SlotsError> {
        self.0.save([purged.term.0, purged.index.0, IS_THERE])
    }
}
