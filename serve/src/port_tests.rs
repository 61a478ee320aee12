//! A port on the loopback address, and clients that say what they want to, as bytes.

use std::io::{Read, Write};
use std::net::TcpStream;

use base::ByteSize;
use tonic::body::Body;

use super::*;
use crate::frames::{GOAWAY, HEADERS};
use crate::runtime::Hooks;
use crate::settings::Tls;
use crate::tls;

/// Stops that wait for a connection in vain take much longer than a test may.
const WITHIN: Duration = Duration::from_secs(600);
const DEADLINE: Duration = Duration::from_secs(60);
/// The preface of HTTP/2, no settings, an answer to those of the server, and one call.
const CALL: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\
    \x00\x00\x03\x01\x05\x00\x00\x00\x01\x83\x86\x84";

/// A port whose calls tell that they have begun, and are answered when they may be.
struct Stage {
    runtime: Runtime,
    server: Server,
    begun: Arc<tokio::sync::Semaphore>,
    may_end: Arc<tokio::sync::Semaphore>,
}

impl Stage {
    fn start() -> Self {
        let runtime = Runtime::start(1, Hooks::default()).unwrap();
        let registry = prometheus::Registry::new();
        let options = Options {
            tls: tls::acceptor(&Tls::default(), &[]).unwrap(),
            is_tls_required: false,
            connections_max: 8,
            metrics: ConnectionMetrics::register(&registry).unwrap(),
            budget: Budget::new(ByteSize(64 << 20), &registry).unwrap(),
        };
        let [begun, may_end] = [0, 0].map(|count| Arc::new(tokio::sync::Semaphore::new(count)));
        let calls = (begun.clone(), may_end.clone());
        let port = Bound::bind("127.0.0.1:0", &runtime).unwrap();
        let server = port.serve(&runtime, options, move |_, _, _| {
            let (begun, may_end) = calls.clone();
            hyper::service::service_fn(move |_: Request<Incoming>| {
                let (begun, may_end) = (begun.clone(), may_end.clone());
                async move {
                    begun.add_permits(1);
                    may_end.acquire().await.unwrap().forget();
                    Ok(Response::new(Body::empty()))
                }
            })
        });
        Self { runtime, server, begun, may_end }
    }

    /// A client with a call in progress.
    fn calls(&self) -> TcpStream {
        let mut client = TcpStream::connect(self.server.address()).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.write_all(CALL).unwrap();
        until_done(self.begun.acquire(), "the call begins").unwrap().forget();
        client
    }

    /// A client that was answered.
    fn was_answered(&self) -> TcpStream {
        let mut client = self.calls();
        self.may_end.add_permits(1);
        assert!(until(&mut client, HEADERS));
        client
    }
}

fn until_done<T>(work: impl Future<Output = T>, what: &str) -> T {
    runtime::block_on(async { tokio::time::timeout(DEADLINE, work).await }).unwrap_or_else(|_| panic!("{what}"))
}

/// Reads until a frame of `kind` came; false when the connection ended before.
fn until(client: &mut TcpStream, kind: u8) -> bool {
    loop {
        let mut head = [0; 9];
        if client.read_exact(&mut head).is_err() {
            return false;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        client.read_exact(&mut vec![0; length as usize]).unwrap();
        if head[3] == kind {
            return true;
        }
    }
}

#[test]
fn a_stop_does_not_wait_for_a_client_that_has_no_call_in_progress_and_answers_nothing() {
    let stage = Stage::start();
    let mut clients = [stage.was_answered(), stage.was_answered()];
    assert!(until_done(stage.server.stop(WITHIN), "the port stops and waits for nobody"));
    for client in &mut clients {
        assert!(until(client, GOAWAY), "it was told to go elsewhere");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("then its connection was closed");
    }
    stage.runtime.stop();
}

#[test]
fn a_stop_waits_for_the_call_of_a_client_that_says_nothing_any_more() {
    let stage = Stage::start();
    let mut silent = stage.was_answered();
    let mut calling = stage.calls();
    let may_end = stage.may_end.clone();
    let client = move || {
        assert!(until(&mut silent, GOAWAY) && !until(&mut silent, HEADERS));
        // The other one is closed by now: this one would be, too.
        may_end.add_permits(1);
        until(&mut calling, HEADERS)
    };
    let client = std::thread::Builder::new().spawn(client).unwrap();
    assert!(until_done(stage.server.stop(WITHIN), "the port waits for the call, and then no longer"));
    assert!(client.join().unwrap(), "the call is answered");
    stage.runtime.stop();
}
