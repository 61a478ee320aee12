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

/// An answer of whatever form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Whole {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON, if it is.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// A request of any kind. None when the server ends the connection without an answer.
pub async fn call(address: &str, method: &str, path: &str, body: &[u8]) -> Option<Whole> {
    call_with(address, method, path, &[], body).await
}

/// As [`call`], with headers.
pub async fn call_with(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Option<Whole> {
    // A server that refuses what it has not read to its end answers all the same, and ends the connection.
    whole(&exchange(address, method, path, headers, body).await.0)
}

/// What the server says until the connection ends, and how that was.
async fn exchange(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (Vec<u8>, io::Result<()>) {
    let length = body.len();
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         {more}Content-Length: {length}\r\n\r\n"
    );
    let mut answer = Vec::new();
    let work = async {
        let mut stream = TcpStream::connect(address).await?;
        let taken = stream.write_all(&[head.as_bytes(), body].concat()).await;
        stream.read_to_end(&mut answer).await?;
        taken
    };
    let ended = timeout(ANSWERED_WITHIN, work).await.expect("an answer in time");
    (answer, ended)
}

fn whole(answer: &[u8]) -> Option<Whole> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header =
        |line: &str| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().into()));
    let headers: Vec<_> = lines.filter_map(header).collect();
    let is_chunked =
        headers.iter().any(|(name, value): &(String, String)| name == "transfer-encoding" && value == "chunked");
    let body = if is_chunked { unchunked(&answer[end + 4..])? } else { answer[end + 4..].to_vec() };
    Some(Whole { status, headers, body })
}

fn unchunked(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = chunks.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&chunks[..end]).ok()?, 16).ok()?;
        chunks = chunks.get(end + 2..)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(chunks.get(..size)?);
        chunks = chunks.get(size + 2..)?;
    }
}

/// GET of `path` from `host:port`: head and body as they came.
pub async fn page(address: &str, path: &str) -> String {
    let (page, ended) = exchange(address, "GET", path, &[], b"").await;
    ended.expect("the server is there");
    String::from_utf8(page).expect("text")
}

pub async fn get(address: &str, path: &str) -> Answer {
    let page = page(address, path).await;
    let (head, body) = page.split_once("\r\n\r\n").unwrap_or((&page, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.unwrap_or_else(|| panic!("no HTTP: {head}")), body: body.to_owned() }
}
