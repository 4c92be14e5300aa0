//! MT19937 as `CPython` seeds and reads it, so that KSWIN draws what river draws.
use serde::{Deserialize, Serialize};

const SIZE: usize = 624;
const SHIFT: usize = 397;

/// The generator of `random.Random(seed)`; 2.5 KB of state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mersenne {
    words: Vec<u32>,
    next: usize,
}

impl Mersenne {
    /// `random.Random(seed)` for a seed below 2^32: `init_by_array([seed])`.
    pub(crate) fn new(seed: u32) -> Self {
        let mut words = vec![0_u32; SIZE];
        words[0] = 19_650_218;
        let mut weight = 0_u32;
        for i in 1..SIZE {
            weight += 1;
            words[i] = 1_812_433_253_u32.wrapping_mul(words[i - 1] ^ (words[i - 1] >> 30)).wrapping_add(weight);
        }
        let mut i = 1;
        for _ in 0..SIZE {
            words[i] = (words[i] ^ (words[i - 1] ^ (words[i - 1] >> 30)).wrapping_mul(1_664_525)).wrapping_add(seed);
            i += 1;
            if i == SIZE {
                words[0] = words[SIZE - 1];
                i = 1;
            }
        }
        for _ in 1..SIZE {
            let index = u32::try_from(i).unwrap_or(0);
            words[i] =
                (words[i] ^ (words[i - 1] ^ (words[i - 1] >> 30)).wrapping_mul(1_566_083_941)).wrapping_sub(index);
            i += 1;
            if i == SIZE {
                words[0] = words[SIZE - 1];
                i = 1;
            }
        }
        words[0] = 0x8000_0000;
        Self { words, next: SIZE }
    }

    /// The next 32 bits.
    pub(crate) fn bits(&mut self) -> u32 {
        if self.next == SIZE {
            for i in 0..SIZE {
                let joined = (self.words[i] & 0x8000_0000) | (self.words[(i + 1) % SIZE] & 0x7fff_ffff);
                let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.words[i] = self.words[(i + SHIFT) % SIZE] ^ (joined >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.words[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Uniform in `0..limit` for `limit ≥ 1`: the top bits of one output, redrawn while too large.
    fn below(&mut self, limit: u32) -> u32 {
        let unused = limit.leading_zeros();
        loop {
            let drawn = self.bits() >> unused;
            if drawn < limit {
                return drawn;
            }
        }
    }

    /// `random.sample(range(population), count)` for `count ≤ population`.
    pub(crate) fn sample(&mut self, population: u32, count: u32) -> Vec<u32> {
        if population <= pool_limit(count) {
            let mut pool: Vec<u32> = (0..population).collect();
            let mut drawn = Vec::with_capacity(count as usize);
            for taken in 0..count.min(population) {
                let place = self.below(population - taken) as usize;
                drawn.push(pool[place]);
                pool[place] = pool[(population - taken - 1) as usize];
            }
            return drawn;
        }
        let mut drawn: Vec<u32> = Vec::with_capacity(count as usize);
        while drawn.len() < count as usize {
            let candidate = self.below(population);
            if !drawn.contains(&candidate) {
                drawn.push(candidate);
            }
        }
        drawn
    }
}

/// Largest population for which `CPython` draws from a pool instead of redrawing what was drawn already.
fn pool_limit(count: u32) -> u32 {
    let mut table = 1_u32;
    while u64::from(table) < 3 * u64::from(count) {
        table = table.saturating_mul(4);
    }
    if count > 5 { table.saturating_add(21) } else { 21 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_draws_of_seed_42_are_those_of_cpython() {
        // [random.Random(42).getrandbits(32) for _ in range(3)], with one generator.
        let mut generator = Mersenne::new(42);
        assert_eq!([generator.bits(), generator.bits(), generator.bits()], [2_746_317_213, 478_163_327, 107_420_369]);
    }

    #[test]
    fn samples_are_those_of_cpython_from_a_pool_and_from_a_set() {
        assert_eq!(Mersenne::new(42).sample(70, 30)[..6], [14, 3, 35, 31, 28, 17]);
        assert_eq!(Mersenne::new(42).sample(970, 30)[..6], [654, 114, 25, 759, 281, 250]);
        assert_eq!(Mersenne::new(7).sample(400, 30)[..6], [165, 77, 202, 333, 24, 37]);
    }
}
