//! Clients that an operator disconnects: what they hold goes to others, and they may come back.

use futures_util::{StreamExt as _, stream};
use proto::v2;
use proto::v2::messaging_service_client::MessagingServiceClient;
use tests::messages::settings_of_producer;
use tonic::transport::Endpoint;

use super::*;

const INVISIBLE: Duration = Duration::from_secs(3600);
const POLLING: Duration = Duration::from_secs(20);

async fn connect(node: &Node) -> client::Client {
    let options = client::Options { request_timeout: Duration::from_secs(10), ..client::Options::default() };
    client::Client::connect(&node.address(), options).await.expect("the node is there")
}

async fn next(consumer: &SimpleConsumer) -> client::Received {
    let look = async {
        loop {
            if let Some(message) = consumer.receive(1, INVISIBLE, POLLING).await.expect("an answer").pop() {
                return message;
            }
        }
    };
    timeout(KNOWN_WITHIN, look).await.expect("a message comes")
}

async fn disconnect(broker: &Node, id: &str) -> (u16, Value) {
    broker.call("DELETE", &format!("/clients/{}", id.replace('%', "%25")), &Value::Null).await
}

#[tokio::test]
async fn a_client_that_is_disconnected_loses_its_messages_to_others_and_comes_back() {
    for (topic, kind) in [("orders", "normal"), ("steps", "fifo")] {
        let cluster = Cluster::start(1, 1, &[]).await;
        let broker = &cluster.brokers[0];
        broker.create_topic(topic, kind, 1).await;
        let producer = connect(broker).await.producer(&[topic]).await.expect("a producer");
        let message = |body: &'static str| match kind {
            "fifo" => NewMessage::new(topic, body).message_group("key"),
            _ => NewMessage::new(topic, body),
        };
        producer.send(message("1")).await.expect("it is taken");
        let first = connect(broker).await.simple_consumer(GROUP, topic, Filter::All).await.expect("a consumer");
        let second = connect(broker).await.simple_consumer(GROUP, topic, Filter::All).await.expect("a consumer");
        assert_eq!(next(&first).await.attempt, 1);
        let connections = broker.metric("carillon_connections", "protocol=\"grpc\"").await;

        assert_eq!(disconnect(broker, first.client_id()).await.0, 204);
        // Not after its invisible time, nor after the time after which silent clients count as gone.
        let again = next(&second).await;
        assert_eq!(again.attempt, 2, "{topic}");
        second.ack(&again).await.expect("it was handed out");
        until("its connection is closed", async || has_cut(broker).await).await;
        assert!(connections > 0.0);

        // It comes back by itself, as its library reconnects.
        producer.send(message("2")).await.expect("it is taken");
        let back = async {
            let mut look = interval(LOOK_EVERY);
            loop {
                look.tick().await;
                if let Ok(messages) = first.receive(1, INVISIBLE, Duration::from_secs(2)).await
                    && let Some(message) = messages.into_iter().next()
                {
                    return message;
                }
            }
        };
        assert_eq!(timeout(KNOWN_WITHIN, back).await.expect("it receives again").body, "2");
    }
}

#[tokio::test]
async fn a_poll_that_waits_ends_at_once_and_others_of_the_connection_go_on() {
    let cluster = Cluster::start(1, 1, &[]).await;
    let (broker, names) = (&cluster.brokers[0], &cluster.nameservers[0]);
    broker.create_topic("orders", "normal", 1).await;
    until("the route is known", async || names.get("/api/v1/routes/orders").await.status == 200).await;
    // Both go over the name server, whose connection to the broker carries them together.
    let first = connect(names).await.simple_consumer(GROUP, "orders", Filter::All).await.expect("a consumer");
    let second = connect(names).await.simple_consumer(GROUP, "orders", Filter::All).await.expect("a consumer");
    let polls = async {
        let ended = first.receive(1, INVISIBLE, Duration::from_secs(60));
        let goes_on = second.receive(1, INVISIBLE, Duration::from_secs(60));
        tokio::join!(timeout(KNOWN_WITHIN, ended), timeout(KNOWN_WITHIN, goes_on))
    };
    let operator = async {
        until("both wait", async || broker.metric("carillon_long_polls_parked", "").await == 2.0).await;
        assert_eq!(disconnect(broker, first.client_id()).await.0, 204);
        until("one waits", async || broker.metric("carillon_long_polls_parked", "").await == 1.0).await;
        let producer = connect(broker).await.producer(&["orders"]).await.expect("a producer");
        producer.send(NewMessage::new("orders", "1")).await.expect("it is taken");
    };
    let ((ended, goes_on), ()) = tokio::join!(polls, operator);
    let ended = ended.expect("it does not wait to its end");
    assert!(ended.as_ref().map_or(true, Vec::is_empty), "{ended:?}");
    assert_eq!(goes_on.expect("in time").expect("it was not disturbed").len(), 1);
}

/// Where a connection carries others too, as a name server's do, it is not closed: the stream is what a client notices.
#[tokio::test]
async fn the_telemetry_streams_of_a_client_end_and_new_ones_are_taken() {
    let cluster = Cluster::start(0, 1, &[]).await;
    let broker = &cluster.brokers[0];
    broker.create_topic("orders", "normal", 1).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", broker.address())).expect("an address");
    let rpc = MessagingServiceClient::new(endpoint.connect().await.expect("it is there"));
    let open = async |id: &str| {
        let mut request = tonic::Request::new(stream::iter([settings_of_producer("orders")]).chain(stream::pending()));
        request.metadata_mut().insert("x-mq-client-id", id.parse().expect("ASCII"));
        let mut stream = rpc.clone().telemetry(request).await.expect("it is taken").into_inner();
        let answer = stream.message().await.expect("it is open").expect("settings");
        assert!(matches!(answer.command, Some(v2::telemetry_command::Command::Settings(_))), "{answer:?}");
        stream
    };
    let other = open("other").await;
    for (id, mut stream) in [("watched", open("watched").await), ("watched", open("watched").await), ("other", other)] {
        // The first call ends both streams of the client, and finds nobody the second time.
        let (status, _) = disconnect(broker, id).await;
        assert!(status == 204 || status == 404, "{id}: {status}");
        let ended = timeout(KNOWN_WITHIN, stream.message()).await.expect("it ends").expect_err("and says why");
        assert_eq!((ended.code(), ended.message()), (tonic::Code::Unavailable, "disconnected by an operator"), "{id}");
    }
    open("watched").await;
}

#[tokio::test]
async fn a_client_that_is_not_there_cannot_be_disconnected() {
    let scene = Scene::start().await;
    let (status, problem) = disconnect(scene.broker(), "nobody").await;
    assert_eq!((status, &problem["code"]), (404, &json!("client_not_found")), "{problem}");
    let server = format!("http://{}", scene.broker().http());
    let by_command = |id: String| {
        let server = server.clone();
        async move { tests::server::carillon(&["client", "disconnect", &id, "--server", &server]).await }
    };
    assert_eq!(by_command("nobody".into()).await.status.code(), Some(3));
    let done = by_command(scene.consumer.client_id().into()).await;
    assert!(done.status.success(), "{done:?}");
}
