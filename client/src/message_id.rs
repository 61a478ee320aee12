//! Message ids and client ids.
//!
//! A message id is 17 bytes as 34 upper-case hex digits: `01`, six bytes that name the maker, two of the process id, four
//! of the seconds since 2021, four of a sequence (gRPC specification §6.1). The six bytes are chance instead of a network
//! card's address, with the bit set that says so: containers may share addresses, chance they do not.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use base::{Chance, Clock, SystemClock, Timestamp};

/// Milliseconds from 1970 to 2021-01-01T00:00:00Z.
const EPOCH_MS: u64 = 1_609_459_200_000;
const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
/// In the first byte of a hardware address: made up locally.
const LOCAL_BIT: u8 = 0x02;

/// Makes ids that no other maker makes.
#[derive(Debug)]
pub(crate) struct MessageIds {
    /// `01`, maker, process: the same in every id.
    prefix: [u8; 18],
    sequence: AtomicU32,
}

impl MessageIds {
    pub(crate) fn new(chance: &mut Chance, process: u32) -> Self {
        let maker = chance.next_u64().to_be_bytes();
        let process = process.to_be_bytes();
        let mut bytes = [1, maker[0], maker[1], maker[2], maker[3], maker[4], maker[5], process[2], process[3]];
        bytes[1] |= LOCAL_BIT;
        let mut prefix = [0; 18];
        write_hex(&bytes, &mut prefix);
        Self { prefix, sequence: AtomicU32::new(0) }
    }

    pub(crate) fn next(&self, now: Timestamp) -> String {
        let seconds = u32::try_from(now.ms_since(Timestamp(EPOCH_MS)) / 1000).unwrap_or(u32::MAX);
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let mut text = [0; 34];
        text[..18].copy_from_slice(&self.prefix);
        write_hex(&seconds.to_be_bytes(), &mut text[18..26]);
        write_hex(&sequence.to_be_bytes(), &mut text[26..]);
        std::str::from_utf8(&text).expect("hex digits are ASCII").to_owned()
    }
}

/// `host@process@index@time`, as most official clients write it; unique per process and machine.
pub(crate) fn client_id(host: &str) -> String {
    static INDEX: AtomicU64 = AtomicU64::new(0);
    let index = INDEX.fetch_add(1, Ordering::Relaxed);
    let started = base36(SystemClock.now().0 ^ (Chance::from_system().next_u64() << 44));
    format!("{host}@{}@{index}@{started}", std::process::id())
}

fn write_hex(bytes: &[u8], text: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(text.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    while number > 0 || digits.is_empty() {
        let digit = u32::try_from(number % 36).expect("below 36");
        digits.push(char::from_digit(digit, 36).expect("below 36"));
        number /= 36;
    }
    digits.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_are_34_hex_digits_of_the_published_form_and_differ() {
        let ids = MessageIds::new(&mut Chance::new(1), 0x0001_abcd);
        let now = Timestamp(EPOCH_MS + 0x1234_5678 * 1000);
        let (first, second) = (ids.next(now), ids.next(now));
        assert_eq!(first.len(), 34);
        assert!(first.starts_with("01") && first[14..].starts_with("ABCD12345678"), "{first}");
        assert!(first.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)), "{first}");
        assert!(first.ends_with("00000000") && second.ends_with("00000001"));
    }

    #[test]
    fn two_makers_never_share_a_prefix() {
        let mut chance = Chance::new(1);
        let (one, other) = (MessageIds::new(&mut chance, 7), MessageIds::new(&mut chance, 7));
        assert_ne!(one.prefix, other.prefix);
    }

    #[test]
    fn client_ids_have_four_parts_and_differ_within_a_process() {
        let (one, other) = (client_id("host"), client_id("host"));
        assert_ne!(one, other);
        assert_eq!(one.split('@').count(), 4, "{one}");
        assert!(one.starts_with(&format!("host@{}@", std::process::id())));
        assert_eq!((base36(0), base36(35), base36(36)), ("0".into(), "z".into(), "10".into()));
    }
}
