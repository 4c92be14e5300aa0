//! Gathers the settings of every part; parses and validates their text. Reads no file: the shell hands it texts.
mod desired;
mod migrations;
mod settings;

use std::ops::Range;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub use desired::{DEVICE_ONLY, LIVE};
pub use settings::{AgentSettings, RecordsSettings, SnapshotSettings};

use crate::decide::budget::BudgetSettings;
use crate::decide::continual::ContinualSettings;
use crate::decide::cycle::CycleSettings;
use crate::decide::prices::PriceSettings;
use crate::decide::rollout::RolloutSettings;
use crate::shell::ingest::settings::InputSettings;
use crate::shell::models::ModelSettings;
use crate::shell::mqtt::MqttSettings;
use crate::shell::sensors::SensorSettings;
use trainer_core::train::TrainSettings;

/// The shipped `hone.toml`: every setting with its default and its reason.
pub const SHIPPED: &str = include_str!("config/hone.toml");

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Layout of the file: an older one is brought forward, a newer one refused. A file that names none is of the newest.
    pub layout: i64,
    /// The daemon itself: places and addresses.
    pub agent: AgentSettings,
    /// What is kept of what was seen and said.
    pub records: RecordsSettings,
    /// When to retrain, and what may serve.
    pub cycle: CycleSettings,
    /// The champion's adaptive form.
    pub continual: ContinualSettings,
    /// How a candidate that passed the gate is tried.
    pub rollout: RolloutSettings,
    /// How training is done.
    pub training: TrainSettings,
    /// What retraining may take.
    pub budget: BudgetSettings,
    /// What sensors cannot know.
    pub sensors: SensorSettings,
    /// What retraining costs, and what avoided errors are worth.
    pub value: PriceSettings,
    /// What is kept of what retrains learned from.
    pub snapshots: SnapshotSettings,
    /// Whose models may serve, and how a new one proves itself.
    pub models: ModelSettings,
    /// The link to the fleet.
    pub mqtt: MqttSettings,
    /// How samples come in, beside HTTP.
    pub input: InputSettings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            layout: migrations::newest(),
            agent: AgentSettings::default(),
            records: RecordsSettings::default(),
            cycle: CycleSettings::default(),
            continual: ContinualSettings::default(),
            rollout: RolloutSettings::default(),
            training: TrainSettings::default(),
            budget: BudgetSettings::default(),
            sensors: SensorSettings::default(),
            value: PriceSettings::default(),
            snapshots: SnapshotSettings::default(),
            models: ModelSettings::default(),
            mqtt: MqttSettings::default(),
            input: InputSettings::default(),
        }
    }
}

/// A setting that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A name nobody knows.
    #[error("{file}:{line}: unknown key `{key}`{hint}")]
    UnknownKey {
        /// File as the reader named it.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The key with its section.
        key: String,
        /// The nearest known name, or the known names.
        hint: String,
    },
    /// Not TOML, or a value of another type.
    #[error("{file}:{line}: {reason}")]
    Value {
        /// File.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A file of a newer hone.
    #[error(
        "{file} has layout {found}, this hone reads up to {known}: install the newer hone again, or write the file anew \
         with `hone init`"
    )]
    Newer {
        /// File.
        file: String,
        /// Its layout.
        found: i64,
        /// The newest layout known here.
        known: i64,
    },
    /// A value outside its range.
    #[error("`{key}` is {value}, it must be {range}")]
    Range {
        /// The key with its section.
        key: String,
        /// What was set.
        value: String,
        /// What is allowed.
        range: String,
    },
}

impl Config {
    /// Reads the texts in their order, later ones over earlier ones, key by key. Each comes with the name to use in errors.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, line and key.
    pub fn parse<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, ConfigError> {
        let mut merged = Table::new();
        for (file, text) in texts {
            let mut table: Table = toml::from_str(text).map_err(|error| explain(file, text, &error))?;
            let before = table.get("layout").cloned();
            migrations::forward(file, &mut table)?;
            if table.get("layout") == before.as_ref() {
                // Each file alone first: only here are the lines known.
                toml::from_str::<Self>(text).map_err(|error| explain(file, text, &error))?;
            }
            merge(&mut merged, table);
        }
        let config = of_table(&merged).map_err(|error| ConfigError::Value {
            file: "configuration".to_owned(),
            line: 0,
            reason: error.message().to_owned(),
        })?;
        settings::check(&config)?;
        Ok(config)
    }
}

/// The settings of a merged table. By way of its text, which is read by the code that reads files: that for values would be 200 KB more.
fn of_table(table: &Table) -> Result<Config, toml::de::Error> {
    toml::from_str(&table.to_string())
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Turns the reader's error into one that names file, line and key.
fn explain(file: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let span = error.span().unwrap_or(0..0);
    let file = file.to_owned();
    let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field")
        && let Some(found) = quoted.next()
    {
        let known: Vec<&str> = quoted.collect();
        let nearest = known.iter().max_by(|a, b| likeness(a, found).total_cmp(&likeness(b, found)));
        let hint = match nearest {
            Some(near) if likeness(near, found) > 0.7 => format!(": did you mean `{}`?", full(text, &span, near)),
            _ => format!(": known here are {}", known.join(", ")),
        };
        return ConfigError::UnknownKey { file, line, key: full(text, &span, found), hint };
    }
    let key = key_at(text, span.start);
    let reason = if key.is_empty() { message.to_owned() } else { format!("`{key}`: {message}") };
    ConfigError::Value { file, line, reason }
}

fn likeness(a: &str, b: &str) -> f64 {
    strsim::jaro_winkler(a, b)
}

/// `name` with the section it stands in; the name of a section itself stands alone, with what follows it.
fn full(text: &str, span: &Range<usize>, name: &str) -> String {
    let start = span.start.min(text.len());
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line = text[line_start..].lines().next().unwrap_or_default().trim();
    if let Some(header) = line.strip_prefix('[') {
        let header = header.trim_matches(['[', ']']);
        // The part of the header in front of the refused word.
        let before = header.split('.').take_while(|part| !text[span.clone()].contains(part.trim())).map(str::trim);
        return before.chain([name]).collect::<Vec<_>>().join(".");
    }
    let section = section_before(text, line_start);
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// The key that the line at `at` sets, with its section.
fn key_at(text: &str, at: usize) -> String {
    let line_start = text[..at.min(text.len())].rfind('\n').map_or(0, |at| at + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let Some((key, _)) = line.split_once('=') else {
        return String::new();
    };
    let section = section_before(text, line_start);
    if section.is_empty() { key.trim().to_owned() } else { format!("{section}.{}", key.trim()) }
}

fn section_before(text: &str, at: usize) -> String {
    let header = text[..at].lines().rev().find_map(|line| line.trim().strip_prefix('['));
    header.and_then(|header| header.split(']').next()).unwrap_or_default().trim_start_matches('[').trim().to_owned()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn refused(text: &str, expected: &Expect) {
        let error = Config::parse([("hone.toml", text)]).expect_err(text);
        expected.assert_eq(&error.to_string());
    }

    /// Every key with its section; single-precision values would not compare equal as TOML.
    fn keys(table: &Table) -> Vec<String> {
        let below = |(key, value): (&String, &Value)| match value {
            Value::Table(inner) => keys(inner).into_iter().map(|below| format!("{key}.{below}")).collect(),
            _ => vec![key.clone()],
        };
        table.iter().flat_map(below).collect()
    }

    #[test]
    fn the_shipped_file_names_every_setting_and_equals_the_defaults() {
        assert_eq!(Config::parse([("hone.toml", SHIPPED)]).unwrap(), Config::default());
        let shipped: Table = toml::from_str(SHIPPED).unwrap();
        let defaults = Table::try_from(Config::default()).unwrap();
        assert_eq!(keys(&shipped), keys(&defaults), "each setting stands in the file");
    }

    #[test]
    fn an_unknown_key_is_refused_by_name_with_the_nearest_known_one() {
        refused(
            "[cycle]\nseed = 1\npolcy = \"value\"\n",
            &expect![[r"hone.toml:3: unknown key `cycle.polcy`: did you mean `cycle.policy`?"]],
        );
        refused("[cycel]\nseed = 1\n", &expect![[r"hone.toml:1: unknown key `cycel`: did you mean `cycle`?"]]);
        refused(
            "[cycle.wacth]\npsi = 1\n",
            &expect![[r"hone.toml:1: unknown key `cycle.wacth`: did you mean `cycle.watch`?"]],
        );
        refused(
            "[cycle.gate]\nunheard = 1\n",
            &expect![[
                r"hone.toml:2: unknown key `cycle.gate.unheard`: known here are margin, z, rows_full, margin_weak, z_weak, rows_min, segment_alpha, segment_rows, anchor_margin, calibration_margin, latency_factor, latency_floor_us, size_factor"
            ]],
        );
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_key_and_line() {
        refused(
            "[cycle]\n\nseed = \"x\"\n",
            &expect![[r#"hone.toml:3: `cycle.seed`: invalid type: string "x", expected u64"#]],
        );
        refused(
            "[cycle]\npolicy = \"often\"\n",
            &expect![[
                r"hone.toml:2: `cycle.policy`: `often` is not a policy: use static, fixed:LABELS, trigger:adwin, trigger:page_hinkley, trigger:e_sr, trigger:psi, trigger:any, value or continual"
            ]],
        );
        refused(
            "[budget]\nhours = \"22-6\"\n",
            &expect![[
                r"hone.toml:2: `budget.hours`: `22-6` is no span of hours: write `22:00-06:00`, several with commas (8 at most), or nothing for any hour"
            ]],
        );
        let broken = Config::parse([("a.toml", "[agent]\nlisten = \n")]).unwrap_err().to_string();
        assert!(broken.starts_with("a.toml:2: "), "{broken}");
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_its_range() {
        refused(
            "[cycle.watch.columns]\nwindow_rows = 3\n",
            &expect![[r"`cycle.watch.columns.window_rows` is 3, it must be 200 to 4096"]],
        );
        refused("[budget]\ncpu_share = 2.0\n", &expect![[r"`budget.cpu_share` is 2, it must be 0.01 to 1"]]);
        refused("[value]\nprice_per_kwh = -1.0\n", &expect![[r"`value.price_per_kwh` is -1, it must be 0 or more"]]);
        refused(
            "[sensors]\nwatts_per_core = 0.0\n",
            &expect![[r"`sensors.watts_per_core` is 0, it must be 0.01 to 100"]],
        );
        refused(
            "[snapshots]\nkeep_bytes = 1\n",
            &expect![[r"`snapshots.keep_bytes` is 1, it must be 1048576 to 1099511627776"]],
        );
        refused(
            "[agent]\nlisten = \"0.0.0.0:8600\"\n",
            &expect![[
                r#"`agent.listen` is 0.0.0.0:8600, it must be a loopback address with port, such as 127.0.0.1:8600, or "off""#
            ]],
        );
    }

    #[test]
    fn later_files_win_key_by_key() {
        let first = "[cycle]\nseed = 1\n[cycle.watch.columns]\npsi = 0.5\n";
        let config = Config::parse([("a", first), ("b", "[cycle]\nseed = 2\n")]).unwrap();
        assert_eq!((config.cycle.seed, config.cycle.watch.columns.psi), (2, 0.5));
    }
}
