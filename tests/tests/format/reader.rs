//! A reader of a store's files that was written from docs/formats.md alone: nothing of the storage crate is used here, so
//! that what the document leaves out or says wrongly shows.

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Number(u64),
    Text(String),
    Bytes(Vec<u8>),
    Fields(Vec<(&'static str, Value)>),
    List(Vec<Value>),
}

pub type Fields = Vec<(&'static str, Value)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub store_id: [u8; 16],
    pub group: u64,
    pub random: u64,
    pub base: u64,
    pub first_index: u64,
    pub term: u64,
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub position: u64,
    pub index: u64,
    pub term: u64,
    pub stored_at: u64,
    /// Below this everything was durable when it was written.
    pub durable: u64,
    pub records: Vec<Record>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub position: u64,
    /// Frame included.
    pub length: u64,
    pub kind: u8,
    pub fields: Fields,
    pub body: Option<Body>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    pub md5: [u8; 16],
    pub envelope: Fields,
    pub body: Vec<u8>,
}

impl Record {
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    pub fn number(&self, name: &str) -> u64 {
        match self.get(name) {
            Some(Value::Number(number)) => *number,
            other => panic!("{name} of {self:?} is {other:?}"),
        }
    }
}

/// CRC32C, bit by bit, of `bytes` after what gave `before`; 0 = nothing.
pub fn crc32c(before: u32, bytes: &[u8]) -> u32 {
    let mut crc = !before;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    !crc
}

/// SipHash-2-4.
pub fn siphash(key: &[u8; 16], text: &[u8]) -> u64 {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let (k0, k1) = (word(&key[..8]), word(&key[8..]));
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut padded = text.to_vec();
    padded.resize(text.len() / 8 * 8 + 8, 0);
    *padded.last_mut().expect("at least a word") = (text.len() % 256) as u8;
    for chunk in padded.chunks(8) {
        v[3] ^= word(chunk);
        sip_rounds(&mut v, 2);
        v[0] ^= word(chunk);
    }
    v[2] ^= 0xFF;
    sip_rounds(&mut v, 4);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn sip_rounds(v: &mut [u64; 4], count: usize) {
    for _ in 0..count {
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl Segment {
    /// "Segment": either copy of the header will do.
    pub fn read(file: &[u8]) -> Option<Self> {
        [0, 2048].into_iter().find_map(|at| Self::read_copy(&file[at..at + 128]))
    }

    fn read_copy(copy: &[u8]) -> Option<Self> {
        if copy[..8] != *b"CARILLON" || u32_at(copy, 124) != crc32c(0, &copy[..124]) {
            return None;
        }
        assert_eq!(u32_at(copy, 8), 1, "format version");
        assert_eq!((u64_at(copy, 16), u64_at(copy, 24)), (0, 0), "no features are defined");
        assert!(copy[12..16].iter().chain(&copy[96..124]).all(|byte| *byte == 0), "reserved bytes are zero");
        Some(Self {
            store_id: copy[32..48].try_into().expect("sixteen bytes"),
            group: u64_at(copy, 48),
            random: u64_at(copy, 56),
            base: u64_at(copy, 64),
            first_index: u64_at(copy, 72),
            term: u64_at(copy, 80),
            size: u64_at(copy, 88),
        })
    }

    /// Where the checksums of its batch headers start.
    fn seed(&self) -> u32 {
        let mut seed = crc32c(0, &self.store_id);
        for number in [self.group, self.random, self.base] {
            seed = crc32c(seed, &number.to_le_bytes());
        }
        seed
    }

    /// "Reading": every batch of the segment's file, in order. `next` is the index that comes next in the log.
    pub fn batches(&self, file: &[u8], next: &mut u64) -> Vec<Batch> {
        assert_eq!(self.first_index, *next, "the first index of segment {}", self.base);
        let mut batches = Vec::new();
        let mut at = 4096;
        while at + 64 <= file.len() {
            match self.batch(file, at).filter(|(batch, _)| batch.index == *next) {
                Some((batch, total)) => {
                    batches.push(batch);
                    *next += 1;
                    at += total;
                }
                None => at += 8,
            }
        }
        batches
    }

    /// "Group and batch": the batch at `at`, and the bytes to the next one.
    fn batch(&self, file: &[u8], at: usize) -> Option<(Batch, usize)> {
        let header = &file[at..at + 64];
        let position = self.base + at as u64;
        if header[..4] != *b"CBAT" || u32_at(header, 60) != crc32c(self.seed(), &header[..60]) {
            return None;
        }
        assert_eq!(u32_at(header, 4), 0, "no flags are defined");
        assert_eq!(u64_at(header, 24), position, "a batch knows where it lies");
        let (length, padding) = (u32_at(header, 8) as usize, u32_at(header, 12) as usize);
        let records = file.get(at + 64..at + 64 + length)?;
        if u32_at(header, 56) != crc32c(0, records) {
            return None;
        }
        assert!(file[at + 64 + length..at + 64 + length + padding].iter().all(|byte| *byte == 0), "padding is zeros");
        let mut bytes = Bytes { rest: records };
        let mut found = Vec::new();
        while !bytes.rest.is_empty() {
            let record_at = position + 64 + (length - bytes.rest.len()) as u64;
            found.push(record(&mut bytes, record_at));
        }
        assert_eq!(found.len(), u32_at(header, 16) as usize, "the number of records");
        let durable = (position / 4096 - u64::from(u32_at(header, 20))) * 4096;
        let (index, term, stored_at) = (u64_at(header, 32), u64_at(header, 40), u64_at(header, 48));
        Some((Batch { position, index, term, stored_at, durable, records: found }, 64 + length + padding))
    }
}

/// What is left to read.
struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (front, rest) = self.rest.split_at(count);
        self.rest = rest;
        front
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u64 {
        let bytes = self.take(2);
        u64::from(bytes[0]) | u64::from(bytes[1]) << 8
    }

    fn u32(&mut self) -> u64 {
        u32_at(self.take(4), 0).into()
    }

    fn u64(&mut self) -> u64 {
        u64_at(self.take(8), 0)
    }

    fn varint(&mut self) -> u64 {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.u8();
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return value;
            }
        }
        panic!("a varint has at most ten bytes");
    }

    fn blob(&mut self) -> Vec<u8> {
        let length = self.varint();
        self.take(length.try_into().expect("small")).to_vec()
    }

    fn text(&mut self) -> String {
        String::from_utf8(self.blob()).expect("texts are UTF-8")
    }

    fn bool(&mut self) -> u64 {
        let byte = self.u8();
        assert!(byte < 2, "a bool is 0 or 1");
        byte.into()
    }
}

use Value::{Number, Text};

/// "Records": the frame, then the payload.
fn record(bytes: &mut Bytes<'_>, position: u64) -> Record {
    let kind = bytes.u8();
    assert_eq!(bytes.take(3), [0, 0, 0], "the frame's zeros");
    let length = bytes.u32();
    let mut payload = Bytes { rest: bytes.take(length.try_into().expect("small")) };
    let fields = payload_of(kind, &mut payload);
    let body = (1..=3).contains(&kind).then(|| body_part(payload.rest));
    assert!(body.is_some() || payload.rest.is_empty(), "nothing follows the payload of kind {kind}");
    Record { position, length: length + 8, kind, fields, body }
}

/// Every kind's payload.
fn payload_of(kind: u8, from: &mut Bytes<'_>) -> Fields {
    match kind {
        1 => vec![("head", head(from)), ("queue", Number(from.u16())), ("offset", Number(from.u64()))],
        2 => vec![("head", head(from)), ("due", Number(from.u64()))],
        3 => vec![
            ("head", head(from)),
            ("due", Number(from.u64())),
            ("check after", Number(from.u32())),
            ("client", Text(from.text())),
        ],
        4 => vec![
            ("origin", pointer(from)),
            ("head", head(from)),
            ("queue", Number(from.u16())),
            ("offset", Number(from.u64())),
            ("visible since", Number(from.varint())),
            ("why", why(from)),
        ],
        5 => vec![("origin", Number(from.varint())), ("pending", pending(from))],
        6 => vec![
            ("origin", pointer(from)),
            ("head", head(from)),
            ("from", pending(from)),
            ("due", Number(from.varint())),
        ],
        7 => {
            let pair = pair(from);
            let acks = list(from, |from| varints(from, &["queue", "first", "count"]));
            let retries = list(from, |from| varints(from, &["queue", "offset", "attempts", "next visible"]));
            vec![("pair", pair), ("acks", acks), ("retries", retries)]
        }
        8 => vec![
            ("pair", pair(from)),
            ("batch", Number(from.varint())),
            ("client", Text(from.text())),
            ("until", Number(from.varint())),
            ("entries", list(from, |from| varints(from, &["queue", "offset", "attempt"]))),
        ],
        9 => vec![
            ("pair", pair(from)),
            ("start", list(from, |from| varints(from, &["queue", "offset"]))),
            ("is SQL", Number(from.bool())),
            ("filter", Text(from.text())),
        ],
        10 => vec![("pair", pair(from)), ("seek", varints(from, &["queue", "to", "generation"]))],
        11 => vec![("pair", pair(from)), ("message group", Number(from.u64())), ("on", Number(from.bool()))],
        12 => vec![("purge", varints(from, &["topic", "queue", "below"]))],
        19 => vec![("expire", varints(from, &["topic", "queue", "below"]))],
        13 => vec![
            ("id", Number(from.varint())),
            ("name", Text(from.text())),
            ("kind", Number(from.u8().into())),
            ("queues", Number(from.u16())),
            ("created", Number(from.varint())),
            ("dropped", Number(from.bool())),
            ("retention", Number(from.varint())),
            ("retention bytes", Number(from.varint())),
            ("changed", Number(from.varint())),
        ],
        14 => vec![
            ("id", Number(from.varint())),
            ("name", Text(from.text())),
            ("order", Number(from.u8().into())),
            ("attempts", Number(from.varint())),
            ("back-off", backoff(from)),
            ("invisible", Number(from.varint())),
            ("created", Number(from.varint())),
            ("dropped", Number(from.bool())),
            ("changed", Number(from.varint())),
        ],
        15 => {
            vec![("name", Text(from.text())), ("dropped", Number(from.bool())), ("content", Value::Bytes(from.blob()))]
        }
        16 => {
            vec![("hash key", Value::Bytes(from.take(16).to_vec())), ("voters", list(from, |from| Number(from.u64())))]
        }
        17 => vec![("node", Number(from.u64()))],
        18 => Vec::new(),
        _ => panic!("a record of kind {kind}"),
    }
}

fn list(from: &mut Bytes<'_>, mut element: impl FnMut(&mut Bytes<'_>) -> Value) -> Value {
    let count = from.varint();
    Value::List((0..count).map(|_| element(from)).collect())
}

fn varints(from: &mut Bytes<'_>, names: &[&'static str]) -> Value {
    Value::Fields(names.iter().map(|name| (*name, Number(from.varint()))).collect())
}

fn head(from: &mut Bytes<'_>) -> Value {
    Value::Fields(vec![
        ("topic", Number(from.u32())),
        ("tag hash", Number(from.u32())),
        ("group hash", Number(from.u64())),
        ("priority", Number(from.u8().into())),
    ])
}

fn pointer(from: &mut Bytes<'_>) -> Value {
    varints(from, &["position", "length"])
}

fn pair(from: &mut Bytes<'_>) -> Value {
    varints(from, &["group", "topic"])
}

fn pending(from: &mut Bytes<'_>) -> Value {
    match from.u8() {
        1 => Text("transaction".into()),
        2 => Number(from.varint()),
        other => panic!("pending {other}"),
    }
}

fn why(from: &mut Bytes<'_>) -> Value {
    let code = from.u8();
    let mut fields = vec![("code", Number(code.into()))];
    match code {
        1 => fields.push(("due", Number(from.varint()))),
        2 => {}
        3 => {
            fields.push(("group", Number(from.varint())));
            fields.push(("attempts", Number(from.varint())));
            fields.push(("reason", Number(from.u8().into())));
        }
        4 => fields.push(("group", Number(from.varint()))),
        other => panic!("why {other}"),
    }
    Value::Fields(fields)
}

fn backoff(from: &mut Bytes<'_>) -> Value {
    match from.u8() {
        1 => list(from, |from| Number(from.varint())),
        2 => varints(from, &["first", "factor", "longest"]),
        other => panic!("back-off {other}"),
    }
}

/// "Body part".
fn body_part(part: &[u8]) -> Body {
    assert_eq!(u32_at(part, 0), crc32c(0, &part[4..]), "the checksum of a body part");
    let length = u32_at(part, 4) as usize;
    let mut from = Bytes { rest: &part[8..8 + length] };
    let mut envelope = vec![("kind", Number(from.u8().into())), ("flags", Number(from.u8().into()))];
    let md5 = from.take(16).try_into().expect("sixteen bytes");
    envelope.push(("born", Number(from.varint())));
    envelope.push(("id", Text(from.text())));
    envelope.push(("host", Text(from.text())));
    while !from.rest.is_empty() {
        let field = match from.u8() {
            1 => ("tag", Text(from.text())),
            2 => ("key", Text(from.text())),
            3 => ("property", Value::List(vec![Text(from.text()), Text(from.text())])),
            4 => ("message group", Text(from.text())),
            5 => ("delivery time", Number(from.varint())),
            6 => ("trace context", Text(from.text())),
            7 => ("priority", Number(from.varint())),
            8 => ("lite topic", Text(from.text())),
            other => panic!("field {other} of an envelope"),
        };
        envelope.push(field);
    }
    Body { md5, envelope, body: part[8 + length..].to_vec() }
}
