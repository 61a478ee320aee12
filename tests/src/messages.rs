//! Messages of a load that is checked: what they are called, and what becomes of them.

use client::{Received, Resolution};

/// Bodies are a name and padding behind a blank.
pub fn name_of(message: &Received) -> String {
    let text = String::from_utf8_lossy(&message.body);
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// How a transaction ends, whoever decides: its number says it.
pub fn resolution_of(name: &str) -> Resolution {
    match name.ends_with(['0', '2', '4', '6', '8']) {
        true => Resolution::Commit,
        false => Resolution::Rollback,
    }
}
