//! The gRPC gateway: RocketMQ's messaging service in front of [`Broker`]. The only module that names protocol types.
//!
//! One port for clear text and TLS (D1). A connection and all its calls stay on the worker that accepted it; a call goes
//! from hyper through the generated service into [`service`] and on into the broker, and waits there only.

mod admission;
mod caller;
mod decode;
mod encode;
mod forward;
mod load;
mod metrics;
mod port;
mod producers;
mod receive;
mod service;
mod settings;
mod status;
mod telemetry;

use std::sync::Arc;

use proto::v2;
use serve::port::Draining;

pub(crate) use port::start;

use crate::Broker;

/// What all connections share.
struct Gateway {
    broker: Broker,
    metrics: Arc<metrics::Metrics>,
    agents: caller::UserAgents,
    forward: Arc<forward::Forward>,
    /// `grpc.advertise`; none = what the client used.
    advertised: Option<v2::Endpoints>,
    draining: Draining,
    /// Sends at work.
    load: Arc<load::Load>,
    replies: admission::Replies,
}
