//! The smallest HTTP client that the admin API needs: one connection, one call at a time, JSON in and out.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::runtime;

const TIMEOUT: Duration = Duration::from_secs(15);
/// Pages of 1,000 messages with bodies are the largest answers.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why no answer came. The call may have been carried out.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    #[error("the answer cannot be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
}

/// A server's HTTP side.
#[derive(Debug)]
pub struct Http {
    /// `host:port`.
    address: String,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Http {
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), connection: None }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request whose URI is a path, and reads the whole answer.
    pub async fn call(&mut self, mut request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let host = self.address.parse().expect("the address was an authority when it was read");
        request.headers_mut().insert(http::header::HOST, host);
        match runtime::within(TIMEOUT, self.call_unhurried(request.map(Full::new))).await {
            Some(answer) => answer,
            None => {
                // What is still to come on this connection would be taken for the next call's answer.
                self.connection = None;
                Err(HttpError::TimedOut)
            }
        }
    }

    async fn call_unhurried(
        &mut self,
        request: http::Request<Full<Bytes>>,
    ) -> Result<http::Response<Bytes>, HttpError> {
        let mut connection = match self.kept().await {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let answer = connection.send_request(request).await.map_err(HttpError::Broken)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(HttpError::Body)?.to_bytes();
        self.connection = Some(connection);
        Ok(http::Response::from_parts(head, body))
    }

    /// A server may have closed an idle connection: then it is not ready, and nothing was sent on it.
    async fn kept(&mut self) -> Option<SendRequest<Full<Bytes>>> {
        let mut kept = self.connection.take()?;
        kept.ready().await.is_ok().then_some(kept)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, HttpError> {
        let stream = TcpStream::connect(&self.address).await.map_err(HttpError::Connect)?;
        stream.set_nodelay(true).map_err(HttpError::Connect)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(HttpError::Broken)?;
        runtime::start(async move {
            // The call that is under way hears of the same error.
            let _is_told_to_the_caller = driver.await;
        });
        Ok(sender)
    }
}
