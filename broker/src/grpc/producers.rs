//! Questions to producers, from broker to broker: this one's streams for others, and theirs for this one.
//!
//! P1. What another broker asks goes to a stream of this one or to nobody: it is never sent on.

use std::sync::Arc;

use base::TopicName;
use base::limits::REQUEST_BYTES_MAX;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use prost::Message as _;
use proto::cluster as wire;
use proto::cluster::producers_server::{Producers, ProducersServer};
use proto::v2;
use tonic::{Request, Response, Status};

use super::encode;
use super::forward::Forward;
use crate::Broker;
use crate::api::Command;
use crate::checks::{Elsewhere, Question, ROUND_MAX, Sought};
use crate::membership::Listener;

/// What paths of this service begin with.
pub(super) const PATH: &str = "/carillon.cluster.v1.Producers/";

/// Producers whose streams are here, to other brokers.
pub(super) struct Here(pub(super) Broker);

impl Here {
    pub(super) fn service(self) -> ProducersServer<Self> {
        ProducersServer::new(self).max_decoding_message_size(REQUEST_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Producers for Here {
    async fn find(&self, request: Request<wire::FindRequest>) -> Result<Response<wire::FindResponse>, Status> {
        let sought = request.into_inner().sought;
        if sought.len() > ROUND_MAX {
            let text = format!("sought has {} entries, the limit is {ROUND_MAX}", sought.len());
            return Err(Status::invalid_argument(text));
        }
        let mut listeners = Vec::with_capacity(sought.len());
        for sought in sought {
            listeners.push(listener_to_wire(self.0.listener(&from_wire(sought)?)).into());
        }
        Ok(Response::new(wire::FindResponse { listeners }))
    }

    async fn ask(&self, request: Request<wire::AskRequest>) -> Result<Response<wire::AskResponse>, Status> {
        let wire::AskRequest { sought, turn, command } = request.into_inner();
        let sought = from_wire(sought.unwrap_or_default())?;
        if let Err(error) = v2::RecoverOrphanedTransactionCommand::decode(command.clone()) {
            return Err(Status::invalid_argument(format!("command cannot be read: {error}")));
        }
        let is_taken = self.0.command_producer(&sought, turn, Command::CheckOfOther(command));
        Ok(Response::new(wire::AskResponse { is_taken }))
    }
}

impl Elsewhere for Forward {
    fn find(&self, broker: Arc<str>, sought: &[Sought]) -> BoxFuture<'static, Option<Vec<Listener>>> {
        let request = wire::FindRequest { sought: sought.iter().map(to_wire).collect() };
        let client = self.producers(&broker);
        async move {
            let answer = client.ok()?.find(request).await.inspect_err(|status| is_silent(&broker, status)).ok()?;
            let listeners = answer.into_inner().listeners;
            Some(listeners.into_iter().map(listener_from_wire).collect())
        }
        .boxed()
    }

    fn ask(&self, broker: Arc<str>, question: Question) -> BoxFuture<'static, bool> {
        let Question { sought, turn, message, transaction_id } = question;
        let message = Some(encode::delivery(*message, ""));
        let command = v2::RecoverOrphanedTransactionCommand { message, transaction_id };
        let request =
            wire::AskRequest { sought: Some(to_wire(&sought)), turn, command: command.encode_to_vec().into() };
        let client = self.producers(&broker);
        async move {
            let Ok(mut client) = client else { return false };
            let answer = client.ask(request).await.inspect_err(|status| is_silent(&broker, status));
            answer.is_ok_and(|answer| answer.into_inner().is_taken)
        }
        .boxed()
    }
}

fn is_silent(broker: &str, status: &Status) {
    tracing::debug!(broker, %status, "another broker does not say who listens there");
}

fn to_wire(sought: &Sought) -> wire::Sought {
    wire::Sought { client_id: sought.client.to_string(), topic: sought.topic.to_string() }
}

fn from_wire(sought: wire::Sought) -> Result<Sought, Status> {
    let wire::Sought { client_id, topic } = sought;
    let topic = TopicName::parse(&topic)
        .map_err(|error| Status::invalid_argument(format!("sought.topic = {topic:?}: {error}")))?;
    Ok(Sought { client: client_id.into(), topic })
}

fn listener_to_wire(listener: Listener) -> wire::Listener {
    match listener {
        Listener::Nobody => wire::Listener::Nobody,
        Listener::Another => wire::Listener::Another,
        Listener::Sender => wire::Listener::Sender,
    }
}

/// What a newer broker may say beside is nobody who can be asked.
fn listener_from_wire(listener: i32) -> Listener {
    match wire::Listener::try_from(listener) {
        Ok(wire::Listener::Sender) => Listener::Sender,
        Ok(wire::Listener::Another) => Listener::Another,
        Ok(wire::Listener::Nobody | wire::Listener::Unspecified) | Err(_) => Listener::Nobody,
    }
}
