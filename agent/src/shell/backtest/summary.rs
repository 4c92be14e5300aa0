//! What a replay found, as the table, the JSON and the drawing show it.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use serde::Serialize;
use trainer_core::evaluate::Metrics;

use super::{Account, Backtest};
use crate::decide::cycle::Report;
use crate::decide::policy::Policy;
use crate::decide::prices::{Deeds, PriceSettings, Weekly};
use crate::decide::value::JOULES_PER_MAC;
use crate::decide::watch::finding::Grade;

/// One policy's result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// As typed.
    pub policy: String,
    /// Rows answered.
    pub n: u64,
    /// Share of right answers (classification).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Macro F1 (classification).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f1_macro: Option<f64>,
    /// Log loss (classification).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_loss: Option<f64>,
    /// Root mean squared error (regression).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rmse: Option<f64>,
    /// Mean absolute error (regression).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mae: Option<f64>,
    /// Coefficient of determination (regression).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r2: Option<f64>,
    /// Trainings ordered.
    pub retrains: u64,
    /// Candidates that became champion.
    pub promotions: u64,
    /// Returns to the previous model.
    pub rollbacks: u64,
    /// Multiply-adds of all trainings.
    pub work_mac: u64,
    /// Their energy by the model; nothing was measured.
    pub joules_modelled: f64,
    /// Bytes of snapshots and bundles that a device would have written.
    pub bytes_written: u64,
    /// Trainings ordered in a week; none if nobody says how long the rows took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrains_per_week: Option<f64>,
    /// Cost and value per week in money; none without prices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weekly: Option<Weekly>,
    /// Errors (summed losses, for regression) that never retraining would have made beyond these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors_avoided: Option<f64>,
    /// The same less `value.cost_errors` for each retrain: what the policy was worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worth_errors: Option<f64>,
    /// For each given change, rows until the first alarm after it was reported.
    pub detection_rows: Vec<Option<u64>>,
    /// What the machine at hand needed; the only part that differs from run to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
    /// What happened.
    pub events: Vec<Happened>,
    /// Loss per answered row.
    #[serde(skip)]
    pub losses: Vec<f32>,
}

/// Measured cost of all trainings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Measured {
    /// CPU seconds.
    pub train_cpu_s: f64,
    /// Highest resident memory of a trainer, bytes; 0 if none ran.
    pub train_peak_bytes: u64,
}

/// One event and the row at which it happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Happened {
    /// Row of the file, from 0.
    pub row: usize,
    /// What.
    #[serde(flatten)]
    pub report: Report,
}

impl Happened {
    pub(super) fn new(row: usize, report: Report) -> Self {
        Self { row, report }
    }
}

impl Summary {
    pub(super) fn new(policy: &Policy, test: &Backtest<'_>, account: Account) -> Self {
        let count =
            |wanted: fn(&Report) -> bool| account.events.iter().filter(|event| wanted(&event.report)).count() as u64;
        let changes = test.changes.iter().enumerate().map(|(index, change)| {
            let end = test.changes.get(index + 1).copied().unwrap_or(usize::MAX);
            let alarmed = |report: &Report| match report {
                Report::Drift { findings, .. } => findings.iter().any(|finding| finding.grade == Grade::Alarm),
                _ => false,
            };
            let drift = |event: &&Happened| alarmed(&event.report) && (*change..end).contains(&event.row);
            account.events.iter().find(drift).map(|event| (event.row - change) as u64)
        });
        let mut summary = Self {
            policy: policy.to_string(),
            n: account.losses.len() as u64,
            accuracy: None,
            f1_macro: None,
            log_loss: None,
            rmse: None,
            mae: None,
            r2: None,
            retrains: count(|report| matches!(report, Report::Retrain { .. })),
            promotions: count(|report| matches!(report, Report::Promote { .. })),
            rollbacks: count(|report| matches!(report, Report::Rollback { .. })),
            work_mac: account.work_mac,
            joules_modelled: account.work_mac as f64 * JOULES_PER_MAC,
            bytes_written: account.written_bytes,
            retrains_per_week: None,
            weekly: None,
            errors_avoided: None,
            worth_errors: None,
            detection_rows: changes.collect(),
            measured: Some(account.measured),
            events: Vec::new(),
            losses: Vec::new(),
        };
        match account.tally.metrics() {
            Some(Metrics::Classification { accuracy, f1_macro, log_loss, .. }) => {
                (summary.accuracy, summary.f1_macro, summary.log_loss) =
                    (Some(accuracy), Some(f1_macro), Some(log_loss));
            }
            Some(Metrics::Regression { rmse, mae, r2, .. }) => {
                (summary.rmse, summary.mae, summary.r2) = (Some(rmse), Some(mae), Some(r2));
            }
            None => {}
        }
        Self { events: account.events, losses: account.losses, ..summary }
    }

    /// Sum of the losses.
    #[must_use]
    pub fn loss_sum(&self) -> f64 {
        self.losses.iter().map(|loss| f64::from(*loss)).sum()
    }

    /// Fills in what the policy was worth against `still` errors of never retraining.
    pub fn against(&mut self, still: f64, cost_errors: f64) {
        let avoided = still - self.loss_sum();
        self.errors_avoided = Some(avoided);
        self.worth_errors = Some(avoided - self.retrains as f64 * cost_errors);
    }

    /// Fills in what a week of the policy costs and is worth, if the rows took `span_s` seconds. Comes after [`Self::against`].
    pub fn priced(&mut self, prices: &PriceSettings, span_s: f64) {
        let deeds = Deeds {
            span_s,
            retrains: self.retrains,
            joules: self.joules_modelled,
            bytes_written: self.bytes_written as f64,
            errors_avoided: self.errors_avoided.unwrap_or_default(),
        };
        let weekly = prices.weekly(&deeds);
        self.retrains_per_week = weekly.map(|weekly| weekly.retrains);
        self.weekly = weekly.filter(|_| prices.are_set());
    }

    /// The figure people compare: accuracy, or RMSE.
    #[must_use]
    pub fn figure(&self) -> f64 {
        self.accuracy.or(self.rmse).unwrap_or(f64::NAN)
    }
}
