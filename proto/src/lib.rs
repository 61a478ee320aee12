//! The RocketMQ 5 gRPC protocol as Rust types: messages, the messaging client and server.
//!
//! The types are generated from `proto/apache/rocketmq/v2`; this crate adds a codec that bounds what is decoded.

pub mod codec;

/// Package `apache.rocketmq.v2`.
pub mod v2 {
    #![expect(clippy::all, clippy::allow_attributes, reason = "generated code")]
    tonic::include_proto!("apache.rocketmq.v2");
}
