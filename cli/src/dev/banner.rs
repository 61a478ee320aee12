//! What a server says when it is ready: where it is, and how to send a first message.

use std::path::Path;
use std::time::Instant;

use broker::config::Config;

use super::server::Ports;
use crate::values::{TopicSpec, TopicType};

pub fn print(config: &Config, data: &Path, topics: &[TopicSpec], ports: Ports, started: Instant) {
    println!("{}", text(config, data, topics, ports));
    // People and scripts wait for this line; it comes last.
    println!("ready in {} ms", started.elapsed().as_millis());
}

/// Where a client on this machine reaches the server.
pub fn grpc(config: &Config, ports: Ports) -> String {
    format!("{}:{}", reachable(&config.grpc.listen), ports.grpc)
}

fn text(config: &Config, data: &Path, topics: &[TopicSpec], ports: Ports) -> String {
    let grpc = grpc(config, ports);
    let mut text = format!("Carillon {}\n", env!("CARGO_PKG_VERSION"));
    text += &format!("  gRPC    {grpc}  for RocketMQ 5 clients\n");
    if let Some(http) = ports.http {
        text += &format!("  HTTP    http://{}:{http}  admin API, health, /metrics\n", reachable(&config.http.listen));
    }
    text += &format!(
        "  names   {}:{}  name server, for RocketMQ 5 clients too\n",
        reachable(&config.grpc.listen),
        ports.nameserver
    );
    text += &format!("  data    {}\n", data.display());
    text += &format!("  topics  {}\n", topics_text(config, topics));
    text + &format!("\nA first message, in Python (pip install rocketmq-python-client):\n\n{}", snippet(&grpc, topics))
}

/// The host that a client on this machine uses: nobody can connect to "all addresses".
fn reachable(listen: &str) -> &str {
    match listen.rsplit_once(':').map_or(listen, |(host, _)| host) {
        "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        host => host,
    }
}

fn topics_text(config: &Config, topics: &[TopicSpec]) -> String {
    let one = |topic: &TopicSpec| {
        format!("{} ({}, {} queues)", topic.name, format!("{:?}", topic.topic_type).to_lowercase(), topic.queues)
    };
    let mut parts: Vec<_> = topics.iter().map(one).collect();
    if config.topics.auto_create {
        parts.push("unknown ones are created".into());
    }
    if parts.is_empty() { "as they were".into() } else { parts.join(", ") }
}

fn snippet(grpc: &str, topics: &[TopicSpec]) -> String {
    let plain = topics.iter().find(|topic| topic.topic_type == TopicType::Normal);
    let fifo = topics.iter().find(|topic| topic.topic_type == TopicType::Fifo);
    let (topic, group) = match (plain, fifo) {
        (Some(plain), _) => (plain.name.as_str(), ""),
        (None, Some(fifo)) => (fifo.name.as_str(), "  message.message_group = \"customer-7\"\n"),
        (None, None) => ("hello", ""),
    };
    format!(
        "  from rocketmq import ClientConfiguration, Credentials, Message, Producer\n\
         \x20 producer = Producer(ClientConfiguration(\"{grpc}\", Credentials()), (\"{topic}\",))\n\
         \x20 producer.startup()\n\
         \x20 message = Message()\n\
         \x20 message.topic, message.body = \"{topic}\", b\"hello\"\n\
         {group}\
         \x20 print(producer.send(message).message_id)\n\
         \x20 producer.shutdown()\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_snippet_speaks_to_the_chosen_port_and_a_topic_that_takes_it() {
        let topic = |name: &str, topic_type| TopicSpec { name: name.into(), topic_type, queues: 1 };
        let topics = [topic("later", TopicType::Delay), topic("orders", TopicType::Fifo)];
        let mut config = Config::default();
        config.grpc.listen = "0.0.0.0:0".into();
        let text = text(&config, Path::new("./data"), &topics, Ports { grpc: 4711, http: None, nameserver: 9876 });
        assert!(text.contains("ClientConfiguration(\"127.0.0.1:4711\", Credentials()), (\"orders\",)"), "{text}");
        assert!(text.contains("  message.message_group = "), "{text}");
        assert!(!text.contains("HTTP"), "{text}");
        let plain = snippet("h:1", &[topic("plain", TopicType::Normal)]);
        assert!(plain.contains("\"plain\"") && !plain.contains("message_group"), "{plain}");
    }
}
