//! openraft's own log-store test suite, run against `storage::replica::ReplicaPort`: what a consensus library will ask of
//! it. There is no cluster yet. Nothing outside this file and its folder names openraft.
//!
//! Each store of the suite is two ports: one sequences what the suite appends, the other is given the bytes as they are,
//! and is what the suite reads.

#[path = "replica/machine.rs"]
mod machine;
#[path = "replica/store.rs"]
mod store;

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use parking_lot::Mutex;
use storage::disk::sim::SimDisk;

use machine::Machine;
use store::{Between, Pair, Place, Store};

openraft::declare_raft_types!(
    pub Types:
        D = String,
        R = (),
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        Node = openraft::EmptyNode,
);

/// Where the stores of a run are.
enum Home {
    Simulated,
    Directories,
}

struct Builder {
    home: Home,
    between: Between,
}

/// Directories that go when the store does.
type Guard = Vec<tempfile::TempDir>;

impl StoreBuilder<Types, Store, Machine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, Store, Machine), StorageError<Types>> {
        let (guard, places) = match self.home {
            Home::Simulated => (Vec::new(), [1, 2].map(|seed| Place::Simulated(SimDisk::new(seed)))),
            Home::Directories => {
                let guard = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
                let places = [0, 1].map(|number| Place::Directory(guard[number].path().into()));
                (Vec::from(guard), places)
            }
        };
        let pair = Pair::new(places, self.between);
        Ok((guard, Store(Arc::new(Mutex::new(pair))), Machine::default()))
    }
}

/// The suite waits for purges that happen in the background. Ours do not, so its time may fly.
fn run(builder: Builder) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(Suite::test_all(builder)).expect("the suite passes");
}

#[test]
fn the_suite_of_openraft_passes_on_a_simulated_disk() {
    run(Builder { home: Home::Simulated, between: Between::Nothing });
}

#[test]
fn the_suite_of_openraft_passes_when_the_power_fails_before_every_read() {
    run(Builder { home: Home::Simulated, between: Between::Restarts });
}

#[test]
fn the_suite_of_openraft_passes_in_a_directory() {
    run(Builder { home: Home::Directories, between: Between::Nothing });
}

#[test]
fn the_suite_of_openraft_passes_in_a_directory_with_a_start_before_every_read() {
    run(Builder { home: Home::Directories, between: Between::Restarts });
}
