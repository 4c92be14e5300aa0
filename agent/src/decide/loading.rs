//! Which model may be loaded: tries are counted before, a model that has served long enough is good, one that has not falls back.
//!
//! ```text
//!                begins: a try less, stored before it is loaded
//!   ┌─────────┐ ───────────────────────────────────────────────► ┌────────┐ answers and seconds  ┌──────┐
//!   │ untried │                                                  │ serves │ ───────────────────► │ good │
//!   └─────────┘ ◄─────────────────────────────────────────────── └────────┘  all tries back      └──────┘
//!                ends in order: the try is given back                │
//!                                                                    │ no try left, refused in vetting, answers no number
//!                                                                    ▼
//!                                                                ┌────────┐  the next of: last good, previous, factory,
//!                                                                │ denied │  or no model
//!                                                                └────────┘
//! ```
//! A good model keeps counting: it needs the seconds alone, after each start, and loses its place only by ending in disorder
//! again and again. The last of the chain is never denied by counting, for a device without a model helps nobody.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;

/// Denied models that are remembered; they outlive their files.
pub const DENIED_MAX: usize = 256;
/// Good models that are remembered.
const GOOD_MAX: usize = 8;
/// Models that are counted at once: champion, challenger and those before them.
const TRIALS_MAX: usize = 8;

/// How a model proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadingRules {
    /// Starts without an end in order.
    pub tries: u32,
    /// Answers after which it is good.
    pub good_answers: u64,
    /// Seconds it must have served, too.
    pub good_s: u64,
}

impl Default for LoadingRules {
    fn default() -> Self {
        Self { tries: 3, good_answers: 100, good_s: 300 }
    }
}

/// A model that was begun and has not proven itself since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Trial {
    model: Digest,
    tries_left: u32,
    answers: u64,
    served_s: u64,
}

/// What is known about models that were loaded; plain data, stored with the state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loading {
    trials: VecDeque<Trial>,
    /// The newest last.
    good: VecDeque<Digest>,
    denied: VecDeque<Digest>,
    /// What serves since the last start; empty once that ended in order.
    begun: VecDeque<Digest>,
}

/// Whether a model may be loaded now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes, after this state was stored.
    Granted {
        /// Whether it must first be vetted in a process of its own.
        vet: bool,
    },
    /// No: it has run out of tries, or was denied before.
    Denied,
}

impl Loading {
    /// The models to try in order, without those that are denied: champion, last good, previous, factory. The factory model
    /// stays in it: it is the last.
    #[must_use]
    pub fn chain(&self, champion: Digest, previous: Option<Digest>, factory: Digest) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::new();
        for model in [Some(champion), self.last_good(champion), previous].into_iter().flatten() {
            if !self.is_denied(&model) && !chain.contains(&model) && model != factory {
                chain.push(model);
            }
        }
        if champion == factory {
            chain.insert(0, factory)
        } else {
            chain.push(factory)
        }
        chain
    }

    /// The newest good model that is not `champion`.
    #[must_use]
    pub fn last_good(&self, champion: Digest) -> Option<Digest> {
        self.good.iter().rev().copied().find(|model| *model != champion && !self.is_denied(model))
    }

    /// Whether it has proven itself once.
    #[must_use]
    pub fn is_good(&self, model: &Digest) -> bool {
        self.good.contains(model)
    }

    /// Whether it may not be loaded any more.
    #[must_use]
    pub fn is_denied(&self, model: &Digest) -> bool {
        self.denied.contains(model)
    }

    /// Denied models, the newest last.
    pub fn denied(&self) -> impl Iterator<Item = &Digest> {
        self.denied.iter()
    }

    /// Tries that `model` has left; all if it is not on trial.
    #[must_use]
    pub fn tries_left(&self, model: &Digest, rules: &LoadingRules) -> u32 {
        self.trial(model).map_or(rules.tries, |trial| trial.tries_left)
    }

    /// A start of `model` is to begin: counts it. To be stored before the model is loaded. `last` is the last of the chain.
    pub fn begin(&mut self, model: Digest, last: bool, rules: &LoadingRules) -> Admission {
        if self.is_denied(&model) && !last {
            return Admission::Denied;
        }
        let disorder = self.begun.contains(&model);
        let good = self.is_good(&model);
        let known = self.trials.iter().position(|trial| trial.model == model);
        let known = known.and_then(|index| self.trials.remove(index));
        let mut trial = known.unwrap_or(Trial { model, tries_left: rules.tries, answers: 0, served_s: 0 });
        if trial.tries_left == 0 && !last {
            self.deny(model);
            return Admission::Denied;
        }
        trial.tries_left = trial.tries_left.saturating_sub(1);
        // An end in disorder takes back what it had proven of itself.
        (trial.answers, trial.served_s) = (0, 0);
        if self.trials.len() == TRIALS_MAX {
            self.trials.pop_front();
        }
        self.trials.push_back(trial);
        self.begun.retain(|begun| *begun != model);
        if self.begun.len() == TRIALS_MAX {
            self.begun.pop_front();
        }
        self.begun.push_back(model);
        Admission::Granted { vet: !good || disorder }
    }

    /// `model` has given so many answers.
    pub fn answered(&mut self, model: &Digest, answers: u64) {
        if let Some(trial) = self.trials.iter_mut().find(|trial| trial.model == *model) {
            trial.answers = trial.answers.saturating_add(answers);
        }
    }

    /// `model` has served for so many seconds more; whether it has just proven itself for the first time.
    pub fn served(&mut self, model: &Digest, seconds: u64, rules: &LoadingRules) -> bool {
        let was_good = self.is_good(model);
        let Some(index) = self.trials.iter().position(|trial| trial.model == *model) else { return false };
        let trial = &mut self.trials[index];
        trial.served_s = trial.served_s.saturating_add(seconds);
        if trial.served_s < rules.good_s || trial.answers < rules.good_answers && !was_good {
            return false;
        }
        self.trials.remove(index);
        self.good.retain(|good| good != model);
        if self.good.len() == GOOD_MAX {
            self.good.pop_front();
        }
        self.good.push_back(*model);
        !was_good
    }

    /// The agent ends in order: what serves is not to blame.
    pub fn ended(&mut self, rules: &LoadingRules) {
        for model in std::mem::take(&mut self.begun) {
            if let Some(trial) = self.trials.iter_mut().find(|trial| trial.model == model) {
                trial.tries_left = (trial.tries_left + 1).min(rules.tries);
            }
        }
    }

    /// `model` won a trial beside the champion: it begins its own time as champion with all tries.
    pub fn won(&mut self, model: &Digest, rules: &LoadingRules) {
        if let Some(trial) = self.trials.iter_mut().find(|trial| trial.model == *model) {
            trial.tries_left = rules.tries;
        }
    }

    /// `model` serves no more, by a decision: its start is over.
    pub fn left(&mut self, model: &Digest) {
        self.begun.retain(|begun| begun != model);
    }

    /// `model` shall not be loaded any more.
    pub fn deny(&mut self, model: Digest) {
        self.trials.retain(|trial| trial.model != model);
        self.good.retain(|good| *good != model);
        self.left(&model);
        if !self.is_denied(&model) {
            if self.denied.len() == DENIED_MAX {
                self.denied.pop_front();
            }
            self.denied.push_back(model);
        }
    }

    fn trial(&self, model: &Digest) -> Option<&Trial> {
        self.trials.iter().find(|trial| trial.model == *model)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: LoadingRules = LoadingRules { tries: 3, good_answers: 100, good_s: 300 };

    #[test]
    fn a_winner_of_a_trial_has_all_its_tries_again() {
        let (mut loading, model) = (Loading::default(), Digest::of(b"challenger"));
        let strict = LoadingRules { tries: 2, ..RULES };
        loading.begin(model, false, &strict);
        loading.begin(model, false, &strict);
        assert_eq!(loading.tries_left(&model, &RULES), 0);
        loading.won(&model, &RULES);
        for _ in 0..RULES.tries {
            assert_ne!(loading.begin(model, false, &RULES), Admission::Denied);
        }
        assert_eq!(loading.begin(model, false, &RULES), Admission::Denied);
    }

    fn model(name: u8) -> Digest {
        Digest::of(&[name])
    }

    /// One start by the chain, as the agent makes it; what serves, and whether it was vetted.
    fn start(loading: &mut Loading, champion: u8) -> (Digest, bool) {
        let (champion, factory) = (model(champion), model(0));
        let chain = loading.chain(champion, None, factory);
        for candidate in &chain {
            if let Admission::Granted { vet } = loading.begin(*candidate, *candidate == factory, &RULES) {
                return (*candidate, vet);
            }
        }
        panic!("the factory is always granted")
    }

    fn prove(loading: &mut Loading, name: u8) -> bool {
        loading.answered(&model(name), RULES.good_answers);
        loading.served(&model(name), RULES.good_s, &RULES)
    }

    #[test]
    fn a_new_model_that_takes_the_agent_down_has_three_starts_and_then_the_last_good_one_serves() {
        let mut loading = Loading::default();
        start(&mut loading, 1);
        assert!(prove(&mut loading, 1));
        loading.left(&model(1));
        let serves: Vec<_> = (0..5).map(|_| start(&mut loading, 2).0).collect();
        assert_eq!(serves, [model(2), model(2), model(2), model(1), model(1)]);
        assert!(loading.is_denied(&model(2)) && !loading.is_denied(&model(1)));
        assert_eq!(loading.begin(model(2), false, &RULES), Admission::Denied, "also beside the chain, as a challenger");
        assert_eq!(loading.begin(model(2), true, &RULES), Admission::Granted { vet: true }, "the last is never denied");
    }

    #[test]
    fn an_end_in_order_blames_nobody() {
        let mut loading = Loading::default();
        for _ in 0..10 {
            assert_eq!(start(&mut loading, 2), (model(2), true));
            loading.ended(&RULES);
        }
        assert_eq!(loading.tries_left(&model(2), &RULES), 3);
    }

    #[test]
    fn it_needs_answers_and_seconds_to_be_good_and_then_seconds_alone() {
        let mut hasty = Loading::default();
        start(&mut hasty, 1);
        hasty.answered(&model(1), 1_000_000);
        assert!(!hasty.served(&model(1), 299, &RULES), "many answers are no long time");
        assert!(hasty.served(&model(1), 1, &RULES));
        let mut loading = Loading::default();
        start(&mut loading, 2);
        assert!(!loading.served(&model(2), 299, &RULES));
        loading.answered(&model(2), 99);
        assert!(!loading.served(&model(2), 1_000, &RULES));
        loading.answered(&model(2), 1);
        assert!(loading.served(&model(2), 1, &RULES));
        assert!(!loading.served(&model(2), 1, &RULES), "told once");
        assert_eq!(start(&mut loading, 2), (model(2), true), "it ended in disorder: vetted again");
        assert_eq!(loading.tries_left(&model(2), &RULES), 2);
        assert!(!loading.served(&model(2), 300, &RULES), "good already");
        assert_eq!(loading.tries_left(&model(2), &RULES), 3);
        loading.ended(&RULES);
        assert_eq!(start(&mut loading, 2), (model(2), false), "good, and it ended in order");
    }

    #[test]
    fn a_good_champion_that_keeps_ending_in_disorder_gives_way_to_the_factory_which_never_does() {
        let mut loading = Loading::default();
        start(&mut loading, 1);
        prove(&mut loading, 1);
        let serves: Vec<_> = (0..50).map(|_| start(&mut loading, 1).0).collect();
        assert_eq!(serves.iter().filter(|serves| **serves == model(1)).count(), 3);
        assert!(serves[3..].iter().all(|serves| *serves == model(0)));
    }

    #[test]
    fn a_restored_state_is_the_same_to_the_bit() {
        let mut loading = Loading::default();
        start(&mut loading, 1);
        prove(&mut loading, 1);
        loading.deny(model(7));
        let text = serde_json::to_string(&loading).unwrap();
        assert_eq!(serde_json::from_str::<Loading>(&text).unwrap(), loading);
    }

    fn invariant_the_denied_never_serve(loading: &Loading, serves: Digest) {
        assert!(!loading.is_denied(&serves) || serves == model(0));
    }

    fn invariant_it_is_bounded(loading: &Loading) {
        assert!(loading.trials.len() <= TRIALS_MAX && loading.good.len() <= GOOD_MAX);
        assert!(loading.denied.len() <= DENIED_MAX && loading.begun.len() <= TRIALS_MAX);
    }

    proptest! {
        #[test]
        fn whatever_happens_something_serves_and_the_denied_do_not(events in proptest::collection::vec((0..5_u8, 0..12_u8), 1..200)) {
            let mut loading = Loading::default();
            for (event, name) in events {
                match event {
                    0 | 1 => {
                        let (serves, _) = start(&mut loading, name);
                        invariant_the_denied_never_serve(&loading, serves);
                    }
                    2 => { prove(&mut loading, name); }
                    3 => loading.ended(&RULES),
                    _ => loading.deny(model(name)),
                }
                invariant_it_is_bounded(&loading);
            }
        }
    }
}
