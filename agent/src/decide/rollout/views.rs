//! What others may know of the rollout.
use serde::Serialize;
use trainer_core::digest::Digest;

use super::facts::{Answer, Candidate, Stage, Standing};
use super::live::standing;
use super::paired::SampleId;
use super::settings::{RolloutSettings, Silence};
use super::{Rollout, State};
use crate::decide::time::Uptime;

/// The rollout as people see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum View {
    /// Nothing is tried.
    Steady,
    /// A person is asked.
    AwaitingApproval {
        /// The candidate.
        candidate: Digest,
        /// Seconds until silence is the answer.
        left_s: u64,
        /// What it means.
        silence: Silence,
    },
    /// A challenger is tried.
    Trial {
        /// The challenger.
        challenger: Digest,
        /// Where.
        #[serde(flatten)]
        stage: Stage,
        /// Percent of the samples that it answers.
        canary_percent: u8,
        /// Who holds it there.
        held: Option<Answer>,
        /// Whether it was shown not to be worse.
        decided: bool,
        /// The evidence.
        standing: Standing,
        /// Seconds until it ends in the champion.
        left_s: u64,
    },
    /// The challenger becomes champion.
    Promoting {
        /// The challenger.
        challenger: Digest,
    },
    /// The former champion looks on.
    Watching {
        /// The former champion.
        former: Digest,
        /// The evidence; `abort_e` at the limit brings it back.
        standing: Standing,
    },
    /// The former champion is brought back.
    Returning,
}

impl Rollout {
    /// How it stands at `now`.
    #[must_use]
    pub fn view(&self, now: Uptime) -> View {
        let left_s = |until: Uptime| until.0.saturating_sub(now.0).as_secs();
        match &self.state {
            State::Steady => View::Steady,
            State::Awaiting { candidate, until, silence } => {
                View::AwaitingApproval { candidate: candidate.digest, left_s: left_s(*until), silence: *silence }
            }
            State::Trial { live } => View::Trial {
                challenger: live.digest(),
                stage: live.stage,
                canary_percent: live.share(),
                held: live.held.clone(),
                decided: live.is_decided(),
                standing: live.standing(),
                left_s: left_s(live.deadline),
            },
            State::Due { candidate, .. } => View::Promoting { challenger: candidate.digest },
            State::Watching { watch } => {
                View::Watching { former: watch.former, standing: standing(&watch.paired, watch.begun.into(), 0) }
            }
            State::Regretted => View::Returning,
        }
    }

    /// Who waits for an answer, is tried, or is about to be promoted.
    #[must_use]
    pub fn candidate(&self) -> Option<&Candidate> {
        match &self.state {
            State::Awaiting { candidate, .. } | State::Due { candidate, .. } => Some(candidate),
            State::Trial { live } => Some(&live.candidate),
            State::Steady | State::Watching { .. } | State::Regretted => None,
        }
    }

    /// Whether a candidate is on its way: no other one is looked for meanwhile.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.candidate().is_some()
    }

    /// When the trial or the question ends by itself; every one has such a moment.
    #[must_use]
    pub fn deadline(&self) -> Option<Uptime> {
        match &self.state {
            State::Awaiting { until, .. } => Some(*until),
            State::Trial { live } => Some(live.deadline),
            State::Watching { watch } => Some(watch.deadline),
            State::Steady | State::Due { .. } | State::Regretted => None,
        }
    }

    /// Records whose labels would decide, oldest first, with the moment at which each counts as missed.
    pub fn label_requests(&self, settings: &RolloutSettings) -> impl Iterator<Item = (SampleId, Uptime)> + '_ {
        let paired = match &self.state {
            State::Trial { live } => Some(&live.paired),
            State::Watching { watch } => Some(&watch.paired),
            State::Steady | State::Awaiting { .. } | State::Due { .. } | State::Regretted => None,
        };
        let wait = settings.label_wait();
        paired.into_iter().flat_map(move |paired| paired.wanted(wait))
    }

    /// The evidence of the trial under way; all zero if there is none.
    pub(super) fn standing(&self) -> Standing {
        match &self.state {
            State::Trial { live } => live.standing(),
            State::Steady | State::Awaiting { .. } | State::Due { .. } | State::Watching { .. } | State::Regretted => {
                Standing::default()
            }
        }
    }
}
