//! What upkeep did in all lives of a server, and in the middle of which work it was killed, as its log says.
//!
//! A line is written by one call, before the work goes on: a kill loses none.

use std::time::Duration;

use base::{Clock, SystemClock};
use tests::server::Server;
use tokio::time::interval;

/// How often the log is looked at by who waits for a line of it.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Settings under which upkeep says when it begins a work.
pub const SAID: [&str; 2] = ["--set", "log.filter=info,storage::upkeep=debug"];

/// Something that upkeep does in steps, and the lines around it.
#[derive(Debug)]
pub struct Work {
    pub name: &'static str,
    /// A kill that is meant for it comes within this time.
    pub takes_ms: u64,
    begins: &'static str,
    ends: &'static str,
}

pub const WORKS: [Work; 4] = [
    Work { name: "thinned", takes_ms: 6, begins: "a segment is being thinned", ends: "a segment was thinned" },
    Work { name: "expired", takes_ms: 1, begins: "a segment is about to expire", ends: "a segment has expired" },
    Work {
        name: "removed",
        takes_ms: 2,
        begins: "the files of an expired segment are being removed",
        ends: "the files of an expired segment were removed",
    },
    Work { name: "merged", takes_ms: 6, begins: "runs of timers are being merged", ends: "runs of timers were merged" },
];

/// How often, by work.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub done: [usize; WORKS.len()],
    pub cut: [usize; WORKS.len()],
}

#[derive(Debug, Default)]
pub struct Witness {
    tally: Tally,
    /// Bytes of the log of the lives that have ended.
    heard: usize,
}

impl Tally {
    /// Kills that fell into a work.
    pub fn cuts(&self) -> usize {
        self.cut.iter().sum()
    }
}

impl Witness {
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Returns when the server begins one of the works once more, and which; none when it is too late.
    pub async fn meet<'a>(&self, server: &Server, works: &'a [Work], within_ms: u64) -> Option<&'a Work> {
        let mut look = interval(LOOK_EVERY);
        let began = SystemClock.monotonic_ms();
        let heard = self.heard + server.log_from(self.heard).len();
        while SystemClock.monotonic_ms() - began < within_ms {
            let said = server.log_from(heard);
            let begun = works.iter().find(|work| said.contains(work.begins));
            if begun.is_some() {
                return begun;
            }
            look.tick().await;
        }
        None
    }

    /// The server was killed.
    pub fn life_ended(&mut self, server: &Server) {
        let said = server.log_from(self.heard);
        self.heard += said.len();
        for (number, work) in WORKS.iter().enumerate() {
            self.tally.done[number] += said.matches(work.ends).count();
            // None is below any.
            self.tally.cut[number] += usize::from(said.rfind(work.begins) > said.rfind(work.ends));
        }
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        for number in 0..WORKS.len() {
            self.done[number] += other.done[number];
            self.cut[number] += other.cut[number];
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, Work { name, .. }) in WORKS.iter().enumerate() {
            let parted = if number == 0 { "" } else { ", " };
            write!(f, "{parted}{} {name} ({} cut off)", self.done[number], self.cut[number])?;
        }
        Ok(())
    }
}
