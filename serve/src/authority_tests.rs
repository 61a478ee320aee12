//! Headers as official clients send them, in frames of every shape.

use tokio::io::AsyncReadExt;

use super::*;
use crate::frames::{DATA, SETTINGS, frame};

const LIST: &str = "127.0.0.1:9876;127.0.0.1:9877";

/// A call's fields, and something that differs from call to call.
fn fields(authority: &str, number: usize) -> Vec<Field> {
    let field = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let path = "/apache.rocketmq.v2.MessagingService/SendMessage";
    let request = format!("{number:0>40}");
    vec![
        field(":method", "POST"),
        field(":path", path),
        field(":authority", authority),
        field("x-mq-request-id", &request),
    ]
}

fn encode(encoder: &mut Encoder<'_>, fields: &[Field]) -> Vec<u8> {
    encoder.encode(fields.iter().map(|(name, value)| (&name[..], &value[..])))
}

/// What comes out when `sent` comes in pieces of `size`, and whether frames are still looked at.
async fn through(sent: &[u8], size: usize) -> (io::Result<Vec<u8>>, bool) {
    let (mut near, far) = tokio::io::duplex(size);
    let sent = sent.to_vec();
    let sending = async move {
        // Whoever reads may give up.
        let _is_taken = tokio::io::AsyncWriteExt::write_all(&mut near, &sent).await;
    };
    let mut stream = Stream { frames: Some(Box::default()), inner: far };
    // The other end is told when it gives up.
    let reading = async move {
        let mut read = Vec::new();
        let result = stream.read_to_end(&mut read).await.map(|_| read);
        (result, stream.frames.is_some())
    };
    tokio::join!(sending, reading).1
}

struct Stream<IO> {
    frames: Option<Box<Frames>>,
    inner: IO,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { frames, inner } = &mut *self;
        Frames::poll_read(frames, inner, context, buffer)
    }
}

/// Kind, flags, stream and payload of each frame.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some((&[a, b, c, kind, flags, _, _, _, stream], rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
        let (payload, rest) = rest.split_at(u32::from_be_bytes([0, a, b, c]) as usize);
        all.push((kind, flags, stream, payload.to_vec()));
        bytes = rest;
    }
    all
}

#[tokio::test]
async fn what_clients_of_one_address_send_is_handed_on_byte_by_byte() {
    let mut encoder = Encoder::new();
    for authority in ["127.0.0.1:9876", "mq.example.com", "[::1]:9876", "a,b", "no authority at all;", ""] {
        let headers = encode(&mut encoder, &fields(authority, 1));
        let mut sent = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]);
        sent.extend(frame(HEADERS, END_HEADERS, 1, &headers));
        sent.extend(frame(DATA, 1, 1, b"body"));
        for size in [1, 7, 4096] {
            let (read, is_looked_at) = through(&sent, size).await;
            assert_eq!(read.unwrap(), sent, "{authority:?}");
            assert!(!is_looked_at, "{authority:?}");
        }
        encoder = Encoder::new();
    }
}

#[tokio::test]
async fn of_a_list_every_call_names_the_first_address() {
    for (list, first) in [(LIST, "127.0.0.1:9876"), ("ns-1:9876,ns-2:9876", "ns-1:9876"), ("a:1;b:2;c:3", "a:1")] {
        let mut encoder = Encoder::new();
        let mut sent = frame(SETTINGS, 0, 0, &[]);
        // Far more than the table of either side holds.
        for number in 0..500 {
            let headers = encode(&mut encoder, &fields(list, number));
            sent.extend(frame(HEADERS, END_HEADERS, 1, &headers));
            sent.extend(frame(DATA, 1, 1, format!("body {number}").as_bytes()));
        }
        for size in [13, 4096] {
            let read = through(&sent, size).await.0.unwrap();
            let mut decoder = Decoder::new();
            let mut number = 0;
            for (kind, flags, _, payload) in frames(&read) {
                match kind {
                    HEADERS => {
                        assert_eq!(flags, END_HEADERS);
                        assert_eq!(decoder.decode(&payload).unwrap(), fields(first, number));
                    }
                    DATA => {
                        assert_eq!(payload, format!("body {number}").as_bytes());
                        number += 1;
                    }
                    other => assert_eq!(other, SETTINGS),
                }
            }
            assert_eq!(number, 500);
        }
    }
}

#[tokio::test]
async fn headers_may_come_in_several_frames_padded_and_with_a_priority() {
    let headers = encode(&mut Encoder::new(), &fields(LIST, 1));
    let (begin, rest) = headers.split_at(10);
    let (middle, end) = rest.split_at(20);
    let priority = [0, 0, 0, 0, 16];
    let padded = [&[3][..], &priority, begin, &[0; 3]].concat();
    let mut sent = frame(HEADERS, PADDED | PRIORITY | 1, 5, &padded);
    sent.extend(frame(CONTINUATION, 0, 5, middle));
    sent.extend(frame(CONTINUATION, END_HEADERS, 5, end));
    let read = through(&sent, 16).await.0.unwrap();
    let found = frames(&read);
    assert_eq!(found.len(), 1);
    let (kind, flags, stream, payload) = &found[0];
    assert_eq!((*kind, *flags, *stream), (HEADERS, PRIORITY | END_HEADERS | 1, 5));
    assert_eq!(payload[..PRIORITY_BYTES], priority);
    assert_eq!(Decoder::new().decode(&payload[PRIORITY_BYTES..]).unwrap(), fields("127.0.0.1:9876", 1));
}

#[tokio::test]
async fn nonsense_is_left_to_the_implementation_of_http_2_at_first_and_ends_a_connection_later() {
    let headers = encode(&mut Encoder::new(), &fields(LIST, 1));
    let list = frame(HEADERS, END_HEADERS, 1, &headers);
    // A reference to a field that nobody has named, a frame that is too long, padding without end, another kind in between, a
    // continuation of nothing.
    let unknown = frame(HEADERS, END_HEADERS, 3, &[0xff, 0x7f]);
    let long = [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 3][..], b"body"].concat();
    let padding = frame(HEADERS, END_HEADERS | PADDED, 3, &[9, 0x82]);
    let between = [frame(HEADERS, 0, 3, &[0x82]), frame(DATA, 0, 3, b"body")].concat();
    for wrong in [&unknown, &long, &padding, &between] {
        let (read, is_looked_at) = through(wrong, 64).await;
        assert_eq!((&read.unwrap(), is_looked_at), (wrong, false));
        let (read, _) = through(&[&list[..], wrong].concat(), 64).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
    let nothing = frame(CONTINUATION, END_HEADERS, 3, &[0x82]);
    assert_eq!(through(&nothing, 64).await.0.unwrap(), nothing);
}

#[tokio::test]
async fn headers_without_end_and_fields_without_number_cost_no_more_than_others() {
    let list = frame(HEADERS, END_HEADERS, 1, &encode(&mut Encoder::new(), &fields(LIST, 1)));
    let mut endless = frame(HEADERS, 0, 3, &[0x82]);
    for _ in 0..3 {
        endless.extend(frame(CONTINUATION, 0, 3, &vec![0x82; FRAME_BYTES_MAX as usize]));
    }
    // One field of a kilobyte, and a byte for each time that it comes again.
    let value = vec![b'v'; 1024];
    let field = [&[0x40, 1, b'x', 0x7f, 0x81, 0x07][..], &value].concat();
    let bomb = frame(HEADERS, END_HEADERS, 3, &[field, vec![0xbe; 10_000]].concat());
    for wrong in [endless, bomb] {
        assert_eq!(through(&wrong, 4096).await.0.unwrap(), wrong);
        let (read, _) = through(&[list.clone(), wrong].concat(), 4096).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
