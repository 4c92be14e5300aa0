//! What goes into the cycle and what comes out: events, orders, reports, refusals.
use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;
use trainer_core::model::{Reference, Strategy};

use crate::decide::continual::Change;
use crate::decide::gate::{Evidence, Measures, Verdict};
use crate::decide::plan::{RowsWanted, TooFew};
use crate::decide::rollout;
use crate::decide::sample::BaselineRows;
use crate::decide::value::Prospect;
use crate::decide::watch::finding::Finding;

/// Findings of one report; a stream that breaks in every feature at once must not fill the disk with what it looks like.
pub const FINDINGS_MAX: usize = 16;

/// Why something was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// An alarm.
    Drift,
    /// The fixed schedule, or the clock.
    Schedule,
    /// Accumulated staleness.
    Staleness,
    /// Enough new labels since the last attempt.
    Labels,
    /// A person.
    Command,
    /// A bundle from outside.
    Offer,
    /// The mixture of heads was shown to be better than the champion.
    Continual,
}

impl Reason {
    /// What counts beside the losses of the newest rows. After an alarm the factory's anchors do not: they follow the law that is gone,
    /// and a candidate that forgets them is what the alarm asked for.
    pub(super) fn measures(self, measures: &Measures) -> Measures {
        let anchors = if self == Self::Drift { Evidence::default() } else { measures.anchors };
        Measures { anchors, ..measures.clone() }
    }
}

/// Work for the trainer or for the judge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Number of the run, from 1.
    pub run: u64,
    /// Why.
    pub reason: Reason,
    /// What to do.
    pub task: OrderTask,
    /// The champion it is compared with, and trained from.
    pub parent: Digest,
    /// Which rows.
    pub rows: RowsWanted,
    /// This candidate of the same rows has passed the gate: train once more with the held-out rows included, and compare the
    /// result with it instead of the parent. The newest rows are the most valuable ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refit_of: Option<Digest>,
}

/// What an order asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderTask {
    /// Train a candidate, then compare it on the held-out rows.
    Train {
        /// Which part.
        strategy: Strategy,
        /// Seed of this run.
        seed: u64,
    },
    /// Compare this stored bundle on the held-out rows.
    Judge {
        /// The candidate.
        candidate: Digest,
    },
    /// Compare the models of before ([`Cycle::earlier`]) on the held-out rows; the best of them is the candidate.
    ///
    /// [`Cycle::earlier`]: super::Cycle::earlier
    Restore,
}

/// A fact for [`Cycle::step`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An order was carried out: the candidate and how it compared.
    Judged {
        /// The order's run.
        run: u64,
        /// Digest of the candidate.
        candidate: Digest,
        /// Paired comparison on the held-out rows.
        evidence: Evidence,
        /// What else was measured.
        measures: Box<Measures>,
        /// The newest rows, for the baseline if it is promoted.
        recent: BaselineRows,
    },
    /// An order could not be carried out.
    Failed {
        /// The order's run.
        run: u64,
        /// Why, for people.
        reason: String,
    },
    /// A person asks for a retrain.
    Retrain {
        /// Which part.
        strategy: Strategy,
    },
    /// A bundle is offered as candidate; its schema was found equal to the champion's.
    Offered {
        /// The bundle.
        candidate: Digest,
    },
    /// The mixture of heads was frozen into this bundle, which differs from the champion in its head alone.
    Consolidated {
        /// The bundle.
        candidate: Digest,
        /// What beside the losses speaks against it.
        measures: Box<Measures>,
        /// The newest rows, for the baseline if it is promoted.
        recent: BaselineRows,
    },
    /// A person takes these rows for normal.
    Rebaseline {
        /// The rows.
        baseline: BaselineRows,
    },
    /// A person asks for the previous model back.
    RollBack {
        /// Reference of that model.
        reference: Reference,
        /// Its own baseline.
        baseline: BaselineRows,
    },
    /// The champion's file cannot be read any more: this older model serves instead.
    FallBack {
        /// The previous or the factory model.
        to: Digest,
        /// Its reference.
        reference: Reference,
        /// Its own baseline.
        baseline: BaselineRows,
    },
    /// A fact for the rollout.
    Rollout(rollout::Event),
    /// The promotion that the rollout ordered is carried out now.
    Adopt {
        /// The newest rows, for the baseline.
        recent: BaselineRows,
    },
}

/// What happened, as the operator reads it. Stored with the state that made it true.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Report {
    /// Tests have something to say.
    Drift {
        /// What they say, in the order they said it; at most [`FINDINGS_MAX`].
        findings: Vec<Finding>,
        /// How many more there were.
        #[serde(default)]
        more: u64,
        /// Whether an alarm among them, the last one, opened an episode.
        opened: bool,
    },
    /// A training or a comparison was ordered.
    Retrain {
        /// The order.
        order: Order,
    },
    /// The value policy has looked at what a retrain could bring.
    Considered {
        /// Labels known.
        labels: u64,
        /// What could be gained at best, and what it costs.
        prospect: Prospect,
        /// The same for people.
        sentence: String,
    },
    /// The mixture gives way to the bare champion, or answers again.
    Adaptation {
        /// The champion.
        champion: Digest,
        /// What changed.
        change: Change,
        /// Labels known.
        labels: u64,
        /// Bare champion against mixture on the newest labels.
        evidence: Evidence,
    },
    /// The mixture was frozen into a candidate.
    Consolidated {
        /// The order to judge it.
        order: Order,
    },
    /// It cannot be done yet.
    Waiting {
        /// Why.
        reason: Reason,
        /// Labels that are missing.
        missing: u64,
    },
    /// It failed.
    Failed {
        /// Run.
        run: u64,
        /// Why.
        reason: String,
    },
    /// The gate has spoken.
    Gate {
        /// Run.
        run: u64,
        /// Candidate.
        candidate: Digest,
        /// Verdict with its number.
        verdict: Verdict,
    },
    /// A candidate serves.
    Promote {
        /// Run.
        run: u64,
        /// Served before.
        from: Digest,
        /// Serves now.
        to: Digest,
    },
    /// Features are measured against a new baseline.
    Rebaseline {
        /// Rows it rests on.
        rows: u64,
    },
    /// The previous model serves again.
    Rollback {
        /// Served before.
        from: Digest,
        /// Serves now.
        to: Digest,
    },
    /// A question to a person, a trial, its end; under its own kind.
    #[serde(untagged)]
    Rollout(rollout::Report),
}

/// Why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One order at a time.
    #[error("run {0} is still under way: try again when it has ended (`hone status`)")]
    Busy(u64),
    /// Too few labels.
    #[error(transparent)]
    TooFew(#[from] TooFew),
    /// Too few samples for an anomaly model.
    #[error(
        "{known} samples are too few to train an anomaly model and to judge it: {missing} more are needed (labels are not)"
    )]
    TooFewSamples {
        /// Samples there are.
        known: u64,
        /// Samples that are missing.
        missing: u64,
    },
    /// Too few rows for a baseline.
    #[error(
        "a baseline needs {} rows and {known} are stored: {} are missing, wait for them or take an earlier beginning",
        known + missing, missing
    )]
    TooFewRows {
        /// Rows there are.
        known: u64,
        /// Rows that are missing.
        missing: u64,
    },
    /// Nothing to go back to.
    #[error(
        "there is no previous model to go back to: the champion is the first one, or a rollback has just brought it back"
    )]
    NoPrevious,
    /// No trial is in the state that it asks for.
    #[error(transparent)]
    Rollout(#[from] rollout::Refused),
    /// It was refused before, or it is the champion.
    #[error("model {0} {1}")]
    Pointless(String, &'static str),
}

/// What the world must look like. May be carried out any number of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    /// Serves every request.
    pub serve: Digest,
    /// Kept ready to fall back to.
    pub keep: Option<Digest>,
    /// The one piece of work under way.
    pub work: Option<Order>,
    /// What is compared, dealt and promoted.
    pub trial: rollout::Orders,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_an_alarm_and_only_then_the_anchors_of_the_old_law_do_not_count() {
        let mut anchors = Evidence::default();
        (0..200).for_each(|row| anchors.push(0.0, f64::from(u8::from(row < 60))));
        let measures = Measures { anchors, ..Measures::default() };
        assert_eq!(Reason::Drift.measures(&measures).anchors, Evidence::default());
        for reason in [Reason::Schedule, Reason::Staleness, Reason::Labels, Reason::Command, Reason::Offer] {
            assert_eq!(reason.measures(&measures), measures, "{reason:?}");
        }
    }
}
