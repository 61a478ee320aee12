//! The gRPC gateway.
