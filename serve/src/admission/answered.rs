//! What a gRPC client is answered, and what is held until it has taken it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use hyper::body::{Body, Frame};
use tonic::Status;

use super::Held;

/// The body of an answer.
#[derive(Debug)]
pub struct Answered {
    content: Content,
    /// Until the client has taken the answer, or left.
    _held: Option<Held>,
}

#[derive(Debug)]
enum Content {
    Served(tonic::body::Body),
    /// A reply that was encoded before, in gRPC's framing.
    Encoded(Bytes),
    Ended,
    Over,
}

impl Answered {
    pub fn served(response: Response<tonic::body::Body>, held: Option<Held>) -> Response<Self> {
        response.map(|body| Self { content: Content::Served(body), _held: held })
    }

    /// An ordinary reply.
    pub fn encoded(reply: Bytes) -> Response<Self> {
        let mut response = Response::new(Self { content: Content::Encoded(reply), _held: None });
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(header::CONTENT_TYPE, grpc);
        response
    }

    /// An error of gRPC itself.
    pub fn status(status: Status) -> Response<Self> {
        Self::served(status.into_http(), None)
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Content::Served(body) = &mut self.content {
            return Pin::new(body).poll_frame(context);
        }
        let (frame, next) = match std::mem::replace(&mut self.content, Content::Over) {
            Content::Encoded(reply) => (Frame::data(reply), Content::Ended),
            Content::Ended => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                (Frame::trailers(trailers), Content::Over)
            }
            Content::Served(_) | Content::Over => return Poll::Ready(None),
        };
        self.content = next;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Served(body) => body.is_end_stream(),
            Content::Encoded(_) | Content::Ended => false,
            Content::Over => true,
        }
    }
}
