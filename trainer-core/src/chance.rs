//! Seeded chance: one counter-based stream per (seed, purpose, step), so one more draw here changes nothing there.
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// What a stream is drawn for.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// First weights of a layer; the step is the layer.
    Weights,
    /// Order of the rows; the step is the epoch.
    Order,
    /// Dropout masks; the step counts batches and layers.
    Mask,
    /// Rows drawn into anchors and replay; the step is free.
    Sample,
    /// The random projection.
    Projection,
}

/// A stream of numbers.
pub struct Chance(ChaCha8Rng);

impl Chance {
    /// The stream of `seed`, `purpose` and `step`.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose, step: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
        key[16..24].copy_from_slice(&step.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Uniform in [0, 1), 24 bits.
    #[expect(clippy::cast_precision_loss, reason = "24 bits fit an f32 exactly")]
    pub fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1_u32 << 24) as f32
    }

    /// Uniform in `0..bound` (`bound` at least 1), without bias worth naming: 64 bits are scaled down.
    #[expect(clippy::cast_possible_truncation, reason = "the result is below `bound`, a usize")]
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.0.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Standard normal (Box-Muller, one of the pair).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.unit()).cos()
    }

    /// `0..count` in random order.
    #[must_use]
    pub fn order(mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_do_not_touch_each_other() {
        let draw = |seed, purpose, step| Chance::new(seed, purpose, step).unit();
        assert_eq!(draw(1, Purpose::Order, 2).to_bits(), draw(1, Purpose::Order, 2).to_bits());
        assert_ne!(draw(1, Purpose::Order, 2).to_bits(), draw(1, Purpose::Order, 3).to_bits());
        assert_ne!(draw(1, Purpose::Order, 2).to_bits(), draw(1, Purpose::Mask, 2).to_bits());
        assert_ne!(draw(1, Purpose::Order, 2).to_bits(), draw(2, Purpose::Order, 2).to_bits());
        let mut order = Chance::new(0, Purpose::Order, 0).order(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
