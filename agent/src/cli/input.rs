//! What several commands read: labelled files, network specs, bundles.
use std::path::{Path, PathBuf};

use anyhow::Result;
use trainer_core::spec::Spec;

use super::Global;
use super::exit::{Exit, Fail};
use crate::config::Config;
use crate::decide::time::Timestamp;
use crate::shell::backtest::{BacktestError, Stored};
use crate::shell::clock;
use crate::shell::ingest::csv::{self, CsvError, CsvOptions, Dataset, TaskKind};
use crate::shell::paths;
use crate::shell::trainer::{Trainer, TrainerError};

/// Options that say how a labelled CSV file is read.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct DataArgs {
    /// CSV file with a header line; rows in time order
    #[arg(long, value_name = "FILE")]
    pub(super) data: PathBuf,
    /// Column to predict; several regression targets are separated by commas
    #[arg(long, value_name = "COLUMN")]
    pub(super) label: String,
    /// What the label is [default: text or at most 20 distinct whole values is classification]; anomaly: the label's most frequent
    /// value, and no value, is normal, and what a network trained on normal rows cannot give back is not
    #[arg(long, value_name = "TASK", value_parser = ["classification", "regression", "anomaly"])]
    pub(super) task: Option<String>,
    /// Column with the time of a row; not a feature
    #[arg(long, value_name = "COLUMN")]
    pub(super) time: Option<String>,
    /// Column that splits rows into segments; not a feature
    #[arg(long, value_name = "COLUMN")]
    pub(super) segment: Option<String>,
    /// Columns to use as features [default: all others]
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',', conflicts_with = "ignore")]
    pub(super) features: Option<Vec<String>>,
    /// Columns to leave out
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub(super) ignore: Vec<String>,
    /// Leave rows with a missing feature out instead of imputing it
    #[arg(long)]
    pub(super) drop_incomplete: bool,
}

impl DataArgs {
    /// Reads the file, against a model's schema if one is given.
    pub(super) fn read(&self, schema: Option<&trainer_core::schema::Schema>) -> Result<Dataset> {
        let task = self.task.as_deref().map(|task| match task {
            "classification" => TaskKind::Classification,
            "anomaly" => TaskKind::Anomaly,
            _ => TaskKind::Regression,
        });
        let options = CsvOptions {
            label: self.label.clone(),
            task,
            time: self.time.clone(),
            segment: self.segment.clone(),
            features: self.features.clone(),
            ignore: self.ignore.clone(),
            drop_incomplete: self.drop_incomplete,
            schema: schema.cloned(),
        };
        csv::read(&self.data, &options).map_err(|error: CsvError| Fail::new(Exit::Input, error).into())
    }
}

/// The times of the rows as moments, if a time column was named.
pub(super) fn moments(file: &Path, data: &Dataset) -> Result<Option<Vec<Timestamp>>> {
    let Some(times) = &data.times else { return Ok(None) };
    let each = times.iter().zip(&data.lines).map(|(text, line)| {
        clock::moment(text).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            Fail::new(Exit::Input, format!("{}:{line}: `{shown}` is not a time", file.display()))
                .hint("write 2026-11-21T01:40:00Z, 2026-11-21 01:40:00 (read as UTC) or seconds since 1970")
                .into()
        })
    });
    each.collect::<Result<_>>().map(Some)
}

impl DataArgs {
    /// The network for these data: that of a file, or the default one of the task.
    pub(super) fn spec(&self, path: Option<&Path>, data: &Dataset) -> Result<Spec> {
        let detects = self.task.as_deref() == Some("anomaly");
        match path {
            Some(path) => read_spec(path).map(|spec| Spec { reconstruct: spec.reconstruct || detects, ..spec }),
            None if detects => Ok(Spec::detector(data.schema.encoded())),
            None => Ok(Spec::default()),
        }
    }
}

fn read_spec(path: &Path) -> Result<Spec> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Fail::new(Exit::Config, format!("cannot read {}", path.display())).because(error))?;
    let spec: Spec = toml::from_str(&text).map_err(|error| {
        let example = "an example: cut = 2\n      [[layers]]\n      type = \"linear\"\n      outputs = 64\n      [[layers]]\n      type = \"relu\"";
        Fail::new(Exit::Config, format!("{}: {}", path.display(), error.to_string().trim())).hint(example)
    })?;
    Ok(spec)
}

/// Reads a bundle file.
pub(super) fn read_bundle(path: &Path) -> Result<Stored> {
    let bytes = std::fs::read(path).map_err(|error| {
        Fail::new(Exit::Bundle, format!("cannot read {}", path.display()))
            .because(error)
            .hint("make a bundle with `hone train --data FILE --label COLUMN -o model.safetensors`")
    })?;
    let refuse = |error| {
        Fail::new(Exit::Bundle, format!("{} is refused", path.display()))
            .because(error)
            .hint("copy it again from where it was made, or make a new one with `hone train`")
    };
    Ok(Stored::read(bytes).map_err(refuse)?)
}

/// The settings of a workstation command: those of `--config`, else the defaults. The gateway's own file is not read unasked, so
/// that equal command lines give equal results everywhere.
pub(super) fn settings(global: &Global) -> Result<Config> {
    let Some(file) = &global.config else {
        return Ok(Config::default());
    };
    Ok(paths::load(Some(file)).map_err(super::ask::unconfigured)?)
}

/// The trainer a command uses.
pub(super) fn trainer(in_process: bool) -> Result<Trainer> {
    if in_process {
        return Ok(Trainer::InProcess);
    }
    Ok(Trainer::child()
        .map_err(|error| Fail::new(Exit::Internal, "cannot find this program's own file").because(error))?)
}

/// Whose fault a failed training is: the rows', or this machine's.
pub(super) fn training_exit(error: &BacktestError) -> Exit {
    match error {
        BacktestError::Trainer(TrainerError::Refused(_)) => Exit::Input,
        BacktestError::NoHeads => Exit::Usage,
        BacktestError::Trainer(_) | BacktestError::Bundle(_) | BacktestError::Solve(_) => Exit::Internal,
    }
}
