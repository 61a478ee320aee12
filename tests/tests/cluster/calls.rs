//! Calls of the messaging service as they stand on the wire, where the client library says less than a test wants.

use std::time::Duration;

use proto::v2::messaging_service_client::MessagingServiceClient;
use proto::v2::{self, Code, Permission};
use tests::cluster::Node;
use tonic::transport::{Channel, Endpoint};

const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// A queue of a route: broker, address, number, and whether it takes messages.
pub type Queue = (String, String, i32, bool);

/// A connection to one node, with the name of a client. A call that broke below the protocol is refused as UNSPECIFIED.
pub struct Caller {
    rpc: MessagingServiceClient<Channel>,
    client_id: Option<String>,
    address: String,
}

impl Caller {
    /// Connects with the first call.
    pub fn new(node: &Node) -> Self {
        let address = node.address();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let channel = endpoint.connect_timeout(ANSWERED_WITHIN).connect_lazy();
        Self { rpc: MessagingServiceClient::new(channel), client_id: Some(format!("test@{address}")), address }
    }

    pub fn without_client_id(node: &Node) -> Self {
        Self { client_id: None, ..Self::new(node) }
    }

    fn request<T>(&self, call: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(call);
        request.set_timeout(ANSWERED_WITHIN);
        if let Some(id) = &self.client_id {
            request.metadata_mut().insert("x-mq-client-id", id.parse().expect("ASCII"));
        }
        request
    }

    /// As a client asks that was given this node.
    pub async fn route(&self, name: &str) -> Result<Vec<Queue>, Code> {
        self.route_for(name, &[&self.address]).await
    }

    /// As a client asks that was given these addresses.
    pub async fn route_for(&self, name: &str, access_point: &[&str]) -> Result<Vec<Queue>, Code> {
        let call = v2::QueryRouteRequest { topic: topic(name), endpoints: Some(endpoints(access_point)) };
        let answer = self.rpc.clone().query_route(self.request(call)).await;
        let answer = sound(answer)?;
        checked(answer.status)?;
        Ok(answer.message_queues.into_iter().map(queue).collect())
    }

    pub async fn assignment(&self, name: &str, group: &str) -> Result<Vec<Queue>, Code> {
        self.assignment_for(name, group, &self.address).await
    }

    /// As a client asks that was given another access point.
    pub async fn assignment_for(&self, name: &str, group: &str, access_point: &str) -> Result<Vec<Queue>, Code> {
        let endpoints = Some(endpoints(&[access_point]));
        let call = v2::QueryAssignmentRequest { topic: topic(name), group: topic(group), endpoints };
        let answer = self.rpc.clone().query_assignment(self.request(call)).await;
        let answer = sound(answer)?;
        checked(answer.status)?;
        Ok(answer.assignments.into_iter().filter_map(|assignment| assignment.message_queue).map(queue).collect())
    }

    /// One message in its order.
    pub async fn send(&self, name: &str, body: &'static str, message_group: &str) -> Result<(), Code> {
        let properties = v2::SystemProperties {
            message_id: format!("{name}-{body}"),
            message_type: v2::MessageType::Fifo.into(),
            message_group: Some(message_group.into()),
            ..v2::SystemProperties::default()
        };
        let (user_properties, body) = (std::collections::HashMap::default(), body.into());
        let message = v2::Message { topic: topic(name), user_properties, system_properties: Some(properties), body };
        let answer =
            self.rpc.clone().send_message(self.request(v2::SendMessageRequest { messages: vec![message] })).await;
        checked(sound(answer)?.status)
    }

    /// The first half of a transaction; the id of its message.
    pub async fn send_half(&self, name: &str) -> Result<String, Code> {
        let properties = v2::SystemProperties {
            message_id: format!("{name}-half"),
            message_type: v2::MessageType::Transaction.into(),
            ..v2::SystemProperties::default()
        };
        let (user_properties, body) = (std::collections::HashMap::default(), name.to_owned().into());
        let message = v2::Message { topic: topic(name), user_properties, system_properties: Some(properties), body };
        let answer =
            self.rpc.clone().send_message(self.request(v2::SendMessageRequest { messages: vec![message] })).await;
        let mut answer = sound(answer)?;
        checked(answer.status)?;
        Ok(answer.entries.pop().expect("one was sent").message_id)
    }

    pub async fn heartbeat(&self, group: &str) -> Result<(), Code> {
        let call = v2::HeartbeatRequest { group: topic(group), client_type: v2::ClientType::SimpleConsumer.into() };
        let answer = self.rpc.clone().heartbeat(self.request(call)).await;
        checked(sound(answer)?.status)
    }

    /// The client says goodbye.
    pub async fn leave(&self, group: &str) -> Result<(), Code> {
        let call = v2::NotifyClientTerminationRequest { group: topic(group) };
        let answer = self.rpc.clone().notify_client_termination(self.request(call)).await;
        checked(sound(answer)?.status)
    }

    /// Who calls.
    pub fn client_id(&self) -> &str {
        self.client_id.as_deref().unwrap_or_default()
    }

    /// The id of the message that was taken back.
    pub async fn recall(&self, name: &str, handle: &str) -> Result<String, Code> {
        let call = v2::RecallMessageRequest { topic: topic(name), recall_handle: handle.into() };
        let answer = self.rpc.clone().recall_message(self.request(call)).await;
        let answer = sound(answer)?;
        checked(answer.status).map(|()| answer.message_id)
    }

    pub async fn commit(&self, name: &str, transaction_id: &str) -> Result<(), Code> {
        let call = v2::EndTransactionRequest {
            topic: topic(name),
            transaction_id: transaction_id.into(),
            resolution: v2::TransactionResolution::Commit.into(),
            source: v2::TransactionSource::SourceClient.into(),
            ..v2::EndTransactionRequest::default()
        };
        let answer = self.rpc.clone().end_transaction(self.request(call)).await;
        checked(sound(answer)?.status)
    }
}

fn topic(name: &str) -> Option<v2::Resource> {
    Some(v2::Resource { name: name.into(), ..v2::Resource::default() })
}

fn endpoints(addresses: &[&str]) -> v2::Endpoints {
    let address = |text: &&str| {
        let (host, port) = text.rsplit_once(':').expect("host:port");
        v2::Address { host: host.into(), port: port.parse().expect("a port") }
    };
    v2::Endpoints { scheme: v2::AddressScheme::IPv4.into(), addresses: addresses.iter().map(address).collect() }
}

fn sound<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, Code> {
    answer.map(tonic::Response::into_inner).map_err(|_| Code::Unspecified)
}

fn checked(status: Option<v2::Status>) -> Result<(), Code> {
    match status.expect("every answer has a status").code() {
        Code::Ok => Ok(()),
        code => Err(code),
    }
}

fn queue(queue: v2::MessageQueue) -> Queue {
    let is_writable = queue.permission() == Permission::ReadWrite;
    let broker = queue.broker.expect("a queue is somewhere");
    let addresses = broker.endpoints.expect("a broker has an address").addresses;
    assert_eq!(addresses.len(), 1, "{addresses:?}");
    (broker.name, format!("{}:{}", addresses[0].host, addresses[0].port), queue.id, is_writable)
}
