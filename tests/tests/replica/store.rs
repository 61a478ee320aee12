//! A `RaftLogStorage` on two replica ports: an entry is a batch, with the entry as its only record.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::sync::Arc;

use base::{BatchIndex, Chance, Term, Timestamp};
use openraft::alias::{EntryOf, LeaderIdOf, LogIdOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use storage::cache::TailCache;
use storage::disk::Disk;
use storage::disk::real::RealDisk;
use storage::disk::sim::SimDisk;
use storage::log::group::Group;
use storage::log::{CommitRule, LogOptions};
use storage::replica::{BatchId, ReplicaPort, Start, Vote};

use super::Types;

/// Small, so that the suite goes through more than one.
const OPTIONS: LogOptions = LogOptions { segment_bytes: 64 << 10, commit: CommitRule::External };
const PIECE_BYTES: usize = 16 << 10;

/// What happens before each read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    Nothing,
    /// Both nodes lose their power and start.
    Restarts,
}

/// Where a node's files are.
pub enum Place {
    Simulated(SimDisk),
    Directory(PathBuf),
}

impl Place {
    fn open(&self) -> ReplicaPort {
        let disk: Arc<dyn Disk> = match self {
            Self::Simulated(disk) => Arc::new(disk.clone()),
            Self::Directory(path) => Arc::new(RealDisk::open(path).expect("nobody else uses it")),
        };
        let opened = ReplicaPort::open(disk, OPTIONS, Chance::new(1), Arc::new(TailCache::new(1 << 20)));
        opened.expect("what was vouched for is there").0
    }
}

struct Node {
    place: Place,
    /// None only while it starts.
    port: Option<ReplicaPort>,
}

impl Node {
    fn new(place: Place) -> Self {
        Self { port: Some(place.open()), place }
    }

    fn port(&mut self) -> &mut ReplicaPort {
        self.port.as_mut().expect("it runs")
    }

    fn restart(&mut self) {
        self.port = None;
        if let Place::Simulated(disk) = &self.place {
            disk.restart();
        }
        self.port = Some(self.place.open());
    }
}

pub struct Pair {
    /// Sequences.
    leader: Node,
    /// Gets the bytes as they are, and is read.
    follower: Node,
    between: Between,
    /// A port does not keep it over a restart: it is told again, from a checkpoint, or by the leader. This is the checkpoint.
    committed: Option<LogIdOf<Types>>,
}

impl Pair {
    pub fn new([leader, follower]: [Place; 2], between: Between) -> Self {
        Self { leader: Node::new(leader), follower: Node::new(follower), between, committed: None }
    }

    fn before_read(&mut self) -> io::Result<()> {
        if self.between == Between::Restarts {
            self.leader.restart();
            self.follower.restart();
            self.save_committed(self.committed)?;
        }
        Ok(())
    }

    fn save_committed(&mut self, committed: Option<LogIdOf<Types>>) -> io::Result<()> {
        self.committed = committed;
        committed.map_or(Ok(()), |id| self.both(|port| port.commit(BatchIndex(id.index()))))
    }

    fn append(&mut self, entry: &EntryOf<Types>) -> io::Result<()> {
        let id = batch_id(&entry.log_id());
        let mut group = Group::default();
        group.open();
        let record = serde_json::to_vec(entry).expect("entries are plain");
        group.record(|out| out.extend_from_slice(&record));
        group.close();
        self.leader.port().sequence(id, group, Timestamp(1)).map_err(io::Error::other)?;
        let piece = self.leader.port().read(Start::Index(id.index), PIECE_BYTES).map_err(io::Error::other)?;
        self.follower.port().append(&piece.expect("it was just appended")).map_err(io::Error::other)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.leader.port().sync().and_then(|()| self.follower.port().sync()).map_err(io::Error::other)
    }

    /// On both nodes, which must come to the same.
    fn both<T: PartialEq + Debug, E: std::error::Error + Send + Sync + 'static>(
        &mut self,
        act: impl Fn(&mut ReplicaPort) -> Result<T, E>,
    ) -> io::Result<()> {
        let led = act(self.leader.port()).map_err(io::Error::other)?;
        let followed = act(self.follower.port()).map_err(io::Error::other)?;
        assert_eq!(led, followed, "replicas agree on every position");
        Ok(())
    }

    fn entries(&mut self, from: u64, to: u64) -> io::Result<Vec<EntryOf<Types>>> {
        let mut entries = Vec::new();
        let mut next = from;
        while next < to {
            let piece = self.follower.port().read(Start::Index(BatchIndex(next)), PIECE_BYTES);
            let Some(piece) = piece.map_err(io::Error::other)? else { break };
            for batch in piece.batches() {
                let batch = batch.map_err(io::Error::other)?;
                let entry: EntryOf<Types> = serde_json::from_slice(batch.records)?;
                assert_eq!(batch_id(&entry.log_id()), batch.id(), "the header repeats what the entry says");
                next = batch.header.index.0 + 1;
                if (from..to).contains(&batch.header.index.0) {
                    entries.push(entry);
                }
            }
        }
        Ok(entries)
    }
}

#[derive(Clone)]
pub struct Store(pub Arc<Mutex<Pair>>);

fn batch_id(id: &LogIdOf<Types>) -> BatchId {
    BatchId { term: Term(**id.committed_leader_id()), index: BatchIndex(id.index()) }
}

fn log_id(id: BatchId) -> LogIdOf<Types> {
    LogIdOf::<Types>::new(id.term.0.into(), id.index.0)
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<EntryOf<Types>>> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => *before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => *last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        self.0.lock().entries(from, to)
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<Types>>> {
        let vote = self.0.lock().follower.port().vote();
        Ok(vote.map(|Vote { term, node, is_committed }| VoteOf::<Types> {
            leader_id: LeaderIdOf::<Types> { term: term.0, voted_for: node },
            committed: is_committed,
        }))
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let mut pair = self.0.lock();
        pair.before_read()?;
        let port = pair.follower.port();
        Ok(LogState { last_purged_log_id: port.purged().map(log_id), last_log_id: port.last().map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.0.lock().before_read().expect("what was committed is there");
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> io::Result<()> {
        let LeaderIdOf::<Types> { term, voted_for } = vote.leader_id;
        let vote = Vote { term: Term(term), node: voted_for, is_committed: vote.committed };
        self.0.lock().follower.port().save_vote(vote).map_err(io::Error::other)
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Types>>) -> io::Result<()> {
        self.0.lock().save_committed(committed)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogIdOf<Types>>> {
        Ok(self.0.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut pair = self.0.lock();
        entries.into_iter().try_for_each(|entry| pair.append(&entry))?;
        callback.io_completed(pair.sync());
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index() + 1);
        self.0.lock().both(|port| port.truncate(BatchIndex(from)))
    }

    async fn purge(&mut self, id: LogIdOf<Types>) -> io::Result<()> {
        self.0.lock().both(|port| port.purge(batch_id(&id)))
    }
}
