//! Protobuf as it stands on the wire, taken apart without a schema, changed somewhere, and put together again.

use base::Chance;
use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// Nobody nests deeper, and lists in lists in lists would grow without end.
const DEPTH_MAX: usize = 8;
/// Fields that one message may be blown up to.
const COPIES_MAX: u64 = 4_000;
const COPIED_BYTES_MAX: usize = 64;

#[derive(Debug, Clone)]
pub struct Field {
    number: u32,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(Vec<u8>),
    /// Bytes that can be read as one, whatever they are meant as.
    Message(Vec<Field>),
}

/// None when the bytes are no message.
pub fn parse(bytes: &[u8], depth: usize) -> Option<Vec<Field>> {
    let mut rest = bytes;
    let mut fields = Vec::new();
    while rest.has_remaining() {
        let (number, wire_type) = decode_key(&mut rest).ok()?;
        let value = match wire_type {
            WireType::Varint => Value::Varint(decode_varint(&mut rest).ok()?),
            WireType::SixtyFourBit => Value::Fixed64(rest.try_get_u64_le().ok()?),
            WireType::ThirtyTwoBit => Value::Fixed32(rest.try_get_u32_le().ok()?),
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
                let bytes = rest.split_off(..length)?;
                let inner = Some(depth).filter(|depth| *depth < DEPTH_MAX && !bytes.is_empty());
                match inner.and_then(|depth| parse(bytes, depth + 1)) {
                    Some(fields) => Value::Message(fields),
                    None => Value::Bytes(bytes.to_vec()),
                }
            }
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        fields.push(Field { number, value });
    }
    Some(fields)
}

pub fn encode(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        let number = field.number;
        match &field.value {
            Value::Varint(value) => {
                encode_key(number, WireType::Varint, &mut bytes);
                encode_varint(*value, &mut bytes);
            }
            Value::Fixed64(value) => {
                encode_key(number, WireType::SixtyFourBit, &mut bytes);
                bytes.extend(value.to_le_bytes());
            }
            Value::Fixed32(value) => {
                encode_key(number, WireType::ThirtyTwoBit, &mut bytes);
                bytes.extend(value.to_le_bytes());
            }
            Value::Bytes(value) => delimited(number, value, &mut bytes),
            Value::Message(inner) => delimited(number, &encode(inner), &mut bytes),
        }
    }
    bytes
}

fn delimited(number: u32, value: &[u8], bytes: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, bytes);
    encode_varint(value.len() as u64, bytes);
    bytes.extend(value);
}

/// Changes one thing somewhere in a message.
pub fn mutate(fields: &mut Vec<Field>, chance: &mut Chance) {
    if fields.is_empty() || chance.one_in(20) {
        let number = u32::try_from(chance.below(12)).expect("small") + 1;
        let value = if chance.one_in(2) { Value::Varint(extreme(chance)) } else { Value::Bytes(text(chance)) };
        fields.push(Field { number, value });
        return;
    }
    let at = usize::try_from(chance.below(fields.len() as u64)).expect("an index");
    if let Value::Message(inner) = &mut fields[at].value
        && !chance.one_in(4)
    {
        return mutate(inner, chance);
    }
    match chance.below(6) {
        0 => drop(fields.remove(at)),
        1 => {
            let copied = fields[at].clone();
            let is_small = encode(std::slice::from_ref(&copied)).len() <= COPIED_BYTES_MAX;
            let most = if is_small { COPIES_MAX } else { 4 };
            let copies = usize::try_from(chance.below(most)).expect("a count");
            fields.splice(at..at, std::iter::repeat_n(copied, copies));
        }
        2 => fields[at].number = u32::try_from(chance.below(20)).expect("small") + 1,
        3 => {
            // What was meant as something else.
            fields[at].value = match chance.below(4) {
                0 => Value::Varint(extreme(chance)),
                1 => Value::Fixed64(extreme(chance)),
                2 => Value::Fixed32(u32::MAX),
                _ => Value::Bytes(text(chance)),
            }
        }
        _ => change(&mut fields[at].value, chance),
    }
}

fn change(value: &mut Value, chance: &mut Chance) {
    match value {
        Value::Varint(value) => *value = extreme(chance),
        Value::Fixed64(value) => *value = extreme(chance),
        Value::Fixed32(value) => *value = *chance.pick(&[0, 1, u32::MAX, i32::MAX as u32]),
        Value::Message(_) => *value = Value::Bytes(text(chance)),
        Value::Bytes(bytes) if bytes.is_empty() || chance.one_in(2) => *bytes = text(chance),
        Value::Bytes(bytes) => {
            let at = usize::try_from(chance.below(bytes.len() as u64)).expect("an index");
            match chance.below(3) {
                0 => bytes.truncate(at),
                1 => bytes[at] ^= 1 << chance.below(8),
                _ => bytes.insert(at, chance.next_u64() as u8),
            }
        }
    }
}

/// Numbers at the ends of what a kind of number can be: of enums, counts, times of both signs.
fn extreme(chance: &mut Chance) -> u64 {
    let signed: i64 = *chance.pick(&[
        0,
        1,
        2,
        -1,
        99,
        i64::from(i32::MAX),
        i64::from(i32::MIN),
        i64::from(i32::MAX) + 1,
        i64::MAX,
        i64::MIN,
        253_402_300_800,
        -62_135_596_801,
        1_000_000_000,
    ]);
    if chance.one_in(8) { chance.next_u64() } else { signed as u64 }
}

/// Names that are none, of every length.
fn text(chance: &mut Chance) -> Vec<u8> {
    match chance.below(12) {
        0 | 1 => Vec::new(),
        2 => vec![0xFF, 0xFE, b'a'],
        3 => vec![0; 3],
        4 => "%DLQ%readers".into(),
        5 => "../../etc/passwd".into(),
        6 => "名前 \u{7F}\r\n\u{202E}".into(),
        7 => vec![b'x'; usize::try_from(chance.below(300)).expect("small")],
        8 if chance.one_in(6) => vec![b'y'; 1 << 20],
        9 => " ".into(),
        _ => {
            let length = chance.below(40);
            (0..length).map(|_| chance.next_u64() as u8).collect()
        }
    }
}
