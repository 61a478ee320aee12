//! A server in memory that speaks enough of the protocol for the client and the command to be tried: one queue for all
//! topics' messages, delays kept by the clock, order per message group, no durability.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base::{Clock, SystemClock};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use proto::v2::messaging_service_server::{MessagingService, MessagingServiceServer};
use proto::v2::*;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status as CallStatus, Streaming};

/// What the fake keeps and has seen.
#[derive(Default)]
pub struct State {
    pub waiting: VecDeque<Message>,
    /// By handle.
    pub leased: HashMap<String, Message>,
    pub prepared: HashMap<String, Message>,
    pub dead: Vec<Message>,
    pub acked: usize,
    pub heartbeats: usize,
    pub goodbyes: usize,
    pub clients: HashSet<String>,
    /// Streams of producers, to ask them about transactions.
    pub streams: Vec<mpsc::Sender<Result<TelemetryCommand, CallStatus>>>,
    next: i64,
}

#[derive(Clone, Default)]
pub struct Fake(pub Arc<Mutex<State>>);

impl Fake {
    /// Serves on a free port of the loopback for as long as the runtime lives; gives the endpoint.
    pub async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let service = MessagingServiceServer::new(self.clone());
        start(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let service = TowerToHyperService::new(service.clone());
                let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                start(async move {
                    let _is_over = serve.await;
                });
            }
        });
        endpoint
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

#[expect(clippy::disallowed_methods, reason = "tasks of a test")]
fn start(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(work);
}

fn status(code: Code) -> Option<Status> {
    Some(Status { code: code as i32, message: "says the fake".into() })
}

fn is_due(message: &Message) -> bool {
    let due = message.system_properties.as_ref().and_then(|system| system.delivery_timestamp);
    due.is_none_or(|due| due.seconds * 1000 + i64::from(due.nanos) / 1_000_000 <= SystemClock.now().0 as i64)
}

fn group_of(message: &Message) -> Option<&str> {
    message.system_properties.as_ref()?.message_group.as_deref()
}

impl State {
    fn accept(&mut self, mut message: Message) -> SendResultEntry {
        let system = message.system_properties.as_mut().unwrap();
        let is_transaction = system.message_type == MessageType::Transaction as i32;
        system.queue_offset = Some(self.next);
        system.delivery_attempt = Some(0);
        let mut entry = SendResultEntry {
            status: status(Code::Ok),
            message_id: system.message_id.clone(),
            offset: self.next,
            ..SendResultEntry::default()
        };
        self.next += 1;
        if system.delivery_timestamp.is_some() {
            entry.recall_handle = system.message_id.clone();
        }
        if is_transaction {
            entry.transaction_id = system.message_id.clone();
            self.prepared.insert(entry.transaction_id.clone(), message);
        } else {
            self.waiting.push_back(message);
        }
        entry
    }

    /// The next messages of `topic`; a message group with messages in hand is passed over.
    fn hand_out(&mut self, topic: &str, batch: usize) -> Vec<Message> {
        let busy: HashSet<String> = self.leased.values().filter_map(group_of).map(str::to_owned).collect();
        let mut taken = Vec::new();
        let mut kept = VecDeque::with_capacity(self.waiting.len());
        for mut message in std::mem::take(&mut self.waiting) {
            let is_wanted = message.topic.as_ref().is_some_and(|resource| resource.name == topic)
                && is_due(&message)
                && group_of(&message).is_none_or(|group| !busy.contains(group));
            if taken.len() == batch || !is_wanted {
                kept.push_back(message);
                continue;
            }
            let system = message.system_properties.as_mut().unwrap();
            system.delivery_attempt = system.delivery_attempt.map(|attempt| attempt + 1);
            let handle = format!("{}-{}", system.message_id, system.delivery_attempt.unwrap());
            system.receipt_handle = Some(handle.clone());
            self.leased.insert(handle, message.clone());
            taken.push(message);
        }
        self.waiting = kept;
        taken
    }
}

type Answer<T> = Result<Response<T>, CallStatus>;
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, CallStatus>> + Send>>;

#[tonic::async_trait]
impl MessagingService for Fake {
    type ReceiveMessageStream = Replies<ReceiveMessageResponse>;
    type PullMessageStream = Replies<PullMessageResponse>;
    type TelemetryStream = Replies<TelemetryCommand>;

    async fn query_route(&self, request: Request<QueryRouteRequest>) -> Answer<QueryRouteResponse> {
        let request = request.into_inner();
        let topic = request.topic.clone();
        if topic.as_ref().is_some_and(|topic| topic.name == "missing") {
            return Ok(Response::new(QueryRouteResponse { status: status(Code::TopicNotFound), ..Default::default() }));
        }
        let broker = Some(Broker { name: "fake".into(), id: 0, endpoints: request.endpoints });
        let permission = Permission::ReadWrite as i32;
        let queue = MessageQueue { topic, id: 0, permission, broker, accept_message_types: vec![1] };
        Ok(Response::new(QueryRouteResponse { status: status(Code::Ok), message_queues: vec![queue] }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Answer<HeartbeatResponse> {
        let id = request.metadata().get("x-mq-client-id").unwrap().to_str().unwrap().to_owned();
        let mut state = self.state();
        state.heartbeats += 1;
        state.clients.insert(id);
        Ok(Response::new(HeartbeatResponse { status: status(Code::Ok) }))
    }

    async fn send_message(&self, request: Request<SendMessageRequest>) -> Answer<SendMessageResponse> {
        let mut state = self.state();
        let messages = request.into_inner().messages;
        if messages.iter().any(|message| message.body.is_empty()) {
            let entry = SendResultEntry { status: status(Code::MessageBodyEmpty), ..Default::default() };
            let entries = messages.iter().map(|_| entry.clone()).collect();
            return Ok(Response::new(SendMessageResponse { status: status(Code::MessageBodyEmpty), entries }));
        }
        let entries = messages.into_iter().map(|message| state.accept(message)).collect();
        Ok(Response::new(SendMessageResponse { status: status(Code::Ok), entries }))
    }

    async fn receive_message(&self, request: Request<ReceiveMessageRequest>) -> Answer<Self::ReceiveMessageStream> {
        use receive_message_response::Content;
        let request = request.into_inner();
        let topic = request.message_queue.unwrap().topic.unwrap().name;
        let polling = Duration::try_from(request.long_polling_timeout.unwrap()).unwrap();
        let (tick, mut left) = (Duration::from_millis(2), polling);
        let messages = loop {
            let messages = self.state().hand_out(&topic, request.batch_size as usize);
            if !messages.is_empty() || left.is_zero() {
                break messages;
            }
            tokio::time::sleep(tick).await;
            left = left.saturating_sub(tick);
        };
        let code = if messages.is_empty() { Code::MessageNotFound } else { Code::Ok };
        let contents = std::iter::once(Content::Status(status(code).unwrap()))
            .chain(messages.into_iter().map(Content::Message))
            .map(|content| Ok(ReceiveMessageResponse { content: Some(content) }))
            .collect::<Vec<_>>();
        Ok(Response::new(Box::pin(tokio_stream::iter(contents))))
    }

    async fn ack_message(&self, request: Request<AckMessageRequest>) -> Answer<AckMessageResponse> {
        let mut state = self.state();
        let mut entries = Vec::new();
        for entry in request.into_inner().entries {
            let is_known = state.leased.remove(&entry.receipt_handle).is_some();
            state.acked += usize::from(is_known);
            let code = if is_known { Code::Ok } else { Code::InvalidReceiptHandle };
            let AckMessageEntry { message_id, receipt_handle, .. } = entry;
            entries.push(AckMessageResultEntry { message_id, receipt_handle, status: status(code) });
        }
        Ok(Response::new(AckMessageResponse { status: status(Code::Ok), entries }))
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<ForwardMessageToDeadLetterQueueRequest>,
    ) -> Answer<ForwardMessageToDeadLetterQueueResponse> {
        let mut state = self.state();
        let message = state.leased.remove(&request.into_inner().receipt_handle);
        state.dead.extend(message);
        Ok(Response::new(ForwardMessageToDeadLetterQueueResponse { status: status(Code::Ok) }))
    }

    async fn change_invisible_duration(
        &self,
        request: Request<ChangeInvisibleDurationRequest>,
    ) -> Answer<ChangeInvisibleDurationResponse> {
        let mut state = self.state();
        let request = request.into_inner();
        let mut answer = ChangeInvisibleDurationResponse { status: status(Code::Ok), ..Default::default() };
        match state.leased.remove(&request.receipt_handle) {
            None => answer.status = status(Code::InvalidReceiptHandle),
            Some(message) if request.invisible_duration == Some(prost_types::Duration::default()) => {
                answer.receipt_handle = request.receipt_handle;
                state.waiting.push_front(message);
            }
            Some(message) => {
                answer.receipt_handle = format!("{}+", request.receipt_handle);
                state.leased.insert(answer.receipt_handle.clone(), message);
            }
        }
        Ok(Response::new(answer))
    }

    async fn end_transaction(&self, request: Request<EndTransactionRequest>) -> Answer<EndTransactionResponse> {
        let mut state = self.state();
        let request = request.into_inner();
        let code = match state.prepared.remove(&request.transaction_id) {
            None => Code::InvalidTransactionId,
            Some(message) if request.resolution == TransactionResolution::Commit as i32 => {
                state.waiting.push_back(message);
                Code::Ok
            }
            Some(_) => Code::Ok,
        };
        Ok(Response::new(EndTransactionResponse { status: status(code) }))
    }

    async fn telemetry(&self, request: Request<Streaming<TelemetryCommand>>) -> Answer<Self::TelemetryStream> {
        use telemetry_command::Command;
        let mut incoming = request.into_inner();
        let (commands, outgoing) = mpsc::channel(16);
        let fake = self.clone();
        start(async move {
            while let Some(Ok(TelemetryCommand { command: Some(command), .. })) = incoming.next().await {
                if let Command::Settings(settings) = command {
                    if settings.client_type == Some(ClientType::Producer as i32) {
                        fake.state().streams.push(commands.clone());
                    }
                    let answer =
                        TelemetryCommand { status: status(Code::Ok), command: Some(Command::Settings(settings)) };
                    let _is_gone_with_the_client = commands.send(Ok(answer)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn notify_client_termination(
        &self,
        _: Request<NotifyClientTerminationRequest>,
    ) -> Answer<NotifyClientTerminationResponse> {
        self.state().goodbyes += 1;
        Ok(Response::new(NotifyClientTerminationResponse { status: status(Code::Ok) }))
    }

    async fn recall_message(&self, request: Request<RecallMessageRequest>) -> Answer<RecallMessageResponse> {
        let mut state = self.state();
        let handle = request.into_inner().recall_handle;
        let before = state.waiting.len();
        state.waiting.retain(|message| message.system_properties.as_ref().unwrap().message_id != handle);
        let code = if state.waiting.len() < before { Code::Ok } else { Code::MessageNotFound };
        Ok(Response::new(RecallMessageResponse { status: status(code), message_id: handle }))
    }

    async fn query_assignment(&self, _: Request<QueryAssignmentRequest>) -> Answer<QueryAssignmentResponse> {
        Err(CallStatus::unimplemented("fake"))
    }

    async fn pull_message(&self, _: Request<PullMessageRequest>) -> Answer<Self::PullMessageStream> {
        Err(CallStatus::unimplemented("fake"))
    }

    async fn update_offset(&self, _: Request<UpdateOffsetRequest>) -> Answer<UpdateOffsetResponse> {
        Err(CallStatus::unimplemented("fake"))
    }

    async fn get_offset(&self, _: Request<GetOffsetRequest>) -> Answer<GetOffsetResponse> {
        Err(CallStatus::unimplemented("fake"))
    }

    async fn query_offset(&self, _: Request<QueryOffsetRequest>) -> Answer<QueryOffsetResponse> {
        Err(CallStatus::unimplemented("fake"))
    }

    async fn sync_lite_subscription(
        &self,
        _: Request<SyncLiteSubscriptionRequest>,
    ) -> Answer<SyncLiteSubscriptionResponse> {
        Err(CallStatus::unimplemented("fake"))
    }
}
