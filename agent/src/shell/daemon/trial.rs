//! A trial in the loop: both models on the same samples, labels by record, and what is carried out at its end.
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use trainer_core::digest::Digest;
use trainer_core::model::Work;
use trainer_core::schema::Schema;
use ulid::Ulid;

use super::books::Books;
use super::keeper::Keeper;
use super::work::baseline;
use crate::decide::cycle;
use crate::decide::rollout::{self, Arm, Measure, Pair, SampleId};
use crate::decide::sample::{BaselineRows, Label};
use crate::decide::time::{Timestamp, Uptime};
use crate::decide::watch::BASELINE_ROWS_MAX;
use crate::shell::inference::{Adapted, Loaded, Serving};

/// One of so many samples is answered by both again and timed.
const TIMED_EVERY: u64 = 8;

/// Samples that one request brought.
pub(super) struct Batch<'a> {
    pub(super) rows: &'a [f32],
    pub(super) answers: &'a [f32],
    pub(super) at: Timestamp,
    pub(super) ids: &'a [Ulid],
    pub(super) by: Digest,
    pub(super) source: u64,
}

impl<'a> Batch<'a> {
    /// Each row with the answer that was given.
    pub(super) fn rows(&self, schema: &Schema) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
        self.rows.chunks_exact(schema.features.len()).zip(self.answers.chunks_exact(schema.outputs()))
    }
}

/// The answers of champion and rival to one row after the other.
pub(super) struct Both {
    serving: Arc<Serving>,
    /// What answers for the champion.
    adapted: Option<Arc<Adapted>>,
    embedded: bool,
    now: Uptime,
    measure: Measure,
    work: Work,
    other: Work,
    /// The champion's answer: what was given, if the champion gave it.
    pub(super) champion: Vec<f32>,
    /// Features of the heads; empty unless they are watched.
    pub(super) embedding: Vec<f32>,
    rival: Vec<f32>,
    took_us: Option<(f32, f32)>,
    served: bool,
}

impl Both {
    pub(super) fn new(serving: &Arc<Serving>, adapted: Option<Arc<Adapted>>, embedded: bool, now: Uptime) -> Self {
        Self {
            serving: Arc::clone(serving),
            adapted,
            embedded,
            now,
            measure: Measure::of(&serving.champion.model),
            work: Work::default(),
            other: Work::default(),
            champion: Vec::new(),
            embedding: Vec::new(),
            rival: Vec::new(),
            took_us: None,
            served: false,
        }
    }

    /// Takes a row with the answer that the model `by` gave.
    pub(super) fn answer(&mut self, row: &[f32], given: &[f32], by: Digest, number: u64) {
        let serving = &self.serving;
        let Loaded { model, digest } = &serving.champion;
        let shared = serving.rival.as_ref().filter(|_| serving.shares_features);
        let own = serving.rival.as_ref().filter(|_| !serving.shares_features);
        let timed = own.is_some() && number.is_multiple_of(TIMED_EVERY);
        let begun = Instant::now();
        let adapted = self.adapted.as_ref().filter(|_| by != *digest);
        if let Some(adapted) = adapted {
            // What the champion would have said is what its mixture would have.
            adapted.mixture.answer(model, row, &mut self.work);
        } else if self.embedded || shared.is_some() {
            model.embed(row, &mut self.work);
        } else if timed || by != *digest {
            model.answer(row, &mut self.work);
        }
        let champion_us = microseconds(begun);
        self.champion.clear();
        self.champion.extend_from_slice(if by == *digest { given } else { &self.work.answer });
        self.embedding.clear();
        if self.embedded {
            self.embedding.extend_from_slice(&self.work.h);
        }
        self.rival.clear();
        (self.took_us, self.served) = (None, false);
        if let Some(rival) = shared {
            rival.model.answer_features(&mut self.work);
            self.rival.extend_from_slice(&self.work.answer);
            self.served = by == rival.digest;
        } else if let Some(rival) = own {
            self.served = by == rival.digest;
            if timed || !self.served {
                let begun = Instant::now();
                // The same work as the champion's, or their times would not compare.
                if self.embedded {
                    rival.model.embed(row, &mut self.other);
                } else {
                    rival.model.answer(row, &mut self.other);
                }
                self.took_us = timed.then(|| (champion_us, microseconds(begun)));
            }
            self.rival.extend_from_slice(if self.served { given } else { &self.other.answer });
        }
    }

    /// The pair of the row that was answered last, which is the batch's row `number`; none without a rival.
    pub(super) fn pair<'a>(&'a self, batch: &Batch<'_>, number: usize) -> Option<Pair<'a>> {
        self.serving.rival.as_ref()?;
        Some(Pair {
            id: id(*batch.ids.get(number)?),
            now: self.now,
            source: batch.source,
            served: self.served,
            champion: &self.champion,
            challenger: &self.rival,
            took_us: self.took_us,
            measure: &self.measure,
        })
    }
}

fn microseconds(begun: Instant) -> f32 {
    begun.elapsed().as_secs_f32() * 1e6
}

/// A record's id as the rollout knows it.
#[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits")]
pub(super) fn id(record: Ulid) -> SampleId {
    SampleId((record.0 >> 64) as u64, record.0 as u64)
}

pub(super) fn record(SampleId(high, low): SampleId) -> Ulid {
    Ulid((u128::from(high) << 64) | u128::from(low))
}

/// Which of both models gave the answer that a label is about, and its loss.
pub(super) fn arm(serving: &Serving, label: &Label<'_>) -> Option<(Arm, f64)> {
    let is = |loaded: &Loaded| loaded.digest == label.answered_by;
    if is(&serving.champion) {
        Some((Arm::Champion, label.loss))
    } else {
        serving.rival.as_ref().is_some_and(is).then_some((Arm::Challenger, label.loss))
    }
}

/// Answers [`super::Question::LabelRequests`].
pub(super) fn label_requests(keeper: &Keeper, limit: usize) -> Value {
    let Some(saved) = &keeper.saved else { return json!({"requests": [], "open": 0}) };
    let (rollout, settings, now) = (saved.cycle.rollout(), &keeper.rules.cycle.rollout, keeper.warden.now());
    let shown = |(sample, until): (SampleId, Uptime)| json!({"record_id": record(sample).to_string(), "left_s": until.0.saturating_sub(now.0).as_secs()});
    let requests: Vec<_> = rollout.label_requests(settings).take(limit).map(shown).collect();
    json!({"requests": requests, "open": rollout.label_requests(settings).count()})
}

impl Keeper {
    /// Carries out what the end of a trial orders: a promotion, or the return of the former champion.
    pub(super) fn conclude(&mut self, orders: rollout::Orders) {
        let event = if let Some(challenger) = orders.promote {
            match self.load(&challenger) {
                Ok(_) => cycle::Event::Adopt { recent: self.recent() },
                Err(reason) => cycle::Event::Rollout(rollout::Event::Broken(reason)),
            }
        } else {
            // Without a former champion the watch over this one is over.
            self.roll_back().unwrap_or(cycle::Event::Rollout(rollout::Event::Void))
        };
        let Some(saved) = &mut self.saved else { return };
        let before = saved.cycle.orders().trial;
        let adopts = matches!(event, cycle::Event::Adopt { .. });
        let reports = saved.cycle.step(event, &self.rules.cycle).unwrap_or_default();
        if let Some(challenger) = orders.promote.filter(|_| adopts) {
            saved.loading.won(&challenger, &self.gatehouse.rules);
        }
        self.changed += 1;
        if !reports.is_empty() {
            self.after(&reports);
        } else if self.saved.as_ref().is_some_and(|saved| saved.cycle.orders().trial != before) && self.commit() {
            self.carry_out();
        }
    }

    /// The model that is compared cannot be loaded: ends the trial, or the watch; whether that changed anything.
    pub(super) fn drop_rival(&mut self, reason: String) -> bool {
        let Some(saved) = &mut self.saved else { return false };
        tracing::error!(reason, "the model that is compared with the champion cannot be loaded");
        let before = saved.cycle.orders().trial;
        let event = cycle::Event::Rollout(rollout::Event::Broken(reason));
        let reports = saved.cycle.step(event, &self.rules.cycle).unwrap_or_default();
        let changed = saved.cycle.orders().trial != before;
        self.books.note(&reports, &saved.cycle);
        self.tell_ledger(&reports);
        self.commit();
        changed
    }

    /// The newest stored rows of the champion's features, oldest first.
    fn recent(&self) -> BaselineRows {
        let width = self.shared.slot.serving().map_or(0, |serving| serving.champion.model.schema().features.len());
        let found = self.shared.reader.recent(BASELINE_ROWS_MAX, None).unwrap_or_else(|error| {
            tracing::warn!(error = %error.chain(), "the baseline stays as it is");
            Vec::new()
        });
        let fits = found.into_iter().rev().filter(|found| found.record.features.len() == width);
        baseline(fits.map(|found| found.record))
    }
}

impl Books {
    /// Keeps with its run who approved a candidate, and how its trial went: reports are forgotten one day, the lineage is not.
    pub(super) fn tried(&mut self, report: &rollout::Report, payload: &mut Value) {
        let facts = payload.clone();
        let (run, candidate, part, state) = match report {
            rollout::Report::ApprovalRequired { run, candidate, verdict, .. } => {
                payload["sentence"] = json!(verdict.sentence());
                return self.run(*run, |row| {
                    row.candidate = Some(*candidate);
                    "awaiting_approval".clone_into(&mut row.state);
                });
            }
            rollout::Report::Approved { run, candidate, .. } => (run, candidate, "approved", None),
            rollout::Report::CanaryStep { run, challenger, .. } => (run, challenger, "trial", Some("on_trial")),
            rollout::Report::TrialEnded { run, challenger, why, .. } => {
                payload["sentence"] = json!(why.sentence());
                (run, challenger, "trial", Some("not_promoted"))
            }
            rollout::Report::TrialWon { run, challenger, .. } => (run, challenger, "trial", Some("won")),
            rollout::Report::Regretted { champion, .. } => return self.remark(champion, "regret", &facts),
            rollout::Report::ConfidenceShift { model, .. } => return self.remark(model, "confidence", &facts),
            rollout::Report::ClassShift { .. } => return,
        };
        self.run(*run, |row| {
            row.candidate = Some(*candidate);
            if let Some(state) = state {
                state.clone_into(&mut row.state);
            }
            let known = row.verdict.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
            let mut verdict = known.filter(Value::is_object).unwrap_or_else(|| json!({}));
            verdict[part] = facts;
            row.verdict = Some(verdict.to_string());
        });
    }
}

impl Books {
    /// Keeps a fact with the run that made or judged a model.
    fn remark(&mut self, model: &Digest, part: &str, facts: &Value) {
        let Some(number) = self.run_of(model) else { return };
        self.run(number, |row| {
            let known = row.verdict.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
            let mut verdict = known.filter(Value::is_object).unwrap_or_else(|| json!({}));
            verdict[part] = facts.clone();
            row.verdict = Some(verdict.to_string());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_by_both_halves_of_its_id() {
        let ulid: Ulid = "01JD6Y9K3V0000000000000ABC".parse().unwrap();
        assert_eq!(record(id(ulid)), ulid);
        assert_ne!(id(ulid), id(Ulid(ulid.0 ^ 1)));
    }
}
