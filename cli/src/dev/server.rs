//! The server of `carillon dev`, seen from outside: what it is given, what it says, how it may fail.

use std::path::PathBuf;

use broker::admin::{NewGroup, NewTopic};
use broker::config::Config;
use broker::server::Server;
use serve::process::{Exit, Failure};
use serve::stop::Stop;
use storage::log::recovery::Report;

use crate::values::TopicSpec;

/// What a server is started with. The configuration has been checked; the directory exists.
#[derive(Debug, Clone)]
pub struct Start {
    pub config: Config,
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
}

/// Runs the server on this thread until `stop` is requested and everything is settled. `ready` is called once, when the
/// store is recovered, the topics exist and the listeners are open.
pub fn run(start: Start, ready: impl FnOnce(Ports), mut stop: Stop) -> Result<(), Failure> {
    let within = start.config.shutdown.timeout;
    let server = Server::start(&start.config, &start.data)?;
    say_what_was_found(server.report());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let created = create(&server, &start).await;
        if created.is_ok() {
            let http = server.http_address().map(|address| address.port());
            ready(Ports { grpc: server.grpc_address().port(), http });
            stop.requested().await;
        }
        let is_quiet = server.stop(within).await;
        if !is_quiet {
            tracing::warn!(timeout = ?within, "calls in progress were cut off; nothing acknowledged is lost");
        }
        created
    })
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

fn say_what_was_found(report: &Report) {
    for hole in &report.quarantined {
        tracing::error!(from = hole.start.0, to = hole.end.0, "a part of the log is damaged; the rest is served");
    }
    tracing::info!(batches = report.batches, bytes = report.bytes, rewritten = report.rewritten, "log recovered");
}
