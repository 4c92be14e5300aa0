//! Champion and candidate on the same held-out rows.
use std::time::Instant;

use trainer_core::evaluate::class_of;
use trainer_core::model::{Model, Work};
use trainer_core::schema::{Rows, Task};

use crate::decide::gate::{Calibration, Detection, Evidence, Measures};
use crate::decide::rollout::Measure;

/// Rows from which a p95 says anything.
const TIMED_ROWS: usize = 100;

/// Answers every held-out row with both models and pairs their losses.
///
/// Both losses are measured by the champion, so that a regression candidate cannot make its errors small by its own scale.
#[must_use]
pub fn compare(champion: &Model, candidate: &Model, holdout: &Rows) -> Evidence {
    let mut work = Work::default();
    let mut answers = Vec::with_capacity(holdout.len() * champion.schema().outputs());
    for row in 0..holdout.len() {
        champion.answer(holdout.x(row), &mut work);
        answers.extend_from_slice(&work.answer);
    }
    compare_served(champion, candidate, holdout, &answers)
}

/// The candidate against what was `served` to every held-out row, `[rows, outputs]`, before its label was known.
#[must_use]
pub fn compare_served(champion: &Model, candidate: &Model, holdout: &Rows, served: &[f32]) -> Evidence {
    let mut evidence = Evidence::default();
    let mut new = Work::default();
    let measure = Measure::of(champion);
    for (row, answer) in (0..holdout.len()).zip(served.chunks_exact(champion.schema().outputs())) {
        candidate.answer(holdout.x(row), &mut new);
        evidence.not_finite += u64::from(new.answer.iter().any(|value| !value.is_finite()));
        let gap = measure.gap(&measure.essence(answer), &measure.essence(&new.answer));
        evidence.differed += u64::from(gap > 0.0);
        let truth = holdout.y(row);
        evidence.push(champion.loss(answer, truth), champion.loss(&new.answer, truth));
    }
    evidence
}

/// Whether answers are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// They are.
    Taken,
    /// They are not: the same decisions on every machine.
    Left,
}

/// Everything beside the paired losses, but for the size of the files. `segments` has one entry per held-out row.
#[must_use]
pub fn measure(
    champion: &Model,
    candidate: &Model,
    holdout: &Rows,
    segments: &[Option<String>],
    timing: Timing,
) -> Measures {
    let mut measures = Measures { anchors: compare(champion, candidate, &champion.anchors), ..Measures::default() };
    let (mut old, mut new) = (Work::default(), Work::default());
    let (mut old_us, mut new_us) = (Vec::new(), Vec::new());
    let classes = matches!(champion.schema().task, Task::Classification { .. });
    for row in 0..holdout.len() {
        let begun = Instant::now();
        champion.answer(holdout.x(row), &mut old);
        let between = Instant::now();
        candidate.answer(holdout.x(row), &mut new);
        new_us.push(between.elapsed().as_secs_f64() * 1e6);
        old_us.push((between - begun).as_secs_f64() * 1e6);
        let truth = holdout.y(row);
        let losses = [&old, &new].map(|work| champion.loss(&work.answer, truth));
        if let Some(Some(segment)) = segments.get(row) {
            measures.segment(segment, losses[0] - losses[1]);
        }
        if classes {
            let (first, second) = &mut measures.calibration;
            take(first, &old, losses[0]);
            take(second, &new, losses[1]);
        }
    }
    if timing == Timing::Taken && holdout.len() >= TIMED_ROWS {
        measures.latency_us = Some((p95(&mut old_us), p95(&mut new_us)));
    }
    measures
}

/// What both call anomalous among the held-out rows and among the newest ones, `[n, features]`; none unless the champion tells anomalies.
#[must_use]
pub fn detection(champion: &Model, candidate: &Model, holdout: &Rows, newest: &[f32]) -> Option<Detection> {
    if !champion.detects() {
        return None;
    }
    let (mut detection, mut work) = (Detection::default(), Work::default());
    let mut calls = |model: &Model, row: &[f32]| {
        model.answer(row, &mut work);
        work.answer.get(1).is_some_and(|anomalous| *anomalous > 0.5)
    };
    for row in (0..holdout.len()).filter(|row| class_of(holdout.y(*row)[0]) == 1) {
        detection.anomaly(calls(champion, holdout.x(row)), calls(candidate, holdout.x(row)));
    }
    for row in newest.chunks_exact(champion.schema().features.len().max(1)) {
        detection.row(calls(champion, row), calls(candidate, row));
    }
    Some(detection)
}

fn take(calibration: &mut Calibration, work: &Work, loss: f64) {
    let confidence = work.answer.iter().copied().fold(0.0, f32::max);
    calibration.push(confidence.into(), loss < 0.5);
}

fn p95(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() * 95 / 100).copied().unwrap_or_default()
}
