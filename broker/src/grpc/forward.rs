//! Connections to other brokers, and calls about what they hold: recalls and ends of transactions come to any node, and
//! go on to the one that gave the handle out.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use proto::cluster::producers_client::ProducersClient;
use proto::v2;
use proto::v2::messaging_service_client::MessagingServiceClient;
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use super::status::Denial;
use crate::refusal::Refusal;

/// Says that a call was sent on already: it is never sent on twice.
const FORWARDED: &str = "x-carillon-forwarded";
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// For clients that name no deadline.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Connections to other brokers, made when they are first needed.
#[derive(Debug, Default)]
pub(super) struct Forward {
    channels: Mutex<HashMap<Arc<str>, Channel>>,
}

impl Forward {
    fn client(&self, broker: &Arc<str>) -> Result<MessagingServiceClient<Channel>, Denial> {
        self.channel(broker).map(MessagingServiceClient::new)
    }

    pub(super) fn producers(&self, broker: &Arc<str>) -> Result<ProducersClient<Channel>, Denial> {
        self.channel(broker).map(ProducersClient::new)
    }

    fn channel(&self, broker: &Arc<str>) -> Result<Channel, Denial> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(broker) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{broker}")).map_err(|error| away(broker, &error))?;
        let channel = endpoint.connect_timeout(CONNECT_MAX).timeout(ANSWER_MAX).connect_lazy();
        channels.insert(broker.clone(), channel.clone());
        Ok(channel)
    }

    pub(super) async fn recall(
        &self,
        broker: &Arc<str>,
        metadata: MetadataMap,
        call: v2::RecallMessageRequest,
    ) -> Result<v2::RecallMessageResponse, Denial> {
        let answer = self.client(broker)?.recall_message(marked(metadata, call)).await;
        answer.map(tonic::Response::into_inner).map_err(|status| away(broker, &status))
    }

    pub(super) async fn end_transaction(
        &self,
        broker: &Arc<str>,
        metadata: MetadataMap,
        call: v2::EndTransactionRequest,
    ) -> Result<v2::EndTransactionResponse, Denial> {
        let answer = self.client(broker)?.end_transaction(marked(metadata, call)).await;
        answer.map(tonic::Response::into_inner).map_err(|status| away(broker, &status))
    }
}

/// Whether another broker sent this call on.
pub(super) fn is_forwarded(metadata: &MetadataMap) -> bool {
    metadata.contains_key(FORWARDED)
}

fn marked<T>(metadata: MetadataMap, call: T) -> Request<T> {
    let mut request = Request::new(call);
    *request.metadata_mut() = metadata;
    request.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
    request
}

fn away(broker: &str, cause: &dyn std::fmt::Display) -> Denial {
    tracing::debug!(broker, %cause, "a call cannot be sent on");
    Refusal::HolderAway { broker: broker.into() }.into()
}
