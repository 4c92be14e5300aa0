//! What goes into the rollout and what comes out: candidates, pairs, labels, answers of people; reports, orders, refusals.
use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;

use super::confidence::Unsure;
use super::guards::Guard;
use super::paired::{Measure, SampleId};
use super::route::Route;
use super::settings::Silence;
use crate::decide::gate::Verdict;
use crate::decide::time::{Timestamp, Uptime};

/// Characters of a name or a reason that are kept.
pub const WORDS_MAX: usize = 200;

/// A model that has passed the gate, with what it passed on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The model.
    pub digest: Digest,
    /// The run that made it, or that judged it.
    pub run: u64,
    /// The gate's verdict.
    pub verdict: Verdict,
}

/// One sample that both models answered.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// Its record.
    pub id: SampleId,
    /// When it was answered.
    pub now: Uptime,
    /// [`super::route::hash`] of its source.
    pub source: u64,
    /// Whether the challenger's answer was given.
    pub served: bool,
    /// The champion's answer, `[outputs]`.
    pub champion: &'a [f32],
    /// The challenger's answer, `[outputs]`.
    pub challenger: &'a [f32],
    /// What either took for it, in microseconds, if that was measured.
    pub took_us: Option<(f32, f32)>,
    /// How answers are compared.
    pub measure: &'a Measure,
}

/// A label.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The record it belongs to.
    pub id: SampleId,
    /// When it came.
    pub now: Uptime,
    /// What was true, `[truths]`.
    pub truth: &'a [f32],
    /// How answers are compared.
    pub measure: &'a Measure,
    /// Who answered, if it was one of both, and the loss of that answer.
    pub arm: Option<(Arm, f64)>,
}

/// One of both models of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// The champion.
    Champion,
    /// The challenger.
    Challenger,
}

/// Who said something, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// A person, a key, `policy` or `nobody`.
    pub by: String,
    /// When, by the wall clock.
    pub at: Timestamp,
}

impl Answer {
    /// An answer by whom; a name that is too long is cut.
    #[must_use]
    pub fn new(by: &str, at: Timestamp) -> Self {
        Self { by: by.chars().take(WORDS_MAX).collect(), at }
    }
}

/// A fact for [`super::Rollout::step`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A candidate passed the gate.
    Passed(Box<Candidate>),
    /// Someone lets the candidate be tried.
    Approve(Answer),
    /// Someone does not want the candidate, or ends its trial.
    Reject(Answer, String),
    /// Someone lets the challenger serve now, whatever the trial says.
    Promote(Answer),
    /// No stage is left until told.
    Hold(Answer),
    /// Stages go on.
    Resume(Answer),
    /// The challenger cannot be used.
    Broken(String),
    /// The champion has changed for another reason: what was tried against it is void.
    Void,
    /// The ordered promotion was carried out: this was champion before.
    Promoted(Digest),
    /// Time has passed; the wall clock's time is for people.
    Tick(Timestamp),
}

/// What a trial's evidence looks like to people: the number that decides and what it is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Number of the trial against this champion, from 1.
    pub trial: u64,
    /// Samples that both answered.
    pub pairs: u64,
    /// Those on which they agreed.
    pub agreed: u64,
    /// Labels that came.
    pub labelled: u64,
    /// Labels that did not come in time.
    pub missed: u64,
    /// Samples that the challenger answered for good.
    pub served: u64,
    /// Evidence that the challenger is worse.
    pub abort_e: f64,
    /// Highest evidence so far that it is not worse by the margin: that it has reached the limit once decides.
    pub promote_e: f64,
    /// Evidence at which either decides.
    pub limit: f64,
}

/// Where a trial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// Both compute, the champion answers.
    Shadow,
    /// The challenger answers `share` percent.
    Canary {
        /// Percent.
        share: u8,
    },
    /// Each answers half of the sources until `until`.
    Ab {
        /// The end.
        until: Uptime,
    },
}

/// Why a trial ended in the champion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Why {
    /// Labels show that it is worse.
    Worse,
    /// A guard tripped.
    Guard {
        /// Which.
        guard: Guard,
    },
    /// Someone said so.
    Person {
        /// The reason given.
        reason: String,
    },
    /// Nobody answered, and silence means no.
    Silence,
    /// It cannot be used.
    Broken {
        /// What happened.
        reason: String,
    },
    /// Neither was shown in the time and samples there were.
    Undecided,
    /// The champion changed meanwhile.
    Void,
}

impl Why {
    /// In one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Worse => "labels show that it is worse than the champion".to_owned(),
            Self::Guard { guard } => match guard {
                Guard::NotFinite => "it gave an answer that is no number",
                Guard::Latency => "its slowest answers took too long",
                Guard::Disagreement => "it disagreed with the champion far more often than on the held-out rows",
                Guard::Collapse => "it said one class only, while the champion told classes apart",
            }
            .to_owned(),
            Self::Person { reason } if reason.is_empty() => "a person rejected it".to_owned(),
            Self::Person { reason } => format!("a person rejected it: {reason}"),
            Self::Silence => "nobody approved it in time".to_owned(),
            Self::Broken { reason } => format!("it could not be used: {reason}"),
            Self::Undecided => "it was not shown to be as good in the samples and the time there were".to_owned(),
            Self::Void => "the champion changed meanwhile".to_owned(),
        }
    }
}

/// What happened, stored with the state that made it true.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Report {
    /// A person is asked.
    ApprovalRequired {
        /// Run.
        run: u64,
        /// The candidate.
        candidate: Digest,
        /// The gate's verdict: what the answer can rest on.
        verdict: Verdict,
        /// What happens without an answer.
        silence: Silence,
        /// Seconds until then.
        wait_s: u64,
    },
    /// It may be tried.
    Approved {
        /// Run.
        run: u64,
        /// The candidate.
        candidate: Digest,
        /// By whom and when.
        answer: Answer,
    },
    /// A trial began, moved on, or was held.
    CanaryStep {
        /// Run.
        run: u64,
        /// The challenger.
        challenger: Digest,
        /// Where it is now.
        #[serde(flatten)]
        stage: Stage,
        /// Whether it stays there until told.
        held: bool,
        /// The evidence.
        standing: Standing,
    },
    /// A trial ended: the challenger is not used.
    TrialEnded {
        /// Run.
        run: u64,
        /// The challenger.
        challenger: Digest,
        /// Why.
        #[serde(flatten)]
        why: Why,
        /// By whom, if a person did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Answer>,
        /// The evidence.
        standing: Standing,
    },
    /// The trial is won: the challenger becomes champion.
    TrialWon {
        /// Run.
        run: u64,
        /// The challenger.
        challenger: Digest,
        /// By whom, if a person did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Answer>,
        /// The evidence.
        standing: Standing,
        /// What both arms of an A/B period lost on their own samples.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        arms: Option<Arms>,
    },
    /// After its promotion the champion proved worse than the one before.
    Regretted {
        /// The champion.
        champion: Digest,
        /// The evidence, `abort_e` against the limit.
        standing: Standing,
    },
    /// The model that is tried, or that was promoted last, is far more or far less sure than the champion, or the former one: an
    /// alarm, which ends nothing.
    ConfidenceShift {
        /// The model.
        model: Digest,
        /// Both means, and the evidence.
        #[serde(flatten)]
        unsure: Unsure,
    },
    /// The answers of the challenger are of other classes than the champion's: no stage is left meanwhile.
    ClassShift {
        /// Run.
        run: u64,
        /// The challenger.
        challenger: Digest,
    },
}

/// What each arm of an A/B period lost on the samples it answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Arms {
    /// Labelled samples that the champion answered.
    pub champion_labels: u64,
    /// Their losses.
    pub champion_loss: f64,
    /// Labelled samples that the challenger answered.
    pub challenger_labels: u64,
    /// Their losses.
    pub challenger_loss: f64,
}

/// Why a command about a trial is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody asked.
    #[error("no candidate waits for an answer (`hone status`)")]
    NothingAsked,
    /// There is no trial.
    #[error("no candidate is being tried (`hone status`)")]
    NothingTried,
    /// One candidate at a time.
    #[error("another candidate is being tried: `hone reject` ends that")]
    Busy,
}

/// What the world must look like. May be carried out any number of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Computed on every sample beside the champion.
    pub compare: Option<Digest>,
    /// Which samples the challenger answers.
    pub route: Option<Route>,
    /// To be made champion now.
    pub promote: Option<Digest>,
    /// The former champion is to serve again.
    pub regret: bool,
}
