//! Verbs about single messages: send some, receive some, look at them, look them up.

pub mod format;
pub mod look_up;
pub mod receive;
pub mod send;
pub mod tail;

use client::{Client, Options};

use crate::args::Target;
use crate::exit::Failure;

async fn connect(target: &Target) -> Result<Client, Failure> {
    Ok(Client::connect(&target.grpc, Options::default()).await?)
}
