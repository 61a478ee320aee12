//! Progress as rows of a table: one for what belongs to the pair as a whole, one for each queue, one for each block of
//! attempts. A checkpoint takes those that changed. Layout: docs/formats.md, "Progress table".

use std::sync::Arc;

use base::{GroupId, LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId};

use super::acknowledged::Acknowledged;
use super::attempts::{Block, BlockKey};
use super::{Lease, Progress, State};
use crate::codec::{Decoder, Encode, Malformed};
use crate::record::{FilterSpec, LeaseEntry};

/// Bytes of a row's key: group, topic, what it is, queue, block.
pub const KEY_BYTES: usize = 19;

const PAIR: u8 = 0;
const QUEUE: u8 = 1;
const ATTEMPTS: u8 = 2;

/// What a checkpoint took of one pair, at one moment.
pub struct Taken {
    pair: Vec<u8>,
    queues: Vec<(QueueIndex, Vec<u8>)>,
    attempts: Vec<(BlockKey, Arc<Block>)>,
}

impl Progress {
    /// What changed at or after `since`; none when nothing did.
    pub fn take_changed(&mut self, since: LogPosition) -> Option<Taken> {
        if self.covers <= since && since > LogPosition(0) || *self == Self::default() {
            return None;
        }
        let queues = self.queues.iter().filter(|(_, state)| state.changed >= since);
        let queues = queues.map(|(queue, state)| {
            let mut value = Vec::new();
            state.offsets.encode(&mut value);
            (*queue, value)
        });
        Some(Taken { queues: queues.collect(), pair: self.encode_pair(), attempts: self.attempts.take_changed(since) })
    }

    /// Takes over one row. Those of a pair come in any order.
    pub fn restore(&mut self, key: &[u8; KEY_BYTES], value: &[u8]) -> Result<(), Malformed> {
        let queue = QueueIndex(u16::from_be_bytes([key[9], key[10]]));
        let number = u64::from_be_bytes(key[11..].try_into().expect("eight bytes"));
        match key[8] {
            PAIR => self.restore_pair(value),
            QUEUE => {
                let offsets = Acknowledged::decode(value)?;
                self.queues.insert(queue, State { offsets, changed: LogPosition(0) });
                Ok(())
            }
            ATTEMPTS => {
                self.attempts.restore((queue, number), Block::decode(value)?);
                Ok(())
            }
            _ => Err(Malformed { what: "row of progress" }),
        }
    }

    fn encode_pair(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.varint(self.covers.0);
        out.varint(self.operations);
        out.varint(self.expired);
        match &self.filter {
            None => out.u8(0),
            Some(filter) => {
                out.u8(1 + u8::from(filter.is_sql));
                out.text(&filter.expression);
            }
        }
        let mut parked: Vec<u64> = self.parked.iter().copied().collect();
        parked.sort_unstable();
        out.varint(parked.len() as u64);
        parked.into_iter().for_each(|message_group| out.u64(message_group));
        out.varint(self.generations.len() as u64);
        for (queue, generation) in &self.generations {
            out.varint(queue.0.into());
            out.varint((*generation).into());
        }
        out.varint(self.leases.len() as u64);
        for (batch, lease) in &self.leases {
            out.varint(*batch);
            out.text(&lease.client);
            out.varint(lease.until.unwrap_or_default().0);
            out.varint(lease.entries.len() as u64);
            for entry in &lease.entries {
                out.varint(entry.queue.0.into());
                out.varint(entry.offset.0);
                out.varint(entry.attempt.into());
            }
        }
        out
    }

    fn restore_pair(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let mut from = Decoder::new("row of a pair's progress", value);
        self.covers = LogPosition(from.varint()?);
        self.operations = from.varint()?;
        self.expired = from.varint()?;
        self.filter = match from.u8()? {
            0 => None,
            kind @ 1..=2 => Some(FilterSpec { is_sql: kind == 2, expression: from.text()?.into() }),
            _ => return Err(from.malformed()),
        };
        for _ in 0..from.count()? {
            self.parked.insert(from.u64()?);
        }
        for _ in 0..from.count()? {
            let queue = QueueIndex(from.number()?);
            self.generations.insert(queue, from.number()?);
        }
        for _ in 0..from.count()? {
            let batch = from.varint()?;
            let client: Arc<str> = from.text()?.into();
            let until = Some(Timestamp(from.varint()?)).filter(|until| *until != Timestamp::ZERO);
            let count = from.count()?;
            let entries = (0..count).map(|_| {
                let queue = QueueIndex(from.number()?);
                let offset = QueueOffset(from.varint()?);
                Ok(LeaseEntry { queue, offset, attempt: from.number()? })
            });
            let entries: Vec<LeaseEntry> = entries.collect::<Result<_, Malformed>>()?;
            for entry in &entries {
                self.leased.insert((entry.queue, entry.offset), batch);
            }
            self.leases.insert(batch, Lease { client, until, entries });
        }
        from.end()
    }
}

/// The pair that a row belongs to.
pub fn pair_of(key: &[u8; KEY_BYTES]) -> (GroupId, TopicId) {
    let number = |at: usize| u32::from_be_bytes(key[at..at + 4].try_into().expect("four bytes"));
    (GroupId(number(0)), TopicId(number(4)))
}

/// Takes a row: its key, and its value unless the row is no more.
pub type Put<'a, E> = dyn FnMut(&[u8], Option<&[u8]>) -> Result<(), E> + 'a;

impl Taken {
    /// Hands the rows to `put`, in the order of their keys; none as a value: the row is no more.
    pub fn rows<E>(self, (group, topic): (GroupId, TopicId), put: &mut Put<'_, E>) -> Result<(), E> {
        let key = |kind: u8, queue: QueueIndex, number: u64| {
            let mut key = [0; KEY_BYTES];
            key[..4].copy_from_slice(&group.0.to_be_bytes());
            key[4..8].copy_from_slice(&topic.0.to_be_bytes());
            key[8] = kind;
            key[9..11].copy_from_slice(&queue.0.to_be_bytes());
            key[11..].copy_from_slice(&number.to_be_bytes());
            key
        };
        put(&key(PAIR, QueueIndex(0), 0), Some(&self.pair))?;
        for (queue, value) in &self.queues {
            put(&key(QUEUE, *queue, 0), Some(value))?;
        }
        for ((queue, number), block) in &self.attempts {
            put(&key(ATTEMPTS, *queue, *number), block.encode().as_deref())?;
        }
        Ok(())
    }
}
