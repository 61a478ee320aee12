//! What a body carries to be measured by: which run it belongs to, when it was meant to be sent or due, and its place.

use base::Chance;
use bytes::{BufMut, Bytes, BytesMut};

/// Run, time, key, flags, sequence.
pub const BYTES: usize = 8 + 8 + 4 + 4 + 8;
const MEASURED: u32 = 1;

/// The measure of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Messages of another run are settled and not counted.
    pub run: u64,
    /// Microseconds, on the clock that the scenario uses.
    pub time_us: u64,
    pub key: u32,
    /// Sent after the warm-up.
    pub is_measured: bool,
    pub sequence: u64,
}

impl Stamp {
    /// None for a body that no scenario wrote.
    pub fn read(body: &[u8]) -> Option<Self> {
        let (stamp, _) = body.split_first_chunk::<BYTES>()?;
        let long = |at: usize| u64::from_le_bytes(stamp[at..at + 8].try_into().expect("eight bytes"));
        let short = |at: usize| u32::from_le_bytes(stamp[at..at + 4].try_into().expect("four bytes"));
        let is_measured = short(20) & MEASURED != 0;
        Some(Self { run: long(0), time_us: long(8), key: short(16), is_measured, sequence: long(24) })
    }
}

/// Makes bodies of one size. What follows the stamp is noise, so that nothing on the way gains by compressing it.
#[derive(Debug)]
pub struct Bodies {
    noise: Bytes,
}

impl Bodies {
    pub fn of(size: usize) -> Self {
        let mut chance = Chance::from_system();
        let mut noise = BytesMut::with_capacity(size + 8);
        while noise.len() < size {
            noise.put_u64_le(chance.next_u64());
        }
        noise.truncate(size);
        Self { noise: noise.freeze() }
    }

    /// The same bytes each time: nothing is copied.
    pub fn plain(&self) -> Bytes {
        self.noise.clone()
    }

    pub fn stamped(&self, stamp: Stamp) -> Bytes {
        let mut body = BytesMut::with_capacity(self.noise.len());
        body.put_u64_le(stamp.run);
        body.put_u64_le(stamp.time_us);
        body.put_u32_le(stamp.key);
        body.put_u32_le(if stamp.is_measured { MEASURED } else { 0 });
        body.put_u64_le(stamp.sequence);
        body.extend_from_slice(&self.noise[BYTES..]);
        body.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written_and_bodies_have_their_size() {
        let stamp = Stamp { run: 1 << 60, time_us: 2, key: 3, is_measured: true, sequence: 4 };
        for size in [BYTES, 100, 1024] {
            let body = Bodies::of(size).stamped(stamp);
            assert_eq!((body.len(), Stamp::read(&body)), (size, Some(stamp)));
        }
        assert_eq!(Stamp::read(&[0; BYTES - 1]), None);
        assert_eq!(Bodies::of(5).plain().len(), 5);
    }
}
