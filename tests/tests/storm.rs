//! Name servers and brokers as processes, a load on all of them, and a storm: servers are killed, stopped, paused,
//! cut off and drained by a plan that follows from a seed. What clients were told meanwhile is held against what they
//! got (`storm/ledger.rs`), how they got on against deadlines (`storm/progress.rs`), and routes against who was there
//! (`storm/routes.rs`).
//!
//! `CARILLON_STORM_SECONDS=3600 cargo test -p carillon-tests --test storm -- --nocapture` lasts longer than the
//! minute of every run. `CARILLON_STORM_SEED` repeats the plan and the choices of a failed run, though not its
//! timing. Deadlines are multiplied by `CARILLON_STORM_SLOWNESS`, 3 if it is not set: a machine may have other things
//! to do.

#[path = "storm/clients.rs"]
mod clients;
#[path = "storm/consumers.rs"]
mod consumers;
#[path = "storm/faults.rs"]
mod faults;
#[path = "storm/ledger.rs"]
mod ledger;
#[path = "storm/progress.rs"]
mod progress;
#[path = "storm/routes.rs"]
mod routes;
#[path = "storm/stage.rs"]
mod stage;

use std::sync::Arc;
use std::time::Duration;

use base::Chance;
use clients::{GROUPS, HALVES, LATER, PLAIN, World, ordered_topic};
use faults::{BROKERS, Fault, NAMESERVERS, Node, Planned};
use parking_lot::Mutex;
use serde_json::json;
use stage::{Stage, lasts};
use tests::cluster::Cluster;
use tests::wait::until_within;
use tokio::sync::watch;
use tokio::time::{interval, timeout};

const SECONDS: u64 = 60;
const SLOWNESS: u64 = 3;
/// How often it is looked whether something has come that is waited for, or has gone wrong.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const KNOWN_WITHIN: Duration = Duration::from_secs(30);
/// Everybody is answered again so long after the last fault, and what is owed is settled: two leases.
const AGAIN_WITHIN_S: u64 = 20;
const DRAINED_WITHIN_S: u64 = 30;
const VIOLATIONS_SHOWN: usize = 10;
const LOG_LINES_SHOWN: usize = 30;

const BROKER_SETTINGS: [&str; 7] = [
    "topics.auto_create=false",
    "transactions.check_after=1s",
    "transactions.check_every=1s",
    "transactions.checks_max=1000",
    // Kills meet changes of segments and checkpoints too.
    "storage.log.segment_size=4MiB",
    "storage.checkpoint_every=2s",
    "storage.checkpoint_bytes=2MiB",
];
/// In earnest it is 30 s: a broker that is silent for shorter stays in routes.
const EXPIRIES: [&str; 3] = ["broker_expiry=2s", "broker_expiry=8s", "broker_expiry=30s"];
/// Nothing becomes a dead letter: everything is settled in the end.
const ATTEMPTS_MAX: u32 = 1_000;

/// The number in an environment variable.
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} = {text:?} is no number")))
}

struct Storm {
    seed: u64,
    slowness: u64,
    stage: Stage,
    world: Arc<World>,
    plan: Vec<Planned>,
    /// What is wrong beside what the ledger says.
    found: Mutex<Vec<String>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_servers_clients_get_on_and_nothing_acknowledged_is_lost_or_out_of_order() {
    let seed = variable("CARILLON_STORM_SEED").unwrap_or_else(|| Chance::from_system().next_u64());
    let seconds = variable("CARILLON_STORM_SECONDS").unwrap_or(SECONDS);
    let slowness = variable("CARILLON_STORM_SLOWNESS").unwrap_or(SLOWNESS).max(1);
    println!("CARILLON_STORM_SEED={seed} CARILLON_STORM_SECONDS={seconds} CARILLON_STORM_SLOWNESS={slowness}");
    let mut chance = Chance::new(seed);
    let expiry = *chance.pick(&EXPIRIES);
    let plan = faults::plan(&mut Chance::new(chance.next_u64()), seconds * 1_000);
    println!("{expiry}; the plan:");
    plan.iter().for_each(|planned| println!("{planned}"));

    let mut cluster = Cluster::prepare(NAMESERVERS, BROKERS, &[expiry], &BROKER_SETTINGS);
    let stage = Stage::set_up(&mut cluster).await;
    let world = World::new((0..NAMESERVERS).map(|number| stage.way(Node::Nameserver(number))).collect());
    let storm = Storm { seed, slowness, stage, world, plan, found: Mutex::default() };
    storm.create_topics().await;
    storm.world.start_producers(&mut Chance::new(chance.next_u64()));
    consumers::start(&storm.world, &mut Chance::new(chance.next_u64()));
    tokio::select! {
        () = storm.play() => {}
        () = storm.watch() => unreachable!("it watches until it is cancelled"),
        () = routes::witness(&storm.stage, PLAIN, slowness, |wrong| storm.found.lock().push(wrong)) => {}
    }
    storm.end().await;
}

impl Storm {
    async fn create_topics(&self) {
        for group in GROUPS {
            self.stage.create(0, "groups", &json!({ "name": group, "attempts_max": ATTEMPTS_MAX })).await;
        }
        for (topic, kind) in [(PLAIN, "normal"), (LATER, "delay"), (HALVES, "transaction")] {
            self.stage.create(1, "topics", &json!({ "name": topic, "type": kind, "queues": 4 })).await;
        }
        for broker in 0..BROKERS {
            let topic = json!({ "name": ordered_topic(broker), "type": "fifo", "queues": 4 });
            self.stage.create(broker, "topics", &topic).await;
        }
        let names = [&GROUPS[..], &[PLAIN, LATER, HALVES]].concat();
        let everywhere = async || self.stage.have(&names).await;
        until_within(KNOWN_WITHIN, "topics and groups are on all brokers", everywhere).await;
    }

    /// The plan, and a calm in which everybody gets on again.
    async fn play(&self) {
        let over: Vec<_> = self.plan.iter().map(|_| watch::Sender::new(false)).collect();
        let faults = self.plan.iter().enumerate().map(async |(place, planned)| {
            lasts(planned.at.saturating_sub(self.world.ms())).await;
            // To begin and to end a fault takes time, on a busy machine more than was planned.
            for (earlier, is_over) in self.plan[..place].iter().zip(&over) {
                if !planned.fault.fits(earlier.fault) {
                    is_over.subscribe().wait_for(|is_over| *is_over).await.expect("the sender is there");
                }
            }
            let number = self.world.progress().begins(*planned, self.world.ms());
            self.stage.begin(planned.fault).await;
            lasts(planned.lasts).await;
            self.stage.end(planned.fault).await;
            self.world.progress().ends(number, self.world.ms());
            over[place].send_replace(true);
        });
        futures_util::future::join_all(faults).await;
        self.until_all_are_answered().await;
        self.world.stop_sending();
        self.until_nothing_is_owed().await;
        // Once more from the disk: what was acknowledged as consumed is, for ever.
        self.stage.begin(Fault::KillBrokers).await;
        self.stage.end(Fault::KillBrokers).await;
        self.until_pollers_are_answered().await;
        self.until_nothing_is_owed().await;
    }

    async fn until_all_are_answered(&self) {
        let since = self.world.ms();
        self.within(AGAIN_WITHIN_S, "everybody is answered", |world| world.progress().silent_since(since).is_empty())
            .await;
        for line in self.world.progress().silent_since(since) {
            self.found.lock().push(format!("G3: {line:?} is stuck"));
        }
    }

    /// Twice: an empty poll may have begun before.
    async fn until_pollers_are_answered(&self) {
        for _ in 0..2 {
            let since = self.world.ms();
            let are_answered = |world: &World| {
                let progress = world.progress();
                progress.silent_since(since).iter().all(|line| !matches!(line, progress::Line::Poll(_)))
            };
            self.within(AGAIN_WITHIN_S, "consumers are answered", are_answered).await;
        }
    }

    /// Who waits too long finds out what is missing in the verdict.
    async fn until_nothing_is_owed(&self) {
        self.within(DRAINED_WITHIN_S, "nothing is owed", |world| world.ledger().owed() == 0).await;
    }

    async fn within(&self, seconds: u64, what: &str, is_so: impl Fn(&World) -> bool) {
        let look = async {
            let mut look = interval(LOOK_EVERY);
            while !is_so(&self.world) {
                look.tick().await;
            }
        };
        if timeout(Duration::from_secs(seconds * self.slowness), look).await.is_err() {
            println!("after {seconds} s, {} times, it is still not so that {what}", self.slowness);
        }
    }

    /// Fails as soon as something is wrong.
    async fn watch(&self) {
        let mut look = interval(LOOK_EVERY);
        loop {
            look.tick().await;
            let verdict = self.verdict(false);
            if !verdict.is_empty() {
                self.fail(&verdict).await;
            }
        }
    }

    fn verdict(&self, is_over: bool) -> Vec<String> {
        let mut verdict = self.world.ledger().verdict(is_over);
        verdict.extend(self.world.progress().verdict(self.slowness));
        verdict.extend(self.found.lock().iter().cloned());
        if self.world.has_broken_down() {
            verdict.push("a client has ended by itself".into());
        }
        verdict
    }

    async fn end(&self) {
        let mut verdict = self.verdict(true);
        for (node, log) in self.stage.logs().await {
            let panics = log.lines().filter(|line| line.contains("panicked at"));
            verdict.extend(panics.map(|line| format!("{node}: {line}")));
        }
        if !verdict.is_empty() {
            self.fail(&verdict).await;
        }
        self.world.stop_consuming();
        self.world.end().await;
        println!("{}", self.report());
        let counts = self.world.ledger().counts();
        let is_busy = counts.stored > self.plan.len() && counts.recalled > 0 && counts.ended > 0;
        assert!(is_busy, "the load came to nothing: {counts:?}");
    }

    fn report(&self) -> String {
        let counts = self.world.ledger().counts();
        format!(
            "{:.1} s, {} faults\n{}{counts}",
            self.world.ms() as f64 / 1000.0,
            self.plan.len(),
            self.world.progress().report()
        )
    }

    async fn fail(&self, verdict: &[String]) {
        for (node, log) in self.stage.logs().await {
            let lines: Vec<_> = log.lines().collect();
            println!("the log of {node}:\n{}", lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n"));
        }
        println!("{}", self.report());
        let shown = verdict[..verdict.len().min(VIOLATIONS_SHOWN)].join("\n");
        panic!(
            "CARILLON_STORM_SEED={}: {} promises broken at {} ms:\n{shown}",
            self.seed,
            verdict.len(),
            self.world.ms()
        );
    }
}
