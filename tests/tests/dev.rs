//! `carillon dev` as a person starts it.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;
use tests::server::Server;
use tokio::net::TcpStream;
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

#[tokio::test]
async fn both_servers_answer_operators_on_one_port() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut server = Server::new(&directory.path().join("data"), &["--topics", "orders:fifo:3"]);
    server.start().await;
    let ports = std::fs::read_to_string(server.data().join("ports.json")).expect("it is ready");
    let ports: Value = serde_json::from_str(&ports).expect("JSON");
    assert!(server.grpc().ends_with(&format!(":{}", ports["grpc"])), "{ports}");
    assert!(server.http().ends_with(&format!(":{}", ports["http"])), "{ports}");
    // Where it was given none, it took a free one.
    let nameserver =
        (Ipv4Addr::LOCALHOST, ports["nameserver"].as_u64().and_then(|it| u16::try_from(it).ok()).expect("a port"));
    TcpStream::connect(nameserver).await.expect("somebody listens");
    let own = server.administer(&["node", "list", "--json"]).await;
    let own: Value = serde_json::from_str(&own).expect("JSON");
    let name = own["items"][0]["name"].as_str().expect("a name");
    assert_eq!(server.administer(&["nameserver", "list", "-q"]).await.trim(), name);
    let routes = server.administer(&["nameserver", "routes", "orders", "--json"]).await;
    let routes: Value = serde_json::from_str(&routes).expect("JSON");
    assert_eq!(
        (&routes["brokers"][0]["broker"], &routes["brokers"][0]["queues"]),
        (&name.into(), &3.into()),
        "{routes}"
    );
    let description = server.page("/api/v1/openapi.json").await;
    for path in ["/api/v1/brokers", "/api/v1/routes/{topic}", "/api/v1/topics"] {
        assert!(description.contains(&format!("\"{path}\"")), "{path} is not described");
    }
    assert!(description.contains("RouteJson") && description.contains("TopicJson"), "with their answers");
    server.kill().await;
}
