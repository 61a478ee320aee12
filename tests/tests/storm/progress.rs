//! Who gets on, and how long nobody did: gaps between what was acknowledged, held against the faults of that time.
//!
//! G1. Messages for which several brokers may be asked are taken again within 3 s after a name server has gone, and
//!     within 10 s after a broker has.
//! G2. Messages for which one broker has to be asked are taken again within 10 s after it is back.
//! G3. Each producer and each consumer is answered again when all faults are over.

use std::collections::BTreeMap;

use super::faults::{Kind, Planned};

/// Shorter gaps are the pace of a producer.
const GAP_MS_MIN: u64 = 400;
const NAMESERVER_GAP_MS: u64 = 3_000;
const BROKER_GAP_MS: u64 = 10_000;
/// A fault that is over may be what a gap comes from that begins so much later: clients find out late.
const ECHO_MS: u64 = 10_000;
/// Reported with a fault is only what began while it lasted, or soon after.
const REPORTED_ECHO_MS: u64 = 500;

/// Who is answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    /// A producer whose messages any broker may take.
    Spread(String),
    /// A producer whose messages one broker takes.
    Kept(usize, String),
    /// A consumer at a broker.
    Poll(String),
}

/// A fault that was played, in ms since the storm began. It has not ended when `to` is none.
#[derive(Debug, Clone, Copy)]
struct Played {
    planned: Planned,
    from: u64,
    to: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Progress {
    last: BTreeMap<Line, u64>,
    gaps: Vec<(Line, u64, u64)>,
    played: Vec<Played>,
    pub sends: u64,
    pub send_failures: u64,
}

impl Progress {
    /// Somebody who has to be answered sooner or later.
    pub fn expect(&mut self, line: Line, now: u64) {
        self.last.entry(line).or_insert(now);
    }

    pub fn answered(&mut self, line: &Line, now: u64) {
        let before = std::mem::replace(self.last.get_mut(line).expect("it was expected"), now);
        if now - before >= GAP_MS_MIN && !matches!(line, Line::Poll(_)) {
            self.gaps.push((line.clone(), before, now));
        }
    }

    /// The number by which its end is told.
    pub fn begins(&mut self, planned: Planned, now: u64) -> usize {
        self.played.push(Played { planned, from: now, to: None });
        self.played.len() - 1
    }

    pub fn ends(&mut self, number: usize, now: u64) {
        self.played[number].to = Some(now);
    }

    /// Everybody who was not answered since `from` (G3).
    pub fn silent_since(&self, from: u64) -> Vec<&Line> {
        self.last.iter().filter(|(_, last)| **last <= from).map(|(line, _)| line).collect()
    }

    /// Gaps that were too long (G1, G2), on a machine that is so much slower than deadlines were made for.
    pub fn verdict(&self, slowness: u64) -> Vec<String> {
        let late = self.gaps.iter().filter(|(line, from, to)| *to > self.latest(line, *from, *to, slowness));
        let told = late.map(|(line, from, to)| {
            let faults = self
                .during(*from, *to, ECHO_MS)
                .map(|played| format!("\n  {} from {} to {:?}", played.planned, played.from, played.to));
            format!(
                "{line:?}: nothing was taken from {from} to {to} ms, which is {} ms; faults:{}",
                to - from,
                faults.collect::<String>()
            )
        });
        told.collect()
    }

    fn during(&self, from: u64, to: u64, echo: u64) -> impl Iterator<Item = &Played> {
        self.played.iter().filter(move |played| played.from < to && played.to.is_none_or(|end| end + echo > from))
    }

    /// When a gap has to be over.
    fn latest(&self, line: &Line, from: u64, to: u64, slowness: u64) -> u64 {
        let mut latest = from + NAMESERVER_GAP_MS * slowness;
        for played in self.during(from, to, ECHO_MS) {
            let (fault, end) = (played.planned.fault, played.to.unwrap_or(to));
            let is_kept_there = matches!(line, Line::Kept(broker, _) if fault.broker() == Some(*broker));
            latest = latest.max(match fault.kind() {
                Kind::BrokersKilled => end.max(from) + BROKER_GAP_MS * slowness,
                _ if is_kept_there => end.max(from) + BROKER_GAP_MS * slowness,
                _ if fault.broker().is_some() => from + BROKER_GAP_MS * slowness,
                _ => from + NAMESERVER_GAP_MS * slowness,
            });
        }
        latest
    }

    /// Of each kind of fault: how many were played, and the longest gap of a producer that may ask any broker.
    pub fn report(&self) -> String {
        let mut kinds: BTreeMap<Kind, (usize, u64)> = BTreeMap::new();
        for played in &self.played {
            kinds.entry(played.planned.fault.kind()).or_default().0 += 1;
        }
        for (_, from, to) in self.gaps.iter().filter(|(line, ..)| matches!(line, Line::Spread(_))) {
            let kinds_then: Vec<_> =
                self.during(*from, *to, REPORTED_ECHO_MS).map(|played| played.planned.fault.kind()).collect();
            // What clients wait for when a broker is in trouble too is the broker.
            let is_of_broker = kinds_then.iter().any(|kind| kind.is_of_broker());
            for kind in kinds_then.into_iter().filter(|kind| kind.is_of_broker() == is_of_broker) {
                let longest = &mut kinds.get_mut(&kind).expect("it was played").1;
                *longest = (*longest).max(to - from);
            }
        }
        let line = |(kind, (count, longest)): (&Kind, &(usize, u64))| {
            let longest = if *longest == 0 { format!("< {GAP_MS_MIN}") } else { longest.to_string() };
            format!("  {:<18} {count:>4} times, longest gap {longest} ms\n", format!("{kind:?}"))
        };
        format!("sends {}, failures {}\n{}", self.sends, self.send_failures, kinds.iter().map(line).collect::<String>())
    }
}
