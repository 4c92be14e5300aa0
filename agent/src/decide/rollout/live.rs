//! One trial under way: its stage, its evidence, its guards, its end.
use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;

use super::confidence::{Confidence, Unsure};
use super::facts::{Answer, Arm, Arms, Candidate, Pair, Stage, Standing, Told, Why};
use super::guards::{Guard, Guards};
use super::paired::Paired;
use super::route::{Route, Sources};
use super::settings::{Mode, RolloutSettings};
use crate::decide::evidence::{Leaning, alpha_of};
use crate::decide::time::Uptime;

/// Pairs between two looks at the evidence while labels are missing: looking costs a walk over what waits.
const LOOK_EVERY: u64 = 8;
/// Share up to which a stage may be left before the challenger is shown not to be worse.
const EARLY_SHARE: u8 = 10;
/// Evidence of being worse below which such a stage is left.
const EARLY_LN_ABORT: f64 = std::f64::consts::LN_2;
/// Bound of the rate of disagreement below which such a stage is left.
const EARLY_DISAGREEMENT: f64 = 0.1;

/// A challenger on trial. Plain data, bounded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Live {
    pub(super) candidate: Candidate,
    /// Number of the trial against this champion, from 1.
    number: u64,
    pub(super) stage: Stage,
    begun: Uptime,
    pub(super) deadline: Uptime,
    stage_since: Uptime,
    /// Samples of this stage: seen in the shadow, answered by the challenger in the canary.
    stage_rows: u64,
    by_source: bool,
    pub(super) held: Option<Answer>,
    /// The challenger was shown not to be worse.
    decided: bool,
    /// Highest evidence of that so far, as a logarithm.
    #[serde(default)]
    ln_promote_most: f64,
    pub(super) paired: Paired,
    guards: Guards,
    #[serde(default)]
    confidence: Confidence,
    was_shifted: bool,
    sources: Sources,
    served: u64,
    arms: Arms,
}

/// What a look at a trial comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Move {
    Stay,
    Shifted,
    Step,
    Won,
    Lost(Why),
}

impl Live {
    pub(super) fn new(candidate: Candidate, number: u64, now: Uptime, settings: &RolloutSettings) -> Self {
        let guards = Guards::new(&candidate.verdict.evidence, settings);
        Self {
            candidate,
            number,
            stage: Stage::Shadow,
            begun: now,
            deadline: now.plus(settings.longest()),
            stage_since: now,
            stage_rows: 0,
            by_source: false,
            held: None,
            decided: false,
            ln_promote_most: 0.0,
            paired: Paired::new(settings.margin, alpha_of(settings.alpha, number)),
            guards,
            confidence: Confidence::default(),
            was_shifted: false,
            sources: Sources::default(),
            served: 0,
            arms: Arms::default(),
        }
    }

    pub(super) fn pair(&mut self, pair: &Pair<'_>, settings: &RolloutSettings) -> Move {
        if pair.challenger.iter().any(|value| !value.is_finite()) {
            return Move::Lost(Why::Guard { guard: Guard::NotFinite });
        }
        self.sources.see(pair.source);
        self.served += u64::from(pair.served);
        self.stage_rows += u64::from(pair.served || self.stage == Stage::Shadow);
        if !self.is_full(settings) {
            let (champion, challenger) = (pair.measure.essence(pair.champion), pair.measure.essence(pair.challenger));
            let gap = self.paired.sampled(pair.id, pair.now, &champion, &challenger, pair.measure);
            let classes = (!pair.measure.is_graded()).then(|| (class(&champion), class(&challenger)));
            let timed = pair.took_us.and_then(|(one, other)| self.guards.timed(one, other, settings));
            // Numbers differ always a little: how often says nothing there.
            let answered = classes.and_then(|classes| self.guards.answered(gap > 0.0, Some(classes)));
            // What labels speak for is not ended by what merely looks odd.
            let odd = answered.filter(|_| !self.decided && !self.paired.is_favoured());
            if let Some(guard) = timed.or(odd) {
                return Move::Lost(Why::Guard { guard });
            }
        }
        if self.paired.is_settled() || self.paired.counts().0.is_multiple_of(LOOK_EVERY) {
            self.look(pair.now, settings)
        } else {
            Move::Stay
        }
    }

    /// Takes how sure both are; numbers to predict come without confidence.
    pub(super) fn unsure(&mut self, pair: &Pair<'_>) -> Option<Unsure> {
        (!pair.measure.is_graded()).then(|| self.confidence.take(pair.champion, pair.challenger)).flatten()
    }

    pub(super) fn label(&mut self, told: &Told<'_>, settings: &RolloutSettings) -> Move {
        if matches!(self.stage, Stage::Ab { .. }) {
            match told.arm {
                Some((Arm::Champion, loss)) => {
                    self.arms.champion_labels += 1;
                    self.arms.champion_loss += loss;
                }
                Some((Arm::Challenger, loss)) => {
                    self.arms.challenger_labels += 1;
                    self.arms.challenger_loss += loss;
                }
                None => {}
            }
        }
        if self.paired.labelled(told.id, told.truth, told.measure) { self.look(told.now, settings) } else { Move::Stay }
    }

    pub(super) fn tick(&mut self, now: Uptime, settings: &RolloutSettings) -> Move {
        self.paired.expire(now, settings.label_wait());
        self.look(now, settings)
    }

    /// What is due: an end before a step, the worse end before the better one.
    fn look(&mut self, now: Uptime, settings: &RolloutSettings) -> Move {
        self.ln_promote_most = self.ln_promote_most.max(self.paired.ln_evidence().1);
        match self.paired.leaning() {
            Leaning::Worse => return Move::Lost(Why::Worse),
            Leaning::NotWorse => self.decided = true,
            Leaning::Undecided => {}
        }
        let spent = self.is_full(settings) && self.paired.is_settled();
        if now >= self.deadline || spent {
            return match self.stage {
                Stage::Ab { .. } if self.decided => Move::Won,
                _ => Move::Lost(Why::Undecided),
            };
        }
        if self.held.is_some() {
            return Move::Stay;
        }
        if self.guards.is_shifted() && !self.decided {
            return if std::mem::replace(&mut self.was_shifted, true) { Move::Stay } else { Move::Shifted };
        }
        self.was_shifted = false;
        match self.stage {
            Stage::Ab { until } if now >= until && self.decided => Move::Won,
            Stage::Ab { until } if now >= until => Move::Lost(Why::Undecided),
            Stage::Ab { .. } => Move::Stay,
            Stage::Shadow | Stage::Canary { .. } if !self.dwelt(now, settings) || !self.may_leave() => Move::Stay,
            Stage::Shadow | Stage::Canary { .. } => self.step(now, settings),
        }
    }

    fn dwelt(&self, now: Uptime, settings: &RolloutSettings) -> bool {
        let dwell = std::time::Duration::from_secs(settings.dwell_s);
        self.stage_rows >= settings.dwell_rows && now >= self.stage_since.plus(dwell)
    }

    fn may_leave(&self) -> bool {
        let early = self.share() <= EARLY_SHARE
            && self.paired.ln_evidence().0 < EARLY_LN_ABORT
            && self.disagreement_bound() < EARLY_DISAGREEMENT;
        self.decided || early
    }

    /// One-sided 95 % upper bound of the rate of disagreement, after Agresti and Coull.
    #[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
    fn disagreement_bound(&self) -> f64 {
        let (pairs, agreed, ..) = self.paired.counts();
        let n = pairs as f64 + 4.0;
        let rate = ((pairs - agreed) as f64 + 2.0) / n;
        rate + 1.645 * (rate * (1.0 - rate) / n).sqrt()
    }

    /// The next stage whose dwell is not too long; beyond the last one the trial is won.
    fn step(&mut self, now: Uptime, settings: &RolloutSettings) -> Move {
        if settings.mode == Mode::Ab {
            let until = now.plus(settings.ab());
            self.deadline = self.deadline.max(until);
            return self.enter(Stage::Ab { until }, now);
        }
        for share in settings.stages.iter().copied().filter(|share| *share > self.share()) {
            let is_long = self.is_too_long(share, now, settings);
            // Undecided, more exposure proves nothing that the shadow would not: it stays where it is.
            if !self.decided && (is_long || share == 100) {
                return Move::Stay;
            }
            if !is_long {
                return self.enter(Stage::Canary { share }, now);
            }
        }
        if self.decided { Move::Won } else { Move::Stay }
    }

    fn enter(&mut self, stage: Stage, now: Uptime) -> Move {
        self.stage = stage;
        self.stage_since = now;
        self.stage_rows = 0;
        self.by_source = self.sources.are_many();
        Move::Step
    }

    /// Whether the dwell of a stage would exceed a third of the time that is left, at the rate of samples so far.
    #[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
    fn is_too_long(&self, share: u8, now: Uptime, settings: &RolloutSettings) -> bool {
        let pairs = self.paired.counts().0;
        let elapsed_s = now.0.saturating_sub(self.begun.0).as_secs_f64();
        let row_s = elapsed_s / pairs.max(1) as f64;
        let left_s = self.deadline.0.saturating_sub(now.0).as_secs_f64();
        let left_rows = settings.samples_max.saturating_sub(pairs) as f64;
        let left_s = if self.decided { left_s } else { left_s.min(left_rows * row_s.max(1e-9)) };
        let dwell_rows = settings.dwell_rows as f64 * 100.0 / f64::from(share);
        (dwell_rows * row_s).max(settings.dwell_s as f64) > left_s / 3.0
    }

    /// Whether no more samples are taken into the test.
    fn is_full(&self, settings: &RolloutSettings) -> bool {
        let endless = self.decided || matches!(self.stage, Stage::Ab { .. });
        !endless && self.paired.counts().0 >= settings.samples_max
    }

    /// Percent of the samples that the challenger answers.
    pub(super) fn share(&self) -> u8 {
        match self.stage {
            Stage::Shadow => 0,
            Stage::Canary { share } => share,
            Stage::Ab { .. } => 50,
        }
    }

    pub(super) fn route(&self) -> Option<Route> {
        let share = self.share();
        let (challenger, salt) = (self.digest(), self.candidate.run);
        let route = Route { challenger, share, by_source: self.by_source, salt, at_least: 0 };
        (share > 0).then(|| route.with_one_of(&self.sources))
    }

    pub(super) fn digest(&self) -> Digest {
        self.candidate.digest
    }

    pub(super) fn arms(&self) -> Option<Arms> {
        matches!(self.stage, Stage::Ab { .. }).then_some(self.arms)
    }

    pub(super) fn is_decided(&self) -> bool {
        self.decided
    }

    pub(super) fn standing(&self) -> Standing {
        let now = standing(&self.paired, self.number, self.served);
        Standing { promote_e: now.promote_e.max(self.ln_promote_most.clamp(-690.0, 690.0).exp()), ..now }
    }
}

/// A trial's evidence in numbers for people.
pub(super) fn standing(paired: &Paired, trial: u64, served: u64) -> Standing {
    // Finite, as JSON has no infinity.
    let shown = |ln: f64| ln.clamp(-690.0, 690.0).exp();
    let (abort, promote, limit) = paired.ln_evidence();
    let (pairs, agreed, labelled, missed) = paired.counts();
    let (abort_e, promote_e, limit) = (shown(abort), shown(promote), shown(limit));
    Standing { trial, pairs, agreed, labelled, missed, served, abort_e, promote_e, limit }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a class index")]
fn class(essence: &[f32]) -> u16 {
    essence.first().copied().unwrap_or_default() as u16
}
