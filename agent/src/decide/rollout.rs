//! From a candidate that passed the gate to a champion: asked for, shadowed, dealt more and more samples, promoted or not.
//!
//! ```text
//!             passed the gate                approved                    dwell, evidence
//!   Steady ──────────────────► Awaiting ──────────────► Trial: shadow ──────────────────► canary 1, 10, 50, 100 % | A/B
//!     ▲  ▲        approval auto └─────────────────────────►│                                       │
//!     │  │                      │ rejected, silence        │ worse, guard, rejected, broken        │ shown not worse,
//!     │  └──────────────────────┴──────────────────────────┴── undecided in time and samples ◄─────┤ last dwell over
//!     │                                                                                            ▼
//!     │  enough samples              ┌──────────────────────────────── carried out ─────────────── Due
//!     └───────────────── Watching ◄──┘
//!                           └─ worse than the former champion ─► Regretted ─► the former champion serves
//! ```
//!
//! The ramp limits who is exposed; it is not the measurement. Both models answer the same samples from the first one on, and
//! [`super::evidence`] says at any look which of them is better.
mod confidence;
mod facts;
mod guards;
mod live;
mod paired;
mod route;
mod settings;
mod views;

use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;

use super::evidence::{Leaning, alpha_of};
use super::time::{Timestamp, Uptime};
use confidence::Confidence;
pub use confidence::Unsure;
pub use facts::{
    Answer, Arm, Arms, Candidate, Event, Orders, Pair, Refused, Report, Stage, Standing, Told, WORDS_MAX, Why,
};
pub use guards::{Guard, Guards};
use live::{Live, Move, standing};
pub use paired::{Measure, Paired, SampleId};
pub use route::{Route, Sources, hash};
pub use settings::{Approval, ApprovalError, Mode, RolloutSettings, Silence};
pub use views::View;

/// Samples after which the watch over a new champion begins anew with half the error: what turns bad late is seen too.
const WATCH_ANEW: u64 = 1_000;

/// The rollout's whole state: plain data, bounded, part of the loop's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    state: State,
    /// Trials against this champion so far.
    trials: u64,
    /// Wall time as last told.
    wall: Timestamp,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Nothing is tried.
    #[default]
    Steady,
    /// A person is asked.
    Awaiting { candidate: Box<Candidate>, until: Uptime, silence: Silence },
    /// A challenger is tried.
    Trial { live: Box<Live> },
    /// The challenger is to become champion.
    Due { candidate: Box<Candidate>, route: Option<Route> },
    /// The former champion looks on.
    Watching { watch: Box<Watch> },
    /// The former champion is to serve again.
    Regretted,
}

/// The former champion compared with its successor: here the successor is the challenger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Watch {
    former: Digest,
    champion: Digest,
    paired: Paired,
    #[serde(default)]
    confidence: Confidence,
    /// How often it began, from 1.
    begun: u32,
    /// Samples of the beginnings before this one.
    before: u64,
    deadline: Uptime,
    /// What all its beginnings may err with.
    alpha: f64,
}

impl Watch {
    /// Whether no more samples are taken.
    fn is_full(&self, settings: &RolloutSettings) -> bool {
        self.before + self.paired.counts().0 >= settings.watch_samples
    }

    /// Takes how sure both are; the former champion stands as the other model of the pair.
    fn unsure(&mut self, pair: &Pair<'_>) -> Option<Unsure> {
        (!pair.measure.is_graded()).then(|| self.confidence.take(pair.challenger, pair.champion)).flatten()
    }
}

impl Rollout {
    /// Takes a sample that champion and the model of [`Orders::compare`] both answered.
    pub fn pair(&mut self, pair: &Pair<'_>, settings: &RolloutSettings) -> Vec<Report> {
        match &mut self.state {
            State::Trial { live } => {
                let next = live.pair(pair, settings);
                let unsure = live.unsure(pair);
                self.unsure(unsure).into_iter().chain(self.follow(next, None)).collect()
            }
            State::Watching { watch } => {
                // The former champion is the one whose confidence was accepted.
                let unsure = watch.unsure(pair);
                // Roles are exchanged: the former champion is the one that is not to be better.
                let (champion, former) = (pair.measure.essence(pair.champion), pair.measure.essence(pair.challenger));
                if !watch.is_full(settings) {
                    watch.paired.sampled(pair.id, pair.now, &former, &champion, pair.measure);
                }
                let told = unsure.map(|unsure| Report::ConfidenceShift { model: watch.champion, unsure });
                told.into_iter().chain(self.watched(pair.now, settings)).collect()
            }
            State::Steady | State::Awaiting { .. } | State::Due { .. } | State::Regretted => Vec::new(),
        }
    }

    /// Takes a label.
    pub fn label(&mut self, told: &Told<'_>, settings: &RolloutSettings) -> Vec<Report> {
        match &mut self.state {
            State::Trial { live } => {
                let next = live.label(told, settings);
                self.follow(next, None)
            }
            State::Watching { watch } => {
                watch.paired.labelled(told.id, told.truth, told.measure);
                self.watched(told.now, settings)
            }
            State::Steady | State::Awaiting { .. } | State::Due { .. } | State::Regretted => Vec::new(),
        }
    }

    /// Advances by one event; what cannot be followed is refused and changes nothing.
    ///
    /// # Errors
    /// [`Refused`] says what is missing.
    pub fn step(&mut self, event: Event, now: Uptime, settings: &RolloutSettings) -> Result<Vec<Report>, Refused> {
        match event {
            Event::Passed(candidate) => self.passed(*candidate, now, settings),
            Event::Approve(answer) => self.approve(answer, now, settings),
            Event::Reject(answer, reason) => {
                let reason = reason.chars().take(WORDS_MAX).collect();
                self.candidate().ok_or(Refused::NothingTried)?;
                Ok(self.end(Why::Person { reason }, Some(answer)))
            }
            Event::Promote(answer) => match self.state {
                State::Awaiting { .. } | State::Trial { .. } => Ok(self.win(Some(answer))),
                State::Steady | State::Due { .. } | State::Watching { .. } | State::Regretted => {
                    Err(Refused::NothingTried)
                }
            },
            Event::Hold(answer) => self.hold(Some(answer)),
            Event::Resume(_) => self.hold(None),
            Event::Broken(reason) => Ok(match self.state {
                State::Watching { .. } => self.rest(),
                _ => self.end(Why::Broken { reason: reason.chars().take(WORDS_MAX).collect() }, None),
            }),
            Event::Void => {
                let reports = self.end(Why::Void, None);
                self.rest();
                self.trials = 0;
                Ok(reports)
            }
            Event::Promoted(former) => Ok(self.promoted(former, now, settings)),
            Event::Tick(wall) => {
                self.wall = wall;
                Ok(self.tick(now, settings))
            }
        }
    }

    fn passed(
        &mut self,
        candidate: Candidate,
        now: Uptime,
        settings: &RolloutSettings,
    ) -> Result<Vec<Report>, Refused> {
        if self.is_busy() {
            return Err(Refused::Busy);
        }
        let (wait, silence) = match settings.approval {
            Approval::Auto => {
                let answer = Answer::new("policy", self.wall);
                return Ok(self.begin(candidate, answer, now, settings));
            }
            Approval::Ask => (settings.longest(), Silence::Reject),
            Approval::AskAfter { wait, silence } => (wait, silence),
        };
        let report = Report::ApprovalRequired {
            run: candidate.run,
            candidate: candidate.digest,
            verdict: candidate.verdict.clone(),
            silence,
            wait_s: wait.as_secs(),
        };
        self.state = State::Awaiting { candidate: Box::new(candidate), until: now.plus(wait), silence };
        Ok(vec![report])
    }

    fn approve(&mut self, answer: Answer, now: Uptime, settings: &RolloutSettings) -> Result<Vec<Report>, Refused> {
        let State::Awaiting { candidate, .. } = &self.state else { return Err(Refused::NothingAsked) };
        let candidate = (**candidate).clone();
        Ok(self.begin(candidate, answer, now, settings))
    }

    fn begin(&mut self, candidate: Candidate, answer: Answer, now: Uptime, settings: &RolloutSettings) -> Vec<Report> {
        let approved = Report::Approved { run: candidate.run, candidate: candidate.digest, answer };
        self.trials += 1;
        if settings.mode == Mode::Gate {
            self.state = State::Due { candidate: Box::new(candidate), route: None };
            return vec![approved];
        }
        let live = Box::new(Live::new(candidate, self.trials, now, settings));
        self.state = State::Trial { live };
        vec![approved].into_iter().chain(self.stepped()).collect()
    }

    fn hold(&mut self, held: Option<Answer>) -> Result<Vec<Report>, Refused> {
        let State::Trial { live } = &mut self.state else { return Err(Refused::NothingTried) };
        live.held = held;
        Ok(self.stepped().into_iter().collect())
    }

    fn tick(&mut self, now: Uptime, settings: &RolloutSettings) -> Vec<Report> {
        match &mut self.state {
            State::Awaiting { candidate, until, silence } if *until <= now => match silence {
                Silence::Reject => self.end(Why::Silence, None),
                Silence::Approve => {
                    let (candidate, answer) = ((**candidate).clone(), Answer::new("nobody", self.wall));
                    self.begin(candidate, answer, now, settings)
                }
            },
            State::Trial { live } => {
                let next = live.tick(now, settings);
                self.follow(next, None)
            }
            State::Watching { watch } => {
                watch.paired.expire(now, settings.label_wait());
                self.watched(now, settings)
            }
            State::Steady | State::Awaiting { .. } | State::Due { .. } | State::Regretted => Vec::new(),
        }
    }

    /// The alarm about the challenger's confidence.
    fn unsure(&self, unsure: Option<Unsure>) -> Option<Report> {
        let model = self.candidate()?.digest;
        unsure.map(|unsure| Report::ConfidenceShift { model, unsure })
    }

    fn follow(&mut self, next: Move, answer: Option<Answer>) -> Vec<Report> {
        match next {
            Move::Stay => Vec::new(),
            Move::Step => self.stepped().into_iter().collect(),
            Move::Won => self.win(answer),
            Move::Lost(why) => self.end(why, answer),
            Move::Shifted => {
                let shifted =
                    |candidate: &Candidate| Report::ClassShift { run: candidate.run, challenger: candidate.digest };
                self.candidate().map(shifted).into_iter().collect()
            }
        }
    }

    fn stepped(&self) -> Option<Report> {
        let State::Trial { live } = &self.state else { return None };
        Some(Report::CanaryStep {
            run: live.candidate.run,
            challenger: live.digest(),
            stage: live.stage,
            held: live.held.is_some(),
            standing: live.standing(),
        })
    }

    fn win(&mut self, answer: Option<Answer>) -> Vec<Report> {
        let Some(candidate) = self.candidate().cloned() else { return Vec::new() };
        let (route, arms) = match &self.state {
            State::Trial { live } => (live.route(), live.arms()),
            _ => (None, None),
        };
        let standing = self.standing();
        let (run, challenger) = (candidate.run, candidate.digest);
        self.state = State::Due { candidate: Box::new(candidate), route };
        vec![Report::TrialWon { run, challenger, answer, standing, arms }]
    }

    /// The candidate is not used; nothing is said if there is none.
    fn end(&mut self, why: Why, answer: Option<Answer>) -> Vec<Report> {
        let Some(Candidate { run, digest, .. }) = self.candidate() else { return Vec::new() };
        let report = Report::TrialEnded { run: *run, challenger: *digest, why, answer, standing: self.standing() };
        self.state = State::Steady;
        vec![report]
    }

    fn rest(&mut self) -> Vec<Report> {
        self.state = State::Steady;
        Vec::new()
    }

    fn promoted(&mut self, former: Digest, now: Uptime, settings: &RolloutSettings) -> Vec<Report> {
        let State::Due { candidate, .. } = &self.state else { return Vec::new() };
        let champion = candidate.digest;
        let alpha = alpha_of(settings.alpha, self.trials);
        self.trials = 0;
        self.state = if settings.watch_samples == 0 || settings.mode == Mode::Gate || former == champion {
            State::Steady
        } else {
            let (begun, before) = (1, 0);
            let paired = Paired::new(settings.margin, alpha / 2.0);
            let confidence = Confidence::default();
            let deadline = now.plus(settings.longest());
            State::Watching {
                watch: Box::new(Watch { former, champion, paired, confidence, begun, before, deadline, alpha }),
            }
        };
        Vec::new()
    }

    /// Looks at the watch over the new champion, and lets it begin anew or end.
    fn watched(&mut self, now: Uptime, settings: &RolloutSettings) -> Vec<Report> {
        let State::Watching { watch } = &mut self.state else { return Vec::new() };
        if watch.paired.leaning() == Leaning::Worse {
            let standing = standing(&watch.paired, watch.begun.into(), 0);
            let report = Report::Regretted { champion: watch.champion, standing };
            self.state = State::Regretted;
            return vec![report];
        }
        let (pairs, settled) = (watch.paired.counts().0, watch.paired.is_settled());
        // Labels come late: what waits for one is still to speak.
        if now >= watch.deadline || watch.is_full(settings) && settled {
            return self.rest();
        }
        if pairs >= WATCH_ANEW && settled {
            watch.before += pairs;
            watch.begun += 1;
            let halved = watch.alpha / 2_f64.powi(watch.begun.min(30).cast_signed());
            watch.paired = Paired::new(settings.margin, halved);
        }
        Vec::new()
    }

    /// What the world must look like.
    #[must_use]
    pub fn orders(&self) -> Orders {
        match &self.state {
            State::Steady | State::Awaiting { .. } => Orders::default(),
            State::Trial { live } => Orders { compare: Some(live.digest()), route: live.route(), ..Orders::default() },
            State::Due { candidate, route } => Orders {
                promote: Some(candidate.digest),
                compare: Some(candidate.digest),
                route: *route,
                regret: false,
            },
            State::Watching { watch } => Orders { compare: Some(watch.former), ..Orders::default() },
            State::Regretted => Orders { regret: true, ..Orders::default() },
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod study;
