//! Chance from a seed: `SplitMix64` and what is drawn from it, so that the same seed gives the same tree on every machine.

/// `SplitMix64` (Steele, Lea, Flood, OOPSLA 2014): one addition and three mixing steps per 64 bits.
#[derive(Clone, Debug)]
pub(crate) struct Draws {
    state: u64,
}

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1), 53 bits.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit exactly")]
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..limit`; 0 for a limit of 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        // The high half of a 128-bit product; the bias of at most limit/2^64 is beyond notice.
        let scaled = (u128::from(self.bits()) * (limit as u128)) >> 64;
        usize::try_from(scaled).unwrap_or(0)
    }

    /// Standard normal, by Box and Muller.
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.uniform()).cos()
    }

    /// Gamma of `shape` ≥ 1 and scale 1 (Marsaglia, Tsang, 2000).
    pub(crate) fn gamma(&mut self, shape: f64) -> f64 {
        let d = shape.max(1.0) - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.uniform()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_first_outputs_are_drawn() {
        let mut draws = Draws::new(1_234_567);
        assert_eq!([draws.bits(), draws.bits()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn moments_are_those_of_their_laws() {
        let mut draws = Draws::new(7);
        let rows = 200_000;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / f64::from(rows);
        let normal: Vec<f64> = (0..rows).map(|_| draws.normal()).collect();
        let gamma: Vec<f64> = (0..rows).map(|_| draws.gamma(14.0)).collect();
        assert!(
            mean(&normal).abs() < 0.01 && (mean(&normal.iter().map(|x| x * x).collect::<Vec<_>>()) - 1.0).abs() < 0.02
        );
        assert!((mean(&gamma) - 14.0).abs() < 0.05);
        assert!((0..1000).all(|_| draws.below(7) < 7));
    }
}
