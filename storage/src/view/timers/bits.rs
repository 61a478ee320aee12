//! One bit for each row.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// Room for `count`, all clear.
    pub fn clear(count: u32) -> Self {
        Self { words: vec![0; count.div_ceil(64) as usize] }
    }

    pub fn contains(&self, number: u32) -> bool {
        self.words.get(number as usize / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    pub fn set(&mut self, number: u32) {
        let word = number as usize / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (number % 64);
    }

    pub fn unset(&mut self, number: u32) {
        if let Some(word) = self.words.get_mut(number as usize / 64) {
            *word &= !(1 << (number % 64));
        }
    }

    /// The first clear bit from `from` on, below `end`.
    pub fn first_clear(&self, from: u32, end: u32) -> Option<u32> {
        let mut number = from;
        while number < end {
            let Some(word) = self.words.get(number as usize / 64) else { return Some(number) };
            let clear = !word & (u64::MAX << (number % 64));
            if clear != 0 {
                let found = number / 64 * 64 + clear.trailing_zeros();
                return (found < end).then_some(found);
            }
            number = (number / 64 + 1) * 64;
        }
        None
    }

    /// What is set in here and was not in `before`.
    pub fn added_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = u32> + 'a {
        self.words.iter().enumerate().flat_map(move |(index, word)| {
            let mut added = word & !before.words.get(index).copied().unwrap_or(0);
            std::iter::from_fn(move || {
                let bit = (added != 0).then(|| added.trailing_zeros())?;
                added &= added - 1;
                Some(u32::try_from(index).expect("rows are numbered in 32 bits") * 64 + bit)
            })
        })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub fn from_bytes(bytes: &[u8]) -> Self {
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        Self { words: words.collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_a_set_of_numbers(
            before in proptest::collection::btree_set(0u32..400, 0..100),
            after in proptest::collection::btree_set(0u32..400, 0..300),
            from in 0u32..400,
        ) {
            let bits_of = |set: &BTreeSet<u32>| set.iter().fold(Bits::default(), |mut bits, number| {
                bits.set(*number);
                bits
            });
            let (one, two) = (bits_of(&before), bits_of(&after));
            let added: Vec<u32> = two.added_since(&one).collect();
            prop_assert_eq!(added, after.difference(&before).copied().collect::<Vec<_>>());
            prop_assert_eq!(two.first_clear(from, 390), (from..390).find(|number| !after.contains(number)));
            let again = Bits::from_bytes(&two.to_bytes());
            prop_assert_eq!(&again, &two);
            prop_assert!((0..450).all(|number| again.contains(number) == after.contains(&number)));
        }
    }
}
