//! What a server's health and metrics say.

use tests::server::Server;

/// The status of an answer.
pub async fn status(server: &Server, path: &str) -> u16 {
    let answer = server.page(path).await;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("{path}: {answer}"))
}

/// The value of a metric without labels of its own.
pub async fn metric(server: &Server, name: &str) -> f64 {
    let page = server.page("/metrics").await;
    let line = page.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in:\n{page}"))
}
