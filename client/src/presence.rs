//! Being there: the settings, the Telemetry stream and the heartbeat of one producer or consumer.

use std::sync::Arc;
use std::time::Duration;

use proto::v2;
use proto::v2::settings::PubSub;
use tokio::sync::mpsc;

use crate::connection::Caller;
use crate::error::Error;
use crate::producer::Orphan;
use crate::runtime::{Task, start, wait};
use crate::telemetry;

/// A twelfth of the time after which servers forget a silent client.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);

/// Lasts until dropped; the server then forgets the client by itself, or at once after `terminate`.
#[derive(Debug)]
pub(crate) struct Presence {
    _telemetry: Task,
    _heartbeat: Task,
}

impl Presence {
    pub(crate) async fn start(
        caller: &Arc<Caller>,
        kind: v2::ClientType,
        pub_sub: PubSub,
        orphans: Option<mpsc::Sender<Orphan>>,
    ) -> Result<Self, Error> {
        let group = match &pub_sub {
            PubSub::Subscription(subscription) => subscription.group.clone(),
            PubSub::Publishing(_) => None,
        };
        let timeout = caller.options().request_timeout;
        let settings = v2::Settings {
            client_type: Some(kind as i32),
            access_point: Some(caller.access_point().clone()),
            request_timeout: prost_types::Duration::try_from(timeout).ok(),
            user_agent: Some(caller.user_agent()),
            pub_sub: Some(pub_sub),
            ..v2::Settings::default()
        };
        let telemetry = telemetry::announce(Arc::clone(caller), settings, orphans).await?;
        let heartbeat = start(beat(Arc::clone(caller), v2::HeartbeatRequest { group, client_type: kind as i32 }));
        Ok(Self { _telemetry: telemetry, _heartbeat: heartbeat })
    }
}

async fn beat(caller: Arc<Caller>, heartbeat: v2::HeartbeatRequest) {
    loop {
        // A lost beat is made up by the next, and a server that is gone shows in the owner's own calls.
        let _is_made_up_by_the_next = caller.rpc().heartbeat(caller.request(heartbeat.clone())).await;
        wait(HEARTBEAT_EVERY).await;
    }
}
