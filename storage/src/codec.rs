//! Bytes of record payloads: little-endian numbers, variable-length numbers, length-prefixed texts.
//!
//! Reading never panics and never trusts a length: whatever does not fit is [`Malformed`].

/// A payload that does not have the form it should. Its checksum was right, so it was written so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}")]
pub struct Malformed {
    pub what: &'static str,
}

/// Appends to a buffer.
pub trait Encode {
    fn u8(&mut self, value: u8);
    fn u16(&mut self, value: u16);
    fn u32(&mut self, value: u32);
    fn u64(&mut self, value: u64);
    /// LEB128: seven bits a byte, lowest first.
    fn varint(&mut self, value: u64);
    fn text(&mut self, value: &str);
    fn blob(&mut self, value: &[u8]);
}

impl Encode for Vec<u8> {
    fn u8(&mut self, value: u8) {
        self.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push((value & 0x7F) as u8 | 0x80);
            value >>= 7;
        }
        self.push((value & 0x7F) as u8);
    }

    fn text(&mut self, value: &str) {
        self.blob(value.as_bytes());
    }

    fn blob(&mut self, value: &[u8]) {
        self.varint(value.len() as u64);
        self.extend_from_slice(value);
    }
}

/// Takes from the front of a payload.
#[derive(Debug, Clone, Copy)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    /// Named in errors.
    what: &'static str,
}

impl<'a> Decoder<'a> {
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, what }
    }

    pub fn malformed(&self) -> Malformed {
        Malformed { what: self.what }
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (front, rest) = self.rest.split_at_checked(count).ok_or(self.malformed())?;
        self.rest = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (front, rest) = self.rest.split_first_chunk::<N>().ok_or(self.malformed())?;
        self.rest = rest;
        Ok(*front)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn bytes16(&mut self) -> Result<[u8; 16], Malformed> {
        self.array()
    }

    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                return Err(self.malformed());
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed())
    }

    /// A variable-length number that fits the type asked for.
    pub fn number<T: TryFrom<u64>>(&mut self) -> Result<T, Malformed> {
        T::try_from(self.varint()?).map_err(|_| self.malformed())
    }

    /// How many elements follow. Each takes at least a byte, so no more than the bytes that are left.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        let count: usize = self.number()?;
        if count <= self.rest.len() { Ok(count) } else { Err(self.malformed()) }
    }

    pub fn blob(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.number()?;
        self.take(length)
    }

    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.blob()?).map_err(|_| self.malformed())
    }

    /// What was not taken yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Checks that nothing is left.
    pub fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_number_and_text_comes_back(number: u64, text: String, blob: Vec<u8>) {
            let mut bytes = Vec::new();
            bytes.varint(number);
            bytes.text(&text);
            bytes.blob(&blob);
            let mut decoder = Decoder::new("test", &bytes);
            prop_assert_eq!(decoder.varint(), Ok(number));
            prop_assert_eq!(decoder.text(), Ok(text.as_str()));
            prop_assert_eq!(decoder.blob(), Ok(blob.as_slice()));
            prop_assert_eq!(decoder.end(), Ok(()));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let mut decoder = Decoder::new("test", &bytes);
            while decoder.text().is_ok() && !decoder.rest().is_empty() {}
            let _ = Decoder::new("test", &bytes).varint();
            let _ = Decoder::new("test", &bytes).count();
        }
    }
}
