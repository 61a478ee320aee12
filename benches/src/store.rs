//! A store as a broker runs it, without the broker.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use base::{Chance, Clock, SystemClock};
use parking_lot::Mutex;
use storage::disk::real::RealDisk;
use storage::log::{CommitRule, LogOptions};
use storage::metrics::Metrics;
use storage::request::{Answer, Done, Lane, ReplySink, ReplyTo, Request};
use storage::store;
use storage::threads::{self, ReserveRule, Schedule};

/// Requests that wait for their answers at once.
const IN_FLIGHT: usize = 256;

struct Answers(Mutex<Sender<Answer>>);

impl ReplySink for Answers {
    fn deliver(&self, answers: &mut Vec<Answer>) {
        let sender = self.0.lock();
        for answer in answers.drain(..) {
            // Nobody waits any more when the measurement has ended.
            drop(sender.send(answer));
        }
    }
}

pub struct Store {
    pub store: threads::Store,
    sink: Arc<Answers>,
    answers: Receiver<Answer>,
    out: usize,
}

impl Store {
    pub fn open(directory: &Path) -> Self {
        let disk = Arc::new(RealDisk::open(directory).expect("the directory is ours"));
        let clock = Arc::new(SystemClock);
        let metrics = Metrics::register(&prometheus::Registry::new()).expect("names are not taken");
        let options = store::Options {
            log: LogOptions { segment_bytes: base::limits::SEGMENT_BYTES_DEFAULT, commit: CommitRule::OnSync },
            node: 1,
            tail_cache_bytes: 16 << 20,
            timers: Default::default(),
        };
        let began = clock.monotonic_ms();
        let recovered = store::recover(disk.clone(), options, clock.clone(), Chance::from_system(), metrics.clone())
            .expect("sound");
        println!("opened in {} ms", clock.monotonic_ms() - began);
        let options = threads::Options {
            inbox_requests_max: 4 * IN_FLIGHT,
            read_threads: 1,
            behind_bytes_per_second: None,
            reserve: ReserveRule::Bytes(0),
            upkeep: Schedule { checkpoint_every: Duration::from_secs(5), verify_rate: 0, ..Schedule::default() },
        };
        let store = threads::Store::start(recovered, disk, clock, metrics, options).expect("threads are to be had");
        let (sender, answers) = channel();
        Self { store, sink: Arc::new(Answers(Mutex::new(sender))), answers, out: 0 }
    }

    /// Hands a request in; waits for an older one when many are out.
    pub fn submit(&mut self, request: Request) {
        while self.out >= IN_FLIGHT {
            self.take();
        }
        let reply = ReplyTo { sink: self.sink.clone(), ticket: 0 };
        self.store.submit(Lane::Request, request, reply).expect("the inbox has room");
        self.out += 1;
    }

    /// As [`Store::submit`], and gives what came of it.
    pub fn ask(&mut self, request: Request) -> Done {
        self.settle();
        self.submit(request);
        self.take()
    }

    /// Waits for everything that is out.
    pub fn settle(&mut self) {
        while self.out > 0 {
            self.take();
        }
    }

    fn take(&mut self) -> Done {
        self.out -= 1;
        self.answers.recv().expect("the store lives").result.expect("the request is sound")
    }
}
