//! Look-ups in a running store: on the read pool, one after the other.

use std::ops::ControlFlow;
use std::sync::mpsc;

use base::{LogPosition, Timestamp, TopicId};

use super::Store;
use crate::lookup::{Body, Found, Gaps, Place, Query, State, Views};
use crate::store::Reader;
use crate::upkeep::Errand;
use crate::view::catalog::Topic;
use crate::view::transactions::Transactions;

impl Store {
    /// Looks something up on the read pool, one look-up at a time. False, and nothing happens, when too many wait.
    pub fn look_up(&self, look: impl FnOnce(&Finder) + Send + 'static) -> bool {
        let finder = Finder { store: self.clone() };
        self.reads.look_up(Box::new(move || look(&finder)))
    }

    /// Whether a body waits for that time; none when the timers cannot say, or are gone.
    fn is_waiting(&self, due: Timestamp, origin: LogPosition) -> Option<bool> {
        let (sender, answer) = mpsc::channel();
        let errand: Errand = Box::new(move |core| drop(sender.send(core.timers_mut().is_pending(due, origin))));
        let mut work = self.timer.work.lock();
        if work.is_closed {
            return None;
        }
        work.errands.push(errand);
        drop(work);
        self.timer.bell.notify_one();
        answer.recv().ok()?.ok()
    }
}

/// Looks messages up in a running store: by key, by id, and what has become of them. Reads the disk.
pub struct Finder {
    store: Store,
}

impl Finder {
    pub fn reader(&self) -> &Reader {
        &self.store.reader
    }

    /// Gives each body that is asked for to `visit`, newest first, until it says that it does not want that one any more.
    pub fn find(&self, query: &Query<'_>, visit: &mut dyn FnMut(Body) -> ControlFlow<()>) -> Found {
        self.store.reader.look_ups().find(query, self.applied(), visit)
    }

    /// What has become of a body that was sent to `topic`. What could not be looked through is added to `gaps`.
    pub fn state(&self, body: &Body, topic: &Topic, gaps: &mut Gaps) -> State {
        self.store.reader.look_ups().state(body, topic, self, gaps)
    }

    /// Where the body at `origin` became visible in another topic than its own.
    pub fn published(&self, topic: TopicId, origin: LogPosition, gaps: &mut Gaps) -> Option<Place> {
        self.store.reader.look_ups().published(topic, origin, Timestamp::ZERO, self.applied(), gaps)
    }
}

impl Views for Finder {
    fn applied(&self) -> LogPosition {
        self.store.positions().applied
    }

    fn is_waiting(&self, due: Timestamp, origin: LogPosition) -> Option<bool> {
        self.store.is_waiting(due, origin)
    }

    fn with_transactions<T>(&self, look: impl FnOnce(&Transactions) -> T) -> T {
        look(&self.store.reader.transactions().lock())
    }
}
