//! Samples that both models answered, until their labels come: in the order of sampling, bounded.
use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trainer_core::evaluate::class_of;
use trainer_core::model::Model;
use trainer_core::schema::Task;

use crate::decide::evidence::{Leaning, Trial, WAITING_MAX};
use crate::decide::time::Uptime;

/// Losses that differ by less need no label: the challenger is taken to have lost by this much.
const GAP_IGNORED: f64 = 0.001;

/// The id of a stored record, in halves: labels come under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SampleId(pub u64, pub u64);

/// How answers are compared: by the champion's measure, so that no challenger makes its errors small by a scale of its own.
#[derive(Clone, Debug, PartialEq)]
pub enum Measure {
    /// The class with the largest score is right or wrong.
    Classes,
    /// `min(|error| / sd, 4) / 4`, averaged over targets of these standard deviations.
    Targets(Vec<f32>),
}

impl Measure {
    /// The measure of `model`.
    #[must_use]
    pub fn of(model: &Model) -> Self {
        match model.schema().task {
            Task::Classification { .. } => Self::Classes,
            Task::Regression { .. } => Self::Targets(model.targets.iter().map(|[_, scale]| *scale).collect()),
        }
    }

    /// Whether losses are more than right and wrong.
    #[must_use]
    pub fn is_graded(&self) -> bool {
        matches!(self, Self::Targets(_))
    }

    /// What of an answer `[outputs]` decides its loss: the class, or all targets.
    #[must_use]
    pub fn essence(&self, answer: &[f32]) -> Vec<f32> {
        match self {
            Self::Classes => vec![largest(answer)],
            Self::Targets(_) => answer.to_vec(),
        }
    }

    /// The most by which the losses of two such answers can differ.
    #[must_use]
    pub fn gap(&self, one: &[f32], other: &[f32]) -> f64 {
        match self {
            Self::Classes => f64::from(u8::from(one != other)),
            Self::Targets(scales) => distance(scales, one, other),
        }
    }

    /// Loss in [0, 1] of such an answer against `truth`.
    #[must_use]
    pub fn loss(&self, answer: &[f32], truth: &[f32]) -> f64 {
        match self {
            Self::Classes => {
                let (Some(said), Some(truth)) = (answer.first(), truth.first()) else { return 1.0 };
                f64::from(u8::from(class_of(*said) != class_of(*truth)))
            }
            Self::Targets(scales) => distance(scales, answer, truth),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "classes are few")]
fn largest(answer: &[f32]) -> f32 {
    let best = (0..answer.len()).fold(0, |best, index| if answer[index] > answer[best] { index } else { best });
    best as f32
}

#[expect(clippy::cast_precision_loss, reason = "targets are few")]
fn distance(scales: &[f32], one: &[f32], other: &[f32]) -> f64 {
    let each = one.iter().zip(other).zip(scales);
    let sum: f64 = each.map(|((a, b), scale)| f64::from((a - b) / scale).abs().min(4.0) / 4.0).sum();
    let mean = sum / scales.len().max(1) as f64;
    if mean.is_finite() { mean } else { 1.0 }
}

/// A sample on which both differ and whose label is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Waiting {
    number: u64,
    id: SampleId,
    at: Uptime,
    champion: Vec<f32>,
    challenger: Vec<f32>,
}

/// A trial's evidence and the samples it waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    trial: Trial,
    waiting: VecDeque<Waiting>,
    graded: bool,
}

impl Paired {
    /// No evidence yet.
    #[must_use]
    pub fn new(margin: f64, alpha: f64) -> Self {
        Self { trial: Trial::allowing(margin, alpha), waiting: VecDeque::new(), graded: false }
    }

    /// Takes the next sample in the order of sampling; returns the most by which the losses can differ. Answers are
    /// [`Measure::essence`]s.
    pub fn sampled(
        &mut self,
        id: SampleId,
        at: Uptime,
        champion: &[f32],
        challenger: &[f32],
        measure: &Measure,
    ) -> f64 {
        self.graded = measure.is_graded();
        let gap = measure.gap(champion, challenger);
        if gap < GAP_IGNORED {
            self.trial.agreed_by(gap);
        } else {
            let number = self.trial.waits(gap);
            if self.waiting.len() == WAITING_MAX {
                self.waiting.pop_front();
            }
            let (champion, challenger) = (champion.to_vec(), challenger.to_vec());
            self.waiting.push_back(Waiting { number, id, at, champion, challenger });
        }
        // What left the ring unlabelled was missed.
        while self.waiting.front().is_some_and(|waiting| waiting.number < self.trial.frontier()) {
            self.waiting.pop_front();
        }
        gap
    }

    /// Takes a label; whether it was one that was waited for.
    pub fn labelled(&mut self, id: SampleId, truth: &[f32], measure: &Measure) -> bool {
        let Some(at) = self.waiting.iter().position(|waiting| waiting.id == id) else { return false };
        let Some(Waiting { number, champion, challenger, .. }) = self.waiting.remove(at) else { return false };
        self.trial.labelled(number, measure.loss(&champion, truth) - measure.loss(&challenger, truth));
        true
    }

    /// Gives up labels that have been waited for since before `now − wait`; whether there were any.
    pub fn expire(&mut self, now: Uptime, wait: Duration) -> bool {
        let over = |waiting: &Waiting| waiting.at.plus(wait) <= now;
        let expired = self.waiting.iter().take_while(|waiting| over(waiting)).count();
        if let Some(last) = expired.checked_sub(1).and_then(|last| self.waiting.get(last)) {
            self.trial.expire(last.number + 1);
            self.waiting.drain(..expired);
        }
        expired > 0
    }

    /// What the evidence says.
    #[must_use]
    pub fn leaning(&self) -> Leaning {
        self.trial.leaning(self.graded)
    }

    /// Logarithms of the evidence for abort and for promote, and that at which either ends the trial.
    #[must_use]
    pub fn ln_evidence(&self) -> (f64, f64, f64) {
        let (abort, promote) = self.trial.ln_evidence(self.graded);
        (abort, promote, self.trial.ln_limit())
    }

    /// Samples, agreements, labels that came, labels that were missed.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64, u64) {
        self.trial.counts()
    }

    /// Whether nothing is waited for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the labels so far speak for the challenger.
    #[must_use]
    pub fn is_favoured(&self) -> bool {
        let duels = self.trial.duels();
        duels.discordant >= 10 && 2 * duels.champion < duels.discordant
    }

    /// Records whose labels would decide, oldest first, with the moment at which each counts as missed.
    pub fn wanted(&self, wait: Duration) -> impl Iterator<Item = (SampleId, Uptime)> + '_ {
        self.waiting.iter().map(move |waiting| (waiting.id, waiting.at.plus(wait)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> SampleId {
        SampleId(0, number)
    }

    #[test]
    fn labels_are_asked_for_only_where_both_differ_and_find_their_sample_in_any_order() {
        let mut paired = Paired::new(0.02, 0.05);
        let measure = Measure::Classes;
        for number in 0..6 {
            let other = if number % 2 == 0 { 0.0 } else { 1.0 };
            paired.sampled(id(number), Uptime::default(), &[0.0], &[other], &measure);
        }
        let wait = Duration::from_secs(10);
        assert_eq!(paired.wanted(wait).map(|(id, _)| id.1).collect::<Vec<_>>(), [1, 3, 5]);
        assert!(!paired.labelled(id(2), &[1.0], &measure), "there is nothing to learn from an agreement");
        assert!(paired.labelled(id(5), &[1.0], &measure));
        assert!(!paired.labelled(id(5), &[1.0], &measure), "once");
        assert!(paired.labelled(id(1), &[0.0], &measure));
        assert_eq!(paired.counts(), (6, 3, 2, 0));
        assert!(!paired.expire(Uptime(Duration::from_secs(9)), wait));
        assert!(paired.expire(Uptime(Duration::from_secs(10)), wait));
        assert_eq!((paired.counts().3, paired.is_settled()), (1, true));
    }

    #[test]
    fn numbers_are_compared_by_the_champions_scale_and_what_hardly_differs_needs_no_label() {
        let measure = Measure::Targets(vec![2.0, 1.0]);
        assert!((measure.gap(&[0.0, 0.0], &[2.0, 1.0]) - 0.25).abs() < 1e-9);
        assert!((measure.loss(&[0.0, 0.0], &[100.0, 0.0]) - 0.5).abs() < 1e-9, "four deviations are the most");
        assert!((measure.loss(&[f32::NAN, 0.0], &[0.0, 0.0]) - 0.5).abs() < 1e-9, "and no number is as far away");
        let mut paired = Paired::new(0.02, 0.05);
        paired.sampled(id(0), Uptime::default(), &[0.0, 0.0], &[0.001, 0.001], &measure);
        paired.sampled(id(1), Uptime::default(), &[0.0, 0.0], &[1.0, 0.0], &measure);
        assert_eq!(paired.wanted(Duration::ZERO).count(), 1);
    }
}
