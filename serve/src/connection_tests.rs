//! Connections on real sockets of the loopback address.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;
use crate::admission::Budget;
use crate::frames::{GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, frame};
use crate::settings::Tls;
use crate::tls;

struct Port {
    address: SocketAddr,
    drain: watch::Sender<bool>,
    ended: tokio::sync::mpsc::Receiver<Result<(bool, End), Unserved>>,
}

/// Serves connections that answer every request with 204.
async fn port(is_tls_required: bool, within: Duration) -> Port {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (drain, draining) = watch::channel(false);
    let (tell, ended) = tokio::sync::mpsc::channel(8);
    let tls = tls::acceptor(&Tls::default(), &[]).unwrap();
    crate::runtime::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, draining, tell) = (tls.clone(), draining.clone().into(), tell.clone());
            crate::runtime::spawn(async move {
                let served = serve_one(stream, &tls, is_tls_required, within, draining).await;
                let _ = tell.send(served).await;
            });
        }
    });
    Port { address, drain, ended }
}

async fn serve_one(
    stream: TcpStream,
    tls: &TlsAcceptor,
    is_tls_required: bool,
    within: Duration,
    drain: Draining,
) -> Result<(bool, End), Unserved> {
    let opened = Opened::accept(stream, tls, is_tls_required, within).await?;
    let is_tls = opened.is_tls();
    let service = hyper::service::service_fn(|_| async {
        Ok::<_, std::convert::Infallible>(Response::builder().status(204).body(tonic::body::Body::empty()).unwrap())
    });
    let share = Budget::new(base::ByteSize(64 << 20), &prometheus::Registry::new()).unwrap().share();
    let end = match opened {
        Opened::Clear(io) => serve(io, service, share, drain).await,
        Opened::Tls(io) => serve(io, service, share, drain).await,
    };
    Ok((is_tls, end))
}

/// A call without a body: `POST /`.
fn call(stream: u8) -> Vec<u8> {
    call_of(stream, &[0x83, 0x86, 0x84])
}

/// The same, with other headers.
fn call_of(stream: u8, headers: &[u8]) -> Vec<u8> {
    const END_OF_STREAM_AND_HEADERS: u8 = 5;
    frame(HEADERS, END_OF_STREAM_AND_HEADERS, stream, headers)
}

/// Reads frames until one of `kind` comes; the kinds in between.
async fn until<IO: AsyncRead + Unpin>(io: &mut IO, kind: u8) -> Vec<u8> {
    until_one(io, &[kind]).await.0
}

/// The same, with what is in the frame.
async fn until_content<IO: AsyncRead + Unpin>(io: &mut IO, kind: u8) -> (Vec<u8>, Vec<u8>) {
    let (others, _, content) = until_one(io, &[kind]).await;
    (others, content)
}

/// Reads frames until one of these kinds comes: the kinds before it, its kind, and what is in it.
async fn until_one<IO: AsyncRead + Unpin>(io: &mut IO, kinds: &[u8]) -> (Vec<u8>, u8, Vec<u8>) {
    let mut others = Vec::new();
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        io.read_exact(&mut payload).await.unwrap();
        if kinds.contains(&head[3]) {
            return (others, head[3], payload);
        }
        others.push(head[3]);
    }
}

/// Sends a call without a body to an authority.
async fn call_at(io: &mut TcpStream, encoder: &mut loona_hpack::Encoder<'_>, stream: u8, authority: &[u8]) {
    let fields: [(&[u8], &[u8]); 4] =
        [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", authority)];
    io.write_all(&call_of(stream, &encoder.encode(fields))).await.unwrap();
}

async fn speak<IO: AsyncRead + AsyncWrite + Unpin>(io: &mut IO) {
    // In two pieces, the preface cut: as a network may deliver it.
    io.write_all(&PREFACE[..7]).await.unwrap();
    io.flush().await.unwrap();
    io.write_all(&PREFACE[7..]).await.unwrap();
    io.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    io.flush().await.unwrap();
    until(io, SETTINGS).await;
}

/// Accepts any certificate, as most official clients do.
async fn tls_client(address: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let any = Arc::new(trust::Any(provider.clone()));
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.dangerous().set_certificate_verifier(any);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn tls_and_clear_text_are_told_apart_on_one_port() {
    let mut port = port(false, OPENING_MAX).await;
    let mut clear = TcpStream::connect(port.address).await.unwrap();
    let mut secure = tls_client(port.address).await;
    assert_eq!(secure.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    speak(&mut secure).await;
    speak(&mut clear).await;
    drop(clear);
    assert_eq!(port.ended.recv().await.unwrap().unwrap(), (false, End::Client));
    drop(secure);
    assert!(port.ended.recv().await.unwrap().unwrap().0, "the other one was TLS");
}

#[tokio::test]
async fn what_does_not_speak_http_2_is_sent_away() {
    let mut port = port(false, Duration::from_millis(200)).await;
    let mut browser = TcpStream::connect(port.address).await.unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    browser.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 ") && answer.ends_with("speaks gRPC over HTTP/2 only.\n"), "{answer}");
    assert_eq!(answer.split("\r\n\r\n").nth(1).unwrap().len(), 40, "as content-length says");
    drop(browser);
    assert!(matches!(port.ended.recv().await.unwrap(), Err(Unserved::Foreign)));

    let mut rubbish = TcpStream::connect(port.address).await.unwrap();
    rubbish.write_all(&[7; 100]).await.unwrap();
    assert!(matches!(port.ended.recv().await.unwrap(), Err(Unserved::Foreign)));

    drop(TcpStream::connect(port.address).await.unwrap());
    assert!(matches!(port.ended.recv().await.unwrap(), Err(Unserved::Silent)));

    for start in [&b""[..], &PREFACE[..9], &[TLS_HANDSHAKE, 3, 1]] {
        let mut slow = TcpStream::connect(port.address).await.unwrap();
        slow.write_all(start).await.unwrap();
        assert!(matches!(port.ended.recv().await.unwrap(), Err(Unserved::TooSlow)), "{start:?}");
    }
}

#[tokio::test]
async fn clear_text_is_refused_where_tls_is_required() {
    let mut port = port(true, OPENING_MAX).await;
    let mut clear = TcpStream::connect(port.address).await.unwrap();
    clear.write_all(&PREFACE).await.unwrap();
    assert!(matches!(port.ended.recv().await.unwrap(), Err(Unserved::ClearText)));
    speak(&mut tls_client(port.address).await).await;
}

#[tokio::test]
async fn pings_are_answered_however_many_come() {
    let port = port(false, OPENING_MAX).await;
    let mut client = TcpStream::connect(port.address).await.unwrap();
    speak(&mut client).await;
    for number in 0..100_u64 {
        client.write_all(&frame(PING, 0, 0, &number.to_be_bytes())).await.unwrap();
        let others = until(&mut client, PING).await;
        assert!(!others.contains(&GOAWAY), "after {number} pings");
    }
}

#[tokio::test]
async fn calls_that_name_several_addresses_are_answered_and_those_that_name_none_are_not() {
    let port = port(false, OPENING_MAX).await;
    for list in ["127.0.0.1:9876;127.0.0.1:9877", "ns-1:9876,ns-2:9876", "ns-1:9876"] {
        let mut client = TcpStream::connect(port.address).await.unwrap();
        speak(&mut client).await;
        let mut encoder = loona_hpack::Encoder::new();
        for stream in [1, 3, 5] {
            call_at(&mut client, &mut encoder, stream, list.as_bytes()).await;
            assert_eq!(until_one(&mut client, &[HEADERS, RST_STREAM]).await.1, HEADERS, "{list}");
        }
    }
    let mut client = TcpStream::connect(port.address).await.unwrap();
    speak(&mut client).await;
    call_at(&mut client, &mut loona_hpack::Encoder::new(), 1, b"a:1:b").await;
    assert_eq!(until_one(&mut client, &[HEADERS, RST_STREAM]).await.1, RST_STREAM);
}

#[tokio::test]
async fn a_server_that_stops_says_so_and_waits_for_the_client() {
    let mut port = port(false, OPENING_MAX).await;
    let mut client = TcpStream::connect(port.address).await.unwrap();
    speak(&mut client).await;
    port.drain.send_replace(true);
    until(&mut client, GOAWAY).await;
    drop(client);
    let (_, end) = port.ended.recv().await.unwrap().unwrap();
    assert_ne!(end, End::Error);
}

#[tokio::test]
async fn calls_on_their_way_at_a_stop_are_answered_and_the_client_is_told_which_was_the_last() {
    const ACK: u8 = 1;
    let mut port = port(false, OPENING_MAX).await;
    let mut client = TcpStream::connect(port.address).await.unwrap();
    speak(&mut client).await;
    port.drain.send_replace(true);
    let (_, any) = until_content(&mut client, GOAWAY).await;
    assert_eq!(any[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0], "none is refused yet");
    let (_, question) = until_content(&mut client, PING).await;
    client.write_all(&call(1)).await.unwrap();
    until(&mut client, HEADERS).await;
    client.write_all(&call(3)).await.unwrap();
    client.write_all(&frame(PING, ACK, 0, &question)).await.unwrap();
    let (others, last) = until_content(&mut client, GOAWAY).await;
    assert_eq!((others, &last[..8]), (vec![HEADERS], &[0, 0, 0, 3, 0, 0, 0, 0][..]));
    assert_eq!(port.ended.recv().await.unwrap().unwrap(), (false, End::Drain));
}

mod trust {
    use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
    use tokio_rustls::rustls::{DigitallySignedStruct, Error, SignatureScheme};

    use super::*;

    #[derive(Debug)]
    pub(super) struct Any(pub(super) Arc<CryptoProvider>);

    impl ServerCertVerifier for Any {
        fn verify_server_cert(
            &self,
            _: &rustls_pki_types::CertificateDer<'_>,
            _: &[rustls_pki_types::CertificateDer<'_>],
            _: &rustls_pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls_pki_types::UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &rustls_pki_types::CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls_pki_types::CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}
