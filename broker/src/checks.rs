//! Asking back about undecided transactions.
//!
//! How often a prepared message was asked about is a function of its age, so asking logs nothing. A round in which no
//! producer listens is not counted: it is tried again soon. Where none listens here, one may listen at another broker:
//! some clients keep their stream to their access point only.

use std::sync::Arc;
use std::time::Duration;

use base::{LogPosition, Timestamp, TopicName};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, OptionFuture, join_all};
use hashbrown::{HashMap, HashSet};
use storage::view::transactions::Prepared;

use crate::api::{Command, Delivery};
use crate::handle;
use crate::membership::Listener;
use crate::receive::delivery_of;
use crate::refusal::Refusal;
use crate::shared::Shared;

/// How often due checks are looked for.
const EVERY: Duration = Duration::from_millis(500);
/// Other brokers are asked less often: while nobody listens anywhere, it goes on until the message is decided about.
const ELSEWHERE_EVERY_MS: u64 = 2_000;
/// Checks sent in one round, so that a mass of open transactions does not stand in the way of everything else.
pub const ROUND_MAX: usize = 256;

/// Who may know about a message: the one that sent it, and others that publish to its topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sought {
    pub client: Arc<str>,
    pub topic: TopicName,
}

/// What is asked about a prepared message.
#[derive(Debug, Clone)]
pub struct Question {
    pub sought: Sought,
    /// At turn 0 the sender is asked, at later ones others have their turns.
    pub turn: u32,
    pub message: Box<Delivery>,
    pub transaction_id: String,
}

/// Streams of producers at other brokers, `host:port`.
pub trait Elsewhere: Send + Sync {
    /// Who listens there, for each that is sought. None when the broker does not answer.
    fn find(&self, broker: Arc<str>, sought: &[Sought]) -> BoxFuture<'static, Option<Vec<Listener>>>;

    /// Whether somebody there took the question.
    fn ask(&self, broker: Arc<str>, question: Question) -> BoxFuture<'static, bool>;
}

/// What was asked about a prepared message by this process.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// The round in which it was looked in vain for somebody to ask, 0 before: others have their turns then.
    tried: u64,
    checks: u32,
    next: Timestamp,
}

/// A check that is due.
#[derive(Debug)]
struct Due {
    prepared: Prepared,
    turn: u32,
    sought: Sought,
}

/// Lives as long as the broker.
pub async fn run(shared: Arc<Shared>) {
    let mut asked: HashMap<LogPosition, Asked> = HashMap::new();
    // Others may take long to answer: who listens here is asked meanwhile.
    let mut elsewhere: Option<BoxFuture<'static, Vec<LogPosition>>> = None;
    let mut elsewhere_next = 0;
    for round in 1.. {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            Some(taken) = OptionFuture::from(elsewhere.as_mut()) => {
                elsewhere = None;
                taken.into_iter().for_each(|origin| count(&shared, &mut asked, origin));
            }
        }
        let mut unheard = Vec::new();
        for due in due(&shared, &mut asked) {
            if shared.membership.listener(&due.sought) == Listener::Nobody {
                unheard.push(due);
            } else if ask(&shared, &due).await {
                count(&shared, &mut asked, due.prepared.pointer.position);
            }
        }
        if unheard.is_empty() {
            continue;
        }
        let others = others(&shared);
        let tick = shared.clock.monotonic_ms();
        if !others.is_empty() && (elsewhere.is_some() || tick < elsewhere_next) {
            // They are the first to be looked for then.
            continue;
        }
        for due in &unheard {
            asked.get_mut(&due.prepared.pointer.position).expect("what is due was noted").tried = round;
        }
        if !others.is_empty() {
            elsewhere_next = tick + ELSEWHERE_EVERY_MS;
            elsewhere = Some(ask_elsewhere(shared.clone(), others, unheard).boxed());
        }
    }
}

/// The other brokers, `host:port`, when there is a way to them.
fn others(shared: &Shared) -> Vec<Arc<str>> {
    if shared.elsewhere.get().is_none() {
        return Vec::new();
    }
    let table = shared.peers.table();
    let others = table.brokers().filter(|broker| broker.name != *shared.peers.name());
    others.map(|broker| broker.node.relay.clone()).collect()
}

/// Counts a check that was made.
fn count(shared: &Shared, asked: &mut HashMap<LogPosition, Asked>, origin: LogPosition) {
    // None: it has ended meanwhile.
    let Some(state) = asked.get_mut(&origin) else { return };
    state.checks += 1;
    state.next = shared.clock.now().plus_ms(base::duration::ms(shared.config.transactions.check_every));
    if state.checks == shared.config.transactions.checks_max {
        tracing::warn!(
            position = origin.0,
            checks = state.checks,
            "a transaction is undecided at its check limit; it stays prepared until it is ended by hand"
        );
    }
}

/// What is to be asked about now, what was tried least lately first; forgets those that ended.
fn due(shared: &Shared, asked: &mut HashMap<LogPosition, Asked>) -> Vec<Due> {
    let now = shared.clock.now();
    let due: Vec<_> = {
        let transactions = shared.store.reader().transactions().lock();
        asked.retain(|origin, _| transactions.prepared(*origin).is_some());
        let mut due = Vec::new();
        for prepared in transactions.iter() {
            let origin = prepared.pointer.position;
            let state = asked.entry(origin).or_insert_with(|| first(shared, prepared, now));
            if state.next <= now && state.checks < shared.config.transactions.checks_max {
                due.push((state.tried, origin, state.checks));
            }
        }
        if due.len() > ROUND_MAX {
            due.select_nth_unstable(ROUND_MAX);
            due.truncate(ROUND_MAX);
        }
        let prepared = |(_, origin, checks)| Some((transactions.prepared(origin)?.clone(), checks));
        due.into_iter().filter_map(prepared).collect()
    };
    let catalog = shared.store.reader().catalog();
    let of_topic = |(prepared, turn): (Prepared, u32)| {
        let topic = catalog.topic_by_id(prepared.head.topic)?.spec.name.clone();
        Some(Due { sought: Sought { client: prepared.client.clone(), topic }, prepared, turn })
    };
    due.into_iter().filter_map(of_topic).collect()
}

/// After a restart, the checks that its age says were made count as made.
fn first(shared: &Shared, prepared: &Prepared, now: Timestamp) -> Asked {
    let settings = &shared.config.transactions;
    let every = base::duration::ms(settings.check_every).max(1);
    let first = prepared.prepared_at.plus_ms(prepared.check_after_ms.into());
    let passed = now.0.checked_sub(first.0).map_or(0, |since| since / every);
    // One is always left: a server that was down for long must still ask.
    let checks = u32::try_from(passed).unwrap_or(u32::MAX).min(settings.checks_max.saturating_sub(1));
    Asked { tried: 0, checks, next: first }
}

/// Asks somebody who listens here. False when nobody does any more.
async fn ask(shared: &Shared, due: &Due) -> bool {
    let Some(Question { sought, turn, message, transaction_id }) = question(shared, due, due.turn).await else {
        return false;
    };
    shared.membership.command_producer(&sought, turn, Command::CheckTransaction { message, transaction_id })
}

/// Asks those who listen at other brokers. What was asked about.
async fn ask_elsewhere(shared: Arc<Shared>, others: Vec<Arc<str>>, unheard: Vec<Due>) -> Vec<LogPosition> {
    let mut taken = Vec::new();
    let Some(elsewhere) = shared.elsewhere.get() else { return taken };
    let sought: HashSet<_> = unheard.iter().map(|due| &due.sought).collect();
    let sought: Vec<_> = sought.into_iter().cloned().collect();
    let found = join_all(others.iter().map(|broker| elsewhere.find(broker.clone(), &sought))).await;
    for due in unheard {
        let number = sought.iter().position(|sought| *sought == due.sought).expect("it was sought");
        let listens = |found: &Option<Vec<Listener>>| found.as_ref()?.get(number).copied();
        let mut listeners: Vec<_> = others.iter().zip(found.iter().map(listens)).collect();
        listeners.retain(|(_, listener)| listener.is_some_and(|listener| listener != Listener::Nobody));
        // The sender's broker first, and at later turns the others.
        listeners.sort_by_key(|(_, listener)| *listener != Some(Listener::Sender));
        let Some(count) = u32::try_from(listeners.len()).ok().filter(|count| *count > 0) else { continue };
        listeners.rotate_left(usize::try_from(due.turn % count).unwrap_or(0));
        let Some(question) = question(&shared, &due, due.turn / count).await else { continue };
        for (broker, _) in listeners {
            if elsewhere.ask(broker.clone(), question.clone()).await {
                taken.push(due.prepared.pointer.position);
                break;
            }
        }
    }
    taken
}

/// None when the message cannot be read.
async fn question(shared: &Shared, due: &Due, turn: u32) -> Option<Question> {
    let Due { prepared, sought, .. } = due;
    let origin = prepared.pointer;
    let unreadable =
        |error: &Refusal| tracing::warn!(%error, position = origin.position.0, "a prepared message cannot be read");
    let message = shared.fetch(origin).await.inspect_err(unreadable).ok()?;
    let mut delivery = delivery_of(sought.topic.clone(), message);
    delivery.stored_at = prepared.prepared_at;
    let transaction = handle::Transaction {
        broker_group: shared.peers.broker_group(),
        topic: prepared.head.topic,
        origin: origin.position,
    };
    let transaction_id = transaction.encode(shared.store.reader().hash_key());
    Some(Question { sought: sought.clone(), turn, message: Box::new(delivery), transaction_id })
}
