//! What is done to the cluster, and when: a plan that follows from a seed alone.
//!
//! F1. There is always a broker, and but for the outages of all, a name server, to which nothing is done.

use std::fmt;

use base::Chance;
use tests::link::Way;

pub const NAMESERVERS: usize = 2;
pub const BROKERS: usize = 3;

/// The cluster works alone for so long before the first fault, and after the last.
const CALM_MS: u64 = 3_000;
/// Between the beginnings of two faults.
const BETWEEN_MS: std::ops::Range<u64> = 800..5_000;
/// Faults that are over have consequences for a while.
const ECHO_MS: u64 = 1_500;
const AT_ONCE: usize = 2;

/// A server, by its number among those of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Node {
    Nameserver(usize),
    Broker(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, and a start when it is over.
    Kill(Node),
    /// SIGTERM, and a start when it is over.
    Stop(Node),
    /// SIGSTOP, and SIGCONT when it is over.
    Pause(Node),
    /// Between clients and a server.
    CutOff(Node, Way),
    /// Between a broker and a name server.
    Part {
        broker: usize,
        nameserver: usize,
        way: Way,
    },
    /// Drained, and resumed when it is over.
    Drain(usize),
    /// SIGKILL for all name servers, or all brokers, at once.
    KillNameservers,
    KillBrokers,
}

/// What faults have in common that clients notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    NameserverKilled,
    NameserverStopped,
    NameserverPaused,
    NameserverCutOff,
    NameserversKilled,
    Parted,
    BrokerKilled,
    BrokerStopped,
    BrokerPaused,
    BrokerCutOff,
    BrokerDrained,
    BrokersKilled,
}

impl Kind {
    pub fn is_of_broker(self) -> bool {
        self >= Self::BrokerKilled
    }
}

/// A fault at its time, in ms since the storm began.
#[derive(Debug, Clone, Copy)]
pub struct Planned {
    pub at: u64,
    pub lasts: u64,
    pub fault: Fault,
}

impl Fault {
    pub fn kind(self) -> Kind {
        match self {
            Self::Kill(Node::Nameserver(_)) => Kind::NameserverKilled,
            Self::Stop(Node::Nameserver(_)) => Kind::NameserverStopped,
            Self::Pause(Node::Nameserver(_)) => Kind::NameserverPaused,
            Self::CutOff(Node::Nameserver(_), _) => Kind::NameserverCutOff,
            Self::Kill(Node::Broker(_)) => Kind::BrokerKilled,
            Self::Stop(Node::Broker(_)) => Kind::BrokerStopped,
            Self::Pause(Node::Broker(_)) => Kind::BrokerPaused,
            Self::CutOff(Node::Broker(_), _) => Kind::BrokerCutOff,
            Self::Part { .. } => Kind::Parted,
            Self::Drain(_) => Kind::BrokerDrained,
            Self::KillNameservers => Kind::NameserversKilled,
            Self::KillBrokers => Kind::BrokersKilled,
        }
    }

    /// The broker that takes no messages meanwhile, or may seem to.
    pub fn broker(self) -> Option<usize> {
        match self {
            Self::Kill(Node::Broker(broker))
            | Self::Stop(Node::Broker(broker))
            | Self::Pause(Node::Broker(broker))
            | Self::CutOff(Node::Broker(broker), _)
            | Self::Drain(broker) => Some(broker),
            _ => None,
        }
    }

    /// Whether both may go on at the same time.
    pub fn fits(self, other: Self) -> bool {
        let is_of_names = |fault: Self| fault.broker().is_none();
        let is_of_all = |fault: Self| matches!(fault, Self::KillNameservers | Self::KillBrokers);
        let are_both_of_names = is_of_names(self) && is_of_names(other);
        !are_both_of_names && !is_of_all(self) && !is_of_all(other) && self.broker() != other.broker()
    }
}

/// What is done within `for_ms`. The same seed gives the same plan, and a longer one goes on from a shorter one.
pub fn plan(chance: &mut Chance, for_ms: u64) -> Vec<Planned> {
    let mut plan: Vec<Planned> = Vec::new();
    let mut at = CALM_MS;
    while at + CALM_MS < for_ms {
        let (fault, lasts) = (fault(chance), lasts(chance));
        let between = BETWEEN_MS.start + chance.below(BETWEEN_MS.end - BETWEEN_MS.start);
        let near: Vec<_> = plan.iter().filter(|planned| at < planned.at + planned.lasts + ECHO_MS).collect();
        if near.len() < AT_ONCE && near.iter().all(|planned| fault.fits(planned.fault)) {
            plan.push(Planned { at, lasts, fault });
        }
        at += between;
    }
    plan.retain(|planned| planned.at + planned.lasts + CALM_MS <= for_ms);
    plan
}

fn fault(chance: &mut Chance) -> Fault {
    let nameserver = index(chance, NAMESERVERS);
    let broker = index(chance, BROKERS);
    let node = if chance.below(5) < 2 { Node::Nameserver(nameserver) } else { Node::Broker(broker) };
    let way = if chance.one_in(2) { Way::Reset } else { Way::Silent };
    let cut = *chance.pick(&[way, Way::Forgotten]);
    match chance.below(20) {
        0..6 => Fault::Kill(node),
        6..9 => Fault::Pause(node),
        9..11 => Fault::Stop(node),
        11..14 => Fault::CutOff(node, cut),
        14..17 => Fault::Part { broker, nameserver, way },
        17 => Fault::Drain(broker),
        18 => Fault::KillNameservers,
        _ => Fault::KillBrokers,
    }
}

/// Short ones race with retries, and long ones with what is given up after a while.
fn lasts(chance: &mut Chance) -> u64 {
    match chance.below(4) {
        0 => 7_000 + chance.below(5_000),
        1 => 50 + chance.below(450),
        _ => 500 + chance.below(4_000),
    }
}

fn index(chance: &mut Chance, count: usize) -> usize {
    usize::try_from(chance.below(count as u64)).expect("below a count")
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7} ms  for {:>5} ms  {:?}", self.at, self.lasts, self.fault)
    }
}
