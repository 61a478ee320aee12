//! Asking back about undecided transactions.
//!
//! How often a prepared message was asked about is a function of its age, so asking logs nothing. A round in which no
//! producer listens is not counted: it is tried again soon.

use std::sync::Arc;
use std::time::Duration;

use base::{LogPosition, Timestamp};
use hashbrown::HashMap;
use storage::record::Pointer;
use storage::view::transactions::Prepared;

use crate::api::Command;
use crate::handle;
use crate::receive::delivery_of;
use crate::shared::Shared;

/// How often due checks are looked for.
const EVERY: Duration = Duration::from_millis(500);
/// Checks sent in one round, so that a mass of open transactions does not stand in the way of everything else.
const ROUND_MAX: usize = 256;

/// What was asked about a prepared message by this process.
#[derive(Debug, Clone, Copy)]
struct Asked {
    checks: u32,
    next: Timestamp,
}

/// Lives as long as the broker.
pub async fn run(shared: Arc<Shared>) {
    let mut asked: HashMap<LogPosition, Asked> = HashMap::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let now = shared.clock.now();
        for prepared in due(&shared, &mut asked, now) {
            let turn = asked.get(&prepared.pointer.position).map_or(0, |state| state.checks);
            if ask(&shared, &prepared, turn).await {
                let every = base::duration::ms(shared.config.transactions.check_every);
                let state = asked.get_mut(&prepared.pointer.position).expect("what is due was noted");
                state.checks += 1;
                state.next = now.plus_ms(every);
                if state.checks == shared.config.transactions.checks_max {
                    tracing::warn!(
                        position = prepared.pointer.position.0,
                        checks = state.checks,
                        "a transaction is undecided at its check limit; it stays prepared until it is ended by hand"
                    );
                }
            }
        }
    }
}

/// Prepared messages that are to be asked about now; forgets those that ended.
fn due(shared: &Shared, asked: &mut HashMap<LogPosition, Asked>, now: Timestamp) -> Vec<Prepared> {
    let transactions = shared.store.reader().transactions().lock();
    asked.retain(|origin, _| transactions.prepared(*origin).is_some());
    let mut due = Vec::new();
    for prepared in transactions.iter() {
        let state = asked.entry(prepared.pointer.position).or_insert_with(|| first(shared, prepared, now));
        if state.next <= now && state.checks < shared.config.transactions.checks_max {
            due.push(prepared.clone());
            if due.len() >= ROUND_MAX {
                break;
            }
        }
    }
    due
}

/// After a restart, the checks that its age says were made count as made.
fn first(shared: &Shared, prepared: &Prepared, now: Timestamp) -> Asked {
    let settings = &shared.config.transactions;
    let every = base::duration::ms(settings.check_every).max(1);
    let first = prepared.prepared_at.plus_ms(prepared.check_after_ms.into());
    let passed = now.0.checked_sub(first.0).map_or(0, |since| since / every);
    // One is always left: a server that was down for long must still ask.
    let checks = u32::try_from(passed).unwrap_or(u32::MAX).min(settings.checks_max.saturating_sub(1));
    Asked { checks, next: first }
}

/// False when nobody who could know listens.
async fn ask(shared: &Shared, prepared: &Prepared, turn: u32) -> bool {
    let Some(topic) = shared.store.reader().catalog().topic_by_id(prepared.head.topic).cloned() else { return false };
    if !shared.membership.has_producer(&prepared.client, &topic.spec.name) {
        return false;
    }
    let origin: Pointer = prepared.pointer;
    let message = match shared.fetch(origin).await {
        Ok(message) => message,
        Err(error) => {
            tracing::warn!(%error, position = origin.position.0, "a prepared message cannot be read");
            return false;
        }
    };
    let name = topic.spec.name.clone();
    let mut delivery = delivery_of(name.clone(), message);
    delivery.stored_at = prepared.prepared_at;
    let transaction = handle::Transaction {
        broker_group: shared.peers.broker_group(),
        topic: topic.spec.id,
        origin: origin.position,
    };
    let transaction_id = transaction.encode(shared.store.reader().hash_key());
    let command = Command::CheckTransaction { message: Box::new(delivery), transaction_id };
    shared.membership.command_producer(&prepared.client, &name, turn, command)
}
