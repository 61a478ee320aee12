//! Settings of a server: numbers and switches that its operator may change (operations page, part G). Unknown keys fail.
//!
//! [`Layers`] puts them together from file, environment and flags; [`Checks`] refuse what is out of range. Sections that
//! every server has are [here](sections).

mod checks;
mod described;
mod layers;
pub mod sections;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use checks::{Checks, Violation};
pub use described::{Form, Key, file, page, undescribed};
pub use layers::{Layers, Place, Problem, Refused, Source, VARIABLE_PREFIX, nearest};
pub use sections::{Cluster, Http, Log, LogFormat, Node, Runtime, Shutdown, Tls};

/// All settings of one kind of server.
pub trait Settings: Serialize + DeserializeOwned + Default {
    /// The defaults, with a value for every optional key too: its serialized form has every key there is.
    fn with_every_key() -> Self;

    /// What operators are told of each key, in the order in which they read it; the keys of a section stand together.
    fn described() -> Vec<Key>;

    fn check(&self, checks: &mut Checks);
}

/// What is out of range, all of it.
pub fn violations(settings: &impl Settings) -> Vec<Violation> {
    let mut checks = Checks::default();
    settings.check(&mut checks);
    checks.found()
}
