//! What policies cost and are worth per week: the table a manager reads after a backtest.
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::decide::prices::{PriceSettings, WEEK_S, winner};
use crate::decide::time::Timestamp;
use crate::shell::backtest::summary::Summary;

/// How long `rows` rows took, in seconds: by the rate a person gives, else by their times; none if neither says.
pub(super) fn span_s(rate: Option<f64>, times: Option<&[Timestamp]>, rows: usize) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a count of rows, and microseconds of less than a century")]
    let span = match (rate, times) {
        (Some(rate), _) => rows as f64 / rate * WEEK_S,
        (None, Some([first, .., last])) => last.0.saturating_sub(first.0) as f64 / 1e6,
        _ => return None,
    };
    Some(span).filter(|span| span.is_finite() && *span > 0.0)
}

/// The policy with the highest net value, and that value; none without prices, or if none is worth more than no retraining.
fn best(summaries: &[Summary]) -> Option<(&str, f64)> {
    let weekly: Option<Vec<_>> = summaries.iter().map(|summary| summary.weekly).collect();
    let weekly = weekly?;
    let index = winner(&weekly)?;
    Some((summaries[index].policy.as_str(), weekly[index].net)).filter(|(_, net)| *net >= 0.0)
}

/// For machines: prices, time and winner; null without prices or time.
pub(super) fn view(summaries: &[Summary], prices: &PriceSettings, span_s: Option<f64>) -> Value {
    match span_s.filter(|_| prices.are_set()) {
        None => Value::Null,
        Some(span_s) => json!({
            "prices": prices, "span_s": span_s, "winner": best(summaries).map(|(policy, _)| policy),
            "net_per_week": best(summaries).map(|(_, net)| net),
        }),
    }
}

/// For people: one row per policy and who wins; or one line that says what is missing.
pub(super) fn table(summaries: &[Summary], prices: &PriceSettings, span_s: Option<f64>) -> String {
    if span_s.is_none() {
        return "cost and value per week: name the column of times with --time, or the rows of a week with --rate\n"
            .to_owned();
    }
    let mut text = String::new();
    // Writing to a text cannot fail.
    if !prices.are_set() {
        let _ = writeln!(text, "\n{:<22}{:>10}", "policy", "retrains per week");
        for summary in summaries {
            let _ = writeln!(text, "{:<22}{:>10.2}", summary.policy, summary.retrains_per_week.unwrap_or_default());
        }
        text +=
            "cost and value per week: set price_per_error and the other prices in [value] of the file of --config\n";
        return text;
    }
    let currency = &prices.currency;
    let _ = writeln!(text, "\nper week, in {currency}, under the prices of [value]");
    let _ = writeln!(text, "{:<22}{:>10}{:>14}{:>14}{:>14}", "policy", "retrains", "cost*", "value†", "net");
    for summary in summaries {
        let weekly = summary.weekly.unwrap_or_default();
        let _ = writeln!(
            text,
            "{:<22}{:>10.2}{:>14.2}{:>14.2}{:>14.2}",
            summary.policy, weekly.retrains, weekly.cost, weekly.value, weekly.net
        );
    }
    match best(summaries) {
        Some((policy, net)) => {
            let _ = writeln!(text, "{policy} wins: {net:.2} {currency} per week more than never retraining");
        }
        None => text += "none of them pays for itself: never retraining costs least\n",
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_a_person_counts_before_the_times_of_the_file() {
        let times = [Timestamp(0), Timestamp(1_000_000), Timestamp(86_400_000_000)];
        assert_eq!(span_s(Some(300.0), Some(&times), 3), Some(WEEK_S / 100.0));
        assert_eq!(span_s(None, Some(&times), 3), Some(86_400.0));
        for nothing in [None, Some(&times[..1]), Some(&[Timestamp(5), Timestamp(5)][..])] {
            assert_eq!(span_s(None, nothing, 3), None);
        }
    }
}
