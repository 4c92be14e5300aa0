//! Rates and targets as people write them: `10/min`, `1 per 5 s`, `1 per 30 days`, `1 per 10000 rows`.
use std::str::FromStr;

/// Rows per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    pub(super) rows_per_s: f64,
}

/// How far apart false alarms may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum FalseAlarms {
    /// So many rows.
    Rows(f64),
    /// So many seconds.
    Seconds(f64),
}

impl FalseAlarms {
    /// Rows between two false alarms at a rate.
    pub(super) fn rows(self, rate: Rate) -> f64 {
        match self {
            Self::Rows(rows) => rows,
            Self::Seconds(seconds) => seconds * rate.rows_per_s,
        }
    }
}

const RATES: &str = "write rows per time, such as \"10/min\", \"100/s\", \"1/h\" or \"1 per 5 s\"";
const TARGETS: &str = "write alarms per time or rows, such as \"1 per 30 days\", \"2/week\" or \"1 per 10000 rows\"";

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (count, every, unit) = split(text).ok_or(RATES)?;
        let seconds = seconds(unit).ok_or(RATES)?;
        Ok(Self { rows_per_s: count / (every * seconds) })
    }
}

impl FromStr for FalseAlarms {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (count, every, unit) = split(text).ok_or(TARGETS)?;
        if ["row", "rows"].contains(&unit) {
            return Ok(Self::Rows(every / count));
        }
        Ok(Self::Seconds(every * seconds(unit).ok_or(TARGETS)? / count))
    }
}

/// `COUNT per [EVERY] UNIT`, with `/` for `per`; both numbers are above 0.
fn split(text: &str) -> Option<(f64, f64, &str)> {
    let (count, rest) = text.split_once('/').or_else(|| text.split_once(" per "))?;
    let rest = rest.trim();
    let digits = rest.find(|letter: char| letter.is_alphabetic())?;
    let (every, unit) = rest.split_at(digits);
    let number = |text: &str| text.trim().parse().ok().filter(|number: &f64| *number > 0.0 && number.is_finite());
    let every = if every.trim().is_empty() { 1.0 } else { number(every)? };
    Some((number(count)?, every, unit.trim()))
}

fn seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ms" | "millisecond" | "milliseconds" => 0.001,
        "s" | "sec" | "second" | "seconds" => 1.0,
        "m" | "min" | "minute" | "minutes" => 60.0,
        "h" | "hour" | "hours" => 3_600.0,
        "d" | "day" | "days" => 86_400.0,
        "week" | "weeks" => 604_800.0,
        "month" | "months" => 30.0 * 86_400.0,
        "year" | "years" => 365.0 * 86_400.0,
        _ => return None,
    })
}

/// A duration for people: its two largest units.
pub(super) fn duration(seconds: f64) -> String {
    let units = [("d", 86_400.0), ("h", 3_600.0), ("min", 60.0), ("s", 1.0)];
    let Some(largest) = units.iter().position(|(_, length)| seconds >= *length) else {
        return format!("{seconds:.2} s");
    };
    if seconds >= 1000.0 * 86_400.0 {
        return format!("{:.1} years", seconds / (365.0 * 86_400.0));
    }
    let (name, length) = units[largest];
    let Some((smaller, small)) = units.get(largest + 1) else { return format!("{seconds:.0} s") };
    // Rounded in the smaller unit first, so that 59.7 min is 1 h and not 60 min.
    let parts = (seconds / small).round();
    let whole = (parts * small / length).floor();
    let rest = (parts - whole * length / small).round();
    if rest > 0.0 { format!("{whole} {name} {rest} {smaller}") } else { format!("{whole} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> f64 {
        text.parse::<Rate>().unwrap_or_else(|error| panic!("{text}: {error}")).rows_per_s
    }

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, expected) in [
            ("10/min", 1.0 / 6.0),
            ("1 per 5 s", 0.2),
            ("100/s", 100.0),
            ("1/h", 1.0 / 3600.0),
            (" 2.5 / 10min ", 1.0 / 240.0),
            ("1 per 250ms", 4.0),
        ] {
            assert!((rate(text) - expected).abs() < 1e-12, "{text}: {}", rate(text));
        }
        for text in
            ["", "10", "10/", "ten/min", "0/s", "-1/s", "inf/s", "1/fortnight", "1 per -5 s", "1/min/min", "1/0 s"]
        {
            let said = text.parse::<Rate>().expect_err(text);
            assert!(said.contains("\"10/min\""), "{text}: {said}");
        }
    }

    #[test]
    fn targets_speak_of_time_or_rows() {
        let rows = |text: &str| text.parse::<FalseAlarms>().map(|target| target.rows(Rate { rows_per_s: 1.0 / 6.0 }));
        assert_eq!(rows("1 per 30 days"), Ok(432_000.0));
        assert_eq!(rows("1 per 10000 rows"), Ok(10_000.0));
        assert_eq!(rows("2/week"), Ok(50_400.0));
        assert!(rows("never").unwrap_err().contains("1 per 10000 rows"));
        assert!(rows("1 per 0 rows").is_err());
    }

    #[test]
    fn durations_have_two_units_and_none_overflows() {
        for (seconds, expected) in [
            (0.25, "0.25 s"),
            (42.0, "42 s"),
            (59.7, "60 s"),
            (90.0, "1 min 30 s"),
            (3599.9, "60 min"),
            (7200.0, "2 h"),
            (93_600.0, "1 d 2 h"),
            (1e9, "31.7 years"),
        ] {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
    }
}
