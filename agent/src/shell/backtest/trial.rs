//! Trials in a replay: the rival answers the same rows, the route deals them, time is the rows' own.
use std::time::Duration;

use trainer_core::digest::Digest;
use trainer_core::model::Work;

use super::Stored;
use super::loops::Replay;
use crate::decide::cycle::Event;
use crate::decide::rollout::{self, Arm, Measure, Pair, SampleId, Told};
use crate::decide::sample::BaselineRows;
use crate::decide::time::{Timestamp, Uptime};

/// Seconds from one row to the next where the file tells no times.
const ROW_S: u64 = 60;
/// The source of all rows: a file tells none.
const SOURCE: &str = "file";

/// The rival's answer to a row.
pub(super) struct Tried {
    pub(super) digest: Digest,
    pub(super) answer: Vec<f32>,
    /// Whether it is the answer that was given.
    pub(super) served: bool,
}

impl Replay<'_> {
    /// The rival's answer to `row`, if there is one.
    pub(super) fn tried(&mut self, row: usize, champion: &[f32], serving: &Stored) -> Option<Tried> {
        let trial = self.cycle.orders().trial;
        let digest = trial.compare?;
        let mut work = Work::default();
        let mut answer = champion.to_vec();
        if digest != serving.digest {
            self.shelf[&digest].model.answer(self.test.rows.x(row), &mut work);
            answer.clone_from(&work.answer);
        }
        let dealt = trial.route.is_some_and(|route| route.takes(SOURCE, self.wall(row)));
        let served = dealt && answer.iter().all(|value| value.is_finite());
        Some(Tried { digest, answer, served })
    }

    /// Tells the cycle of the pair and of the time.
    pub(super) fn paired(&mut self, row: usize, champion: &[f32], tried: Option<&Tried>, serving: &Stored) {
        if let Some(tried) = tried {
            let pair = Pair {
                id: SampleId(0, row as u64),
                now: self.now(row),
                source: rollout::hash(SOURCE),
                served: tried.served,
                champion,
                challenger: &tried.answer,
                took_us: None,
                measure: &Measure::of(&serving.model),
            };
            let reports = self.cycle.pair(&pair, &self.settings);
            self.note(row, reports);
        }
        let reports = self.cycle.beat(self.now(row), self.wall(row), &self.settings);
        self.note(row, reports);
    }

    /// Tells the cycle, at `row`, of the label of the row `known`.
    pub(super) fn told(&mut self, row: usize, known: usize, truth: &[f32]) {
        let champion = self.cycle.orders().serve;
        let measure = Measure::of(&self.shelf[&champion].model);
        let arm: Option<(Arm, f64)> = None;
        let told = Told { id: SampleId(0, known as u64), now: self.now(row), truth, measure: &measure, arm };
        let reports = self.cycle.told(&told, &self.settings);
        self.note(row, reports);
    }

    /// What the end of a trial orders.
    pub(super) fn concluded(&self, row: usize, trial: rollout::Orders) -> Option<Event> {
        if trial.promote.is_some() {
            return Some(Event::Adopt { recent: self.recent(row) });
        }
        let previous = self.cycle.models().1.filter(|_| trial.regret)?;
        let model = &self.shelf[&previous].model;
        Some(Event::RollBack { reference: model.manifest.reference, baseline: BaselineRows::of(model) })
    }

    fn now(&self, row: usize) -> Uptime {
        let since = self.wall(row).0.saturating_sub(self.wall(self.test.first).0);
        Uptime(Duration::from_micros(since.max(0).unsigned_abs()))
    }

    fn wall(&self, row: usize) -> Timestamp {
        let assumed = || Timestamp((row as u64 * ROW_S).cast_signed().saturating_mul(1_000_000));
        self.test.times.map_or_else(assumed, |times| times[row])
    }
}
