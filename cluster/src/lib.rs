//! Which broker serves what: the [`Table`] of a cluster, what brokers and name servers tell each other about it, and routes
//! for clients made of it.

pub mod catalog;
pub mod endpoints;
pub mod message_type;
mod registrar;
mod table;
mod wire;

/// The header of calls that a name server passes on.
pub const RELAYED: &str = "x-carillon-relayed";

pub use catalog::{Buried, Catalog, Group, Kind, Others, Served, Step};
pub use registrar::{Cluster, Own, Registrar};
pub use table::{Broker, Conflict, Node, Place, State, Table, Update, UpdateError};
pub use wire::{UPDATE_BYTES_MAX, WireError};
