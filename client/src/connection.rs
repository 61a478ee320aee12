//! One connection to a server, and the identity that calls carry.

use std::sync::Arc;
use std::time::Duration;

use proto::v2;
use proto::v2::messaging_service_client::MessagingServiceClient;
use tokio::sync::mpsc;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::consumer::{Filter, SimpleConsumer};
use crate::error::{Error, check};
use crate::message_id::client_id;
use crate::producer::{Orphan, Producer};
use crate::runtime::host;

/// A connection on which nothing is heard is given up: what lies between the two ends may have forgotten it, and neither would
/// be told. The next call opens another one.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_MAX: Duration = Duration::from_secs(5);

/// What may be chosen about a connection.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long to wait for an answer; polls wait for their polling time more. Default 3 s, as the official clients.
    pub request_timeout: Duration,
    /// Prefix that some servers keep tenants apart with. Default none.
    pub namespace: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { request_timeout: Duration::from_secs(3), namespace: String::new() }
    }
}

/// A connection in clear text. Cheap to clone; a lost connection is opened again by the next call, one that has fallen silent
/// is lost after 15 s.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    rpc: MessagingServiceClient<Channel>,
    access_point: v2::Endpoints,
    options: Options,
    host: String,
}

impl Client {
    /// Connects to `host:port`, with or without `http://` before it.
    pub async fn connect(endpoint: &str, options: Options) -> Result<Self, Error> {
        let (uri, access_point) = parse(endpoint)?;
        let channel = Endpoint::from(uri)
            .connect_timeout(options.request_timeout)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_MAX)
            .connect()
            .await
            .map_err(|source| Error::Unreachable { endpoint: endpoint.to_owned(), source })?;
        // A message may be larger than the 4 MiB that tonic takes by default; the server bounds what it sends.
        let rpc = MessagingServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        Ok(Self { shared: Arc::new(Shared { rpc, access_point, options, host: host() }) })
    }

    /// A producer that announces `topics`; it may send to others, but is not asked about their transactions.
    pub async fn producer(&self, topics: &[&str]) -> Result<Producer, Error> {
        Producer::start(self.caller()?, topics, None).await
    }

    /// A producer that is asked about undecided transactions of `topics` through `orphans`. What does not fit into the
    /// channel is dropped: the server asks again.
    pub async fn producer_with_checks(
        &self,
        topics: &[&str],
        orphans: mpsc::Sender<Orphan>,
    ) -> Result<Producer, Error> {
        Producer::start(self.caller()?, topics, Some(orphans)).await
    }

    /// A member of `group` that reads `topic`, which must exist.
    pub async fn simple_consumer(&self, group: &str, topic: &str, filter: Filter) -> Result<SimpleConsumer, Error> {
        SimpleConsumer::start(self.caller()?, group, topic, filter).await
    }

    /// Names of the brokers that serve a topic, as the server that this is connected to knows them.
    pub async fn brokers_of(&self, topic: &str) -> Result<Vec<String>, Error> {
        let queues = self.caller()?.route(topic).await?;
        let mut brokers: Vec<_> = queues.into_iter().filter_map(|queue| Some(queue.broker?.name)).collect();
        brokers.sort_unstable();
        brokers.dedup();
        Ok(brokers)
    }

    fn caller(&self) -> Result<Caller, Error> {
        Caller::new(self.clone())
    }
}

/// A client id and the connection it calls over. Each producer and consumer has its own: servers keep settings by id.
#[derive(Debug)]
pub(crate) struct Caller {
    client: Client,
    client_id: String,
    /// Headers of calls that last, such as Telemetry.
    lasting: MetadataMap,
    /// Headers of calls that are over in `request_timeout`; made once, as every send carries them.
    timed: MetadataMap,
}

impl Caller {
    fn new(client: Client) -> Result<Self, Error> {
        let client_id = client_id(&client.shared.host);
        let options = &client.shared.options;
        let ascii = |text: &str| {
            MetadataValue::try_from(text)
                .map_err(|_| Error::Endpoint { endpoint: format!("namespace or host name {text:?}") })
        };
        let mut lasting = MetadataMap::with_capacity(8);
        lasting.insert("x-mq-client-id", ascii(&client_id)?);
        lasting.insert("x-mq-language", MetadataValue::from_static("RUST"));
        lasting.insert("x-mq-client-version", MetadataValue::from_static(env!("CARGO_PKG_VERSION")));
        lasting.insert("x-mq-protocol", MetadataValue::from_static("v2"));
        if !options.namespace.is_empty() {
            lasting.insert("x-mq-namespace", ascii(&options.namespace)?);
        }
        let mut timed = tonic::Request::new(());
        *timed.metadata_mut() = lasting.clone();
        timed.set_timeout(options.request_timeout);
        let timed = timed.into_parts().0;
        Ok(Self { client, client_id, lasting, timed })
    }

    pub(crate) fn rpc(&self) -> MessagingServiceClient<Channel> {
        self.client.shared.rpc.clone()
    }

    pub(crate) fn options(&self) -> &Options {
        &self.client.shared.options
    }

    pub(crate) fn host(&self) -> &str {
        &self.client.shared.host
    }

    pub(crate) fn access_point(&self) -> &v2::Endpoints {
        &self.client.shared.access_point
    }

    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    pub(crate) fn resource(&self, name: &str) -> v2::Resource {
        v2::Resource { resource_namespace: self.options().namespace.clone(), name: name.to_owned() }
    }

    /// A call that is answered within the request timeout.
    pub(crate) fn request<T>(&self, message: T) -> tonic::Request<T> {
        tonic::Request::from_parts(self.timed.clone(), tonic::Extensions::default(), message)
    }

    /// A call that takes `extra` longer, or as long as it likes.
    pub(crate) fn long_request<T>(&self, message: T, extra: Option<Duration>) -> tonic::Request<T> {
        let mut request = tonic::Request::from_parts(self.lasting.clone(), tonic::Extensions::default(), message);
        if let Some(extra) = extra {
            request.set_timeout(self.options().request_timeout + extra);
        }
        request
    }

    pub(crate) fn user_agent(&self) -> v2::Ua {
        v2::Ua {
            language: v2::Language::Rust as i32,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            platform: std::env::consts::OS.to_owned(),
            hostname: self.host().to_owned(),
        }
    }

    /// The queues of a topic.
    pub(crate) async fn route(&self, topic: &str) -> Result<Vec<v2::MessageQueue>, Error> {
        let endpoints = Some(self.access_point().clone());
        let message = v2::QueryRouteRequest { topic: Some(self.resource(topic)), endpoints };
        let answer = self.rpc().query_route(self.request(message)).await?.into_inner();
        check("QueryRoute", answer.status)?;
        Ok(answer.message_queues)
    }

    /// Says goodbye, so that what was handed out goes to others at once.
    pub(crate) async fn terminate(&self, group: Option<&str>) -> Result<(), Error> {
        let message = v2::NotifyClientTerminationRequest { group: group.map(|name| self.resource(name)) };
        let answer = self.rpc().notify_client_termination(self.request(message)).await?;
        check("NotifyClientTermination", answer.into_inner().status)
    }
}

fn parse(endpoint: &str) -> Result<(Uri, v2::Endpoints), Error> {
    let wrong = || Error::Endpoint { endpoint: endpoint.to_owned() };
    let authority = endpoint.strip_prefix("http://").unwrap_or(endpoint).trim_end_matches('/');
    let uri: Uri = format!("http://{authority}/").parse().map_err(|_| wrong())?;
    let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else { return Err(wrong()) };
    if uri.path() != "/" || host.is_empty() {
        return Err(wrong());
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let scheme = match bare.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => v2::AddressScheme::IPv4,
        Ok(std::net::IpAddr::V6(_)) => v2::AddressScheme::IPv6,
        Err(_) => v2::AddressScheme::DomainName,
    };
    let addresses = vec![v2::Address { host: bare.to_owned(), port: i32::from(port) }];
    Ok((uri, v2::Endpoints { scheme: scheme as i32, addresses }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_addresses_or_names_with_a_port() {
        for (text, scheme, host) in [
            ("127.0.0.1:8081", v2::AddressScheme::IPv4, "127.0.0.1"),
            ("http://broker:8081", v2::AddressScheme::DomainName, "broker"),
            ("http://broker:8081/", v2::AddressScheme::DomainName, "broker"),
            ("[::1]:8081", v2::AddressScheme::IPv6, "::1"),
        ] {
            let (_, endpoints) = parse(text).expect(text);
            assert_eq!((endpoints.scheme, endpoints.addresses[0].host.as_str()), (scheme as i32, host), "{text}");
        }
        for bad in ["", "broker", "https://broker:8081", ":8081", "broker:99999", "broker:8081/path", "a b:1"] {
            assert!(matches!(parse(bad), Err(Error::Endpoint { .. })), "{bad:?}");
        }
    }
}
