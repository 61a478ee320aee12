//! The server of `carillon dev`, seen from outside: what it is given, what it says, how it may fail.

use std::path::PathBuf;

use broker::admin::{NewGroup, NewTopic};
use broker::config::Config;
use broker::server::Server;
use serve::process::{Exit, Failure};
use serve::runtime;
use serve::stop::Stop;

use crate::values::TopicSpec;

/// What a server is started with. The configuration has been checked; the directory exists.
#[derive(Debug, Clone)]
pub struct Start {
    pub config: Config,
    pub nameserver: nameserver::config::Config,
    pub data: PathBuf,
    /// To create before the server is ready; there already with the same settings is fine.
    pub topics: Vec<TopicSpec>,
    pub groups: Vec<NewGroup>,
}

/// The ports that listen, chosen or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub grpc: u16,
    /// None when it is switched off.
    pub http: Option<u16>,
    pub nameserver: u16,
}

/// Runs the server on this thread until `stop` is requested and everything is settled. `ready` is called once, when the
/// store is recovered, the topics exist and the listeners are open.
pub fn run(start: Start, ready: impl FnOnce(Ports), mut stop: Stop) -> Result<(), Failure> {
    let within = start.config.shutdown.timeout;
    let nameserver = nameserver::server::Server::start(&start.nameserver)?;
    let mut config = start.config.clone();
    // Where it listens on every address, this machine reaches it here.
    let port = nameserver.address().port();
    let here = nameserver.address().ip();
    let here = if here.is_unspecified() { std::net::Ipv4Addr::LOCALHOST.into() } else { here };
    config.nameservers.push(std::net::SocketAddr::new(here, port).to_string());
    runtime::block_on(async {
        let result = serve(&start, &config, &nameserver, ready, &mut stop).await;
        nameserver.stop(within).await;
        result
    })
}

async fn serve(
    start: &Start,
    config: &Config,
    nameserver: &nameserver::server::Server,
    ready: impl FnOnce(Ports),
    stop: &mut Stop,
) -> Result<(), Failure> {
    let server = Server::start_with(config, &start.data, nameserver.table_routes())?;
    server.tell_what_was_found();
    let created = create(&server, start).await;
    if created.is_ok() {
        let http = server.http_address().map(|address| address.port());
        ready(Ports { grpc: server.grpc_address().port(), http, nameserver: nameserver.address().port() });
        stop.requested().await;
    }
    server.stop(config.shutdown.timeout).await;
    created
}

async fn create(server: &Server, start: &Start) -> Result<(), Failure> {
    for topic in &start.topics {
        let topic_type = topic.topic_type.of_broker();
        let new = NewTopic {
            name: topic.name.clone(),
            topic_type,
            queues: topic.queues,
            retention: None,
            retention_bytes: None,
        };
        let created = server.broker().create_topic(new).await;
        created.map_err(|refusal| Failure::new(Exit::Configuration, format!("--topics: {refusal}")))?;
    }
    for group in &start.groups {
        let created = server.broker().create_group(group.clone()).await;
        created.map_err(|refusal| Failure::new(Exit::Failed, format!("group {}: {refusal}", group.name)))?;
    }
    Ok(())
}
