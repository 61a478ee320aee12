//! Sending, recalling, ending transactions: what producers do.

use std::sync::Arc;

use base::limits::{SEND_MESSAGES_MAX, TRANSACTION_CHECK_AFTER_MS_MAX};
use base::{LogPosition, Timestamp, TopicId, TopicName};
use smallvec::SmallVec;
use storage::message::BodyPart;
use storage::record::Head;
use storage::request::{AppendError, BodyKind, Change, Done, Lane, NewBody, Placed, ReplyTo, Request};
use storage::timer::{Ask, What};
use storage::view::transactions::Outcome;

use crate::api::{Caller, MessageType, NewMessage, Resolution, Sent};
use crate::handle;
use crate::operate::AUTO_QUEUES;
use crate::refusal::Refusal;
use crate::shared::{Shared, store_refusal};
use crate::validate::{self, Limits};

/// What a sender is told about one message, once it is durable.
struct Promise {
    message_id: String,
    message_type: MessageType,
    due: Timestamp,
}

impl Shared {
    fn limits(&self) -> Limits {
        let body = usize::try_from(self.config.topics.message_size_max.0).unwrap_or(usize::MAX);
        let delay = base::duration::ms(self.config.timer.delay_max);
        Limits { body_bytes_max: body, delay_ms_max: delay }
    }

    pub async fn send(&self, caller: &Caller, messages: Vec<NewMessage>) -> Result<Vec<Sent>, Refusal> {
        self.drain.check(|| self.clock.monotonic_ms())?;
        let now = self.clock.now();
        let (name, first_type) = self.check_messages(&messages, now)?;
        let topic = match self.topic(&name) {
            Some(topic) => {
                self.check_home(&name)?;
                topic.spec.clone()
            }
            None => self.auto_create(&name, first_type).await?,
        };
        let mut promises: SmallVec<[Promise; 1]> = SmallVec::new();
        let mut changes: SmallVec<[Change; 1]> = SmallVec::new();
        let bytes: usize = messages.iter().map(|message| message.body.len()).sum();
        for message in messages {
            let message_type = validate::type_of(&message);
            validate::check_type(&name, topic.kind, message_type)?;
            let (promise, body) = self.prepare(caller, topic.id, message, message_type, now);
            promises.push(promise);
            changes.push(Change::Body(body));
        }
        // No await between the check of the topic and here, so sends of one connection keep their order.
        let done = self.submit(Lane::Request, Request::Changes(changes)).await;
        let Done::Changed(placed) = done.map_err(|error| store_refusal(&error))? else {
            unreachable!("bodies are answered with their places");
        };
        self.messages.sent(topic.id, name.as_str(), first_type, placed.len() as u64, bytes as u64);
        Ok(promises.into_iter().zip(placed).map(|(promise, placed)| self.keep(topic.id, promise, placed)).collect())
    }

    /// All messages of a request are checked before any is stored.
    fn check_messages(&self, messages: &[NewMessage], now: Timestamp) -> Result<(TopicName, MessageType), Refusal> {
        let first = messages.first().ok_or(Refusal::NoMessages)?;
        if messages.len() > SEND_MESSAGES_MAX {
            return Err(Refusal::TooManyMessages { count: messages.len(), max: SEND_MESSAGES_MAX });
        }
        let name = TopicName::parse(&first.topic).map_err(Refusal::IllegalTopic)?;
        let limits = self.limits();
        for message in messages {
            if message.topic != first.topic {
                return Err(Refusal::TwoTopics { first: first.topic.clone(), second: message.topic.clone() });
            }
            validate::check(message, &limits, now)?;
        }
        Ok((name, validate::type_of(first)))
    }

    /// Of a topic in which order is kept a second broker takes nothing, whoever is away.
    fn check_home(&self, name: &TopicName) -> Result<(), Refusal> {
        match self.peers.home(name) {
            Some(broker) => Err(Refusal::TopicElsewhere { topic: name.clone(), broker: broker.to_string() }),
            None => Ok(()),
        }
    }

    async fn auto_create(
        &self,
        name: &TopicName,
        message_type: MessageType,
    ) -> Result<storage::view::catalog::TopicSpec, Refusal> {
        let kind = validate::topic_kind_for(message_type);
        match kind.filter(|_| self.may_create(name)) {
            Some(kind) => {
                if let Some(broker) = self.peers.lives_on(name) {
                    return Err(Refusal::TopicElsewhere { topic: name.clone(), broker: broker.to_string() });
                }
                self.adopt_topic(name).await;
                let (spec, is_new) = self
                    .create_topic(self.new_topic(name.clone(), kind, AUTO_QUEUES))
                    .await
                    .map_err(|error| store_refusal(&error))?;
                if is_new {
                    tracing::info!(topic = %name, ?kind, "created by its first message");
                }
                Ok(spec)
            }
            None => Err(Refusal::TopicNotFound(name.clone())),
        }
    }

    fn prepare(
        &self,
        caller: &Caller,
        topic: TopicId,
        message: NewMessage,
        message_type: MessageType,
        now: Timestamp,
    ) -> (Promise, NewBody) {
        let key = self.store.reader().hash_key();
        let due = message.deliver_at.unwrap_or(Timestamp::ZERO);
        let head = Head {
            topic,
            tag_hash: message.tag.as_deref().filter(|tag| !tag.is_empty()).map_or(0, |tag| key.tag(tag)),
            group_hash: message.message_group.as_deref().map_or(0, |group| key.message_group(group)),
            priority: 0,
        };
        let kind = match message_type {
            MessageType::Delay => BodyKind::Delayed { due },
            MessageType::Transaction => {
                let default = base::duration::ms(self.config.transactions.check_after);
                let asked = message.check_after.map_or(default, base::duration::ms);
                let check_after_ms = u32::try_from(asked.min(TRANSACTION_CHECK_AFTER_MS_MAX)).unwrap_or(u32::MAX);
                BodyKind::Prepared { due: message.deliver_at, check_after_ms, client: caller.client_id.clone() }
            }
            _ => BodyKind::Visible,
        };
        let message_id = message.message_id.clone();
        let (envelope, body) = validate::envelope(message, message_type, now);
        let part = BodyPart::encode(&envelope, &body);
        (Promise { message_id, message_type, due }, NewBody { head, kind, part })
    }

    fn keep(&self, topic: TopicId, promise: Promise, placed: Placed) -> Sent {
        let key = self.store.reader().hash_key();
        let origin = placed.pointer.position;
        let broker_group = self.peers.broker_group();
        let recall = || handle::Recall { broker_group, topic, origin, due: promise.due }.encode(key);
        let transaction = || handle::Transaction { broker_group, topic, origin }.encode(key);
        Sent {
            message_id: promise.message_id,
            queue: placed.queue,
            offset: placed.offset,
            transaction_id: (promise.message_type == MessageType::Transaction).then(transaction),
            recall_handle: (promise.message_type == MessageType::Delay).then(recall),
        }
    }

    pub async fn recall(&self, topic: &str, text: &str) -> Result<String, Refusal> {
        let name = TopicName::parse(topic).map_err(Refusal::IllegalTopic)?;
        let topic = self.topic(&name).ok_or(Refusal::TopicNotFound(name))?;
        let recall = handle::Recall::decode(text, self.store.reader().hash_key())
            .ok_or(Refusal::IllegalRecallHandle { problem: "was not given out by this server" })?;
        if recall.topic != topic.spec.id {
            return Err(Refusal::IllegalRecallHandle { problem: "belongs to another topic" });
        }
        let (reply, answer) = Ticketed::pair();
        self.store.ask_timer(Ask { origin: recall.origin, due: recall.due, what: What::Recall, reply });
        let done = answer.await.unwrap_or(Err(AppendError::Closed)).map_err(|error| store_refusal(&error))?;
        let Done::Recalled(pointer) = done else { unreachable!("a recall is answered with what was recalled") };
        let message = self.fetch(pointer).await?;
        Ok(message.envelope.message_id)
    }

    pub async fn end_transaction(&self, topic: &str, id: &str, resolution: Resolution) -> Result<(), Refusal> {
        let name = TopicName::parse(topic).map_err(Refusal::IllegalTopic)?;
        let invalid = |problem| Refusal::InvalidTransaction { id: id.chars().take(64).collect(), problem };
        if id.trim().is_empty() {
            return Err(invalid("is blank"));
        }
        let topic = self.topic(&name).ok_or(Refusal::TopicNotFound(name))?;
        let transaction = handle::Transaction::decode(id, self.store.reader().hash_key())
            .filter(|transaction| transaction.topic == topic.spec.id)
            .ok_or_else(|| invalid("is unknown for this topic"))?;
        let outcome = match resolution {
            Resolution::Commit => Outcome::Committed,
            Resolution::Rollback => Outcome::RolledBack,
            // The producer does not know yet: it will be asked again.
            Resolution::Unknown => return Ok(()),
        };
        let request = Request::EndTransaction { origin: transaction.origin, outcome };
        match self.submit(Lane::Request, request).await {
            Ok(_) => Ok(()),
            Err(AppendError::TransactionUnknown) => Err(invalid("is unknown, or ended long ago")),
            Err(AppendError::TransactionEndedAs(Outcome::Committed)) => Err(invalid("was committed")),
            Err(AppendError::TransactionEndedAs(Outcome::RolledBack)) => Err(invalid("was rolled back")),
            Err(error) => Err(store_refusal(&error)),
        }
    }
}

impl Shared {
    /// Ends when the log writer and the timer have turned over once, whatever they say: a log that failed goes on reading.
    pub async fn turned_over(&self) {
        let (reply, answer) = Ticketed::pair();
        self.store.ask_timer(Ask { origin: LogPosition(0), due: Timestamp::ZERO, what: What::Nothing, reply });
        let writer = async {
            while let Err(AppendError::InboxFull { .. }) = self.submit(Lane::Request, Request::Barrier).await {
                tokio::time::sleep(INBOX_PAUSE).await;
            }
        };
        let _ = tokio::join!(answer, writer);
    }
}

/// How long a full inbox is left alone before it is asked again.
const INBOX_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// A sink for the answer to one question, for questions that do not go through the writer's inbox.
struct Ticketed(parking_lot::Mutex<Option<tokio::sync::oneshot::Sender<Result<Done, AppendError>>>>);

impl Ticketed {
    fn pair() -> (ReplyTo, tokio::sync::oneshot::Receiver<Result<Done, AppendError>>) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let sink = Arc::new(Self(parking_lot::Mutex::new(Some(sender))));
        (ReplyTo { sink, ticket: 0 }, receiver)
    }
}

impl storage::request::ReplySink for Ticketed {
    fn deliver(&self, answers: &mut Vec<storage::request::Answer>) {
        for answer in answers.drain(..) {
            if let Some(sender) = self.0.lock().take() {
                drop(sender.send(answer.result));
            }
        }
    }
}
