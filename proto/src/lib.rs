//! The RocketMQ 5 gRPC protocol as Rust types: messages, the messaging client and server.
//!
//! Everything here is generated from `proto/apache/rocketmq/v2`; this crate adds nothing to it.

/// Package `apache.rocketmq.v2`.
pub mod v2 {
    #![expect(clippy::all, clippy::allow_attributes, reason = "generated code")]
    tonic::include_proto!("apache.rocketmq.v2");
}
