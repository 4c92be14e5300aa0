//! What retraining costs and what avoided errors are worth, in money, for the person who pays for both.
use serde::{Deserialize, Serialize};

const JOULES_PER_KWH: f64 = 3.6e6;
const BYTES_PER_GIGABYTE: f64 = 1e9;
/// Seconds of a week.
pub const WEEK_S: f64 = 604_800.0;

/// Prices. All zero by default: hone knows none, and a sum of guesses would look like a fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriceSettings {
    /// Currency, printed beside the sums. Default `EUR`.
    pub currency: String,
    /// What one wrong answer costs: scrap, a missed alarm, a needless visit. For regression, one whole unit of loss. Default 0.
    pub price_per_error: f64,
    /// Price of a kilowatt-hour where the gateway stands. On battery, what charging or changing it costs. Default 0.
    pub price_per_kwh: f64,
    /// What one retrain costs beside energy and wear: review, risk. Default 0.
    pub price_per_retrain: f64,
    /// Wear: price of the flash divided by the gigabytes it endures. Default 0.
    pub price_per_gigabyte_written: f64,
}

impl Default for PriceSettings {
    fn default() -> Self {
        Self {
            currency: "EUR".to_owned(),
            price_per_error: 0.0,
            price_per_kwh: 0.0,
            price_per_retrain: 0.0,
            price_per_gigabyte_written: 0.0,
        }
    }
}

/// What a policy did over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deeds {
    /// The time, in seconds.
    pub span_s: f64,
    /// Retrains, promoted or not.
    pub retrains: u64,
    /// Joules they took.
    pub joules: f64,
    /// Bytes they wrote.
    pub bytes_written: f64,
    /// Errors fewer than without retraining; negative if there were more.
    pub errors_avoided: f64,
}

/// The same per week, in money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Weekly {
    /// Retrains.
    pub retrains: f64,
    /// What they cost.
    pub cost: f64,
    /// What the avoided errors are worth.
    pub value: f64,
    /// Value less cost.
    pub net: f64,
}

impl PriceSettings {
    /// Whether anything has a price.
    #[must_use]
    pub fn are_set(&self) -> bool {
        let prices =
            [self.price_per_error, self.price_per_kwh, self.price_per_retrain, self.price_per_gigabyte_written];
        prices.iter().any(|price| *price > 0.0)
    }

    /// What retrains cost: their number, energy and wear.
    #[must_use]
    pub fn cost(&self, retrains: u64, joules: f64, bytes_written: f64) -> f64 {
        retrains as f64 * self.price_per_retrain
            + joules / JOULES_PER_KWH * self.price_per_kwh
            + bytes_written / BYTES_PER_GIGABYTE * self.price_per_gigabyte_written
    }

    /// Cost and value per week; none if no time passed.
    #[must_use]
    pub fn weekly(&self, deeds: &Deeds) -> Option<Weekly> {
        let weeks = deeds.span_s / WEEK_S;
        if !(weeks.is_finite() && weeks > 0.0) {
            return None;
        }
        let cost = self.cost(deeds.retrains, deeds.joules, deeds.bytes_written) / weeks;
        let value = deeds.errors_avoided * self.price_per_error / weeks;
        Some(Weekly { retrains: deeds.retrains as f64 / weeks, cost, value, net: value - cost })
    }

    /// What one retrain costs in avoided errors, as the value policy counts (`cost_errors`); none while an error has no price.
    #[must_use]
    pub fn cost_errors(&self, joules: f64, bytes_written: f64) -> Option<f64> {
        (self.price_per_error > 0.0).then(|| self.cost(1, joules, bytes_written) / self.price_per_error)
    }

    /// The first setting outside its range: its name, its value and what is allowed.
    #[must_use]
    pub fn out_of_range(&self) -> Option<(&'static str, String, &'static str)> {
        let sound = |price: f64| price.is_finite() && price >= 0.0;
        let word = (1..=8).contains(&self.currency.chars().count()) && !self.currency.chars().any(char::is_control);
        let prices = [
            ("price_per_error", self.price_per_error),
            ("price_per_kwh", self.price_per_kwh),
            ("price_per_retrain", self.price_per_retrain),
            ("price_per_gigabyte_written", self.price_per_gigabyte_written),
        ];
        let wrong = prices.into_iter().find(|(_, price)| !sound(*price));
        let wrong = wrong.map(|(key, price)| (key, price.to_string(), "0 or more"));
        wrong.or_else(|| (!word).then(|| ("currency", self.currency.clone(), "1 to 8 characters")))
    }
}

/// The winner by net value per week; the earlier of equals. None if there is nobody.
#[must_use]
pub fn winner(policies: &[Weekly]) -> Option<usize> {
    let best = policies.iter().map(|policy| policy.net).max_by(f64::total_cmp)?;
    policies.iter().position(|policy| policy.net.total_cmp(&best).is_eq())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices() -> PriceSettings {
        PriceSettings {
            price_per_error: 2.0,
            price_per_kwh: 0.36,
            price_per_retrain: 0.5,
            price_per_gigabyte_written: 0.01,
            ..PriceSettings::default()
        }
    }

    #[test]
    fn two_weeks_of_retraining_are_halved_and_errors_pay_for_them() {
        let deeds = Deeds { span_s: 2.0 * WEEK_S, retrains: 4, joules: 1e7, bytes_written: 1e11, errors_avoided: 10.0 };
        let weekly = prices().weekly(&deeds).unwrap();
        // 4 · 0.50 + 1.00 + 1.00, and 10 · 2.00, over two weeks.
        assert!((weekly.cost - 2.0).abs() < 1e-9 && (weekly.value - 10.0).abs() < 1e-9, "{weekly:?}");
        assert!((weekly.net - 8.0).abs() < 1e-9 && (weekly.retrains - 2.0).abs() < 1e-9);
        assert_eq!(prices().weekly(&Deeds { span_s: 0.0, ..deeds }), None);
        let harm = prices().weekly(&Deeds { errors_avoided: -10.0, ..deeds }).unwrap();
        assert!(harm.net < 0.0, "a policy that does harm has a negative value");
    }

    #[test]
    fn a_retrain_is_priced_in_errors_only_if_an_error_has_a_price() {
        assert!((prices().cost_errors(1e7, 0.0).unwrap() - 0.75).abs() < 1e-9);
        assert_eq!(PriceSettings::default().cost_errors(1e7, 0.0), None);
        assert!(prices().are_set() && !PriceSettings::default().are_set());
    }

    #[test]
    fn the_winner_has_the_highest_net_value_and_prices_must_be_numbers() {
        let of = |net| Weekly { net, ..Weekly::default() };
        assert_eq!(winner(&[of(0.0), of(3.0), of(3.0), of(-1.0)]), Some(1));
        assert_eq!(winner(&[]), None);
        assert_eq!(prices().out_of_range(), None);
        let wrong = PriceSettings { price_per_kwh: f64::NAN, ..prices() };
        assert_eq!(wrong.out_of_range(), Some(("price_per_kwh", "NaN".to_owned(), "0 or more")));
        assert!(toml::from_str::<PriceSettings>("price_per_eror = 1.0").is_err());
    }
}
