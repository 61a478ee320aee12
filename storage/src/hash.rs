//! Hashes that are stored: SipHash-2-4 with a key that the store made for itself.
//!
//! The key keeps senders from choosing message groups that collide; it lives in the store's first batch, so hashes mean
//! the same for as long as the store lives, on every replica.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// The key of one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

/// What a message is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Lookup {
    Key = 1,
    Id = 2,
}

/// Beside the kinds of [`Lookup`].
const MESSAGE_GROUP: u8 = 0;
/// Where a body became visible.
const ORIGIN: u8 = 3;

#[cfg(test)]
impl HashKey {
    /// Look-ups with this key know two hashes only.
    pub const COLLIDING: Self = Self([0xC0; 16]);
}

impl HashKey {
    /// Of a message group. Never 0: that stands for "no message group".
    pub fn message_group(&self, group: &str) -> u64 {
        self.hash(group).max(1)
    }

    /// Of a tag. Never 0: that stands for "no tag".
    pub fn tag(&self, tag: &str) -> u32 {
        let hash = self.hash(tag);
        ((hash ^ (hash >> 32)) & 0xFFFF_FFFF).max(1) as u32
    }

    /// Of a key or an id of a message, for look-ups. What it is and where it was sent to are hashed with it.
    pub fn lookup(&self, topic: base::TopicId, what: Lookup, text: &str) -> u64 {
        self.in_topic(what as u8, topic, text.as_bytes())
    }

    /// Of a message group in a topic, for look-ups.
    pub fn lookup_group(&self, topic: base::TopicId, group_hash: u64) -> u64 {
        self.in_topic(MESSAGE_GROUP, topic, &group_hash.to_le_bytes())
    }

    /// Of where a body lies that became visible in a topic, for look-ups.
    pub fn lookup_origin(&self, topic: base::TopicId, origin: base::LogPosition) -> u64 {
        self.in_topic(ORIGIN, topic, &origin.0.to_le_bytes())
    }

    fn in_topic(&self, kind: u8, topic: base::TopicId, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&[kind]);
        hasher.write(&topic.0.to_le_bytes());
        hasher.write(bytes);
        #[cfg(test)]
        if *self == Self::COLLIDING {
            return hasher.finish() & 1;
        }
        hasher.finish()
    }

    fn hash(&self, text: &str) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(text.as_bytes());
        hasher.finish()
    }
}

impl HashKey {
    /// Of any bytes: lets the server recognise what it gave out itself.
    pub fn bytes(&self, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(bytes);
        hasher.finish()
    }
}
