//! Where chance comes from: a small generator (SplitMix64) with a seed that can be said, so a run can be repeated.
//!
//! Not for secrets: keys and nonces come from the operating system.

/// A stream of numbers that depends on nothing but its seed.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeded by the operating system, for drivers; logic is handed a seeded one.
    pub fn from_system() -> Self {
        use std::hash::{BuildHasher, Hasher};
        // The standard library keys each `RandomState` from the operating system's generator.
        Self(std::hash::RandomState::new().build_hasher().finish())
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0. The bias is below 2⁻³² for the bounds in use.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a range without numbers");
        self.next_u64() % bound
    }

    /// True in `numerator` of `denominator` cases.
    pub fn one_in(&mut self, denominator: u64) -> bool {
        self.below(denominator) == 0
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let index = self.below(choices.len() as u64);
        &choices[usize::try_from(index).expect("below a length")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_another_gives_others() {
        let draw = |seed| (0..8).map(|_| Chance::new(seed).next_u64()).collect::<Vec<_>>();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
