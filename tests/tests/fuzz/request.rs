//! From a message to a request: prefixes, pieces and headers, right ones and others.

use std::collections::VecDeque;

use base::Chance;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Request, header};

use super::exchange::{End, Script};

pub const MESSAGING: &str = "apache.rocketmq.v2.MessagingService";

/// A message behind its prefix: whether it is compressed, and its length.
pub fn framed(message: &[u8]) -> Bytes {
    prefixed(0, u32::try_from(message.len()).expect("messages are short"), message)
}

pub fn prefixed(flag: u8, length: u32, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(flag);
    bytes.put_u32(length);
    bytes.put_slice(message);
    bytes.freeze()
}

/// As a client asks that means it.
pub fn plain(service: &str, method: &str, body: Script) -> Request<Script> {
    let builder = Request::post(format!("http://127.0.0.1/{service}/{method}"));
    let builder = builder.header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers");
    let builder = builder.header("x-mq-client-id", "fuzz@1").header("x-mq-language", "JAVA");
    builder.header("x-mq-client-version", "5.0.7").body(body).expect("a request")
}

/// Messages of one call as bytes, mostly as they should be.
pub fn body(messages: &[Vec<u8>], chance: &mut Chance) -> Script {
    let whole: BytesMut = messages.iter().flat_map(|message| framed(message)).collect();
    let whole = whole.freeze();
    let first = messages.first().map(Vec::as_slice).unwrap_or_default();
    let length = u32::try_from(first.len()).expect("messages are short");
    if !chance.one_in(5) {
        return Script::once(whole);
    }
    let cut = usize::try_from(chance.below(whole.len() as u64 + 1)).expect("a length");
    match chance.below(12) {
        0 => Script::once(prefixed(0, length + 1 + u32::try_from(chance.below(100)).expect("small"), first)),
        1 => Script::once(prefixed(0, length / 2, first)),
        2 => Script::once(prefixed(0, u32::MAX, first)),
        3 => Script::once(prefixed(1, length, first)),
        4 => Script::once(prefixed(*chance.pick(&[2, 7, 0xFF]), length, first)),
        5 => Script::once([&whole[..], &whole[..]].concat()),
        6 => Script::once(whole.slice(..cut)),
        7 => Script { pieces: [whole.slice(..cut)].into(), end: End::Reset },
        8 => Script { pieces: VecDeque::new(), end: *chance.pick(&[End::Closed, End::Reset]) },
        9 => Script::once(first.to_vec()),
        10 => Script {
            pieces: whole.iter().take(2_000).map(|byte| Bytes::copy_from_slice(&[*byte])).collect(),
            end: End::Closed,
        },
        _ => Script { pieces: [whole.slice(..cut), Bytes::new(), whole.slice(cut..)].into(), end: End::Closed },
    }
}

/// Changes headers of one request in ten.
pub fn disturb(request: &mut Request<Script>, chance: &mut Chance) {
    let id = format!("fuzz@{}", chance.below(40));
    let headers = request.headers_mut();
    headers.insert("x-mq-client-id", HeaderValue::from_str(&id).expect("ASCII"));
    if !chance.one_in(10) {
        return;
    }
    let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).expect("no control characters");
    let timeouts: [&[u8]; 8] = [b"0n", b"1n", b"99999999H", b"-1S", b"1", b"", b"123456789S", b"5x"];
    match chance.below(10) {
        0 => drop(headers.remove("x-mq-client-id")),
        1 => drop(headers.insert("x-mq-client-id", value(b"   "))),
        2 => drop(headers.insert("x-mq-client-id", value(&vec![b'i'; 600]))),
        3 => drop(headers.insert("x-mq-client-id", value(&[0xFF, 0xFE, b'a']))),
        4 | 5 => drop(headers.insert("grpc-timeout", value(chance.pick::<&[u8]>(&timeouts)))),
        6 => drop(headers.insert("grpc-encoding", value(chance.pick::<&[u8]>(&[b"gzip", b"identity", b"x"])))),
        7 => drop(headers.remove(header::CONTENT_TYPE)),
        8 => drop(headers.insert("x-mq-language", value(&[b'L'; 2_000]))),
        _ => {
            drop(headers.remove(header::TE));
            drop(headers.insert("x-mq-client-version", value(&[0xE4, b'1', b'"', b'\t'])));
        }
    }
}
