//! What tests say to servers in several places, and messages of a load that is checked: what they are called, and what becomes
//! of them.

use client::{Received, Resolution};
use proto::v2;

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

/// What the Telemetry stream of a producer begins with.
pub fn settings_of_producer(topic: &str) -> v2::TelemetryCommand {
    let topic = v2::Resource { name: topic.into(), ..Default::default() };
    let publishing = v2::Publishing { topics: vec![topic], ..Default::default() };
    let settings = v2::Settings {
        client_type: Some(v2::ClientType::Producer.into()),
        pub_sub: Some(v2::settings::PubSub::Publishing(publishing)),
        ..Default::default()
    };
    v2::TelemetryCommand { command: Some(v2::telemetry_command::Command::Settings(settings)), ..Default::default() }
}
