//! What clients carry for the server: receipt handles, recall handles, transaction ids. Opaque to them, printable ASCII.
//!
//! Each ends with four bytes of a keyed hash, so that a text the server never gave out is recognised as such.

use base::{GroupId, LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use storage::codec::{Decoder, Encode, Malformed};
use storage::hash::HashKey;

use base::limits::HANDLE_BYTES_MAX;

const RECEIPT: u8 = b'r';
const RECALL: u8 = b'd';
const TRANSACTION: u8 = b't';

/// Names one delivery of one message: `batch` is the number of the hand-out, never used twice in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub group: GroupId,
    pub topic: TopicId,
    pub queue: QueueIndex,
    pub offset: QueueOffset,
    pub attempt: u32,
    pub batch: u64,
    /// How often the queue was sought for the group when it was handed out: a seek ends older handles.
    pub generation: u32,
}

/// Names a delayed message for as long as it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recall {
    /// The broker group that holds the message.
    pub broker_group: u32,
    pub topic: TopicId,
    pub origin: LogPosition,
    pub due: Timestamp,
}

/// Names a prepared message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    pub broker_group: u32,
    pub topic: TopicId,
    pub origin: LogPosition,
}

impl Receipt {
    pub fn encode(&self, key: &HashKey) -> String {
        seal(RECEIPT, key, |out| {
            out.varint(self.group.0.into());
            out.varint(self.topic.0.into());
            out.varint(self.queue.0.into());
            out.varint(self.offset.0);
            out.varint(self.attempt.into());
            out.varint(self.batch);
            out.varint(self.generation.into());
        })
    }

    /// None when the server never gave this text out as a receipt handle.
    pub fn decode(text: &str, key: &HashKey) -> Option<Self> {
        open(RECEIPT, text, key, |from| {
            Ok(Self {
                group: GroupId(from.number()?),
                topic: TopicId(from.number()?),
                queue: QueueIndex(from.number()?),
                offset: QueueOffset(from.varint()?),
                attempt: from.number()?,
                batch: from.varint()?,
                generation: from.number()?,
            })
        })
    }
}

impl Recall {
    pub fn encode(&self, key: &HashKey) -> String {
        seal(RECALL, key, |out| {
            out.varint(self.broker_group.into());
            out.varint(self.topic.0.into());
            out.varint(self.origin.0);
            out.varint(self.due.0);
        })
    }

    pub fn decode(text: &str, key: &HashKey) -> Option<Self> {
        open(RECALL, text, key, Self::read)
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            broker_group: from.number()?,
            topic: TopicId(from.number()?),
            origin: LogPosition(from.varint()?),
            due: Timestamp(from.varint()?),
        })
    }
}

impl Transaction {
    pub fn encode(&self, key: &HashKey) -> String {
        seal(TRANSACTION, key, |out| {
            out.varint(self.broker_group.into());
            out.varint(self.topic.0.into());
            out.varint(self.origin.0);
        })
    }

    pub fn decode(text: &str, key: &HashKey) -> Option<Self> {
        open(TRANSACTION, text, key, Self::read)
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let broker_group = from.number()?;
        Ok(Self { broker_group, topic: TopicId(from.number()?), origin: LogPosition(from.varint()?) })
    }
}

/// The broker group that a recall handle or transaction id says it is of. Nobody vouches for it: the store that gave
/// the text out checks it, and others only pass it on. None when it has neither form.
pub fn broker_group(text: &str) -> Option<u32> {
    let bytes = decoded(text)?;
    let (content, _unchecked) = bytes.split_last_chunk::<4>()?;
    let (&kind, rest) = content.split_first()?;
    let mut from = Decoder::new("handle", rest);
    let group = match kind {
        RECALL => Recall::read(&mut from).ok()?.broker_group,
        TRANSACTION => Transaction::read(&mut from).ok()?.broker_group,
        _ => return None,
    };
    from.end().ok()?;
    Some(group)
}

/// Whether the store with this key gave a text out, as whatever.
pub fn is_sealed(text: &str, key: &HashKey) -> bool {
    unseal(text, key).is_some()
}

fn seal(kind: u8, key: &HashKey, encode: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = vec![kind];
    encode(&mut bytes);
    let check = key.bytes(&bytes);
    bytes.extend_from_slice(&check.to_le_bytes()[..4]);
    URL_SAFE_NO_PAD.encode(bytes)
}

fn open<T>(
    kind: u8,
    text: &str,
    key: &HashKey,
    decode: impl FnOnce(&mut Decoder<'_>) -> Result<T, Malformed>,
) -> Option<T> {
    let content = unseal(text, key)?;
    let rest = content.strip_prefix(&[kind])?;
    let mut decoder = Decoder::new("handle", rest);
    let value = decode(&mut decoder).ok()?;
    decoder.end().ok()?;
    Some(value)
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    (text.len() <= HANDLE_BYTES_MAX).then(|| URL_SAFE_NO_PAD.decode(text).ok()).flatten()
}

/// What was sealed.
fn unseal(text: &str, key: &HashKey) -> Option<Vec<u8>> {
    let mut bytes = decoded(text)?;
    let (content, check) = bytes.split_last_chunk::<4>()?;
    if key.bytes(content).to_le_bytes()[..4] != *check {
        return None;
    }
    bytes.truncate(content.len());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey([7; 16]);

    #[test]
    fn a_handle_names_what_it_was_made_for_and_a_changed_one_names_nothing() {
        let receipt = Receipt {
            group: GroupId(1),
            topic: TopicId(70_000),
            queue: QueueIndex(9),
            offset: QueueOffset(1 << 40),
            attempt: 3,
            batch: u64::MAX,
            generation: 5,
        };
        let text = receipt.encode(&KEY);
        assert_eq!(Receipt::decode(&text, &KEY), Some(receipt));
        assert_eq!(Receipt::decode(&text, &HashKey([8; 16])), None, "another store's");
        assert_eq!(Recall::decode(&text, &KEY), None, "another kind");
        assert!(is_sealed(&text, &KEY) && !is_sealed(&text, &HashKey([8; 16])));
        for cut in 0..text.len() {
            assert_eq!(Receipt::decode(&text[..cut], &KEY), None, "cut to {cut}");
        }
        for bad in ["", "garbage", "ü", &"x".repeat(50_000)] {
            assert_eq!(Receipt::decode(bad, &KEY), None, "{bad:.20}");
        }
    }

    #[test]
    fn the_broker_group_is_read_without_the_key_and_only_of_what_has_the_form() {
        let (topic, origin) = (TopicId(3), LogPosition(1 << 33));
        let recall = Recall { broker_group: u32::MAX, topic, origin, due: Timestamp(9) }.encode(&KEY);
        let transaction = Transaction { broker_group: 7, topic, origin }.encode(&KEY);
        assert_eq!((broker_group(&recall), broker_group(&transaction)), (Some(u32::MAX), Some(7)));
        for text in [&recall, &transaction] {
            for cut in 0..text.len() {
                assert_eq!(broker_group(&text[..cut]), None, "{text} cut to {cut}");
            }
            assert_eq!(broker_group(&format!("{text}AAAA")), None, "with more behind it");
        }
        // Base64 of words that begin as handles do.
        for bad in ["", "dGVzdA", "ZGVsYXllZA", "made up"] {
            assert_eq!(broker_group(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_sealed_is_read_as_one_thing_or_as_none_and_never_after_a_change() {
        let mut chance = base::Chance::new(1);
        let mut read = 0;
        for _ in 0..20_000 {
            let kind = *chance.pick(&[RECEIPT, RECALL, TRANSACTION, b'x']);
            let content: Vec<_> = (0..chance.below(24)).map(|_| chance.next_u64() as u8 & 0x9F).collect();
            let text = seal(kind, &KEY, |bytes| bytes.extend(&content));
            let receipt = Receipt::decode(&text, &KEY);
            let recall = Recall::decode(&text, &KEY);
            let transaction = Transaction::decode(&text, &KEY);
            let found = [receipt.is_some(), recall.is_some(), transaction.is_some()];
            assert!(found.iter().filter(|found| **found).count() <= 1, "{kind} {content:?}");
            read += usize::from(found.contains(&true));
            // What was read is what would be given out for it.
            assert!(receipt.is_none_or(|it| Receipt::decode(&it.encode(&KEY), &KEY) == Some(it)));
            assert!(recall.is_none_or(|it| Recall::decode(&it.encode(&KEY), &KEY) == Some(it)));
            assert!(transaction.is_none_or(|it| Transaction::decode(&it.encode(&KEY), &KEY) == Some(it)));

            let at = usize::try_from(chance.below(text.len() as u64)).expect("an index");
            let other = *chance.pick(b"ABCxyz019-_=+ ");
            let mut changed = text.clone().into_bytes();
            if changed[at] != other {
                changed[at] = other;
                let changed = String::from_utf8(changed).expect("ASCII");
                // The last letter has bits that say nothing: a text that only differs in them is none either.
                assert!(!is_sealed(&changed, &KEY), "{text} became {changed}");
                broker_group(&changed);
            }
        }
        assert!(read > 100, "{read} were read");
    }
}
