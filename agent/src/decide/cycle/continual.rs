//! The cycle around a champion that adapts: the contest of mixture and bare champion, and what the value policy makes of it.
use trainer_core::digest::Digest;

use super::{Cycle, CycleSettings, Order, OrderTask, Reason, Refusal, Report};
use crate::decide::continual::{Change, Contest};
use crate::decide::gate::{Evidence, Measures};
use crate::decide::plan::{self, RowsWanted, TooFew};
use crate::decide::policy::Policy;
use crate::decide::sample::BaselineRows;
use crate::decide::value::{self, Patience, Prospect, Staleness};

/// Earlier champions that are kept to be restored.
pub(super) const EARLIER_MAX: usize = 3;

impl Cycle {
    /// Mixture against bare champion.
    #[must_use]
    pub fn contest(&self) -> &Contest {
        &self.contest
    }

    /// Whether the mixture answers.
    #[must_use]
    pub fn serves_mixture(&self, settings: &CycleSettings) -> bool {
        settings.mixture && self.contest.is_mixed()
    }

    /// Champions of before that may be tried again, newest first.
    pub fn earlier(&self) -> impl Iterator<Item = Digest> + '_ {
        let candidates = self.previous.into_iter().chain(self.earlier.iter().rev().copied()).chain([self.factory]);
        let mut seen = Vec::new();
        candidates.filter(move |digest| {
            let fresh = *digest != self.champion && !self.rejected.contains(digest) && !seen.contains(digest);
            seen.push(*digest);
            fresh
        })
    }

    /// Takes the losses of bare champion and mixture on one labelled sample.
    pub fn compared(&mut self, bare: f64, mixed: f64, settings: &CycleSettings) -> Vec<Report> {
        let change = self.contest.push(bare, mixed);
        let reports = change.map(|change| Report::Adaptation {
            champion: self.champion,
            change,
            labels: self.labels,
            evidence: self.contest.evidence(),
        });
        if change == Some(Change::FellBack) {
            // What opened the gate was the mixture's doing.
            self.staleness = Staleness::default();
        }
        if self.work.is_none() && !self.rollout.is_busy() && !self.contest.wants_frozen() && self.contest.is_better() {
            let (gain, error) = self.contest.evidence().gain();
            if value::worth(gain, error, &settings.value).1 {
                self.contest.want(true);
            }
        }
        reports.into_iter().collect()
    }

    /// A person wants the mixture frozen, whether or not it has been shown to be better: the gate decides.
    ///
    /// # Errors
    /// [`Refusal::Busy`] or a trial that is under way.
    pub fn freeze_now(&mut self) -> Result<(), Refusal> {
        self.may_freeze()?;
        self.contest.want(true);
        Ok(())
    }

    /// Whether a frozen mixture could be tried now.
    ///
    /// # Errors
    /// As [`Cycle::freeze_now`].
    pub fn may_freeze(&self) -> Result<(), Refusal> {
        self.idle()
    }

    /// A frozen mixture cannot be made, or not yet; it has to be shown better anew.
    pub fn not_frozen(&mut self) {
        self.contest.answered();
    }

    /// The frozen mixture is offered with what it said before it knew the truth: those answers are the rows that neither it nor the
    /// champion had seen. It goes the way of every candidate.
    pub(super) fn consolidated(
        &mut self,
        candidate: Digest,
        measures: &Measures,
        recent: &BaselineRows,
        settings: &CycleSettings,
    ) -> Vec<Report> {
        let evidence: Evidence = self.contest.evidence();
        self.contest.answered();
        let busy = self.work.is_some() || self.rollout.is_busy();
        if busy || candidate == self.champion || self.rejected.contains(&candidate) {
            return Vec::new();
        }
        self.runs += 1;
        let rows = evidence.rows.min(self.labels);
        let rows = RowsWanted { from_label: self.labels - rows, newest: rows, holdout: rows, history: 0, gap: 0 };
        let task = OrderTask::Judge { candidate };
        let order =
            Order { run: self.runs, reason: Reason::Continual, task, parent: self.champion, rows, refit_of: None };
        let run = order.run;
        self.work = Some(order.clone());
        let mut reports = vec![Report::Consolidated { order }];
        reports.extend(self.judged(run, candidate, evidence, measures, recent, settings));
        reports
    }

    /// The turn of policy `value` on a device whose mixture is to answer; `None` if this is not its turn. While the bare champion had to
    /// take over the mixture learns on, and comes back once it is better: that is no reason for a head of its own either.
    ///
    /// Heads are the mixture's business: what remains is to bring an earlier model back, or to train layers.
    pub(super) fn value_turn(&mut self, settings: &CycleSettings) -> Option<Vec<Report>> {
        if settings.policy != Policy::Value || !settings.mixture || self.detects {
            return None;
        }
        // An alarm is a reason to look, not one to train.
        let alarmed = self.trigger.due(self.labels).is_some();
        if alarmed {
            self.trigger.attempted(false, self.labels, &settings.trigger);
        }
        let waited = match self.lately.patience {
            Some(patience) if patience.labels > 0 => return Some(Vec::new()),
            patience => patience.is_some(),
        };
        let opens = self.staleness.opens_after(self.lately.refusals, &settings.value);
        if !(waited || opens || alarmed && self.lately.refusals == 0) {
            return Some(Vec::new());
        }
        self.staleness = Staleness::default();
        let prospect = Prospect::of(&self.lately, self.reference, &settings.value);
        // The heads are the cheapest remedy and at work already: layers are trained for what they leave.
        let patience = (prospect.pays && !waited).then(|| Patience::new(self.samples, settings.value.window_rows));
        self.lately.patience = patience;
        let sentence = prospect.sentence(&settings.value, patience);
        let mut reports = vec![Report::Considered { labels: self.labels, prospect, sentence }];
        if prospect.pays && waited {
            reports.push(self.worth_a_try(settings));
        }
        Some(reports)
    }

    fn worth_a_try(&mut self, settings: &CycleSettings) -> Report {
        let (newest, older) = (settings.trigger.rows_max.min(self.labels), settings.trigger.rows_older);
        let rows = plan::plan(self.labels - newest, self.labels, newest, older, self.trained_through);
        match rows.map(|rows| rows.behind(self.outstanding())) {
            Ok(rows) if self.earlier().next().is_some() => self.restoring(rows),
            Ok(rows) => self.order(Reason::Staleness, value::strategy_after(self.lately.refusals), rows, settings),
            Err(TooFew { missing, .. }) => Report::Waiting { reason: Reason::Staleness, missing },
        }
    }

    /// Labels of answered samples that are still to come, if they come as often as up to now.
    fn outstanding(&self) -> u64 {
        let behind = self.traced.back().map_or(0, |sample| self.samples.saturating_sub(sample + 1));
        u64::try_from(u128::from(behind) * u128::from(self.labels) / u128::from(self.samples.max(1))).unwrap_or(behind)
    }

    fn restoring(&mut self, rows: RowsWanted) -> Report {
        self.runs += 1;
        let order = Order {
            run: self.runs,
            reason: Reason::Staleness,
            task: OrderTask::Restore,
            parent: self.champion,
            rows,
            refit_of: None,
        };
        self.work = Some(order.clone());
        Report::Retrain { order }
    }

    /// After an attempt of the value policy: what the next one has to be better than.
    pub(super) fn tried(&mut self, promoted: bool) {
        if promoted { self.lately.gained() } else { self.lately.refused() }
    }

    /// No earlier model fits: train layers.
    pub(super) fn after_restoring(&mut self, rows: RowsWanted, settings: &CycleSettings) -> Report {
        self.order(Reason::Staleness, value::strategy_after(self.lately.refusals), rows, settings)
    }

    /// Another champion serves; the one before may be restored some day.
    pub(super) fn remember_earlier(&mut self, left: Digest) {
        self.earlier.retain(|digest| *digest != left);
        if self.earlier.len() == EARLIER_MAX {
            self.earlier.pop_front();
        }
        self.earlier.push_back(left);
    }
}

#[cfg(test)]
mod tests {
    use trainer_core::bundle;
    use trainer_core::model::{Model, Strategy};
    use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};
    use trainer_core::spec::Spec;
    use trainer_core::train::{TrainSettings, base};

    use super::*;
    use crate::decide::cycle::Event;
    use crate::decide::rollout::{self, RolloutSettings};
    use crate::decide::sample::{Label, Sample};

    fn model() -> (Model, Digest) {
        let feature = Feature { name: "x".into(), unit: None, kind: FeatureKind::Number, range: None };
        let task = Task::Classification { classes: ["a", "b"].map(String::from).to_vec() };
        let mut rows = Rows::empty(1, 1);
        for row in 0..200_u8 {
            let x = f32::from(row % 20) - 9.5;
            rows.push(&[x], &[f32::from(u8::from(x > 0.0))]);
        }
        let schema = Schema { features: vec![feature], task };
        let mut settings = TrainSettings::default();
        (settings.fit.epochs, settings.fit.refit) = (20, false);
        let mut model = base(&schema, &Spec::default(), &rows, &settings, 0).unwrap().model;
        let (_, digest) = bundle::write(&mut model);
        (model, digest)
    }

    struct Story {
        cycle: Cycle,
        settings: CycleSettings,
        labels: u64,
    }

    impl Story {
        fn new() -> Self {
            let (model, digest) = model();
            let rollout = RolloutSettings { mode: rollout::Mode::Gate, ..RolloutSettings::default() };
            let settings = CycleSettings { mixture: true, rollout, ..CycleSettings::default() };
            Self { cycle: Cycle::new(&model, digest, &settings), settings, labels: 0 }
        }

        /// `count` labelled samples, of which the mixture gets every `mixed`th wrong and the bare champion every `bare`th.
        fn live(&mut self, count: u64, bare: u64, mixed: u64) -> Vec<Report> {
            let mut reports = Vec::new();
            for _ in 0..count {
                let wrong = |every: u64| f64::from(u8::from(every > 0 && (self.labels * 7 + 3).is_multiple_of(every)));
                let (bare, mixed) = (wrong(bare), wrong(mixed));
                let served = if self.cycle.serves_mixture(&self.settings) { mixed } else { bare };
                let x = [(self.labels % 20) as f32 - 9.5];
                let sample = Sample { row: &x, answer: &[0.9, 0.1], embedding: &[], at: None };
                reports.extend(self.cycle.sample(&sample, &self.settings));
                let label = Label {
                    sample: self.labels,
                    loss: served,
                    answer: &[0.9, 0.1],
                    truth: if served > 0.5 { &[1.0] } else { &[0.0] },
                    segment: None,
                    answered_by: self.cycle.orders().serve,
                };
                reports.extend(self.cycle.label(&label, &self.settings));
                reports.extend(self.cycle.compared(bare, mixed, &self.settings));
                self.labels += 1;
            }
            reports
        }

        fn consolidate(&mut self, name: &[u8]) -> Vec<Report> {
            let measures = Box::default();
            let event = Event::Consolidated { candidate: Digest::of(name), measures, recent: BaselineRows::default() };
            self.cycle.step(event, &self.settings).unwrap()
        }
    }

    #[test]
    fn a_mixture_that_beats_its_champion_is_frozen_and_goes_through_the_gate_on_what_it_said_before_it_knew() {
        let mut story = Story::new();
        let factory = story.cycle.orders().serve;
        story.live(300, 3, 40);
        assert!(story.cycle.contest().wants_frozen());
        let reports = story.consolidate(b"frozen");
        assert!(matches!(&reports[0], Report::Consolidated { order } if order.reason == Reason::Continual));
        let Report::Gate { verdict, .. } = &reports[1] else { panic!("{reports:?}") };
        assert!(verdict.passed && verdict.evidence.rows == 300, "{verdict:?}");
        assert_eq!(story.cycle.orders().serve, Digest::of(b"frozen"));
        assert!(!story.cycle.contest().wants_frozen() && story.cycle.earlier().any(|digest| digest == factory));
        assert!(story.consolidate(b"frozen").is_empty(), "the champion is no candidate");
    }

    #[test]
    fn a_frozen_mixture_is_tried_like_every_candidate_and_nothing_else_is_frozen_or_ordered_meanwhile() {
        let mut story = Story::new();
        story.settings.rollout = RolloutSettings::default();
        let factory = story.cycle.orders().serve;
        story.live(300, 3, 40);
        let reports = story.consolidate(b"frozen");
        assert!(matches!(&reports[1], Report::Gate { verdict, .. } if verdict.passed), "{reports:?}");
        assert_eq!(story.cycle.orders().serve, factory, "the gate alone promotes nobody");
        assert_eq!(story.cycle.orders().trial.compare, Some(Digest::of(b"frozen")));
        let meanwhile = story.live(600, 3, 40);
        assert!(!story.cycle.contest().wants_frozen() && story.cycle.contest().is_better());
        assert!(story.consolidate(b"another").is_empty());
        let ordered = |report: &Report| matches!(report, Report::Retrain { .. } | Report::Consolidated { .. });
        assert!(!meanwhile.iter().any(ordered), "{meanwhile:?}");
    }

    #[test]
    fn a_mixture_no_better_than_its_champion_is_never_frozen_and_a_worse_one_gives_way() {
        let mut story = Story::new();
        let reports = story.live(600, 40, 40);
        assert!(
            !story.cycle.contest().wants_frozen() && !reports.iter().any(|r| matches!(r, Report::Adaptation { .. }))
        );
        let reports = story.live(400, 40, 2);
        let fell =
            reports.iter().position(|report| matches!(report, Report::Adaptation { change: Change::FellBack, .. }));
        assert!(fell.is_some() && !story.cycle.serves_mixture(&story.settings));
        let heads = reports.iter().any(|report| matches!(report, Report::Retrain { .. }));
        assert!(!heads, "the mixture learns on: no head is ordered in its place");
    }

    #[test]
    fn an_earlier_champion_is_tried_before_layers_are_trained() {
        let mut story = Story::new();
        let factory = story.cycle.orders().serve;
        story.live(300, 3, 40);
        story.consolidate(b"frozen");
        assert!(story.cycle.earlier().any(|digest| digest == factory));
        story.live(2_000, 100, 100);
        story.live(1_200, 3, 3);
        let order = story.cycle.orders().work.expect("the heads did not help");
        assert_eq!(order.task, OrderTask::Restore, "what is there already costs no training");
        let mut evidence = Evidence::default();
        (0..order.rows.holdout).for_each(|_| evidence.push(0.3, 0.3));
        let (candidate, measures, recent) = (factory, Box::default(), BaselineRows::default());
        let judged = Event::Judged { run: order.run, candidate, evidence, measures, recent };
        story.cycle.step(judged, &story.settings).unwrap();
        let order = story.cycle.orders().work.expect("no earlier champion fits either");
        assert!(matches!(order.task, OrderTask::Train { strategy: Strategy::Tail, .. }), "{order:?}");
    }

    #[test]
    fn layers_are_trained_only_once_the_heads_had_their_time_and_only_if_that_could_pay() {
        let mut story = Story::new();
        let healthy = story.live(2_000, 100, 100);
        assert!(!healthy.iter().any(|report| matches!(report, Report::Retrain { .. })));
        let declined = |report: &Report| matches!(report, Report::Considered { prospect, .. } if !prospect.pays);
        assert!(healthy.iter().any(declined), "refusals are explained: {healthy:?}");
        let failing = story.live(1_200, 3, 3);
        let sentences: Vec<&str> = failing
            .iter()
            .filter_map(|report| match report {
                Report::Considered { sentence, .. } => Some(sentence.as_str()),
                _ => None,
            })
            .collect();
        let patient = |sentence: &&str| sentence.contains("if the heads have not caught up after 400 labels");
        assert!(sentences.iter().any(patient), "{sentences:?}");
        let order = story.cycle.orders().work.expect("the heads did not help, so layers are trained");
        assert!(matches!(order.task, OrderTask::Train { strategy: Strategy::Tail, .. }), "{order:?}");
        let mut evidence = Evidence::default();
        (0..order.rows.holdout).for_each(|_| evidence.push(0.3, 0.3));
        let recent = BaselineRows::default();
        let judged = Event::Judged {
            run: order.run,
            candidate: Digest::of(b"tail"),
            evidence,
            measures: Box::default(),
            recent,
        };
        let reports = story.cycle.step(judged, &story.settings).unwrap();
        assert!(matches!(&reports[0], Report::Gate { verdict, .. } if !verdict.passed), "{reports:?}");
        let after = story.live(3_000, 3, 3);
        let again = after.iter().any(|report| matches!(report, Report::Retrain { .. }));
        assert!(!again, "what gained nothing is not tried again while things are no worse");
    }
}
