//! Rows that count for a training: labelled ones; of an anomaly model, whose labels may never come, all of them.
//!
//! Of an anomaly model the samples themselves are counted wherever labels are counted for the others: sample `n` is row `n`.
use super::{Cycle, CycleSettings, Refusal};
use crate::decide::plan::{self, RowsWanted, TooFew};

impl Cycle {
    /// Whether rows count without a label ([`crate::decide::assume`]).
    #[must_use]
    pub fn counts_rows(&self, settings: &CycleSettings) -> bool {
        self.detects && settings.assumes_normal
    }

    /// Rows that count so far.
    #[must_use]
    pub fn known(&self, settings: &CycleSettings) -> u64 {
        if self.counts_rows(settings) { self.samples } else { self.labels }
    }

    /// Of those, up to where the champion may have been trained on them.
    pub(super) fn trained(&self, settings: &CycleSettings) -> u64 {
        if self.counts_rows(settings) { self.trained_rows } else { self.trained_through }
    }

    /// The newest rows, at most `newest`, as a training would get them now.
    pub(super) fn newest_rows(&self, newest: u64, older: u64, settings: &CycleSettings) -> Result<RowsWanted, TooFew> {
        let known = self.known(settings);
        plan::plan(known.saturating_sub(newest), known, newest, older, self.trained(settings))
    }

    /// The rows a retrain by command would get now.
    ///
    /// # Errors
    /// [`Refusal::TooFew`] or [`Refusal::TooFewSamples`] with the number that is missing.
    pub fn rows_now(&self, settings: &CycleSettings) -> Result<RowsWanted, Refusal> {
        let rows = self.newest_rows(settings.trigger.rows_max, settings.trigger.rows_older, settings);
        rows.map_err(|few| {
            let TooFew { known, missing } = few;
            if self.counts_rows(settings) { Refusal::TooFewSamples { known, missing } } else { few.into() }
        })
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
    use crate::decide::cycle::{Event, OrderTask, Reason, Report};
    use crate::decide::policy::Policy;
    use crate::decide::sample::{Label, Sample};
    use crate::decide::trigger::{Heard, Phase};
    use crate::decide::watch::Watcher;

    fn detector() -> Model {
        let feature = |name: &str| Feature { name: name.into(), unit: None, kind: FeatureKind::Number, range: None };
        let task = Task::Classification { classes: ["normal", "fault"].map(String::from).to_vec() };
        let mut rows = Rows::empty(2, 1);
        (0..200_u8).for_each(|row| rows.push(&[f32::from(row % 20), f32::from(row % 20)], &[0.0]));
        let schema = Schema { features: ["x", "y"].map(feature).to_vec(), task };
        let mut settings = TrainSettings::default();
        (settings.fit.epochs, settings.fit.refit) = (2, false);
        base(&schema, &Spec::detector(2), &rows, &settings, 0).unwrap().model
    }

    fn cycle(assumes_normal: bool) -> (Cycle, CycleSettings) {
        // As on a device: the heads are on, and an anomaly model has none.
        let policy = Policy::Fixed { labels: 100 };
        let settings = CycleSettings { policy, mixture: true, assumes_normal, ..CycleSettings::default() };
        let mut model = detector();
        let (_, digest) = bundle::write(&mut model);
        (Cycle::new(&model, digest, &settings), settings)
    }

    fn samples(cycle: &mut Cycle, settings: &CycleSettings, count: u16) -> Vec<Report> {
        let row = |at: u16| [f32::from(at % 20), f32::from(at % 20)];
        let take =
            |at| cycle.sample(&Sample { row: &row(at), answer: &[0.9, 0.1], embedding: &[], at: None }, settings);
        (0..count).flat_map(take).collect()
    }

    #[test]
    fn samples_of_an_anomaly_model_count_for_a_retrain_and_its_labels_do_not_count_twice() {
        let (mut cycle, settings) = cycle(true);
        samples(&mut cycle, &settings, 39);
        let few = cycle.step(Event::Retrain { strategy: Strategy::Head }, &settings).unwrap_err();
        assert_eq!(few, Refusal::TooFewSamples { known: 39, missing: 1 });
        let label = |sample| Label {
            sample,
            loss: 1.0,
            answer: &[0.9, 0.1],
            truth: &[1.0],
            segment: None,
            answered_by: cycle.champion,
        };
        for sample in 0..10 {
            let label = label(sample);
            assert!(
                !cycle.clone().label(&label, &settings).iter().any(|report| matches!(report, Report::Retrain { .. }))
            );
        }
        let reports = samples(&mut cycle, &settings, 61);
        let order = |report: &Report| match report {
            Report::Retrain { order } => Some(order.clone()),
            _ => None,
        };
        let ordered: Vec<_> = reports.iter().filter_map(order).collect();
        let [order] = ordered.as_slice() else { panic!("{reports:?}") };
        assert_eq!((order.reason, order.rows.newest, order.rows.holdout), (Reason::Schedule, 100, 20));
        assert!(matches!(order.task, OrderTask::Train { strategy: Strategy::Tail, .. }), "it has no head: {order:?}");
        assert_eq!(cycle.counts(), (100, 0), "labels stay what they are");
    }

    #[test]
    fn what_a_champion_was_trained_on_is_not_held_out_from_its_successor() {
        let (mut cycle, settings) = cycle(true);
        samples(&mut cycle, &settings, 90);
        cycle.trained_rows = 80;
        let few = cycle.rows_now(&settings).unwrap_err();
        assert_eq!(few, Refusal::TooFewSamples { known: 10, missing: 10 });
        cycle.trained_rows = 60;
        assert_eq!(cycle.rows_now(&settings).map(|rows| rows.holdout), Ok(20));
    }

    #[test]
    fn the_late_label_of_an_old_sample_moves_no_change_that_is_counted_in_samples() {
        let (mut cycle, settings) = cycle(true);
        samples(&mut cycle, &settings, 60);
        let heard = Heard { watcher: Watcher::Psi, row: 60, since: 50, sample: Some(50) };
        assert!(cycle.trigger.alarm(heard, 1, 60, &settings.trigger));
        let answered_by = cycle.champion;
        let label = Label { sample: 3, loss: 1.0, answer: &[0.9, 0.1], truth: &[1.0], segment: None, answered_by };
        cycle.label(&label, &settings);
        assert!(matches!(cycle.trigger.phase(), Phase::Episode { since: 50, .. }), "{:?}", cycle.trigger);
    }

    #[test]
    fn in_a_replay_where_every_row_has_its_label_labels_count_as_for_every_model() {
        let (mut cycle, settings) = cycle(false);
        assert!(samples(&mut cycle, &settings, 200).iter().all(|report| !matches!(report, Report::Retrain { .. })));
        assert!(matches!(cycle.rows_now(&settings), Err(Refusal::TooFew(_))));
    }
}
