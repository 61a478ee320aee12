//! One call over HTTP/2, byte by byte as somebody wants it, and what came back.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A server that takes longer for a call that does not wait for messages has lost it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// How long a call that waits is waited for, before the caller leaves.
const PATIENCE: Duration = Duration::from_millis(60);

/// The body of a request: pieces, and how it ends.
#[derive(Debug)]
pub struct Script {
    pub pieces: VecDeque<Bytes>,
    pub end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Closed,
    /// The caller resets the stream.
    Reset,
    /// Nothing more comes, and it does not end.
    Open,
}

impl Script {
    pub fn once(bytes: impl Into<Bytes>) -> Self {
        Self { pieces: [bytes.into()].into(), end: End::Closed }
    }
}

/// The caller has changed its mind.
#[derive(Debug, thiserror::Error)]
#[error("the caller leaves")]
pub struct Left;

impl Body for Script {
    type Data = Bytes;
    type Error = Left;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Left>>> {
        match (self.pieces.pop_front(), self.end) {
            (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            (None, End::Closed) => Poll::Ready(None),
            (None, End::Reset) => Poll::Ready(Some(Err(Left))),
            (None, End::Open) => Poll::Pending,
        }
    }
}

/// What a server said before the caller left or the call ended.
#[derive(Debug, Default)]
pub struct Answer {
    pub http: u16,
    /// Of gRPC; None = the call has not ended.
    pub status: Option<i32>,
    pub text: String,
    /// Whole messages.
    pub messages: Vec<Bytes>,
    /// What is no whole message.
    pub rest: usize,
}

#[derive(Debug)]
pub enum Outcome {
    Answered(Answer),
    /// The caller left first.
    Left,
    /// The connection or the stream ended without an answer.
    Broken(String),
    Lost,
}

/// How long an answer is waited for.
#[derive(Debug, Clone, Copy)]
pub enum Patience {
    /// As long as it takes.
    Answer,
    /// What comes within a moment.
    Moment,
    /// The caller gives up after so many turns of the runtime, wherever the call is then.
    Turns(u64),
}

/// A connection in clear text.
pub struct Connection {
    sender: SendRequest<Script>,
    _driver: JoinSet<()>,
}

impl Connection {
    pub async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = handshake.expect("the server speaks HTTP/2");
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Calls hear of its end.
            let _ended = connection.await;
        });
        Self { sender, _driver: driver }
    }

    pub async fn is_open(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    pub async fn call(&mut self, request: Request<Script>, patience: Patience) -> Outcome {
        let mut answer = Answer::default();
        let work = exchange(&mut self.sender, request, &mut answer);
        let result = match patience {
            Patience::Answer => match timeout(ANSWERED_WITHIN, work).await {
                Ok(result) => Some(result),
                Err(_) => return Outcome::Lost,
            },
            Patience::Moment => timeout(PATIENCE, work).await.ok(),
            Patience::Turns(turns) => tokio::select! {
                biased;
                () = pass(turns) => return Outcome::Left,
                result = work => Some(result),
            },
        };
        match result {
            Some(Err(error)) => Outcome::Broken(error),
            None if answer.http == 0 => Outcome::Left,
            _ => Outcome::Answered(answer),
        }
    }
}

async fn pass(turns: u64) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

async fn exchange(
    sender: &mut SendRequest<Script>,
    request: Request<Script>,
    answer: &mut Answer,
) -> Result<(), String> {
    let say =
        |error: hyper::Error| format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
    let response = sender.send_request(request).await.map_err(say)?;
    let (head, mut body) = response.into_parts();
    answer.http = head.status.as_u16();
    answer.take_status(&head.headers);
    let mut buffer = Vec::new();
    while let Some(frame) = next(&mut body).await {
        match frame.map_err(say)?.into_data() {
            Ok(data) => {
                buffer.extend_from_slice(&data);
                answer.take_messages(&mut buffer);
            }
            Err(frame) => answer.take_status(frame.trailers_ref().unwrap_or(&HeaderMap::new())),
        }
    }
    answer.rest = buffer.len();
    Ok(())
}

async fn next(body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    body.frame().await
}

impl Answer {
    fn take_status(&mut self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(status) = text("grpc-status") {
            self.status = Some(status.parse().unwrap_or(-1));
            self.text = text("grpc-message").unwrap_or_default().to_owned();
        }
    }

    fn take_messages(&mut self, buffer: &mut Vec<u8>) {
        while let Some((prefix, rest)) = buffer.split_first_chunk::<5>() {
            let length = (&prefix[1..]).get_u32() as usize;
            let Some(message) = rest.get(..length) else { break };
            self.messages.push(Bytes::copy_from_slice(message));
            buffer.drain(..5 + length);
        }
    }
}
