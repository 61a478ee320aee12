//! Protocols as Rust types, generated from `proto/`: RocketMQ 5 for clients, and ours among brokers and name servers.
//!
//! This crate adds a codec that bounds what is decoded, and replies to what is not.

pub mod codec;
pub mod refused;

/// Package `apache.rocketmq.v2`.
pub mod v2 {
    #![expect(clippy::all, clippy::allow_attributes, reason = "generated code")]
    tonic::include_proto!("apache.rocketmq.v2");
}

/// Package `carillon.cluster.v1`.
pub mod cluster {
    #![expect(clippy::all, clippy::allow_attributes, reason = "generated code")]
    tonic::include_proto!("carillon.cluster.v1");
}
