//! One port for clients and brokers. Routes are answered here, registrations end here, everything else goes to a broker.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::limits::{CALL_BYTES, REQUEST_BYTES_MAX, TELEMETRY_BYTES_MAX};
use cluster::{Place, UPDATE_BYTES_MAX, endpoints};
use http::{HeaderMap, Request, Response, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use proto::cluster::registry_server::RegistryServer;
use proto::codec::{Bounded, blame_caller};
use proto::v2::{self, Code};
use serve::admission::body::{Begun, Message, Received, Unread};
use serve::admission::commands::Commands;
use serve::admission::{Answered, Held, Overload, Share};
use serve::port::Draining;
use serve::runtime;
use tonic::Status;
use tonic::server::Grpc;
use tower::Service as _;

use crate::registry::{Registry, Service};
use crate::relay::{ANSWER_WINDOW, Opened, Relay};

const MESSAGING: &str = "/apache.rocketmq.v2.MessagingService/";
const REGISTRY: &str = "/carillon.cluster.v1.Registry/";
/// Brokers send these on to the one that is meant, or say that it is away.
const FOR_ANY_BROKER: [&str; 2] = ["RecallMessage", "EndTransaction"];

/// Whether a client is there matters to every broker that it may have messages of.
const FOR_ALL_BROKERS: [&str; 2] = ["Heartbeat", "NotifyClientTermination"];
/// They say little: who calls, and a group.
const SHORT_BYTES_MAX: usize = 64 * 1024;
/// For the brokers whose answer nobody waits for.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

/// What all connections share.
#[derive(Debug, Clone)]
pub struct Gateway {
    registry: Arc<Registry>,
    relay: Arc<Relay>,
    draining: Draining,
}

type Answer = Response<tonic::body::Body>;

impl Gateway {
    pub fn new(registry: Arc<Registry>, draining: Draining) -> Self {
        Self { registry, relay: Arc::new(Relay::new()), draining }
    }

    /// `local`: which of our addresses the client used. `share`: of the memory, what its connection may have.
    pub async fn call(
        self,
        local: SocketAddr,
        share: Share,
        request: Request<Incoming>,
    ) -> Result<Response<Answered>, Infallible> {
        let held = share.hold_call(&request);
        let path = request.uri().path();
        let is_registry = path.starts_with(REGISTRY);
        let Some(method) = path.strip_prefix(MESSAGING).or(is_registry.then_some("")).map(str::to_owned) else {
            return Ok(Answered::status(Status::unimplemented(format!("there is no {path} here"))));
        };
        let (head, body) = request.into_parts();
        let mut begun = Begun::new(body);
        let mut held = match held {
            Ok(held) => held,
            Err(full) => return Ok(refuse(&method, &full.into(), begun)),
        };
        if is_registry {
            let request = Request::from_parts(head, Commands::new(begun.into_rest(), share, UPDATE_BYTES_MAX));
            let service = RegistryServer::new(Service(self.registry.clone()));
            let Ok(answer) = service.max_decoding_message_size(UPDATE_BYTES_MAX).call(request).await;
            return Ok(Answered::served(blame_caller(answer), Some(held)));
        }
        let received = match &*method {
            "Telemetry" => {
                Received::Commands(Box::new(Commands::new(begun.into_rest(), share.clone(), TELEMETRY_BYTES_MAX)))
            }
            _ => match receive(&mut begun, &mut held).await {
                Ok(message) => Received::Message(message),
                Err(unread) => return Ok(refuse(&method, &unread, begun)),
            },
        };
        let request = Request::from_parts(head, received);
        let answered = match &*method {
            "QueryRoute" => self.route(local, request).await,
            method if FOR_ALL_BROKERS.contains(&method) => self.tell_all(method, request).await,
            _ => self.relay(&method, request).await,
        };
        let answer = answered.unwrap_or_else(Status::into_http);
        held.shrink(CALL_BYTES);
        if is_poll(&method)
            && let Err(full) = held.grow(ANSWER_WINDOW as usize)
        {
            // The broker sees the call end, and gives its messages to somebody else.
            return Ok(refused(&method, Code::TooManyRequests, &overloaded(full), ""));
        }
        Ok(Answered::served(answer, Some(held)))
    }

    /// Answers from the table. A broker says what nobody is known to serve: its own catalog is newer than what it told us,
    /// and it may create topics by itself.
    async fn route(&self, local: SocketAddr, request: Request<Received<Incoming>>) -> Result<Answer, Status> {
        // Brokers come back one by one: nobody is to be left out.
        let settling = self.registry.settling();
        if !settling.is_zero() {
            tokio::time::sleep(settling).await;
        }
        let (head, body) = request.into_parts();
        let body = Opened::read("QueryRoute", body).await;
        let places = body.topic().map(|topic| self.registry.table().places(topic)).unwrap_or_default();
        let request = Request::from_parts(head, body);
        // Who does not say who is asking is refused, which brokers do too.
        if places.is_empty() || client(request.headers()).is_empty() {
            return self.pass_on("QueryRoute", request).await;
        }
        let here = found_at(request.headers(), request.uri(), local);
        let codec = Bounded::<v2::QueryRouteResponse, v2::QueryRouteRequest>::default();
        Ok(blame_caller(Grpc::new(codec).unary(Routes { places, here }, request).await))
    }

    async fn relay(&self, method: &str, request: Request<Received<Incoming>>) -> Result<Answer, Status> {
        let (head, body) = request.into_parts();
        let body = Opened::read(method, body).await;
        self.pass_on(method, Request::from_parts(head, body)).await
    }

    /// The answer is that of the broker that other calls of this client go to.
    async fn tell_all(&self, method: &str, request: Request<Received<Incoming>>) -> Result<Answer, Status> {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, SHORT_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Status::invalid_argument(format!("{method}: {error}")))?.to_bytes();
        let client = client(&head.headers).to_vec();
        let table = self.registry.table();
        let stale = self.registry.stale();
        let first = table.pick(None, &client, &stale).map(|broker| broker.name.clone());
        let others = table.brokers().filter(|broker| Some(&broker.name) != first.as_ref());
        for broker in others.filter(|broker| !stale.contains(&broker.name)) {
            let (relay, broker, client) = (self.relay.clone(), broker.node.relay.clone(), client.clone());
            let call = Request::from_parts(head.clone(), Opened::whole(body.clone()));
            runtime::spawn(async move {
                // One that does not answer hears of it with the next one.
                let _told = tokio::time::timeout(TOLD_WITHIN, relay.call(&broker, &client, call, None)).await;
            });
        }
        self.pass_on(method, Request::from_parts(head, Opened::whole(body))).await
    }

    async fn pass_on(&self, method: &str, request: Request<Opened>) -> Result<Answer, Status> {
        let client = client(request.headers()).to_vec();
        let topic = request.body().topic();
        let table = self.registry.table();
        let stale = self.registry.stale();
        let key = topic.map_or(&*client, |topic| topic.as_str().as_bytes());
        let mut broker =
            table.pick(topic, key, &stale).ok_or_else(|| Status::unavailable("no broker is registered"))?;
        if FOR_ANY_BROKER.contains(&method) && stale.contains(&broker.name) {
            broker = table.pick(None, key, &stale).unwrap_or(broker);
        }
        // Neither ends by itself soon.
        let is_stream = method == "Telemetry";
        let ending = is_stream.then_some(&self.draining);
        tokio::select! {
            answer = self.relay.call(&broker.node.relay, &client, request, ending) => answer,
            () = self.draining.begins(), if is_stream || is_poll(method) => {
                Err(Status::unavailable("the name server is stopping"))
            }
        }
    }
}

/// Whether a call waits for messages, and its answer may be large.
fn is_poll(method: &str) -> bool {
    matches!(method, "ReceiveMessage" | "PullMessage")
}

async fn receive(begun: &mut Begun<Incoming>, held: &mut Held) -> Result<Message, Unread> {
    begun.length().await?;
    begun.receive(held, REQUEST_BYTES_MAX).await
}

/// Says why a message was not received.
fn refuse(method: &str, unread: &Unread, mut begun: Begun<Incoming>) -> Response<Answered> {
    let (code, text) = match unread {
        Unread::Overload(overload) => (Code::TooManyRequests, overloaded(*overload)),
        Unread::TooSlow { .. } | Unread::Left => (Code::RequestTimeout, unread.to_string()),
    };
    let handle = proto::refused::handle_of(method, |max| begun.so_far(max));
    begun.leave();
    refused(method, code, &text, &handle)
}

fn overloaded(overload: Overload) -> String {
    format!("the name server is at its limit: {overload}")
}

/// An ordinary reply with its status, or the end of a stream that has none.
fn refused(method: &str, code: Code, text: &str, handle: &str) -> Response<Answered> {
    let status = v2::Status { code: code.into(), message: text.into() };
    match proto::refused::reply(method, status, handle) {
        Some(reply) => Answered::encoded(reply.into()),
        None => Answered::status(Status::invalid_argument(text)),
    }
}

/// Who calls; empty when it does not say.
fn client(headers: &HeaderMap) -> &[u8] {
    headers.get("x-mq-client-id").map_or(&[], |id| id.as_bytes().trim_ascii())
}

/// Answers with where a topic is.
struct Routes {
    places: Vec<Place>,
    /// Where the client says nothing better: how it called us.
    here: v2::Endpoints,
}

/// How a client found this name server.
fn found_at(headers: &HeaderMap, uri: &Uri, local: SocketAddr) -> v2::Endpoints {
    let host = || headers.get(header::HOST)?.to_str().ok();
    let authority = uri.authority().map(|authority| authority.as_str()).or_else(host);
    let parsed = authority.and_then(|authority| endpoints::parse(authority, local.port()));
    parsed.unwrap_or_else(|| endpoints::of_address(local))
}

impl tonic::server::UnaryService<v2::QueryRouteRequest> for Routes {
    type Response = v2::QueryRouteResponse;
    type Future = std::future::Ready<Result<tonic::Response<v2::QueryRouteResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<v2::QueryRouteRequest>) -> Self::Future {
        let v2::QueryRouteRequest { topic, endpoints: access_point } = request.into_inner();
        let here = access_point.and_then(|access_point| endpoints::first_of(&access_point));
        let here = here.unwrap_or_else(|| self.here.clone());
        let message_queues = endpoints::queues(&self.places, &topic.unwrap_or_default(), &here);
        let status = Some(v2::Status { code: Code::Ok.into(), message: "OK".into() });
        std::future::ready(Ok(tonic::Response::new(v2::QueryRouteResponse { status, message_queues })))
    }
}
