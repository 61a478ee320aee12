//! A message as it is stored: the envelope that every delivery needs, and the body, under one checksum.
//!
//! Made and digested by the task that received it, so that the writer thread only copies bytes. Form: docs/formats.md,
//! "Body part".

use base::{Timestamp, TopicId};
use bytes::Bytes;
use md5::{Digest, Md5};

use crate::codec::{Decoder, Encode, Malformed};

/// Which of the protocol's kinds a message was sent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageKind {
    Normal = 1,
    Fifo = 2,
    Delay = 3,
    Transaction = 4,
    Lite = 5,
    Priority = 6,
}

impl MessageKind {
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Normal,
            2 => Self::Fifo,
            3 => Self::Delay,
            4 => Self::Transaction,
            5 => Self::Lite,
            6 => Self::Priority,
            _ => return None,
        })
    }
}

/// Everything about a message that is not its body and does not change after it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub kind: MessageKind,
    pub is_gzip: bool,
    pub message_id: String,
    pub born_at: Timestamp,
    pub born_host: String,
    pub tag: Option<String>,
    pub keys: Vec<String>,
    pub properties: Vec<(String, String)>,
    pub message_group: Option<String>,
    /// As the sender asked for; echoed to consumers.
    pub deliver_at: Option<Timestamp>,
    pub trace_context: Option<String>,
    pub priority: Option<u32>,
    pub lite_topic: Option<String>,
}

impl Envelope {
    /// Without anything that may be left out.
    pub fn new(kind: MessageKind, message_id: String, born_at: Timestamp, born_host: String) -> Self {
        Self {
            kind,
            is_gzip: false,
            message_id,
            born_at,
            born_host,
            tag: None,
            keys: Vec::new(),
            properties: Vec::new(),
            message_group: None,
            deliver_at: None,
            trace_context: None,
            priority: None,
            lite_topic: None,
        }
    }
}

/// A message read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// The topic it was sent to, which for a dead letter is not the one it is read from.
    pub topic: TopicId,
    pub envelope: Envelope,
    /// Of the body as stored; computed once, at the send.
    pub md5: [u8; 16],
    pub body: Bytes,
}

/// An encoded body part, ready to be copied into a record.
#[derive(Debug, Clone)]
pub struct BodyPart(Vec<u8>);

/// Why a stored body cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the checksum of the body part is {found:#010x}, not {expected:#010x}")]
    Checksum { expected: u32, found: u32 },
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

const FLAG_GZIP: u8 = 1;

// Optional fields, each a tag byte and a value; a reader refuses tags it does not know.
const TAG: u8 = 1;
const KEY: u8 = 2;
const PROPERTY: u8 = 3;
const MESSAGE_GROUP: u8 = 4;
const DELIVER_AT: u8 = 5;
const TRACE_CONTEXT: u8 = 6;
const PRIORITY: u8 = 7;
const LITE_TOPIC: u8 = 8;

/// MD5 of a body, in the form that clients are sent.
pub fn digest(body: &[u8]) -> [u8; 16] {
    Md5::digest(body).into()
}

impl BodyPart {
    /// Encodes, digests and checksums. The envelope must have been checked against `base::limits`.
    pub fn encode(envelope: &Envelope, body: &[u8]) -> Self {
        let mut out = Vec::with_capacity(body.len() + 256);
        out.u32(0);
        out.u32(0);
        encode_envelope(&mut out, envelope, &digest(body));
        let envelope_length = u32::try_from(out.len() - 8).expect("envelopes are bounded by ENVELOPE_BYTES_MAX");
        out[4..8].copy_from_slice(&envelope_length.to_le_bytes());
        out.extend_from_slice(body);
        let crc = crc32c::crc32c(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        Self(out)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As if memory had failed between the send and the log.
    #[cfg(test)]
    pub(crate) fn damaged(mut self, damage: impl FnOnce(&mut [u8])) -> Self {
        damage(&mut self.0);
        self
    }
}

/// Checks and reads a body part; the body stays a slice of `part`.
pub fn decode(topic: TopicId, part: &Bytes) -> Result<StoredMessage, BodyError> {
    let mut decoder = Decoder::new("body part", part);
    let expected = decoder.u32()?;
    let found = crc32c::crc32c(decoder.rest());
    if found != expected {
        return Err(BodyError::Checksum { expected, found });
    }
    let length = usize::try_from(decoder.u32()?).map_err(|_| decoder.malformed())?;
    let (envelope, md5) = decode_envelope(decoder.take(length)?)?;
    let body = part.slice(part.len() - decoder.rest().len()..);
    Ok(StoredMessage { topic, envelope, md5, body })
}

/// The envelope of a body part that may be damaged: whatever it says has to be held against something else.
pub fn unchecked_envelope(part: &[u8]) -> Option<Envelope> {
    let mut decoder = Decoder::new("body part", part);
    decoder.u32().ok()?;
    let length = usize::try_from(decoder.u32().ok()?).ok()?;
    Some(decode_envelope(decoder.take(length).ok()?).ok()?.0)
}

fn encode_envelope(out: &mut Vec<u8>, envelope: &Envelope, md5: &[u8; 16]) {
    out.u8(envelope.kind as u8);
    out.u8(if envelope.is_gzip { FLAG_GZIP } else { 0 });
    out.extend_from_slice(md5);
    out.varint(envelope.born_at.0);
    out.text(&envelope.message_id);
    out.text(&envelope.born_host);
    let mut optional = |tag: u8, value: &Option<String>| {
        if let Some(value) = value {
            out.u8(tag);
            out.text(value);
        }
    };
    optional(TAG, &envelope.tag);
    optional(MESSAGE_GROUP, &envelope.message_group);
    optional(TRACE_CONTEXT, &envelope.trace_context);
    optional(LITE_TOPIC, &envelope.lite_topic);
    for key in &envelope.keys {
        out.u8(KEY);
        out.text(key);
    }
    for (name, value) in &envelope.properties {
        out.u8(PROPERTY);
        out.text(name);
        out.text(value);
    }
    if let Some(deliver_at) = envelope.deliver_at {
        out.u8(DELIVER_AT);
        out.varint(deliver_at.0);
    }
    if let Some(priority) = envelope.priority {
        out.u8(PRIORITY);
        out.varint(priority.into());
    }
}

fn decode_envelope(bytes: &[u8]) -> Result<(Envelope, [u8; 16]), Malformed> {
    let mut decoder = Decoder::new("envelope", bytes);
    let kind = MessageKind::from_code(decoder.u8()?).ok_or(decoder.malformed())?;
    let is_gzip = decoder.u8()? & FLAG_GZIP != 0;
    let md5 = decoder.bytes16()?;
    let born_at = Timestamp(decoder.varint()?);
    let message_id = decoder.text()?.to_owned();
    let born_host = decoder.text()?.to_owned();
    let mut envelope = Envelope { is_gzip, ..Envelope::new(kind, message_id, born_at, born_host) };
    while !decoder.rest().is_empty() {
        decode_field(&mut decoder, &mut envelope)?;
    }
    Ok((envelope, md5))
}

fn decode_field(decoder: &mut Decoder<'_>, envelope: &mut Envelope) -> Result<(), Malformed> {
    match decoder.u8()? {
        TAG => envelope.tag = Some(decoder.text()?.to_owned()),
        KEY => envelope.keys.push(decoder.text()?.to_owned()),
        PROPERTY => {
            let name = decoder.text()?.to_owned();
            envelope.properties.push((name, decoder.text()?.to_owned()));
        }
        MESSAGE_GROUP => envelope.message_group = Some(decoder.text()?.to_owned()),
        DELIVER_AT => envelope.deliver_at = Some(Timestamp(decoder.varint()?)),
        TRACE_CONTEXT => envelope.trace_context = Some(decoder.text()?.to_owned()),
        PRIORITY => envelope.priority = Some(decoder.number()?),
        LITE_TOPIC => envelope.lite_topic = Some(decoder.text()?.to_owned()),
        _ => return Err(decoder.malformed()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            kind: MessageKind::Fifo,
            is_gzip: true,
            message_id: "01ABC".into(),
            born_at: Timestamp(1_700_000_000_123),
            born_host: "host".into(),
            tag: Some("red".into()),
            keys: vec!["k1".into(), "k2".into()],
            properties: vec![("ключ".into(), "значение".into()), ("empty".into(), String::new())],
            message_group: Some("order-1".into()),
            deliver_at: Some(Timestamp(7)),
            trace_context: Some("t".into()),
            priority: Some(3),
            lite_topic: None,
        }
    }

    #[test]
    fn an_envelope_and_its_body_come_back_with_the_digest_of_the_body() {
        let part = BodyPart::encode(&envelope(), b"body");
        let message = decode(TopicId(1), &Bytes::copy_from_slice(part.as_bytes())).expect("just encoded");
        assert_eq!(message.envelope, envelope());
        assert_eq!(&message.body[..], b"body");
        assert_eq!(message.md5, digest(b"body"));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let part = BodyPart::encode(&envelope(), b"body");
        for bit in 0..part.as_bytes().len() * 8 {
            let mut bytes = part.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(TopicId(1), &bytes.into()).is_err(), "bit {bit}");
        }
    }
}
