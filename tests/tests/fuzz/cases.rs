//! Requests that were answered wrongly once, and others that are worth a name.

use base::Chance;
use prost::Message as _;
use proto::{cluster, v2};

use super::exchange::{Connection, Outcome, Patience, Script};
use super::request::{self, MESSAGING, framed, prefixed};
use super::wire;

/// What a broker says to a name server, with something changed in it.
pub fn update(chance: &mut Chance) -> Vec<u8> {
    let topic = cluster::Topic { name: "orders".into(), ..Default::default() };
    let node = cluster::Node {
        cluster: "DefaultCluster".into(),
        version: "0.1.0".into(),
        broker_group: 7,
        grpc: "127.0.0.1:1".into(),
        relay: "127.0.0.1:1".into(),
        state: cluster::State::Ready.into(),
        ..Default::default()
    };
    let update = cluster::BrokerUpdate {
        broker: format!("broker-{}", chance.below(4)),
        store: chance.below(3),
        incarnation: 1,
        sequence: chance.below(5),
        is_complete: chance.one_in(2),
        node: Some(node),
        topics: vec![topic],
        ..Default::default()
    };
    let mut fields = wire::parse(&update.encode_to_vec(), 0).expect("what prost wrote");
    for _ in 0..chance.below(4) {
        wire::mutate(&mut fields, chance);
    }
    wire::encode(&fields)
}

/// gRPC's status of an answer, or the code in its reply.
async fn status(connection: &mut Connection, method: &str, body: Script) -> Result<i32, String> {
    match connection.call(request::plain(MESSAGING, method, body), Patience::Answer).await {
        Outcome::Answered(answer) => answer.status.ok_or_else(|| format!("{answer:?}")),
        other => Err(format!("{other:?}")),
    }
}

/// INVALID_ARGUMENT: whoever asked is at fault, and no operator is woken.
const CALLER_AT_FAULT: Result<i32, String> = Ok(3);

#[tokio::test]
async fn a_request_that_cannot_be_read_is_the_callers_fault_on_either_node() {
    let cluster = super::started().await;
    let route = v2::QueryRouteRequest {
        topic: Some(v2::Resource { name: "plain".into(), ..Default::default() }),
        endpoints: None,
    };
    let whole = route.encode_to_vec();
    let length = u32::try_from(whole.len()).expect("short");
    for node in [&cluster.brokers[0], &cluster.nameservers[0]] {
        let mut connection = Connection::open(&node.address()).await;
        for method in ["QueryRoute", "SendMessage"] {
            for (what, bytes) in [
                ("no protobuf", framed(b"\x0a\xff\x01")),
                ("a name that is no text", framed(b"\x0a\x04\x12\x02\xff\xfe")),
                ("more than there is", prefixed(0, length + 3, &whole)),
                ("compressed, without saying how", prefixed(1, length, &whole)),
                ("a flag that nobody knows", prefixed(9, length, &whole)),
                ("nothing at all", bytes::Bytes::new()),
            ] {
                let status = status(&mut connection, method, Script::once(bytes)).await;
                assert_eq!(status, CALLER_AT_FAULT, "{what} to {method} of {}", node.name());
            }
        }
        let long = status(&mut connection, "QueryRoute", Script::once(prefixed(0, u32::MAX, &whole))).await;
        assert_eq!(long, Ok(11), "OUT_OF_RANGE: longer than any request, at {}", node.name());
        assert_eq!(status(&mut connection, "QueryRoute", Script::once(framed(&whole))).await, Ok(0));
        let unknown = status(&mut connection, "DropEverything", Script::once(framed(&whole))).await;
        assert_eq!(unknown, Ok(12), "UNIMPLEMENTED, at {}", node.name());
    }
}
