//! The calls of the messaging service.
//!
//! S1. Every failure of a call but Telemetry is an ordinary reply with a status (§3).
//! S2. Nothing is awaited between a decoded send and the broker: sends of one connection keep their order.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use base::limits::RECEIVE_BYTES_MAX;
use cluster::endpoints;
use http::uri::Authority;
use proto::v2::messaging_service_server::MessagingService;
use proto::v2::{self, Code};
use serve::admission::Share;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::caller::LastSeen;
use super::metrics::{Call, Metrics, Rpc};
use super::receive::{Deadline, Reply};
use super::status::{self, Denial};
use super::telemetry::Stage;
use super::{Gateway, decode, encode, forward};
use crate::api::{Caller, Receive};
use crate::membership::Connection;

/// The service as one connection sees it.
pub(super) struct Peer {
    gateway: Arc<Gateway>,
    address: SocketAddr,
    /// Where the client reached us.
    local: SocketAddr,
    /// Where delivered messages say they are stored.
    store_host: Arc<str>,
    last_seen: LastSeen,
    /// What its answers may hold.
    share: Share,
}

/// Replies are not made smaller than this: then it is better to refuse.
const REPLY_BYTES_MIN: usize = 64 * 1024;

/// What every unary reply has.
trait Answer: Default {
    fn with_status(self, status: v2::Status) -> Self;
    fn code(&self) -> Code;
}

macro_rules! answers {
    ($($name:ident),* $(,)?) => {
        $(impl Answer for v2::$name {
            fn with_status(mut self, status: v2::Status) -> Self {
                self.status = Some(status);
                self
            }

            fn code(&self) -> Code {
                self.status.as_ref().map_or(Code::InternalServerError, v2::Status::code)
            }
        })*
    };
}

answers!(
    QueryRouteResponse,
    HeartbeatResponse,
    SendMessageResponse,
    QueryAssignmentResponse,
    AckMessageResponse,
    ForwardMessageToDeadLetterQueueResponse,
    UpdateOffsetResponse,
    GetOffsetResponse,
    QueryOffsetResponse,
    EndTransactionResponse,
    NotifyClientTerminationResponse,
    ChangeInvisibleDurationResponse,
    RecallMessageResponse,
    SyncLiteSubscriptionResponse,
);

type Unary<R> = Result<Response<R>, Status>;

impl Peer {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        address: SocketAddr,
        local: SocketAddr,
        connection: Arc<Connection>,
        share: Share,
    ) -> Self {
        let here = endpoints::of_address(local);
        let store_host = endpoints::text(gateway.advertised.as_ref().unwrap_or(&here)).into();
        Self { gateway, address, local, store_host, last_seen: LastSeen::of(connection), share }
    }

    fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Denial> {
        self.last_seen.caller(metadata.as_ref(), &self.gateway.agents, self.address)
    }

    /// Runs a unary call: OK over what it returns, unless that has a status already, or the status of its denial over
    /// `empty`, which is what a refused reply still has to say.
    async fn unary<R: Answer>(&self, rpc: Rpc, empty: R, work: impl Future<Output = Result<R, Denial>>) -> Unary<R> {
        let call = Call::begin(&*self.gateway.metrics, rpc);
        let reply = match work.await {
            Ok(reply) => reply,
            Err(denial) => {
                call.refused(&denial);
                empty.with_status(denial.status())
            }
        };
        call.answered(reply.code());
        Ok(Response::new(reply))
    }

    async fn not_implemented<R: Answer>(&self, rpc: Rpc, what: &'static str) -> Unary<R> {
        self.unary(rpc, R::default(), async { Err(Denial::NotImplemented(what)) }).await
    }

    /// This server as the client that sent `request` should reach it: as configured; else as name servers tell everybody,
    /// or, where they leave the host to where they were found, or there are none, as the client's access point says when
    /// that is this server; else as it called us. Java's `:authority` is a word of its library, so it comes last.
    fn here<T>(&self, request: &Request<T>, access_point: Option<&v2::Endpoints>) -> v2::Endpoints {
        let port = self.local.port();
        let told = self.gateway.broker.own_address();
        let first = || endpoints::first_of(access_point?);
        // Calls that come straight from a client may name a name server too: its access point is one, whoever it calls.
        let is_other = request.metadata().contains_key(cluster::RELAYED)
            || access_point.is_some_and(|access_point| access_point.addresses.len() > 1)
            || first().is_some_and(|first| self.is_nameserver(&first));
        let is_told = told.as_ref().is_some_and(|told| is_other || !told.starts_with(':'));
        let as_told = || {
            let found = first().unwrap_or_else(|| endpoints::of_address(self.local));
            Some(endpoints::at(told.as_deref().filter(|_| is_told)?, &found))
        };
        let by_access_point = || first().filter(|_| !is_other);
        let by_authority = || endpoints::parse(request.extensions().get::<Authority>()?.as_str(), port);
        let advertised =
            self.gateway.advertised.clone().or_else(as_told).or_else(by_access_point).or_else(by_authority);
        advertised.unwrap_or_else(|| endpoints::of_address(self.local))
    }

    /// Names may lead to it in many ways; its port is one.
    fn is_nameserver(&self, found: &v2::Endpoints) -> bool {
        let nameservers = self.gateway.broker.config().nameservers.iter().filter_map(|name| name.rsplit_once(':'));
        let mut ports = nameservers.filter_map(|(_, port)| port.parse::<u16>().ok());
        ports.any(|port| {
            let is_there = found.addresses.iter().any(|address| address.port == i32::from(port));
            is_there && port != self.local.port()
        })
    }

    /// The broker that a handle or transaction id is of, when that is another one; calls that were sent on stay here.
    fn elsewhere(&self, metadata: &MetadataMap, handle: &str) -> Result<Option<Arc<str>>, Denial> {
        if forward::is_forwarded(metadata) {
            return Ok(None);
        }
        Ok(self.gateway.broker.elsewhere(handle)?)
    }

    /// Waits for messages. Polls still parked when the server stops end empty at once (operations H4).
    async fn poll(
        &self,
        caller: &Caller,
        receive: Receive,
        call: &mut Call<Arc<Metrics>>,
    ) -> Result<crate::api::Received, Denial> {
        let mut draining = pin!(self.gateway.draining.begins());
        let mut received = pin!(self.gateway.broker.receive(caller, receive));
        let mut parked_since = None;
        let result = poll_fn(|context| {
            if let Poll::Ready(result) = received.as_mut().poll(context) {
                return Poll::Ready(result.map_err(Denial::from));
            }
            parked_since.get_or_insert_with(super::metrics::now);
            draining.as_mut().poll(context).map(|()| Err(Denial::NoMessage))
        });
        let result = result.await;
        if let Some(since) = parked_since {
            call.was_parked_since(since);
        }
        result
    }
}

#[tonic::async_trait]
impl MessagingService for Peer {
    type ReceiveMessageStream = Reply;
    type PullMessageStream = tokio_stream::Once<Result<v2::PullMessageResponse, Status>>;
    type TelemetryStream = Stage;

    async fn query_route(&self, request: Request<v2::QueryRouteRequest>) -> Unary<v2::QueryRouteResponse> {
        let work = async {
            let caller = self.caller(request.metadata())?;
            let here = self.here(&request, request.get_ref().endpoints.as_ref());
            let topic = request.into_inner().topic.unwrap_or_default();
            let route = self.gateway.broker.route(&caller, &topic.name).await?;
            let message_queues = endpoints::queues(&route.places, &topic, &here);
            Ok(v2::QueryRouteResponse { status: Some(status::ok()), message_queues })
        };
        self.unary(Rpc::QueryRoute, v2::QueryRouteResponse::default(), work).await
    }

    async fn heartbeat(&self, request: Request<v2::HeartbeatRequest>) -> Unary<v2::HeartbeatResponse> {
        let ok = v2::HeartbeatResponse { status: Some(status::ok()) };
        let work = async {
            let caller = match self.caller(request.metadata()) {
                // Go says nothing at all after an error, and gives its stream up when that is refused (§2.2).
                Err(Denial::ClientIdRequired) => return Ok(ok),
                caller => caller?,
            };
            let request = request.into_inner();
            let kind =
                decode::client_kind(request.client_type).ok_or(Denial::UnknownClientType(request.client_type))?;
            let group = request.group.map(|group| group.name);
            self.gateway.broker.heartbeat(&caller, kind, group.as_deref())?;
            Ok(ok)
        };
        self.unary(Rpc::Heartbeat, v2::HeartbeatResponse::default(), work).await
    }

    async fn send_message(&self, request: Request<v2::SendMessageRequest>) -> Unary<v2::SendMessageResponse> {
        let count = request.get_ref().messages.len();
        let call = Call::begin(&*self.gateway.metrics, Rpc::SendMessage);
        let caller = self.caller(request.metadata());
        let messages = request.into_inner().messages.into_iter().map(decode::message).collect();
        let result = match caller {
            // S2: the first poll puts the messages into the log's inbox.
            Ok(caller) => self.gateway.broker.send(&caller, messages).await.map_err(Denial::from),
            Err(denial) => Err(denial),
        };
        let reply = match result {
            Ok(sent) => {
                let entries = sent.into_iter().map(|sent| encode::sent(sent, status::ok())).collect();
                v2::SendMessageResponse { status: Some(status::ok()), entries }
            }
            Err(denial) => {
                call.refused(&denial);
                // C# looks at the entries and C++ at the top: a failure stands in both (§3 rule 5).
                let status = Some(denial.status());
                let entry = v2::SendResultEntry { status: status.clone(), ..Default::default() };
                // However many messages were announced: a refusal is never longer than the largest reply.
                let entries = vec![entry; count.min(base::limits::SEND_MESSAGES_MAX)];
                v2::SendMessageResponse { status, entries }
            }
        };
        call.answered(reply.code());
        Ok(Response::new(reply))
    }

    async fn query_assignment(
        &self,
        request: Request<v2::QueryAssignmentRequest>,
    ) -> Unary<v2::QueryAssignmentResponse> {
        let work = async {
            let caller = self.caller(request.metadata())?;
            let here = self.here(&request, request.get_ref().endpoints.as_ref());
            let request = request.into_inner();
            let (topic, group) = (request.topic.unwrap_or_default(), decode::name(request.group));
            let assignment = self.gateway.broker.assignment(&caller, &topic.name, &group).await?;
            let assignments = endpoints::assignments(&assignment.route.places, assignment.is_ordered, &topic, &here);
            Ok(v2::QueryAssignmentResponse { status: Some(status::ok()), assignments })
        };
        self.unary(Rpc::QueryAssignment, v2::QueryAssignmentResponse::default(), work).await
    }

    async fn receive_message(&self, request: Request<v2::ReceiveMessageRequest>) -> Result<Response<Reply>, Status> {
        let mut call = Call::begin(self.gateway.metrics.clone(), Rpc::ReceiveMessage);
        let caller = match self.caller(request.metadata()) {
            Ok(caller) => caller,
            Err(denial) => return Ok(Response::new(Reply::denied(&denial, Deadline::after(None), call))),
        };
        let deadline = Deadline::after(caller.remaining);
        // A client that has much to take already gets less at a time.
        let room = self.share.room().clamp(REPLY_BYTES_MIN, RECEIVE_BYTES_MAX);
        let receive = decode::receive(request.into_inner(), room);
        // Nothing is sent before the poll ends, so that the whole reply leaves in one piece. A reset meanwhile drops
        // this future and with it the poll.
        let reply = match self.poll(&caller, receive, &mut call).await {
            Ok(received) => Reply::received(received, self.store_host.clone(), deadline, call, &self.share),
            Err(denial) => Reply::denied(&denial, deadline, call),
        };
        Ok(Response::new(reply))
    }

    async fn ack_message(&self, request: Request<v2::AckMessageRequest>) -> Unary<v2::AckMessageResponse> {
        let call = Call::begin(&*self.gateway.metrics, Rpc::AckMessage);
        let caller = self.caller(request.metadata());
        let request = request.into_inner();
        let (group, topic, entries) = (decode::name(request.group), decode::name(request.topic), request.entries);
        let handles: Vec<_> = entries.iter().map(|entry| entry.receipt_handle.as_str()).collect();
        let result = match caller {
            Ok(caller) => self.gateway.broker.ack(&caller, &group, &topic, &handles).await.map_err(Denial::from),
            Err(denial) => Err(denial),
        };
        let statuses = match result {
            Ok(results) => results.into_iter().map(|result| match result {
                Ok(()) => status::ok(),
                Err(refusal) => Denial::from(refusal).status(),
            }),
            Err(denial) => {
                call.refused(&denial);
                // Rust looks at the first entry without asking whether there is one (§4.6).
                let reply = ack_reply(entries, std::iter::repeat(denial.status())).with_status(denial.status());
                call.answered(reply.code());
                return Ok(Response::new(reply));
            }
        };
        let reply = ack_reply(entries, statuses);
        call.answered(reply.code());
        Ok(Response::new(reply))
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<v2::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Unary<v2::ForwardMessageToDeadLetterQueueResponse> {
        let work = async {
            let caller = self.caller(request.metadata())?;
            let request = request.into_inner();
            let (group, topic) = (decode::name(request.group), decode::name(request.topic));
            self.gateway.broker.forward_to_dead_letters(&caller, &group, &topic, &request.receipt_handle).await?;
            Ok(v2::ForwardMessageToDeadLetterQueueResponse { status: Some(status::ok()) })
        };
        self.unary(Rpc::ForwardMessageToDeadLetterQueue, Default::default(), work).await
    }

    async fn end_transaction(&self, request: Request<v2::EndTransactionRequest>) -> Unary<v2::EndTransactionResponse> {
        let work = async {
            let caller = self.caller(request.metadata())?;
            let elsewhere = self.elsewhere(request.metadata(), &request.get_ref().transaction_id)?;
            let (metadata, _, request) = request.into_parts();
            if let Some(broker) = elsewhere {
                return self.gateway.forward.end_transaction(&broker, metadata, request).await;
            }
            let (topic, id) = (decode::name(request.topic), request.transaction_id);
            let resolution = decode::resolution(request.resolution);
            self.gateway.broker.end_transaction(&caller, &topic, &id, resolution).await?;
            Ok(v2::EndTransactionResponse { status: Some(status::ok()) })
        };
        self.unary(Rpc::EndTransaction, v2::EndTransactionResponse::default(), work).await
    }

    /// Returns at once, so that the initial headers leave before anything was said (§2: Rust waits for them).
    async fn telemetry(
        &self,
        request: Request<tonic::Streaming<v2::TelemetryCommand>>,
    ) -> Result<Response<Stage>, Status> {
        let caller = self.caller(request.metadata()).map_err(|denial| {
            let call = Call::begin(&*self.gateway.metrics, Rpc::Telemetry);
            call.refused(&denial);
            call.answered(denial.code());
            denial.end_of_stream()
        })?;
        Ok(Response::new(Stage::open(
            self.gateway.clone(),
            caller,
            self.store_host.clone(),
            request.into_inner(),
            self.share.clone(),
        )))
    }

    async fn notify_client_termination(
        &self,
        request: Request<v2::NotifyClientTerminationRequest>,
    ) -> Unary<v2::NotifyClientTerminationResponse> {
        let ok = v2::NotifyClientTerminationResponse { status: Some(status::ok()) };
        let work = async {
            let caller = match self.caller(request.metadata()) {
                // Nobody leaves.
                Err(Denial::ClientIdRequired) => return Ok(ok),
                caller => caller?,
            };
            // Go's producers send an empty group (§4.11).
            let group = request.into_inner().group.map(|group| group.name).filter(|name| !name.is_empty());
            self.gateway.broker.terminate(&caller, group.as_deref())?;
            Ok(ok)
        };
        self.unary(Rpc::NotifyClientTermination, Default::default(), work).await
    }

    async fn change_invisible_duration(
        &self,
        request: Request<v2::ChangeInvisibleDurationRequest>,
    ) -> Unary<v2::ChangeInvisibleDurationResponse> {
        let caller = self.caller(request.metadata());
        let request = request.into_inner();
        let handle = request.receipt_handle;
        // Most clients take over the handle of a failure too: it is the one that they have (§4.7).
        let empty = v2::ChangeInvisibleDurationResponse { status: None, receipt_handle: handle.clone() };
        let work = async {
            let (group, topic) = (decode::name(request.group), decode::name(request.topic));
            let ms = request.invisible_duration.map_or(0, decode::signed_ms);
            let is_suspend = request.suspend.unwrap_or(false);
            let changed =
                self.gateway.broker.change_invisible(&caller?, &group, &topic, &handle, ms, is_suspend).await?;
            Ok(v2::ChangeInvisibleDurationResponse { status: Some(status::ok()), receipt_handle: changed })
        };
        self.unary(Rpc::ChangeInvisibleDuration, empty, work).await
    }

    async fn recall_message(&self, request: Request<v2::RecallMessageRequest>) -> Unary<v2::RecallMessageResponse> {
        let work = async {
            let caller = self.caller(request.metadata())?;
            let elsewhere = self.elsewhere(request.metadata(), &request.get_ref().recall_handle)?;
            let (metadata, _, request) = request.into_parts();
            if let Some(broker) = elsewhere {
                return self.gateway.forward.recall(&broker, metadata, request).await;
            }
            let topic = decode::name(request.topic);
            let message_id = self.gateway.broker.recall(&caller, &topic, &request.recall_handle).await?;
            Ok(v2::RecallMessageResponse { status: Some(status::ok()), message_id })
        };
        self.unary(Rpc::RecallMessage, v2::RecallMessageResponse::default(), work).await
    }

    async fn pull_message(
        &self,
        _: Request<v2::PullMessageRequest>,
    ) -> Result<Response<Self::PullMessageStream>, Status> {
        let denial = Denial::NotImplemented("PullMessage");
        Call::begin(&*self.gateway.metrics, Rpc::PullMessage).answered(denial.code());
        let content = v2::pull_message_response::Content::Status(denial.status());
        Ok(Response::new(tokio_stream::once(Ok(v2::PullMessageResponse { content: Some(content) }))))
    }

    async fn update_offset(&self, _: Request<v2::UpdateOffsetRequest>) -> Unary<v2::UpdateOffsetResponse> {
        self.not_implemented(Rpc::UpdateOffset, "UpdateOffset").await
    }

    async fn get_offset(&self, _: Request<v2::GetOffsetRequest>) -> Unary<v2::GetOffsetResponse> {
        self.not_implemented(Rpc::GetOffset, "GetOffset").await
    }

    async fn query_offset(&self, _: Request<v2::QueryOffsetRequest>) -> Unary<v2::QueryOffsetResponse> {
        self.not_implemented(Rpc::QueryOffset, "QueryOffset").await
    }

    async fn sync_lite_subscription(
        &self,
        _: Request<v2::SyncLiteSubscriptionRequest>,
    ) -> Unary<v2::SyncLiteSubscriptionResponse> {
        self.not_implemented(Rpc::SyncLiteSubscription, "SyncLiteSubscription").await
    }
}

/// One entry for each of the request's, with what it named, and over them what they have in common.
fn ack_reply(entries: Vec<v2::AckMessageEntry>, statuses: impl Iterator<Item = v2::Status>) -> v2::AckMessageResponse {
    let entries: Vec<_> = entries
        .into_iter()
        .take(base::limits::ACK_ENTRIES_MAX)
        .zip(statuses)
        .map(|(entry, status)| v2::AckMessageResultEntry {
            message_id: entry.message_id,
            receipt_handle: entry.receipt_handle,
            status: Some(status),
        })
        .collect();
    let status = status::common(entries.iter().filter_map(|entry| entry.status.as_ref()));
    v2::AckMessageResponse { status: Some(status), entries }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Refusal;

    #[test]
    fn acknowledged_entries_echo_what_they_were_asked_about_in_order() {
        let entries = ["a", "b"].map(|id| v2::AckMessageEntry {
            message_id: id.into(),
            receipt_handle: format!("handle of {id}"),
            lite_topic: None,
        });
        let bad = Denial::from(Refusal::InvalidHandle { problem: "is cut" }).status();
        let reply = ack_reply(entries.to_vec(), [status::ok(), bad.clone()].into_iter());
        assert_eq!(reply.code(), Code::MultipleResults);
        let echoed = reply.entries.iter().map(|entry| (&*entry.message_id, &*entry.receipt_handle));
        assert_eq!(echoed.collect::<Vec<_>>(), [("a", "handle of a"), ("b", "handle of b")]);
        assert_eq!(reply.entries[1].status, Some(bad.clone()));

        let refused = ack_reply(entries.to_vec(), std::iter::repeat(bad));
        assert_eq!((refused.code(), refused.entries.len()), (Code::InvalidReceiptHandle, 2));
    }
}
