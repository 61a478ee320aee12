//! Clients that no library would make: bodies that stop half-way or never end, answers that nobody takes.

use std::future::poll_fn;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use prost::Message;
use proto::v2::{self, Code};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

const SERVICE: &str = "apache.rocketmq.v2.MessagingService";

/// One HTTP/2 connection.
pub struct Connection {
    send: SendRequest<Bytes>,
    pause: Option<oneshot::Sender<()>>,
    /// Held: the connection ends with it.
    _driver: JoinSet<()>,
}

/// A call that has begun.
pub struct Call {
    pub body: SendStream<Bytes>,
    response: ResponseFuture,
}

/// A message as gRPC frames it.
pub fn framed(message: &impl Message) -> Bytes {
    let bytes = message.encode_to_vec();
    [&prefix(bytes.len())[..], &bytes].concat().into()
}

/// What announces a message of `length` bytes.
pub fn prefix(length: usize) -> [u8; 5] {
    let [a, b, c, d] = u32::try_from(length).expect("a length of gRPC").to_be_bytes();
    [0, a, b, c, d]
}

/// A send of one body.
pub fn send_request(topic: &str, id: &str, body: Vec<u8>) -> v2::SendMessageRequest {
    let topic = Some(v2::Resource { name: topic.into(), ..Default::default() });
    let system_properties = v2::SystemProperties { message_id: id.into(), ..Default::default() };
    let message =
        v2::Message { topic, system_properties: Some(system_properties), body: body.into(), ..Default::default() };
    v2::SendMessageRequest { messages: vec![message] }
}

/// A connection whose client has little room for what comes.
pub async fn narrow(address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("an option");
    socket.connect(address.parse().expect("an address")).await.expect("the server is there")
}

impl Connection {
    /// `window`: what the server may send before anything is taken, for the connection and for each call.
    pub async fn open(address: &str, window: u32) -> Self {
        Self::over(TcpStream::connect(address).await.expect("the server is there"), window).await
    }

    /// One whose machine keeps little of what it has not read.
    pub async fn open_narrow(address: &str, window: u32) -> Self {
        Self::over(narrow(address).await, window).await
    }

    async fn over(stream: TcpStream, window: u32) -> Self {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(window.max(65_535));
        let (send, mut connection) = builder.handshake(stream).await.expect("it speaks HTTP/2");
        let (pause, paused) = oneshot::channel();
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            tokio::select! {
                // By the server, or with its owner.
                _ended = &mut connection => {}
                // The socket stays open.
                Ok(()) = paused => std::future::pending().await,
            }
        });
        Self { send, pause: Some(pause), _driver: driver }
    }

    /// Begins a call; none when the connection has ended.
    pub async fn begin(&self, method: &str, client: &str) -> Option<Call> {
        let mut send = self.send.clone().ready().await.ok()?;
        let request = http::Request::post(format!("http://server/{SERVICE}/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-mq-client-id", client)
            .body(())
            .expect("a request");
        let (response, body) = send.send_request(request, false).ok()?;
        Some(Call { body, response })
    }

    /// A whole call of one message.
    pub async fn call(&self, method: &str, client: &str, message: &impl Message) -> Option<Call> {
        let mut call = self.begin(method, client).await?;
        call.body.send_data(framed(message), true).ok()?;
        Some(call)
    }

    /// From here on nothing is read from the socket, and nothing is written.
    pub fn pause(&mut self) {
        let pause = self.pause.take().expect("it was not paused");
        pause.send(()).expect("the connection is there");
    }
}

impl Call {
    /// Sends as the server takes it; false when the call has ended before.
    pub async fn write(&mut self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            self.body.reserve_capacity(bytes.len().min(1 << 20));
            let capacity = match self.body.capacity() {
                0 => poll_fn(|context| self.body.poll_capacity(context)).await,
                capacity => Some(Ok(capacity)),
            };
            let Some(Ok(capacity)) = capacity else { return false };
            let piece = bytes.split_to(capacity.min(bytes.len()));
            if self.body.send_data(piece, false).is_err() {
                return false;
            }
        }
        true
    }

    /// The headers of the answer, once they are there; none when the connection has ended.
    pub async fn answered(&mut self) -> Option<RecvStream> {
        (&mut self.response)
            .await
            .inspect_err(|error| eprintln!("a call ended: {error:?}"))
            .ok()
            .map(http::Response::into_body)
    }

    /// The code of an ordinary reply; none when the connection has ended.
    pub async fn code(&mut self) -> Option<Code> {
        // All replies have their status first.
        let reply: v2::HeartbeatResponse = self.reply().await?;
        Some(reply.status.expect("a status").code())
    }

    /// An ordinary reply; none when the connection has ended. An error of gRPC itself is no ordinary reply.
    pub async fn reply<M: Message + Default>(&mut self) -> Option<M> {
        let mut body = self.answered().await?;
        let mut bytes = Vec::new();
        while let Some(Ok(data)) = body.data().await {
            let _is_open = body.flow_control().release_capacity(data.len());
            bytes.extend_from_slice(&data);
        }
        assert!(bytes.len() >= 5, "an error of gRPC itself");
        let length = usize::try_from(u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]])).expect("a length");
        Some(M::decode(&bytes[5..5 + length]).expect("a reply"))
    }
}
