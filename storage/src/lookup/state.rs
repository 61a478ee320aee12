//! What has become of a body: the views say it, without reading the log again.

use base::{LogPosition, Timestamp};

use super::{Body, Gaps, LookUps, Place};
use crate::record::Record;
use crate::view::catalog::Topic;
use crate::view::transactions::{Outcome, Transactions};

/// What has become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In a queue of the topic that it was sent to.
    Visible(Place),
    Scheduled {
        due: Timestamp,
    },
    /// Half of a transaction that is not decided.
    Prepared,
    RolledBack,
    /// It was in a queue, until retention or a purge took it out.
    Expired,
    /// It waits for nothing and is in no queue: it was recalled, or where it went is not known any more.
    Ended,
    /// Nobody could be asked, or what would say it cannot be read.
    Unknown,
}

/// What owners of views say.
pub(crate) trait Views {
    /// What is applied now.
    fn applied(&self) -> LogPosition;
    /// Whether a body waits for that time; none when that cannot be found out.
    fn is_waiting(&self, due: Timestamp, origin: LogPosition) -> Option<bool>;
    fn with_transactions<T>(&self, look: impl FnOnce(&Transactions) -> T) -> T;
}

impl LookUps {
    /// The state of a body that was sent to `topic`. What could not be looked through is added to `gaps`.
    pub fn state(&self, body: &Body, topic: &Topic, views: &impl Views, gaps: &mut Gaps) -> State {
        let origin = body.pointer.position;
        match &body.record {
            Record::Message { queue, offset, .. } => {
                self.in_queue(body, topic, Place { queue: *queue, offset: *offset, since: body.stored_at })
            }
            Record::Delayed { due, .. } => self.after_wait(body, topic, *due, views, gaps),
            Record::Prepared { due, .. } => {
                let (is_open, outcome) =
                    views.with_transactions(|known| (known.prepared(origin).is_some(), known.outcome(origin)));
                match (is_open, outcome, due) {
                    (true, ..) => State::Prepared,
                    (_, Some(Outcome::RolledBack), _) => State::RolledBack,
                    (_, _, Some(due)) => self.after_wait(body, topic, *due, views, gaps),
                    (_, _, None) => self.at_last(body, topic, views, gaps),
                }
            }
            _ => State::Unknown,
        }
    }

    fn after_wait(&self, body: &Body, topic: &Topic, due: Timestamp, views: &impl Views, gaps: &mut Gaps) -> State {
        // While it waits no segment that is old enough is sealed, so this costs nothing.
        if let Some(state) = self.place_of(body, topic, due, views, gaps) {
            return state;
        }
        match views.is_waiting(due, body.pointer.position) {
            None => State::Unknown,
            Some(true) => State::Scheduled { due },
            // It may have been made due earlier.
            Some(false) => self.at_last(body, topic, views, gaps),
        }
    }

    /// It waits for nothing more.
    fn at_last(&self, body: &Body, topic: &Topic, views: &impl Views, gaps: &mut Gaps) -> State {
        let place = self.place_of(body, topic, Timestamp::ZERO, views, gaps);
        place.unwrap_or(if gaps.is_empty() { State::Ended } else { State::Unknown })
    }

    fn place_of(
        &self,
        body: &Body,
        topic: &Topic,
        since: Timestamp,
        views: &impl Views,
        gaps: &mut Gaps,
    ) -> Option<State> {
        let place = self.published(topic.spec.id, body.pointer.position, since, views.applied(), gaps)?;
        Some(self.in_queue(body, topic, place))
    }

    /// Whether the queue still has it there.
    fn in_queue(&self, body: &Body, topic: &Topic, place: Place) -> State {
        let Some(queue) = topic.queue(place.queue) else { return State::Unknown };
        if place.offset < queue.bounds().first {
            return State::Expired;
        }
        match queue.entry(place.offset) {
            Some(entry) if entry.pointer().position == body.pointer.position => {
                State::Visible(Place { since: entry.visible_since, ..place })
            }
            _ => State::Unknown,
        }
    }
}
