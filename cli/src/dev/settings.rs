//! The settings of `carillon dev`: its own presets, then file, environment and flags.

use broker::config::{Config, Http, Node, Runtime};
use serve::process::Failure;

use super::Options;

type Layers = serve::settings::Layers<Config>;

/// The table of contents of a server on one's own machine: reachable from there only, and unknown topics are welcome.
const PRESETS: [(&str, &str); 4] = [
    ("data", "./data"),
    ("grpc.listen", "127.0.0.1:8081"),
    ("http.listen", "127.0.0.1:8080"),
    ("topics.auto_create", "true"),
];

const NAMESERVER_PORT: u16 = 9876;

pub fn read(options: &Options, variables: impl IntoIterator<Item = (String, String)>) -> Result<Config, Failure> {
    let mut layers = Layers::new();
    for (key, value) in PRESETS {
        layers.preset(key, value);
    }
    options.arguments.add(&mut layers, variables)?;
    if let Some(data) = &options.data {
        layers.flag("--data", "data", &data.display().to_string());
    }
    listen(&mut layers, options, "grpc.listen", "--port-grpc", options.port_grpc);
    listen(&mut layers, options, "http.listen", "--port-http", options.port_http);
    options.arguments.build(layers)
}

/// The name server beside the broker: of the same cluster, on the same address.
pub fn nameserver(options: &Options, config: &Config) -> nameserver::config::Config {
    let host = split(&config.grpc.listen).0;
    // Who moves the broker runs a second server here: its name server gives way too.
    let default = if options.port_grpc.is_some() { 0 } else { NAMESERVER_PORT };
    let port = options.port_nameserver.unwrap_or(default);
    nameserver::config::Config {
        cluster: config.cluster.clone(),
        node: Node { name: format!("{}-nameserver", config.node.name) },
        listen: format!("{host}:{port}"),
        // Its table is on the broker's port. Its metrics would be a second page: it has none here.
        http: Http { listen: String::new() },
        tls: config.tls.clone(),
        log: config.log.clone(),
        shutdown: config.shutdown.clone(),
        runtime: Runtime { workers: 1 },
        ..nameserver::config::Config::default()
    }
}

/// Says so when others can reach the server: there is no login yet.
pub fn warn_of_open_listeners(config: &Config) {
    for (key, address) in [("grpc.listen", &config.grpc.listen), ("http.listen", &config.http.listen)] {
        let host = split(address).0;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_loopback =
            bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if !address.is_empty() && !is_loopback {
            eprintln!("warning: {key} = {address} is open to others, without a login");
        }
    }
}

/// The flags for address and port change one half each of what the weaker layers say.
fn listen(layers: &mut Layers, options: &Options, key: &str, port_flag: &str, port: Option<u16>) {
    let current = layers.current(key).unwrap_or_default().to_owned();
    let is_off = current.is_empty();
    if (options.listen.is_none() && port.is_none()) || (is_off && port.is_none()) {
        return;
    }
    let (host, old_port) = if is_off { ("127.0.0.1", "0") } else { split(&current) };
    let host = match options.listen {
        Some(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        Some(address) => address.to_string(),
        None => host.to_owned(),
    };
    let flag = if port.is_some() { port_flag } else { "--listen" };
    let port = port.map_or_else(|| old_port.to_owned(), |port| port.to_string());
    layers.flag(flag, key, &format!("{host}:{port}"));
}

fn split(address: &str) -> (&str, &str) {
    address.rsplit_once(':').unwrap_or((address, ""))
}
