//! `carillon dev` as a person starts it.

use std::time::Duration;

use serde_json::Value;
use tests::server::Server;
use tokio::time::{interval, timeout};

/// Messages of the demo's orders that its group has acknowledged.
async fn billed(server: &Server) -> u64 {
    let text = server.administer(&["group", "describe", "demo-billing", "--json"]).await;
    let group: Value = serde_json::from_str(&text).expect("JSON");
    let queues = group["topics"][0]["queues"].as_array().cloned().unwrap_or_default();
    queues.iter().filter_map(|queue| queue["floor"].as_u64()).sum()
}

#[tokio::test]
async fn the_demo_sells_bills_and_reminds_by_itself() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::new(&directory.path().join("data"), &["--demo"]);
    server.start().await;
    let is_at_work = async {
        let mut look = interval(Duration::from_millis(100));
        loop {
            look.tick().await;
            let topics = server.administer(&["topic", "list", "--json"]).await;
            let topics: Value = serde_json::from_str(&topics).expect("JSON");
            let reminders = topics["items"].as_array().expect("a list").iter();
            let pending = reminders.filter_map(|topic| topic["timers_pending"].as_u64()).max();
            if billed(&server).await >= 5 && pending.is_some_and(|pending| pending > 0) {
                break;
            }
        }
    };
    let done = timeout(Duration::from_secs(60), is_at_work).await;
    assert!(done.is_ok(), "nothing is sold and billed; the server's log:\n{}", server.log());
    server.kill().await;
}
