//! Settings of the budgets, and the two that are words: hours of the day, and what a battery allows.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What retraining may take. Every limit is hard: it refuses or suspends, and is never overridden by waiting long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetSettings {
    /// Resident memory of the trainer in bytes. Range 4 MiB to 64 GiB, default 64 MiB: a 100,000-parameter model with 20,000
    /// rows of 128 features takes half of it.
    pub memory_bytes: u64,
    /// Memory that must stay available to everything else, in bytes. Default 32 MiB.
    pub memory_reserve_bytes: u64,
    /// Share of one core that training takes. Range 0.01 to 1, default 0.25: slow, but a busy gateway does not notice.
    pub cpu_share: f64,
    /// Longest time one training may run, in seconds; then it makes no more steps and finishes with what there is. Where
    /// `hours` end first it is stopped at a checkpoint instead, and goes on in the next ones. Range 10 to 86,400, default 3600.
    pub deadline_s: u64,
    /// Energy that is added to the stock, in joules per hour. Default 50: 25 s of a 2 W core in each hour.
    pub energy_j_per_hour: f64,
    /// Most energy that may be saved up, in joules. No hour takes more than this plus `energy_j_per_hour`. Default 200.
    pub energy_j_stored: f64,
    /// Most energy one retrain may take, in joules. Default 150.
    pub energy_j_per_retrain: f64,
    /// Energy kept back in the stock for the gate, in joules. Default 5.
    pub energy_j_reserve: f64,
    /// Power of the whole board above which training slows down, in watts; it stops a fifth above. Only where power is
    /// measured. Default: no limit, as boards differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_w_max: Option<f64>,
    /// Temperature above which training slows down, in °C; 5 °C below the first trip point of a zone if that is lower.
    /// Default 75.
    pub temperature_c_max: f64,
    /// Whether to train while a battery feeds the gateway: `never`, `above:PERCENT` or `always`. Default `above:60`.
    pub on_battery: OnBattery,
    /// Local hours of the day in which training may run, such as `22:00-06:00` or `01:00-05:00, 12:00-13:00`; they may wrap
    /// midnight. While the clock stands before 2020 the hour is unknown and nothing is trained. Default: any hour.
    pub hours: Hours,
    /// Local time minus UTC in minutes, for `hours`. Range -720 to 840, default 0. Summer time is not followed.
    pub utc_offset_min: i32,
    /// Train only after others took less than `idle_cpu_share` of the CPU for this long, in seconds. Default 0: not asked for.
    pub idle_s: u64,
    /// What counts as idle for `idle_s`, as a share of all cores. Default 0.1.
    pub idle_cpu_share: f64,
    /// Share of all cores taken by others above which training is suspended. Default 0.5.
    pub busy_cpu_share: f64,
    /// Memory pressure (PSI some avg10, percent) above which training is suspended. Default 10.
    pub memory_pressure_percent_max: f64,
    /// Disk pressure (PSI some avg10, percent) above which training is suspended. Default 40.
    pub io_pressure_percent_max: f64,
    /// Bytes that retraining may write in a day: snapshots, checkpoints, bundles. Default 64 MiB: 23 GB a year, a
    /// thousandth of what a small card endures.
    pub flash_bytes_per_day: u64,
    /// Time after which a refusal that depends on the state of the gateway is looked at again, in seconds. Default 60.
    pub retry_s: u64,
    /// Time of being refused after which a job is reported as starved, and again after as long, in seconds. Default 259,200
    /// (three days).
    pub starved_after_s: u64,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            memory_reserve_bytes: 32 << 20,
            cpu_share: 0.25,
            deadline_s: 3_600,
            energy_j_per_hour: 50.0,
            energy_j_stored: 200.0,
            energy_j_per_retrain: 150.0,
            energy_j_reserve: 5.0,
            power_w_max: None,
            temperature_c_max: 75.0,
            on_battery: OnBattery::Above(60),
            hours: Hours::default(),
            utc_offset_min: 0,
            idle_s: 0,
            idle_cpu_share: 0.1,
            busy_cpu_share: 0.5,
            memory_pressure_percent_max: 10.0,
            io_pressure_percent_max: 40.0,
            flash_bytes_per_day: 64 << 20,
            retry_s: 60,
            starved_after_s: 72 * 3_600,
        }
    }
}

impl BudgetSettings {
    /// The first setting outside its range: its name, its value and what is allowed.
    #[must_use]
    pub fn out_of_range(&self) -> Option<(&'static str, String, &'static str)> {
        let joules = |value: f64| (0.0..=1e9).contains(&value);
        let percent = |value: f64| (0.0..=100.0).contains(&value);
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let memory = (4 << 20..=64 << 30).contains(&self.memory_bytes);
        let power = self.power_w_max.is_none_or(|watts| watts > 0.0 && watts <= 10_000.0);
        let checks: [(bool, &'static str, &dyn fmt::Display, &'static str); 17] = [
            (memory, "memory_bytes", &self.memory_bytes, "4194304 to 68719476736"),
            (
                self.memory_reserve_bytes <= 64 << 30,
                "memory_reserve_bytes",
                &self.memory_reserve_bytes,
                "0 to 68719476736",
            ),
            ((0.01..=1.0).contains(&self.cpu_share), "cpu_share", &self.cpu_share, "0.01 to 1"),
            ((10..=86_400).contains(&self.deadline_s), "deadline_s", &self.deadline_s, "10 to 86400"),
            (joules(self.energy_j_per_hour), "energy_j_per_hour", &self.energy_j_per_hour, "0 to 1e9"),
            (joules(self.energy_j_stored), "energy_j_stored", &self.energy_j_stored, "0 to 1e9"),
            (joules(self.energy_j_per_retrain), "energy_j_per_retrain", &self.energy_j_per_retrain, "0 to 1e9"),
            (joules(self.energy_j_reserve), "energy_j_reserve", &self.energy_j_reserve, "0 to 1e9"),
            (power, "power_w_max", &self.power_w_max.unwrap_or(f64::NAN), "above 0, up to 10000"),
            ((0.0..=150.0).contains(&self.temperature_c_max), "temperature_c_max", &self.temperature_c_max, "0 to 150"),
            ((-720..=840).contains(&self.utc_offset_min), "utc_offset_min", &self.utc_offset_min, "-720 to 840"),
            (self.idle_s <= 86_400, "idle_s", &self.idle_s, "0 to 86400"),
            (share(self.idle_cpu_share), "idle_cpu_share", &self.idle_cpu_share, "0 to 1"),
            (share(self.busy_cpu_share), "busy_cpu_share", &self.busy_cpu_share, "0 to 1"),
            (
                percent(self.memory_pressure_percent_max),
                "memory_pressure_percent_max",
                &self.memory_pressure_percent_max,
                "0 to 100",
            ),
            (
                percent(self.io_pressure_percent_max),
                "io_pressure_percent_max",
                &self.io_pressure_percent_max,
                "0 to 100",
            ),
            ((1..=3_600).contains(&self.retry_s), "retry_s", &self.retry_s, "1 to 3600"),
        ];
        checks.into_iter().find(|(good, ..)| !good).map(|(_, key, value, range)| (key, value.to_string(), range))
    }
}

/// What a battery allows while it feeds the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum OnBattery {
    /// Nothing.
    Never,
    /// Training while more than this many percent are left.
    Above(u8),
    /// Training as on mains.
    Always,
}

/// Hours of the local day, to the minute; none means any hour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hours(Vec<Window>);

/// From `start` to before `end`, in minutes of the day; over midnight if `end` is not above `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    start: u16,
    end: u16,
}

/// Windows of one day, at most; more is a mistake.
const WINDOWS_MAX: usize = 8;
const DAY_S: u64 = 86_400;

/// A word that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// Not what a battery can allow.
    #[error("`{0}` is not `never`, `above:PERCENT` (0 to 100) or `always`")]
    OnBattery(String),
    /// Not hours of a day.
    #[error("`{0}` is no span of hours: write `22:00-06:00`, several with commas (8 at most), or nothing for any hour")]
    Hours(String),
}

impl Hours {
    /// Whether every hour is allowed.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// Seconds until the hours begin, at this second of the local day; 0 within them.
    #[must_use]
    pub fn opens_in_s(&self, second: u64) -> u64 {
        if self.is_any() || self.0.iter().any(|window| window.left(second).is_some()) {
            return 0;
        }
        let until = |window: &Window| (DAY_S + u64::from(window.start) * 60 - second % DAY_S) % DAY_S;
        self.0.iter().map(until).min().unwrap_or(0)
    }

    /// Seconds until the hours end, at this second of the local day; none if they do not end within a day.
    #[must_use]
    pub fn closes_in_s(&self, second: u64) -> Option<u64> {
        if self.is_any() {
            return None;
        }
        let mut total = 0;
        // A window may begin before another one ends.
        while let Some(left) = self.0.iter().filter_map(|window| window.left((second + total) % DAY_S)).max() {
            total += left;
            if total >= DAY_S {
                return None;
            }
        }
        Some(total)
    }
}

impl Window {
    /// Seconds left of it at this second of the day; none outside.
    fn left(self, second: u64) -> Option<u64> {
        let (start, end) = (u64::from(self.start) * 60, u64::from(self.end) * 60);
        let length = if end > start { end - start } else { end + DAY_S - start };
        let gone = (second + DAY_S - start) % DAY_S;
        (gone < length).then(|| length - gone)
    }
}

impl FromStr for Hours {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let refuse = || WordError::Hours(text.to_owned());
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let minute = |text: &str, last: u16| {
            let (hour, minute) = text.trim().split_once(':')?;
            let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            let (hour, minute) = (digits(hour).then_some(hour)?, digits(minute).then_some(minute)?);
            let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
            let total = hour * 60 + minute;
            (minute < 60 && total <= last).then_some(total)
        };
        let window = |part: &str| {
            let (start, end) = part.split_once('-')?;
            let window = Window { start: minute(start, 1_439)?, end: minute(end, 1_440)? };
            (window.start != window.end).then_some(window)
        };
        let windows: Option<Vec<_>> = text.split(',').map(window).collect();
        windows.filter(|windows| windows.len() <= WINDOWS_MAX).map(Self).ok_or_else(refuse)
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Window { start, end }) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{:02}:{:02}-{:02}:{:02}", start / 60, start % 60, end / 60, end % 60)?;
        }
        Ok(())
    }
}

impl FromStr for OnBattery {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text.split_once(':') {
            None if text == "never" => Ok(Self::Never),
            None if text == "always" => Ok(Self::Always),
            Some(("above", percent)) => {
                let percent = percent.parse().ok().filter(|percent| *percent <= 100);
                percent.map(Self::Above).ok_or_else(|| WordError::OnBattery(text.to_owned()))
            }
            _ => Err(WordError::OnBattery(text.to_owned())),
        }
    }
}

impl fmt::Display for OnBattery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => write!(f, "never"),
            Self::Above(percent) => write!(f, "above:{percent}"),
            Self::Always => write!(f, "always"),
        }
    }
}

impl TryFrom<String> for Hours {
    type Error = WordError;

    fn try_from(text: String) -> Result<Self, WordError> {
        text.parse()
    }
}

impl From<Hours> for String {
    fn from(hours: Hours) -> Self {
        hours.to_string()
    }
}

impl TryFrom<String> for OnBattery {
    type Error = WordError;

    fn try_from(text: String) -> Result<Self, WordError> {
        text.parse()
    }
}

impl From<OnBattery> for String {
    fn from(rule: OnBattery) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;

    #[test]
    fn hours_wrap_midnight_and_touching_spans_are_one() {
        let night: Hours = "22:00-06:00".parse().unwrap();
        assert_eq!(
            (night.opens_in_s(21 * HOUR), night.opens_in_s(23 * HOUR), night.opens_in_s(5 * HOUR)),
            (HOUR, 0, 0)
        );
        assert_eq!(night.opens_in_s(6 * HOUR), 16 * HOUR);
        assert_eq!((night.closes_in_s(23 * HOUR), night.closes_in_s(5 * HOUR)), (Some(7 * HOUR), Some(HOUR)));
        let touching: Hours = "01:00-02:00, 02:00-24:00".parse().unwrap();
        assert_eq!((touching.closes_in_s(HOUR), touching.opens_in_s(0)), (Some(23 * HOUR), HOUR));
        let whole: Hours = "00:00-24:00".parse().unwrap();
        assert_eq!((whole.closes_in_s(7), whole.opens_in_s(7)), (None, 0));
        assert_eq!((Hours::default().closes_in_s(7), Hours::default().opens_in_s(7)), (None, 0));
    }

    #[test]
    fn words_are_printed_as_they_are_typed_and_others_refused_with_the_right_form() {
        for text in ["", "22:00-06:00", "01:30-05:00, 12:00-24:00"] {
            assert_eq!(text.parse::<Hours>().unwrap().to_string(), text);
        }
        for text in ["22-6", "22:00", "24:00-06:00", "06:00-06:00", "6:00-7:00", "05:60-07:00", "22:00-24:01", ","] {
            assert!(text.parse::<Hours>().unwrap_err().to_string().contains("22:00-06:00"), "{text}");
        }
        for text in ["never", "above:60", "always"] {
            assert_eq!(text.parse::<OnBattery>().unwrap().to_string(), text);
        }
        for text in ["", "above", "above:101", "above:-1", "on"] {
            assert!(text.parse::<OnBattery>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_defaults_are_in_range_and_a_number_outside_is_named_with_its_range() {
        assert_eq!(BudgetSettings::default().out_of_range(), None);
        let settings = BudgetSettings { energy_j_per_hour: f64::NAN, ..BudgetSettings::default() };
        assert_eq!(settings.out_of_range(), Some(("energy_j_per_hour", "NaN".to_owned(), "0 to 1e9")));
    }

    #[test]
    fn settings_survive_toml_and_refuse_unknown_keys() {
        let settings = BudgetSettings { power_w_max: Some(6.5), ..BudgetSettings::default() };
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<BudgetSettings>(&text).unwrap(), settings);
        assert_eq!(toml::from_str::<BudgetSettings>("").unwrap(), BudgetSettings::default());
        assert!(toml::from_str::<BudgetSettings>("memory_mb = 64").is_err());
        assert!(toml::from_str::<BudgetSettings>("hours = '22-6'").is_err());
    }
}
