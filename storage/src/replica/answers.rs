//! Answers that wait for the word of a majority.
//!
//! U1. An answer leaves when everything up to the end of its batch is committed, as it was decided.
//! U2. When its batch was taken back, it leaves and says that the outcome is unknown: another leader may have kept the batch
//!     and commit it yet, so neither OK nor "nothing happened" would be true.

use std::collections::VecDeque;
use std::sync::Arc;

use base::LogPosition;

use crate::request::{Answer, AppendError, ReplySink};
use crate::writer::Delivery;

#[derive(Default)]
pub struct Unanswered {
    /// In the order of their batches' ends.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    end: LogPosition,
    sink: Arc<dyn ReplySink>,
    answer: Answer,
}

impl Unanswered {
    /// Holds an answer back until everything below `end` is committed.
    pub fn hold(&mut self, end: LogPosition, sink: Arc<dyn ReplySink>, answer: Answer) {
        assert!(self.waiting.back().is_none_or(|last| last.end <= end), "answers wait in the order of the log");
        self.waiting.push_back(Waiting { end, sink, answer });
    }

    /// U1.
    pub fn committed(&mut self, to: LogPosition) -> Vec<Delivery> {
        let ready = self.waiting.partition_point(|waiting| waiting.end <= to);
        deliveries(self.waiting.drain(..ready))
    }

    /// U2: what lies behind `to` was taken back.
    pub fn truncated(&mut self, to: LogPosition) -> Vec<Delivery> {
        let kept = self.waiting.partition_point(|waiting| waiting.end <= to);
        deliveries(self.waiting.drain(kept..).map(|waiting| {
            let result = Err(AppendError::OutcomeUnknown { position: waiting.end });
            Waiting { answer: Answer { result, ..waiting.answer }, ..waiting }
        }))
    }
}

/// One hand-over for each sink.
fn deliveries(answers: impl Iterator<Item = Waiting>) -> Vec<Delivery> {
    let mut deliveries: Vec<Delivery> = Vec::new();
    for Waiting { sink, answer, .. } in answers {
        match deliveries.iter_mut().find(|delivery| Arc::ptr_eq(&delivery.sink, &sink)) {
            Some(delivery) => delivery.answers.push(answer),
            None => deliveries.push(Delivery { sink, answers: vec![answer] }),
        }
    }
    deliveries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Done;

    struct Nowhere;

    impl ReplySink for Nowhere {
        fn deliver(&self, _: &mut Vec<Answer>) {}
    }

    #[test]
    fn answers_leave_when_they_are_committed_and_say_unknown_when_their_batch_was_taken_back() {
        let sink: Arc<dyn ReplySink> = Arc::new(Nowhere);
        let mut unanswered = Unanswered::default();
        for ticket in 1..=4 {
            let answer = Answer { ticket, result: Ok(Done::Passed) };
            unanswered.hold(LogPosition(ticket * 4096), sink.clone(), answer);
        }
        let leave = |deliveries: Vec<Delivery>| -> Vec<(u64, bool)> {
            let answers = deliveries.into_iter().flat_map(|delivery| delivery.answers);
            let is_unknown = |answer: &Answer| matches!(answer.result, Err(AppendError::OutcomeUnknown { .. }));
            answers.map(|answer| (answer.ticket, is_unknown(&answer))).collect()
        };
        assert_eq!(leave(unanswered.committed(LogPosition(4095))), []);
        assert_eq!(leave(unanswered.committed(LogPosition(4096))), [(1, false)]);
        assert_eq!(leave(unanswered.truncated(LogPosition(2 * 4096))), [(3, true), (4, true)]);
        assert_eq!(leave(unanswered.committed(LogPosition(1 << 20))), [(2, false)]);
    }
}
