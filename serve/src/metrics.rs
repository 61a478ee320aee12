//! Connections, counted; and the registry of a process.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Metrics of connections, of every gateway.
#[derive(Debug, Clone)]
pub struct ConnectionMetrics {
    open: IntGaugeVec,
    closed: IntCounterVec,
}

impl ConnectionMetrics {
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let open = Opts::new("carillon_connections", "Connections that are open");
        let open = IntGaugeVec::new(open, &["protocol", "tls"])?;
        let closed = Opts::new("carillon_connections_closed_total", "Connections that ended, by reason");
        let closed = IntCounterVec::new(closed, &["reason"])?;
        registry.register(Box::new(open.clone()))?;
        registry.register(Box::new(closed.clone()))?;
        // All kinds exist from the start, so that the first one shows as a change.
        for (protocol, is_tls) in [("grpc", "false"), ("grpc", "true"), ("http", "false")] {
            open.with_label_values(&[protocol, is_tls]);
        }
        for reason in ["client", "drain", "error", "stalled"] {
            closed.with_label_values(&[reason]);
        }
        Ok(Self { open, closed })
    }

    /// Counts a connection as open until what is returned is dropped.
    pub fn opened(&self, protocol: &str, is_tls: bool) -> OpenConnection {
        let gauge = self.open.with_label_values(&[protocol, if is_tls { "true" } else { "false" }]);
        gauge.inc();
        OpenConnection(gauge)
    }

    pub fn closed(&self, reason: &str) {
        self.closed.with_label_values(&[reason]).inc();
    }
}

/// One connection that is open.
#[derive(Debug)]
pub struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A registry in which every series carries who it is from, as RocketMQ's do, and the process itself is counted.
pub fn registry(cluster: &str, node_type: &str, node: &str) -> prometheus::Result<Registry> {
    let labels = [("cluster", cluster), ("node_type", node_type), ("node_id", node)];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
    let registry = Registry::new_custom(None, Some(labels))?;
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    Ok(registry)
}
