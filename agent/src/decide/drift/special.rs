//! Special functions behind the p-values: log gamma, incomplete gamma and beta, inverse beta.
#![expect(clippy::many_single_char_names, reason = "the letters of the published formulas")]

/// Relative size of a term at which a series or a continued fraction is done.
const PRECISION: f64 = 1e-16;
/// More terms than any converging case within the documented arguments needs.
const TERMS_MAX: u32 = 100_000;
/// Stand-in for a zero denominator in Lentz's method.
const TINY: f64 = 1e-300;

/// Natural logarithm of the gamma function for `x > 0`, to about 1e-15 relative; infinite otherwise.
#[must_use]
pub fn ln_gamma(x: f64) -> f64 {
    if x.is_nan() || x <= 0.0 {
        return f64::INFINITY;
    }
    // Stirling's series is exact to f64 from 15 on; smaller arguments are lifted there by the recurrence.
    let mut product = 1.0;
    let mut z = x;
    while z < 15.0 {
        product *= z;
        z += 1.0;
    }
    let square = z * z;
    let series = [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0, -691.0 / 360_360.0, 1.0 / 156.0]
        .iter()
        .rev()
        .fold(0.0, |sum, coefficient| sum / square + coefficient)
        / z;
    let half_ln_two_pi = 0.918_938_533_204_672_8;
    (z - 0.5) * z.ln() - z + half_ln_two_pi + series - f64::ln(product)
}

/// Upper regularised incomplete gamma `Q(a, x)` for `a > 0`: the chance that a χ² of `2a` degrees exceeds `2x`.
#[must_use]
pub fn gamma_upper(a: f64, x: f64) -> f64 {
    if x.is_nan() || x <= 0.0 {
        return 1.0;
    }
    if x.is_infinite() {
        return 0.0;
    }
    let front = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum, mut n) = (1.0 / a, 1.0 / a, a);
        for _ in 0..TERMS_MAX {
            n += 1.0;
            term *= x / n;
            sum += term;
            if term < sum * PRECISION {
                break;
            }
        }
        return (1.0 - front * sum).clamp(0.0, 1.0);
    }
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / b;
    let mut h = d;
    for term in 1..TERMS_MAX {
        let i = f64::from(term);
        let an = -i * (i - a);
        b += 2.0;
        d = 1.0 / away_from_zero(an * d + b);
        c = away_from_zero(b + an / c);
        h *= d * c;
        if (d * c - 1.0).abs() < PRECISION {
            break;
        }
    }
    (front * h).clamp(0.0, 1.0)
}

/// Regularised incomplete beta `I_x(a, b)` for `a, b > 0`: the distribution function of Beta(a, b).
#[must_use]
pub fn beta_lower(x: f64, a: f64, b: f64) -> f64 {
    if x.is_nan() || x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    // The fraction converges fast below the mean; above it the symmetric one is used.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(x, a, b) / a
    } else {
        1.0 - front * beta_fraction(1.0 - x, b, a) / b
    }
}

/// Quantile of Beta(a, b) at `probability`, by bisection to the last bit.
#[must_use]
pub fn beta_quantile(probability: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..1100 {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            break;
        }
        if beta_lower(middle, a, b) < probability {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// Continued fraction of the incomplete beta, by Lentz's method.
fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut h = d;
    for term in 1..TERMS_MAX {
        let m = f64::from(term);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / away_from_zero(1.0 + even * d);
        c = away_from_zero(1.0 + even / c);
        h *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / away_from_zero(1.0 + odd * d);
        c = away_from_zero(1.0 + odd / c);
        h *= d * c;
        if (d * c - 1.0).abs() < PRECISION {
            break;
        }
    }
    h
}

fn away_from_zero(x: f64) -> f64 {
    if x.abs() < TINY { TINY } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(actual: f64, expected: f64) {
        assert!((actual - expected).abs() <= 1e-13 * expected.abs().max(0.1), "{actual} is not {expected}");
    }

    #[test]
    fn log_gamma_knows_factorials_and_the_root_of_pi() {
        close(ln_gamma(1.0), 0.0);
        close(ln_gamma(6.0), 120_f64.ln());
        close(ln_gamma(0.5), std::f64::consts::PI.sqrt().ln());
        close(ln_gamma(101.0), (1..=100).map(|i| f64::from(i).ln()).sum());
    }

    #[test]
    fn the_upper_gamma_has_its_closed_forms() {
        close(gamma_upper(1.0, 2.5), (-2.5_f64).exp());
        close(gamma_upper(3.0, 0.4), (-0.4_f64).exp() * (1.0 + 0.4 + 0.08));
        close(gamma_upper(3.0, 40.0), (-40_f64).exp() * (1.0 + 40.0 + 800.0));
        close(gamma_upper(2.0, 0.0), 1.0);
    }

    #[test]
    fn beta_and_its_quantile_invert_each_other() {
        close(beta_lower(0.3, 1.0, 4.0), 1.0 - 0.7_f64.powi(4));
        close(beta_lower(0.8, 5.0, 1.0), 0.8_f64.powi(5));
        close(beta_lower(0.5, 7.0, 7.0), 0.5);
        for (a, b) in [(1.0, 200.0), (21.0, 180.0), (200.0, 1.0), (3.5, 2.5)] {
            close(beta_lower(beta_quantile(0.95, a, b), a, b), 0.95);
        }
    }
}
