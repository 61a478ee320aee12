//! The broker: messaging semantics over the log, and the gateways in front of them.
//!
//! [`Broker`] is the one surface that every protocol speaks to; `grpc` is the only module that names protocol types.

#![allow(dead_code)]
#![allow(clippy::unimplemented, unused_variables)]

pub mod admin;
pub mod api;
pub mod config;
pub mod grpc;
pub mod http;
pub mod membership;
pub mod refusal;
pub mod subscription;

use std::sync::Arc;
use std::time::Duration;

use api::*;
use admin::*;
use base::{GroupName, TopicName};
use membership::ClientKind;
use refusal::Refusal;

/// The broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker {}

impl Broker {
    pub fn config(&self) -> &Arc<config::Config> { unimplemented!() }
    pub fn registry(&self) -> &prometheus::Registry { unimplemented!() }

    // --- messaging: called by gateways, on any worker ---
    pub async fn route(&self, caller: &Caller, topic: &str) -> Result<Route, Refusal> { unimplemented!() }
    /// Group is parsed and checked when present.
    pub fn heartbeat(&self, caller: &Caller, kind: ClientKind, group: Option<&str>) -> Result<(), Refusal> { unimplemented!() }
    /// All messages or none: one refusal refuses all of them.
    /// The request is in the log's inbox when this future was polled for the first time.
    pub async fn send(&self, caller: &Caller, messages: Vec<NewMessage>) -> Result<Vec<Sent>, Refusal> { unimplemented!() }
    pub async fn assignment(&self, caller: &Caller, topic: &str, group: &str) -> Result<Assignment, Refusal> { unimplemented!() }
    /// Waits until there are messages or the poll's time is over. Dropping the future cancels the poll.
    pub async fn receive(&self, caller: &Caller, receive: Receive) -> Result<Received, Refusal> { unimplemented!() }
    /// One result for each handle, in order.
    pub async fn ack(&self, caller: &Caller, group: &str, topic: &str, handles: &[&str]) -> Result<Vec<Result<(), Refusal>>, Refusal> { unimplemented!() }
    /// The new handle. `is_suspend`: the attempt does not count.
    pub async fn change_invisible(&self, caller: &Caller, group: &str, topic: &str, handle: &str, invisible_ms: i64, is_suspend: bool) -> Result<String, Refusal> { unimplemented!() }
    pub async fn forward_to_dead_letters(&self, caller: &Caller, group: &str, topic: &str, handle: &str) -> Result<(), Refusal> { unimplemented!() }
    pub async fn end_transaction(&self, caller: &Caller, topic: &str, transaction_id: &str, resolution: Resolution) -> Result<(), Refusal> { unimplemented!() }
    /// The message id of what was recalled.
    pub async fn recall(&self, caller: &Caller, topic: &str, handle: &str) -> Result<String, Refusal> { unimplemented!() }
    pub async fn settings(&self, caller: &Caller, settings: ClientSettings) -> Result<ServerSettings, Refusal> { unimplemented!() }
    /// Commands for this client, for as long as the receiver lives; a client may have several streams, each command goes
    /// to one of them.
    pub fn commands(&self, caller: &Caller) -> tokio::sync::mpsc::Receiver<Command> { unimplemented!() }
    pub fn terminate(&self, caller: &Caller, group: Option<&str>) -> Result<(), Refusal> { unimplemented!() }

    // --- administration ---
    pub async fn create_topic(&self, topic: NewTopic) -> Result<(Created, TopicDescription), AdminRefusal> { unimplemented!() }
    pub fn topics(&self) -> Vec<TopicDescription> { unimplemented!() }
    pub fn describe_topic(&self, name: &str) -> Result<TopicDescription, AdminRefusal> { unimplemented!() }
    pub async fn delete_topic(&self, name: &str, is_forced: bool) -> Result<(), AdminRefusal> { unimplemented!() }
    pub async fn create_group(&self, group: NewGroup) -> Result<(Created, GroupDescription), AdminRefusal> { unimplemented!() }
    pub fn groups(&self) -> Vec<GroupDescription> { unimplemented!() }
    pub fn describe_group(&self, name: &str) -> Result<GroupDescription, AdminRefusal> { unimplemented!() }
    pub async fn delete_group(&self, name: &str, is_forced: bool) -> Result<(), AdminRefusal> { unimplemented!() }
    /// Messages of one queue in order, without consuming them.
    pub async fn peek(&self, topic: &str, queue: u16, from: PeekFrom, max: usize) -> Result<Vec<Peeked>, AdminRefusal> { unimplemented!() }

    /// (is ready, why not)
    pub fn readiness(&self) -> Vec<Check> { unimplemented!() }
}

/// One condition of readiness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub is_ok: bool,
    pub detail: String,
}
