//! A look: the window of every column against its baseline, judged together.
#![expect(clippy::cast_precision_loss, reason = "row and column counts stay far below 2^53")]
use serde::{Deserialize, Serialize};

use super::column::{Column, Standing};
use super::{ColumnPlan, Columns};
use crate::decide::drift::distances::{PSI_FLOOR, VERDICT_ROWS_MIN};
use crate::decide::drift::holm::holm;
use crate::decide::drift::special::gamma_upper;
use crate::decide::drift::{Direction, bins::BinWindow, bins::FrozenBins};
use crate::decide::watch::Watcher;
use crate::decide::watch::finding::{Finding, Grade, Measure, Picture};

/// Usable rows below which a baseline gives no verdict on shares: χ² is no longer the law of so few.
pub(super) const BASELINE_ROWS_MIN: u64 = 50;
/// Features that the finding about all of them names.
const STRONGEST: usize = 10;

/// PSI of one column with its null mean and p-value, both for as many rows as are independent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Population stability index, natural logarithm.
    pub psi: f64,
    /// Mean PSI of such a window without drift.
    pub null_mean: f64,
    /// χ² p-value of the counts, not adjusted for the other columns.
    pub p: f64,
}

/// Which p-values are worth their cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exact {
    /// All of them, for people.
    Always,
    /// Only those that could be small; the others are 1. It changes no verdict.
    WhereSmall,
}

impl Column {
    /// The reading of this column; `None` before the window and the baseline suffice for a verdict.
    pub(super) fn read(&self, exact: Exact) -> Option<Reading> {
        let (law, window) = (self.law.as_ref()?, self.window.as_ref()?);
        if window.rows() < VERDICT_ROWS_MIN || law.bins.reference_rows() < BASELINE_ROWS_MIN {
            return None;
        }
        let baseline = law.bins.reference_rows() as f64 / f64::from(law.block_rows.max(1));
        Some(compare(&law.bins, window, baseline, self.values_independent(), exact))
    }
}

/// PSI and two-sample χ² of a window; both samples count as many rows as they hold independent ones.
fn compare(reference: &FrozenBins, window: &BinWindow, baseline: f64, current: f64, exact: Exact) -> Reading {
    let (n, m) = (reference.reference_rows() as f64, window.rows() as f64);
    let (mut psi, mut statistic, mut used) = (0.0, 0.0, 0_u32);
    for (a, b) in reference.counts().iter().zip(window.counts()).filter(|(a, b)| **a + **b > 0) {
        let (p, q) = (*a as f64 / n, *b as f64 / m);
        let (floored_p, floored_q) = (p.max(PSI_FLOOR), q.max(PSI_FLOOR));
        psi += (floored_q - floored_p) * (floored_q / floored_p).ln();
        // Squared gap of the shares over the pooled share.
        statistic += (p - q) * (p - q) * (n + m) / (*a + *b) as f64;
        used += 1;
    }
    let degrees = f64::from(used.saturating_sub(1));
    let scale = baseline * current / (baseline + current);
    let statistic = statistic * scale;
    let small = exact == Exact::Always || statistic > degrees;
    let p = if degrees > 0.0 && small { gamma_upper(degrees / 2.0, statistic / 2.0) } else { 1.0 };
    Reading { psi, null_mean: degrees / scale, p }
}

impl Columns {
    /// Compares every column with its baseline and returns what became noteworthy since the last look.
    pub(super) fn look_at_bins(&mut self) -> Vec<Finding> {
        let plan = &self.plan;
        let readings: Vec<(usize, Reading)> = (self.list.iter().enumerate())
            .filter_map(|(index, column)| Some((index, column.read(Exact::WhereSmall)?)))
            .collect();
        let adjusted = holm(&readings.iter().map(|(_, reading)| reading.p).collect::<Vec<_>>());
        let mut findings = Vec::new();
        for ((index, reading), p) in readings.iter().zip(adjusted) {
            let column = &mut self.list[*index];
            let next = step(column.standing, reading.psi, p, plan);
            if next > column.standing {
                let grade = if next == Standing::Alarmed { Grade::Alarm } else { Grade::Notice };
                findings.push(said(column, *reading, p, grade, plan, self.samples, &self.marks));
            }
            if next == Standing::Alarmed && column.standing < next {
                column.mean.recentre();
            }
            column.standing = next;
        }
        findings.extend(self.look_at_share(&readings));
        findings
    }

    /// The data as a whole: the share of features in alarm.
    fn look_at_share(&mut self, readings: &[(usize, Reading)]) -> Option<Finding> {
        let is_feature = |column: &&Column| matches!(column.spec.measure, Measure::Feature(_));
        let features = self.list.iter().filter(is_feature).count();
        let alarmed = |column: &&Column| column.standing == Standing::Alarmed;
        let drifted = self.list.iter().filter(is_feature).filter(alarmed).count();
        let share = drifted as f64 / features.max(1) as f64;
        if self.share_held {
            self.share_held = share >= self.plan.how.release * self.plan.how.share;
            return None;
        }
        if features == 0 || share < self.plan.how.share {
            return None;
        }
        self.share_held = true;
        let mut strongest: Vec<(&Column, f64)> = (readings.iter())
            .map(|(index, reading)| (&self.list[*index], reading.psi))
            .filter(|(column, _)| is_feature(column) && alarmed(column))
            .collect();
        strongest.sort_by(|first, second| second.1.total_cmp(&first.1));
        let span = strongest.iter().map(|(column, _)| column.window_span_rows()).min().unwrap_or(0);
        let name = |column: &Column| column.spec.name().to_owned();
        let strongest = strongest.iter().take(STRONGEST).map(|(column, psi)| (name(column), *psi)).collect();
        let (since, since_at) = self.marks.back(self.samples, span);
        Some(Finding {
            watcher: Watcher::Psi,
            measure: Measure::Features,
            grade: Grade::Alarm,
            statistic: share,
            threshold: self.plan.how.share,
            p: None,
            direction: Direction::Both,
            since,
            since_at,
            picture: Picture::Ranking { strongest },
        })
    }
}

/// Where a column stands after a look.
fn step(standing: Standing, psi: f64, p: f64, plan: &ColumnPlan) -> Standing {
    let level = plan.look_level();
    let significant = p <= level;
    match standing {
        Standing::Alarmed if psi >= plan.how.release * plan.how.psi => Standing::Alarmed,
        _ if significant && psi > plan.how.psi => Standing::Alarmed,
        // On the scale of its logarithm, on which a p-value is a statistic.
        Standing::Noticed if p.max(f64::MIN_POSITIVE).ln() <= plan.how.release * level.ln() => Standing::Noticed,
        Standing::Quiet | Standing::Noticed if significant => Standing::Noticed,
        _ => Standing::Quiet,
    }
}

fn said(
    column: &Column,
    reading: Reading,
    p: f64,
    grade: Grade,
    plan: &ColumnPlan,
    samples: u64,
    marks: &super::marks::Marks,
) -> Finding {
    let (since, since_at) = marks.back(samples, column.window_span_rows());
    let watcher = if matches!(column.spec.measure, Measure::Feature(_)) { Watcher::Psi } else { Watcher::Prediction };
    let (direction, picture) =
        column.law.as_ref().zip(column.window.as_ref()).map_or((Direction::Both, Picture::None), |(law, window)| {
            let (reference, current) = (law.bins.proportions(), window.proportions());
            let edges = law.bins.edges().to_vec();
            let direction = if edges.is_empty() { Direction::Both } else { moved(reference, &current) };
            (direction, Picture::Histogram { edges, reference: reference.to_vec(), current })
        });
    Finding {
        watcher,
        measure: column.spec.measure.clone(),
        grade,
        statistic: reading.psi,
        threshold: plan.how.psi,
        p: Some(p),
        direction,
        since,
        since_at,
        picture,
    }
}

/// Where the shares moved along ordered bins: by at least half a bin on average, or no one way.
fn moved(reference: &[f64], current: &[f64]) -> Direction {
    let shift: f64 = reference.iter().zip(current).enumerate().map(|(bin, (p, q))| bin as f64 * (q - p)).sum();
    match shift {
        shift if shift >= 0.5 => Direction::Up,
        shift if shift <= -0.5 => Direction::Down,
        _ => Direction::Both,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_that_hovers_at_its_limit_stays_in_alarm_until_it_is_well_below() {
        let plan = ColumnPlan::default();
        let level = plan.look_level();
        let next = |standing, part: f64, p: f64| step(standing, part * plan.how.psi, p, &plan);
        assert_eq!(next(Standing::Quiet, 0.9, level / 2.0), Standing::Noticed);
        assert_eq!(next(Standing::Quiet, 1.1, level / 2.0), Standing::Alarmed);
        assert_eq!(next(Standing::Quiet, 1.1, level * 2.0), Standing::Quiet, "large by chance");
        assert_eq!(next(Standing::Alarmed, 0.9, level / 2.0), Standing::Alarmed);
        assert_eq!(next(Standing::Alarmed, 0.7, 1.0), Standing::Quiet);
        assert_eq!(next(Standing::Noticed, 0.5, level * 2.0), Standing::Noticed);
        assert_eq!(next(Standing::Noticed, 0.5, 0.5), Standing::Quiet);
    }
}
