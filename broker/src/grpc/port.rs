//! The gRPC port: each connection gets the service as it sees it.

use std::sync::Arc;

use cluster::endpoints;
use http::Request;
use http::uri::Authority;
use hyper::body::Incoming;
use proto::v2::messaging_service_server::MessagingServiceServer;
use serve::admission::Budget;
use serve::metrics::ConnectionMetrics;
use serve::port::{Bound, Options, Server};
use serve::runtime::Runtime;
use serve::tls;

use super::Gateway;
use super::admission::{Gate, Replies};
use super::caller::UserAgents;
use super::forward::Forward;
use super::load::Load;
use super::metrics::Metrics;
use super::service::Peer;
use crate::Broker;
use crate::gateways::StartError;

/// Listens as the broker's configuration says.
pub(crate) fn start(
    runtime: &Runtime,
    broker: &Broker,
    connections: ConnectionMetrics,
    budget: Budget,
) -> Result<Server, StartError> {
    let config = broker.config();
    let listen = |cause| StartError::Listen { setting: "grpc.listen", address: config.grpc.listen.clone(), cause };
    let port = Bound::bind(&config.grpc.listen, runtime).map_err(listen)?;
    let advertised = match &config.grpc.advertise {
        Some(text) => {
            let parsed = endpoints::parse(text, port.address().port());
            Some(parsed.ok_or_else(|| StartError::Advertise(text.clone()))?)
        }
        None => None,
    };
    let hosts = advertised.iter().flat_map(|endpoints| &endpoints.addresses).map(|address| &*address.host);
    let hosts: Vec<_> = hosts.chain([&*config.node.name]).collect();
    let options = Options {
        tls: tls::acceptor(&config.tls, &hosts)?,
        is_tls_required: config.tls.required,
        connections_max: config.grpc.connections_max,
        metrics: connections,
        budget,
    };
    let forward = Arc::new(Forward::default());
    broker.asks_elsewhere(forward.clone());
    let gateway = Arc::new(Gateway {
        broker: broker.clone(),
        metrics: Arc::new(Metrics::register(broker.registry())?),
        agents: UserAgents::default(),
        forward,
        advertised,
        draining: port.draining(),
        load: Load::new(config.limits.writer_inbox, config.limits.send_wait),
        replies: Replies::default(),
    });
    Ok(port.serve(runtime, options, move |peer, share, cut| {
        let connection = gateway.broker.connected(cut);
        let peer = Peer::new(gateway.clone(), peer.address, peer.local, connection, share.clone());
        let service = MessagingServiceServer::new(peer).max_decoding_message_size(base::limits::REQUEST_BYTES_MAX);
        let gate = Gate::new(gateway.clone(), service, share);
        hyper::service::service_fn(move |request| gate.call(with_authority(request)))
    }))
}

/// Keeps the authority of the calls that answer with this server's address: the generated service forgets the URI.
/// Others go without, because an extension costs a call more than all else that the gateway adds to it.
fn with_authority(mut request: Request<Incoming>) -> Request<Incoming> {
    let path = request.uri().path();
    if path.ends_with("/QueryRoute") || path.ends_with("/QueryAssignment") {
        let host = || request.headers().get(http::header::HOST)?.to_str().ok()?.parse::<Authority>().ok();
        if let Some(authority) = request.uri().authority().cloned().or_else(host) {
            request.extensions_mut().insert(authority);
        }
    }
    request
}
