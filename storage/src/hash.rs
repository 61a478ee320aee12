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
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&[what as u8]);
        hasher.write(&topic.0.to_le_bytes());
        hasher.write(text.as_bytes());
        hasher.finish()
    }

    /// Of a message group in a topic, for look-ups.
    pub fn lookup_group(&self, topic: base::TopicId, group_hash: u64) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&[0]);
        hasher.write(&topic.0.to_le_bytes());
        hasher.write(&group_hash.to_le_bytes());
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
