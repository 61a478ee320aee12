//! One GET of a server's health and metrics.

use std::time::Duration;

use tests::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(20);

/// The status of an answer.
pub async fn status(server: &Server, path: &str) -> u16 {
    let answer = get(server, path).await;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("{path}: {answer}"))
}

/// The value of a metric without labels of its own.
pub async fn metric(server: &Server, name: &str) -> f64 {
    let page = get(server, "/metrics").await;
    let line = page.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in:\n{page}"))
}

async fn get(server: &Server, path: &str) -> String {
    let http = server.http();
    let address = http.strip_prefix("http://").expect("as it was made");
    let work = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    };
    timeout(WITHIN, work).await.expect("an answer in time").expect("the server is there")
}
