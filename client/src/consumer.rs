//! Receiving: polls, and what becomes of each message that was handed out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proto::v2;
use proto::v2::receive_message_response::Content;
use proto::v2::settings::PubSub;

use crate::connection::Caller;
use crate::error::{Error, check};
use crate::message::Received;
use crate::presence::Presence;

/// Which messages of a topic a group wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Filter {
    #[default]
    All,
    /// `a || b`: messages with one of these tags.
    Tags(String),
    /// A condition on properties, such as `region = 'eu'`.
    Sql(String),
}

/// Receives messages of one topic for a group. Shared by any number of tasks; polls run beside each other.
#[derive(Debug)]
pub struct SimpleConsumer {
    caller: Arc<Caller>,
    group: v2::Resource,
    topic: v2::Resource,
    filter: v2::FilterExpression,
    /// Readable queues, asked in turn.
    queues: Vec<v2::MessageQueue>,
    turn: AtomicUsize,
    _presence: Presence,
}

impl SimpleConsumer {
    pub(crate) async fn start(caller: Caller, group: &str, topic: &str, filter: Filter) -> Result<Self, Error> {
        let caller = Arc::new(caller);
        let (group, topic) = (caller.resource(group), caller.resource(topic));
        let filter = expression(filter);
        let queues = route(&caller, &topic.name).await?;
        let entry = v2::SubscriptionEntry { topic: Some(topic.clone()), expression: Some(filter.clone()) };
        let subscription =
            v2::Subscription { group: Some(group.clone()), subscriptions: vec![entry], ..v2::Subscription::default() };
        let kind = v2::ClientType::SimpleConsumer;
        let presence = Presence::start(&caller, kind, PubSub::Subscription(subscription), None).await?;
        Ok(Self { caller, group, topic, filter, queues, turn: AtomicUsize::new(0), _presence: presence })
    }

    /// As the server knows this consumer.
    pub fn client_id(&self) -> &str {
        self.caller.client_id()
    }

    /// At most `batch` messages, hidden from others for `invisible`; none when `polling` passed without any. When this
    /// is cancelled or fails, what was under way comes again.
    pub async fn receive(&self, batch: usize, invisible: Duration, polling: Duration) -> Result<Vec<Received>, Error> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        let message = v2::ReceiveMessageRequest {
            group: Some(self.group.clone()),
            message_queue: Some(self.queues[turn].clone()),
            filter_expression: Some(self.filter.clone()),
            batch_size: i32::try_from(batch).unwrap_or(i32::MAX),
            invisible_duration: to_wire(invisible),
            auto_renew: false,
            long_polling_timeout: to_wire(polling),
            attempt_id: None,
        };
        let request = self.caller.long_request(message, Some(polling));
        let mut stream = self.caller.rpc().receive_message(request).await?.into_inner();
        let mut messages = Vec::new();
        let mut status = None;
        // The stream is read to its end even after a refusal: leaving early would count as a cancelled call.
        while let Some(element) = stream.message().await? {
            match element.content {
                Some(Content::Status(given)) => status = Some(given),
                Some(Content::Message(message)) => {
                    messages.push(Received::from_wire(message).ok_or(Error::Answer {
                        call: "ReceiveMessage",
                        problem: "a message has no topic or no system properties",
                    })?)
                }
                Some(Content::DeliveryTimestamp(_)) | None => {}
            }
        }
        match check("ReceiveMessage", status) {
            Err(Error::Refused { code, .. }) if code == v2::Code::MessageNotFound as i32 => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(()) => Ok(messages),
        }
    }

    /// The message is done. Repeating it is no error.
    pub async fn ack(&self, message: &Received) -> Result<(), Error> {
        self.ack_all(std::slice::from_ref(message)).await?.pop().unwrap_or(Ok(()))
    }

    /// The messages are done, in one call: one result for each, in order. The outer error is that of the call.
    pub async fn ack_all(&self, messages: &[Received]) -> Result<Vec<Result<(), Error>>, Error> {
        let entry = |message: &Received| v2::AckMessageEntry {
            message_id: message.message_id.clone(),
            receipt_handle: message.receipt_handle.clone(),
            lite_topic: None,
        };
        let request = v2::AckMessageRequest {
            group: Some(self.group.clone()),
            topic: Some(self.topic.clone()),
            entries: messages.iter().map(entry).collect(),
        };
        let answer = self.caller.rpc().ack_message(self.caller.request(request)).await?.into_inner();
        if answer.entries.len() != messages.len() {
            check("AckMessage", answer.status)?;
            return Err(Error::Answer { call: "AckMessage", problem: "it has not one entry for each message" });
        }
        Ok(answer.entries.into_iter().map(|entry| check("AckMessage", entry.status)).collect())
    }

    /// The message becomes visible again after `invisible` from now, at once for zero. Its handle is replaced.
    pub async fn change_invisible(&self, message: &mut Received, invisible: Duration) -> Result<(), Error> {
        let request = v2::ChangeInvisibleDurationRequest {
            group: Some(self.group.clone()),
            topic: Some(self.topic.clone()),
            receipt_handle: message.receipt_handle.clone(),
            invisible_duration: to_wire(invisible),
            message_id: message.message_id.clone(),
            lite_topic: None,
            suspend: None,
        };
        let request = self.caller.request(request);
        let answer = self.caller.rpc().change_invisible_duration(request).await?.into_inner();
        check("ChangeInvisibleDuration", answer.status)?;
        if !answer.receipt_handle.is_empty() {
            message.receipt_handle = answer.receipt_handle;
        }
        Ok(())
    }

    /// The message goes to the group's dead letters. `attempts_max` is what the caller allows, for the record.
    pub async fn forward_to_dead_letters(&self, message: &Received, attempts_max: u32) -> Result<(), Error> {
        let request = v2::ForwardMessageToDeadLetterQueueRequest {
            group: Some(self.group.clone()),
            topic: Some(self.topic.clone()),
            receipt_handle: message.receipt_handle.clone(),
            message_id: message.message_id.clone(),
            delivery_attempt: i32::try_from(message.attempt).unwrap_or(i32::MAX),
            max_delivery_attempts: i32::try_from(attempts_max).unwrap_or(i32::MAX),
            lite_topic: None,
        };
        let request = self.caller.request(request);
        let answer = self.caller.rpc().forward_message_to_dead_letter_queue(request).await?;
        check("ForwardMessageToDeadLetterQueue", answer.into_inner().status)
    }

    /// Tells the server that this consumer ends: what it holds goes to others at once.
    pub async fn close(self) -> Result<(), Error> {
        self.caller.terminate(Some(&self.group.name)).await
    }
}

/// The queues that may be read from.
async fn route(caller: &Caller, topic: &str) -> Result<Vec<v2::MessageQueue>, Error> {
    let queues = readable(caller.route(topic).await?);
    match queues.is_empty() {
        true => Err(Error::Answer { call: "QueryRoute", problem: "it has no readable queue" }),
        false => Ok(queues),
    }
}

fn readable(mut queues: Vec<v2::MessageQueue>) -> Vec<v2::MessageQueue> {
    queues.retain(|queue| {
        queue.permission == v2::Permission::Read as i32 || queue.permission == v2::Permission::ReadWrite as i32
    });
    queues
}

fn expression(filter: Filter) -> v2::FilterExpression {
    let (kind, expression) = match filter {
        Filter::All => (v2::FilterType::Tag, "*".to_owned()),
        Filter::Tags(tags) => (v2::FilterType::Tag, tags),
        Filter::Sql(condition) => (v2::FilterType::Sql, condition),
    };
    v2::FilterExpression { r#type: kind as i32, expression }
}

/// None for what the protocol cannot say, which is longer than any server allows.
fn to_wire(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_queues_that_may_be_read_are_polled() {
        let queue = |id, permission: v2::Permission| v2::MessageQueue {
            id,
            permission: permission as i32,
            ..v2::MessageQueue::default()
        };
        let left = readable(vec![
            queue(0, v2::Permission::Write),
            queue(1, v2::Permission::Read),
            queue(2, v2::Permission::None),
            queue(3, v2::Permission::ReadWrite),
        ]);
        assert_eq!(left.iter().map(|queue| queue.id).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn no_filter_is_the_tag_star() {
        let star = expression(Filter::All);
        assert_eq!((star.r#type, star.expression.as_str()), (v2::FilterType::Tag as i32, "*"));
    }
}
