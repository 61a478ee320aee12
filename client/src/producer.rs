//! Sending: single messages, batches, transactions, and taking delayed messages back.

use std::sync::Arc;

use base::{Chance, Clock, SystemClock};
use proto::v2;
use proto::v2::settings::PubSub;
use tokio::sync::mpsc;

use crate::connection::Caller;
use crate::error::{Error, check};
use crate::message::{NewMessage, Received, Sent, offset_from_wire};
use crate::message_id::MessageIds;
use crate::presence::Presence;

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    Commit,
    Rollback,
}

/// A prepared message that waits for [`Producer::end`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub topic: String,
    pub message_id: String,
    pub transaction_id: String,
    is_check: bool,
}

/// An undecided transaction that the server asks about.
#[derive(Debug, Clone)]
pub struct Orphan {
    pub message: Received,
    pub transaction: Transaction,
}

impl Orphan {
    /// None when the server's question lacks what it asks about.
    pub(crate) fn from_wire(recover: v2::RecoverOrphanedTransactionCommand) -> Option<Self> {
        let message = Received::from_wire(recover.message?)?;
        let transaction = Transaction {
            topic: message.topic.clone(),
            message_id: message.message_id.clone(),
            transaction_id: recover.transaction_id,
            is_check: true,
        };
        Some(Self { message, transaction })
    }
}

/// Sends messages. Shared by any number of tasks; calls of one producer run beside each other.
#[derive(Debug)]
pub struct Producer {
    caller: Arc<Caller>,
    ids: MessageIds,
    _presence: Presence,
}

impl Producer {
    pub(crate) async fn start(
        caller: Caller,
        topics: &[&str],
        orphans: Option<mpsc::Sender<Orphan>>,
    ) -> Result<Self, Error> {
        let caller = Arc::new(caller);
        let topics = topics.iter().map(|topic| caller.resource(topic)).collect();
        let publishing = v2::Publishing { topics, validate_message_type: true, ..v2::Publishing::default() };
        let kind = v2::ClientType::Producer;
        let presence = Presence::start(&caller, kind, PubSub::Publishing(publishing), orphans).await?;
        let ids = MessageIds::new(&mut Chance::from_system(), std::process::id());
        Ok(Self { caller, ids, _presence: presence })
    }

    /// As the server knows this producer.
    pub fn client_id(&self) -> &str {
        self.caller.client_id()
    }

    /// Sends one message. After an error other than [`Error::Refused`] it may be stored all the same.
    pub async fn send(&self, message: NewMessage) -> Result<Sent, Error> {
        let message = self.wire(message, false);
        single(self.call(vec![message]).await?).map(|entry| sent(entry).0)
    }

    /// Sends messages of one topic in one call: one result for each, in order. The outer error is that of the call.
    pub async fn send_all(&self, messages: Vec<NewMessage>) -> Result<Vec<Result<Sent, Error>>, Error> {
        let now = SystemClock.now();
        let wire = |message: NewMessage| message.into_wire(&self.caller, self.ids.next(now), now, false);
        let messages: Vec<_> = messages.into_iter().map(wire).collect();
        let count = messages.len();
        let answer = self.call(messages).await?;
        if answer.entries.len() != count {
            check("SendMessage", answer.status)?;
            return Err(Error::Answer { call: "SendMessage", problem: "it has not one entry for each message" });
        }
        Ok(answer.entries.into_iter().map(|entry| checked(entry).map(|entry| sent(entry).0)).collect())
    }

    /// Stores a message that nobody sees before [`Producer::end`] commits it.
    pub async fn send_prepared(&self, message: NewMessage) -> Result<Transaction, Error> {
        let topic = message.topic().to_owned();
        let message = self.wire(message, true);
        let (sent, transaction_id) = sent(single(self.call(vec![message]).await?)?);
        Ok(Transaction { topic, message_id: sent.message_id, transaction_id, is_check: false })
    }

    /// Ends a transaction. Ending it twice the same way is no error.
    pub async fn end(&self, transaction: &Transaction, resolution: Resolution) -> Result<(), Error> {
        let resolution = match resolution {
            Resolution::Commit => v2::TransactionResolution::Commit,
            Resolution::Rollback => v2::TransactionResolution::Rollback,
        };
        let source = match transaction.is_check {
            true => v2::TransactionSource::SourceServerCheck,
            false => v2::TransactionSource::SourceClient,
        };
        let message = v2::EndTransactionRequest {
            topic: Some(self.caller.resource(&transaction.topic)),
            message_id: transaction.message_id.clone(),
            transaction_id: transaction.transaction_id.clone(),
            resolution: resolution as i32,
            source: source as i32,
            trace_context: String::new(),
        };
        let answer = self.caller.rpc().end_transaction(self.caller.request(message)).await?;
        check("EndTransaction", answer.into_inner().status)
    }

    /// Takes a delayed message back and gives its id. Refused when it was due already.
    pub async fn recall(&self, topic: &str, recall_handle: &str) -> Result<String, Error> {
        let topic = Some(self.caller.resource(topic));
        let message = v2::RecallMessageRequest { topic, recall_handle: recall_handle.to_owned() };
        let answer = self.caller.rpc().recall_message(self.caller.request(message)).await?.into_inner();
        check("RecallMessage", answer.status)?;
        Ok(answer.message_id)
    }

    /// Tells the server that this producer ends. Dropping it does the same, later.
    pub async fn close(self) -> Result<(), Error> {
        self.caller.terminate(None).await
    }

    fn wire(&self, message: NewMessage, is_transaction: bool) -> v2::Message {
        let now = SystemClock.now();
        message.into_wire(&self.caller, self.ids.next(now), now, is_transaction)
    }

    async fn call(&self, messages: Vec<v2::Message>) -> Result<v2::SendMessageResponse, Error> {
        let request = self.caller.request(v2::SendMessageRequest { messages });
        Ok(self.caller.rpc().send_message(request).await?.into_inner())
    }
}

fn single(mut answer: v2::SendMessageResponse) -> Result<v2::SendResultEntry, Error> {
    match answer.entries.pop() {
        Some(entry) => checked(entry),
        None => {
            check("SendMessage", answer.status)?;
            Err(Error::Answer { call: "SendMessage", problem: "it is OK and has no entry" })
        }
    }
}

fn checked(mut entry: v2::SendResultEntry) -> Result<v2::SendResultEntry, Error> {
    check("SendMessage", entry.status.take())?;
    Ok(entry)
}

/// What was sent, and the transaction's id.
fn sent(entry: v2::SendResultEntry) -> (Sent, String) {
    let recall_handle = Some(entry.recall_handle).filter(|handle| !handle.is_empty());
    let sent = Sent { message_id: entry.message_id, offset: offset_from_wire(entry.offset), recall_handle };
    (sent, entry.transaction_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(code: v2::Code) -> v2::SendResultEntry {
        let status = Some(v2::Status { code: code as i32, message: String::new() });
        v2::SendResultEntry { status, offset: 7, ..v2::SendResultEntry::default() }
    }

    #[test]
    fn a_send_is_judged_by_its_entry_and_without_one_by_the_answer() {
        let answer = |top: v2::Code, entries| v2::SendMessageResponse {
            status: Some(v2::Status { code: top as i32, message: String::new() }),
            entries,
        };
        assert!(single(answer(v2::Code::Ok, vec![entry(v2::Code::Ok)])).is_ok());
        let refused = single(answer(v2::Code::Ok, vec![entry(v2::Code::TopicNotFound)]));
        assert_eq!(refused.expect_err("the entry says no").code(), Some(v2::Code::TopicNotFound));
        let refused = single(answer(v2::Code::IllegalTopic, vec![]));
        assert_eq!(refused.expect_err("the answer says no").code(), Some(v2::Code::IllegalTopic));
        assert!(matches!(single(answer(v2::Code::Ok, vec![])), Err(Error::Answer { .. })));
    }

    #[test]
    fn an_empty_recall_handle_is_none() {
        let (sent, _) = sent(entry(v2::Code::Ok));
        assert_eq!((sent.recall_handle, sent.offset), (None, base::QueueOffset(7)));
    }
}
