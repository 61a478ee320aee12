//! HTTP as far as tests need it: one request on a connection of its own.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one request may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The body, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// GET of `path` from `host:port`: head and body as they came.
pub async fn page(address: &str, path: &str) -> String {
    exchange(address, &format!("GET {path}"), "").await.expect("the server is there")
}

pub async fn get(address: &str, path: &str) -> Answer {
    answer(&page(address, path).await)
}

/// POST of JSON.
pub async fn post(address: &str, path: &str, body: &Value) -> Answer {
    let exchanged = exchange(address, &format!("POST {path}"), &body.to_string()).await;
    answer(&exchanged.expect("the server is there"))
}

async fn exchange(address: &str, line: &str, body: &str) -> io::Result<String> {
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    let work = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    };
    timeout(ANSWERED_WITHIN, work).await.expect("an answer in time")
}

fn answer(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.unwrap_or_else(|| panic!("no HTTP: {head}")), body: body.to_owned() }
}
