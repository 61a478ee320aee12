//! Calls that clients make here and brokers answer: passed on as bytes, there and back.
//!
//! Most go to one broker. That a client is there, or leaves, each of them has to know.
//! The broker is found by the topic that the first message of the call names, else by the client's id; the same as long as
//! it is there, so that what was handed out is settled where it was.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base::TopicName;
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioTimer;
use serve::admission::body::Received;
use serve::port::Draining;
use serve::runtime::Tasks;
use tonic::Status;

/// Calls over one connection are bounded by the broker, and Telemetry streams last: clients are spread over several.
const CONNECTIONS: usize = 8;
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// A broker whose machine has gone without a word is given up after this and as long again: its calls end, and the next one connects
/// anew.
const PING_EVERY: Duration = Duration::from_secs(5);
/// A client that says nothing yet may wait for an answer first.
const FIRST_WORD_MAX: Duration = Duration::from_millis(100);
/// What a broker may send of one answer before the client has taken the beginning of it.
pub const ANSWER_WINDOW: u32 = 256 * 1024;
/// One client that takes nothing must not stop the others whose answers come over the same connection: windows of streams
/// bound what waits here, and the larger answers are paid for.
const ANSWERS_WINDOW: u32 = 1 << 30;
/// Tells a broker that the client found a name server, and not it.
const RELAYED: HeaderName = HeaderName::from_static(cluster::RELAYED);
/// gRPC puts this before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// What stands before the name of a topic is shorter in every message.
const BEGINNING_MAX: usize = 16 * 1024;

/// Connections to brokers.
#[derive(Debug)]
pub struct Relay {
    clients: Vec<Client<HttpConnector, Opened>>,
    spread: RandomState,
}

/// The body of a call, of which the beginning was read already.
pub struct Opened<B = Received<Incoming>> {
    first: VecDeque<Frame<Bytes>>,
    topic: Option<TopicName>,
    /// None: there is no more.
    rest: Option<B>,
    ending: Option<Ending>,
}

/// Ends when the name server begins to stop: both directions of a stream do then.
type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a broker answers. However it ends, the client is told in the words of gRPC.
struct Answered {
    body: Incoming,
    ending: Option<Ending>,
    is_over: bool,
}

impl Answered {
    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.is_over = true;
        let mut trailers = HeaderMap::new();
        // Only what is no header fails, and these are ours.
        let _is_complete = status.add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if has_passed(&mut self.ending, context) {
            return self.end(&Status::ok("the name server is stopping"));
        }
        match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Err(error)) => self.end(&Status::unavailable(format!("the broker has gone: {error}"))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }
}

impl Relay {
    pub fn new() -> Self {
        let client = |_| {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            connector.set_connect_timeout(Some(CONNECT_MAX));
            Client::builder(Tasks)
                .http2_only(true)
                .http2_initial_stream_window_size(ANSWER_WINDOW)
                .http2_initial_connection_window_size(ANSWERS_WINDOW)
                .timer(TokioTimer::new())
                .http2_keep_alive_interval(PING_EVERY)
                .http2_keep_alive_timeout(PING_EVERY)
                .build(connector)
        };
        Self { clients: (0..CONNECTIONS).map(client).collect(), spread: RandomState::new() }
    }

    /// Passes a call on to a broker, `host:port`. `client`: whose calls go over one connection. `ending`: when a call
    /// that lasts has to end.
    pub async fn call(
        &self,
        broker: &str,
        client: &[u8],
        call: Request<Opened>,
        ending: Option<&Draining>,
    ) -> Result<Response<tonic::body::Body>, Status> {
        let (mut head, mut body) = call.into_parts();
        let ending = || ending.map(|draining| -> Ending { Box::pin(draining.begins()) });
        body.ending = ending();
        let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let authority = Authority::try_from(broker).map_err(|error| Status::internal(error.to_string()))?;
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(path).build();
        head.uri = uri.map_err(|error| Status::internal(error.to_string()))?;
        head.version = Version::HTTP_2;
        head.headers.remove(header::HOST);
        head.headers.insert(RELAYED, HeaderValue::from_static("1"));
        let number = usize::try_from(self.spread.hash_one(client) % CONNECTIONS as u64).unwrap_or(0);
        let answered = self.clients[number].request(Request::from_parts(head, body)).await;
        let answer = answered.map_err(|error| {
            tracing::debug!(broker, %error, "a call cannot be relayed");
            Status::unavailable(format!("broker {broker} does not answer"))
        })?;
        Ok(answer.map(|body| tonic::body::Body::new(Answered { body, ending: ending(), is_over: false })))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Opened<B> {
    /// Reads what comes first, if it comes soon; of a message that has begun, until it says what topic it is about.
    pub async fn read(method: &str, body: B) -> Self {
        let mut opened = Self { first: VecDeque::new(), topic: None, rest: None, ending: None };
        let rest = opened.rest.insert(body);
        let first = tokio::time::timeout(FIRST_WORD_MAX, rest.frame()).await;
        let Ok(Some(Ok(first))) = first else { return opened };
        let data = first.data_ref().cloned().unwrap_or_default();
        opened.first.push_back(first);
        opened.topic = topic(method, &data);
        if opened.topic.is_some() || !is_cut(method, &data) {
            return opened;
        }
        // On a busy connection a frame may end anywhere.
        let mut beginning = data.to_vec();
        while opened.topic.is_none() && is_cut(method, &beginning) {
            let Some(Ok(next)) = rest.frame().await else { break };
            beginning.extend_from_slice(next.data_ref().map_or(&[][..], |data| &data[..]));
            opened.topic = topic(method, &beginning);
            opened.first.push_back(next);
        }
        opened
    }

    /// A body that was read to its end.
    pub fn whole(bytes: Bytes) -> Self {
        Self { first: VecDeque::from([Frame::data(bytes)]), topic: None, rest: None, ending: None }
    }

    /// The topic that the first message names.
    pub fn topic(&self) -> Option<&TopicName> {
        self.topic.as_ref()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Opened<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(first) = self.first.pop_front() {
            return Poll::Ready(Some(Ok(first)));
        }
        if has_passed(&mut self.ending, context) {
            return Poll::Ready(None);
        }
        self.rest.as_mut().map_or(Poll::Ready(None), |rest| Pin::new(rest).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // Only says how much there is at least; what was read first is a part of it.
        SizeHint::new()
    }
}

fn has_passed(ending: &mut Option<Ending>, context: &mut Context<'_>) -> bool {
    ending.as_mut().is_some_and(|ending| ending.as_mut().poll(context).is_ready())
}

/// The topic that a message names, as far as it is there.
fn topic(method: &str, data: &[u8]) -> Option<TopicName> {
    let is_compressed = data.first().is_none_or(|flag| *flag != 0);
    let message = data.get(PREFIX_BYTES..).filter(|_| !is_compressed)?;
    let name = paths(method).iter().find_map(|path| field(message, path))?;
    TopicName::parse(std::str::from_utf8(name).ok()?).ok()
}

/// Whether there is more of the first message to come that may name its topic.
fn is_cut(method: &str, data: &[u8]) -> bool {
    let Some((prefix, message)) = data.split_at_checked(PREFIX_BYTES) else { return !paths(method).is_empty() };
    let length = prefix[1..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    !paths(method).is_empty() && message.len() < length.min(BEGINNING_MAX)
}

/// Where the requests of a method have the name of a topic: numbers of nested fields.
fn paths(method: &str) -> &'static [&'static [u32]] {
    const TOPIC: u32 = 1;
    const NAME: u32 = 2;
    match method {
        "SendMessage" => &[&[1, TOPIC, NAME]],
        "QueryRoute" | "QueryAssignment" | "EndTransaction" | "RecallMessage" => &[&[TOPIC, NAME]],
        "ReceiveMessage" | "PullMessage" | "UpdateOffset" | "GetOffset" => &[&[2, TOPIC, NAME]],
        "QueryOffset" => &[&[1, TOPIC, NAME]],
        "AckMessage" | "ForwardMessageToDeadLetterQueue" | "ChangeInvisibleDuration" | "SyncLiteSubscription" => {
            &[&[2, NAME]]
        }
        // Settings, of producers and of consumers.
        "Telemetry" => &[&[2, 5, TOPIC, NAME], &[2, 6, 2, TOPIC, NAME]],
        _ => &[],
    }
}

/// The content of a nested field; none when it is not there, or not in what is there so far.
fn field<'a>(mut message: &'a [u8], path: &[u32]) -> Option<&'a [u8]> {
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    let (wanted, deeper) = path.split_first()?;
    while !message.is_empty() {
        let (number, wire_type) = decode_key(&mut message).ok()?;
        if number != *wanted || wire_type != WireType::LengthDelimited {
            skip_field(wire_type, number, &mut message, DecodeContext::default()).ok()?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
        // Of a large message only the beginning may be there yet: names stand before bodies.
        let content = &message[..length.min(message.len())];
        return match deeper {
            [] => (content.len() == length).then_some(content),
            _ => field(content, deeper),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use proto::v2;

    use super::*;

    fn topic() -> Option<v2::Resource> {
        Some(v2::Resource { resource_namespace: "ns".into(), name: "orders".into() })
    }

    fn found(method: &str, message: &[u8]) -> Option<String> {
        let name = paths(method).iter().find_map(|path| field(message, path))?;
        Some(String::from_utf8(name.to_vec()).unwrap())
    }

    #[test]
    fn the_topic_is_found_in_each_kind_of_call() {
        let queue = || Some(v2::MessageQueue { topic: topic(), ..Default::default() });
        let group = Some(v2::Resource { name: "group".into(), ..Default::default() });
        let message = v2::Message { topic: topic(), body: vec![7; 100].into(), ..Default::default() };
        let publishing = v2::Publishing { topics: topic().into_iter().collect(), ..Default::default() };
        let entry = v2::SubscriptionEntry { topic: topic(), expression: None };
        let subscription = v2::Subscription { subscriptions: vec![entry], ..Default::default() };
        let settings = |pub_sub| {
            let settings = v2::Settings { pub_sub: Some(pub_sub), ..Default::default() };
            let command = Some(v2::telemetry_command::Command::Settings(settings));
            v2::TelemetryCommand { status: None, command }.encode_to_vec()
        };
        use v2::settings::PubSub;
        let calls = [
            ("QueryRoute", v2::QueryRouteRequest { topic: topic(), endpoints: None }.encode_to_vec()),
            ("SendMessage", v2::SendMessageRequest { messages: vec![message] }.encode_to_vec()),
            ("QueryAssignment", v2::QueryAssignmentRequest { topic: topic(), ..Default::default() }.encode_to_vec()),
            (
                "ReceiveMessage",
                v2::ReceiveMessageRequest { group: group.clone(), message_queue: queue(), ..Default::default() }
                    .encode_to_vec(),
            ),
            ("AckMessage", v2::AckMessageRequest { group, topic: topic(), entries: Vec::new() }.encode_to_vec()),
            ("EndTransaction", v2::EndTransactionRequest { topic: topic(), ..Default::default() }.encode_to_vec()),
            ("RecallMessage", v2::RecallMessageRequest { topic: topic(), ..Default::default() }.encode_to_vec()),
            (
                "ChangeInvisibleDuration",
                v2::ChangeInvisibleDurationRequest { topic: topic(), ..Default::default() }.encode_to_vec(),
            ),
            ("QueryOffset", v2::QueryOffsetRequest { message_queue: queue(), ..Default::default() }.encode_to_vec()),
            ("Telemetry", settings(PubSub::Publishing(publishing))),
            ("Telemetry", settings(PubSub::Subscription(subscription))),
        ];
        for (method, bytes) in &calls {
            assert_eq!(found(method, bytes).as_deref(), Some("orders"), "{method}");
        }
        assert_eq!(found("Heartbeat", &calls[0].1), None);
        assert_eq!(found("SendMessage", &calls[1].1[..40]).as_deref(), Some("orders"), "the body is not there yet");
    }

    #[tokio::test]
    async fn a_message_is_read_until_it_names_its_topic_and_passed_on_whole() {
        let message = v2::Message { topic: topic(), body: vec![7; 100].into(), ..Default::default() };
        let message = v2::SendMessageRequest { messages: vec![message] }.encode_to_vec();
        let mut whole = vec![0];
        whole.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        whole.extend_from_slice(&message);
        for size in [1, 2, 5, 7, 50, 1000] {
            // An empty frame is one too.
            let pieces = std::iter::once(&[][..]).chain(whole.chunks(size)).map(Bytes::copy_from_slice);
            let pieces = pieces.map(|piece| Ok::<_, hyper::Error>(Frame::data(piece)));
            let body = http_body_util::StreamBody::new(tokio_stream::iter(pieces.collect::<Vec<_>>()));
            let opened = Opened::read("SendMessage", body).await;
            assert_eq!(opened.topic().map(TopicName::as_str), Some("orders"), "frames of {size}");
            assert!(
                size > 50 || opened.first.len() * size < whole.len(),
                "frames of {size}: the body is not waited for"
            );
            assert_eq!(opened.collect().await.unwrap().to_bytes(), whole, "frames of {size}");
        }
    }

    #[tokio::test]
    async fn a_message_without_a_topic_is_read_to_its_end_and_no_further() {
        let whole = [&[0, 0, 0, 0, 3][..], &[0xff; 3], b"the next one"].concat();
        let pieces: Vec<_> = whole.chunks(1).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
        let body = http_body_util::StreamBody::new(tokio_stream::iter::<Vec<Result<_, hyper::Error>>>(pieces));
        let opened = Opened::read("SendMessage", body).await;
        assert_eq!((opened.topic(), opened.first.len()), (None, 8));
        assert_eq!(opened.collect().await.unwrap().to_bytes(), whole);
    }

    #[test]
    fn what_is_cut_or_no_message_names_no_topic() {
        let bytes = v2::QueryRouteRequest { topic: topic(), endpoints: None }.encode_to_vec();
        for length in 0..bytes.len() {
            assert_eq!(found("QueryRoute", &bytes[..length]), None, "{length} bytes");
        }
        assert_eq!(found("QueryRoute", &[0xff; 64]), None);
        assert_eq!(found("QueryRoute", &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1]), None, "a length of gigabytes");
    }
}
