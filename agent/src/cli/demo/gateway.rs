//! The gateway in front of the agent: the simulated press line, or the user's own file.
use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};
use trainer_core::schema::{FeatureKind, Rows, Schema, Task};

use super::plant::{Plant, PlantEvent, schema as plant_schema};
use crate::cli::exit::{Exit, Fail};
use crate::shell::ingest::csv::{self, CsvOptions};

/// Rows of the simulated line: training, then the stream.
const PLANT_FIRST: usize = 1_500;
const PLANT_ROWS: u64 = 6_300;
/// Share of a user's file that trains the base model, and its bounds in rows.
const FIRST_SHARE: usize = 4;
const FIRST_MAX: usize = 2_000;
const FIRST_MIN: usize = 40;

/// Rows with their sources and what happens to them.
pub(super) struct Gateway {
    pub(super) name: String,
    pub(super) schema: Schema,
    pub(super) rows: Rows,
    /// Rows that train the base model.
    pub(super) first: usize,
    sources: Vec<String>,
    /// Row and what a person on site would know.
    happenings: Vec<(usize, &'static str)>,
    told: std::cell::Cell<usize>,
}

impl Gateway {
    pub(super) fn open(data: Option<&Path>, label: Option<&str>, ignore: &[String], seed: u64) -> Result<Self> {
        match (data, label) {
            (Some(path), Some(label)) => Self::file(path, label, ignore),
            _ => Ok(Self::simulated(seed)),
        }
    }

    fn simulated(seed: u64) -> Self {
        let plant = Plant::new(seed);
        let readings: Vec<_> = (0..PLANT_ROWS).map(|row| plant.next(row)).collect();
        let word = |event| match event {
            PlantEvent::AgeingStarts => "the sensors begin to age: gains and offsets drift slowly",
            PlantEvent::MaintenanceStarts => "maintenance: offsets jump for a short while",
            PlantEvent::MaintenanceEnds => "maintenance ends",
            PlantEvent::NewTooling => "new tooling on the presses: the old patterns now mean something else",
        };
        let happening = |(row, reading): (usize, &super::plant::Reading)| Some((row, word(reading.event?)));
        Self {
            name: "a press line with 8 sensors and 4 machine states, simulated".to_owned(),
            schema: plant_schema(),
            rows: plant.rows(0..PLANT_ROWS),
            first: PLANT_FIRST,
            happenings: readings.iter().enumerate().filter_map(happening).collect(),
            sources: readings.into_iter().map(|reading| reading.source).collect(),
            told: 0.into(),
        }
    }

    fn file(path: &Path, label: &str, ignore: &[String]) -> Result<Self> {
        let options = CsvOptions { label: label.to_owned(), ignore: ignore.to_vec(), ..CsvOptions::default() };
        let data = csv::read(path, &options).map_err(|error| Fail::new(Exit::Input, error))?;
        let first = (data.rows.len() / FIRST_SHARE).min(FIRST_MAX);
        if first < FIRST_MIN {
            let message =
                format!("{}: {} labelled rows are too few for a demonstration", path.display(), data.rows.len());
            return Err(Fail::new(Exit::Input, message)
                .hint(format!("{} or more are needed", FIRST_MIN * FIRST_SHARE))
                .into());
        }
        let sources = vec!["file".to_owned(); data.rows.len()];
        let name = path.display().to_string();
        Ok(Self { name, schema: data.schema, rows: data.rows, first, sources, happenings: Vec::new(), told: 0.into() })
    }

    /// Row `row` as a line of NDJSON.
    pub(super) fn sample(&self, row: usize) -> Value {
        let each = self.schema.features.iter().zip(self.rows.x(row)).map(|(feature, value)| {
            let value = match &feature.kind {
                _ if value.is_nan() => Value::Null,
                FeatureKind::Number => json!(value),
                FeatureKind::Category { values } => json!(values.get(trainer_core::evaluate::class_of(*value))),
            };
            (feature.name.clone(), value)
        });
        json!({"source": self.sources[row], "features": each.collect::<Map<_, _>>()})
    }

    /// The label of row `row` as a person would send it.
    pub(super) fn label(&self, row: usize) -> Value {
        match (&self.schema.task, self.rows.y(row)) {
            (Task::Classification { classes }, truth) => json!(classes[trainer_core::evaluate::class_of(truth[0])]),
            (Task::Regression { .. }, [truth]) => json!(truth),
            (Task::Regression { .. }, truth) => json!(truth),
        }
    }

    /// The agent's answer as numbers, `[outputs]`.
    pub(super) fn answer(&self, answer: &Value) -> Vec<f32> {
        let (names, key) = match &self.schema.task {
            Task::Classification { classes } => (classes, "probabilities"),
            Task::Regression { targets } => (targets, "targets"),
        };
        #[expect(clippy::cast_possible_truncation, reason = "the agent computed it in f32")]
        names.iter().map(|name| answer[key][name].as_f64().map_or(f32::NAN, |value| value as f32)).collect()
    }

    /// What has happened up to `row` and was not told yet.
    pub(super) fn happenings(&self, row: usize) -> Vec<String> {
        let new = self.happenings.iter().skip(self.told.get()).take_while(|(at, _)| *at < row);
        let texts: Vec<String> = new.map(|(_, text)| (*text).to_owned()).collect();
        self.told.set(self.told.get() + texts.len());
        texts
    }
}
