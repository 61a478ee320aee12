//! Threads of a store on a disk of the simulation.

use std::sync::mpsc::{Receiver, Sender, channel};

use base::time::ManualClock;
use base::{Chance, TopicName};

use super::*;
use crate::disk::sim::SimDisk;
use crate::log::LogOptions;
use crate::message::{BodyPart, Envelope, MessageKind};
use crate::record::Head;
use crate::request::{BodyKind, Change, Done, NewBody};
use crate::store;
use crate::view::catalog::{TopicKind, TopicSpec};
use crate::view::timers::Bounds;

const YOUNG_MAX: usize = 4;
const COUNT: u64 = 60;
const PATIENCE: Duration = Duration::from_secs(60);

struct Answers(Mutex<Sender<Answer>>);

impl ReplySink for Answers {
    fn deliver(&self, answers: &mut Vec<Answer>) {
        answers.drain(..).for_each(|answer| self.0.lock().send(answer).expect("the test waits"));
    }
}

struct Running {
    store: Store,
    metrics: Metrics,
    sink: Arc<Answers>,
    answers: Receiver<Answer>,
}

fn run(disk: &SimDisk) -> Running {
    let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
    let log = LogOptions { segment_bytes: 1 << 20, commit: CommitRule::OnSync };
    let timers = Bounds { young: YOUNG_MAX, ..Bounds::default() };
    let options = store::Options { log, node: 1, tail_cache_bytes: 0, timers };
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let disk = Arc::new(disk.clone());
    let recovered = store::recover(disk.clone(), options, clock.clone(), Chance::new(1), metrics.clone()).unwrap();
    let options = Options {
        inbox_requests_max: 1000,
        read_threads: 1,
        behind_bytes_per_second: None,
        reserve: ReserveRule::Bytes(0),
        upkeep: Schedule::default(),
    };
    let store = Store::start(recovered, disk, clock, metrics.clone(), options).unwrap();
    let (sender, answers) = channel();
    Running { store, metrics, sink: Arc::new(Answers(Mutex::new(sender))), answers }
}

impl Running {
    fn ask(&self, request: Request) -> Done {
        let reply = ReplyTo { sink: self.sink.clone(), ticket: 0 };
        self.store.submit(Lane::Request, request, reply).unwrap();
        self.answers.recv_timeout(PATIENCE).expect("an answer").result.unwrap()
    }

    fn pending(&self) -> usize {
        let (sender, count) = channel();
        let errand: Errand = Box::new(move |timers| sender.send(timers.timers().len()).expect("the test waits"));
        self.store.timer.push(|work| work.errands.push(errand));
        count.recv_timeout(PATIENCE).expect("an answer")
    }
}

fn delayed(number: u64) -> Request {
    let envelope = Envelope::new(MessageKind::Delay, format!("late{number}"), Timestamp(1), "host".into());
    let head = Head { topic: TopicId(0), tag_hash: 0, group_hash: number, priority: 0 };
    let due = Timestamp(5_000_000 + number);
    Request::one(Change::Body(NewBody {
        head,
        kind: BodyKind::Delayed { due },
        part: BodyPart::encode(&envelope, b"x"),
    }))
}

#[test]
fn young_timers_are_bounded_by_runs_that_make_room_for_more() {
    let disk = SimDisk::new(1);
    let running = run(&disk);
    let name = TopicName::parse("late").unwrap();
    running.ask(Request::CreateTopic(TopicSpec::new(name, TopicKind::Delay, 1, Timestamp(1))));
    // One after the other, so that no group brings more than one.
    (0..COUNT).for_each(|number| drop(running.ask(delayed(number))));
    // Each run holds what was young at most; nothing but a checkpoint makes one.
    let runs_min = (COUNT - YOUNG_MAX as u64).div_ceil(YOUNG_MAX as u64);
    let checkpoints = running.metrics.checkpoint_duration.get_sample_count();
    assert!(checkpoints + 1 >= runs_min, "{checkpoints} checkpoints for {COUNT} timers");
    assert_eq!(running.pending() as u64, COUNT);
    running.store.stop();
    let again = run(&disk);
    assert_eq!(again.pending() as u64, COUNT, "and they survive");
    again.store.stop();
}

#[test]
fn a_delayed_message_is_overdue_from_its_due_time_on_until_it_is_published() {
    let disk = SimDisk::new(1);
    let running = run(&disk);
    let name = TopicName::parse("late").unwrap();
    running.ask(Request::CreateTopic(TopicSpec::new(name, TopicKind::Delay, 1, Timestamp(1))));
    assert_eq!(running.store.timers_overdue_ms(Timestamp(u64::MAX)), 0, "there is none");
    running.ask(delayed(7));
    running.ask(delayed(3));
    // Figures are told at the end of a turn: the second answer is from the turn after that.
    let pending = [running.pending(), running.pending()];
    assert_eq!(pending, [2, 2]);
    let overdue = [5_000_002, 5_000_003, 5_000_253].map(|now| running.store.timers_overdue_ms(Timestamp(now)));
    assert_eq!(overdue, [0, 0, 250], "as late as the earlier one");
    running.store.stop();
}
