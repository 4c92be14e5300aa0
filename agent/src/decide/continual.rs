//! The mixture beside the bare champion: which of the two answers, and when the mixture is worth freezing.
//!
//! ```text
//!            champion shown better                      mixture shown better
//!  Mixed ───────────────────────────► Bare (mixture learns on, unheard) ─────► Mixed
//!    └── mixture shown better, and worth a promotion ─► wanted: freeze it ─► gate like any candidate
//! ```
//!
//! Intuition: both answer every labelled sample, so each label is a duel. The tests may be looked at after every label; they start
//! anew with each, so that harm is found however long the mixture did well before.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::gate::Evidence;

/// Strengths of the bets, as in [`super::evidence`].
const STRENGTHS: [f64; 5] = [0.05, 0.1, 0.2, 0.4, 0.7];
/// Differing pairs to a mixture that is wrongly taken for better, on average; the gate asks again.
const BETTER_RUN_LENGTH: f64 = 1e4;
/// Differing pairs to a mixture that is wrongly given up, on average. The champion is one of its experts, so harm grows slowly and there is
/// time to be sure; pairs in a row resemble each other, which a run length of independent ones does not know.
const WORSE_RUN_LENGTH: f64 = 1e6;
/// Newest pairs that a frozen mixture is judged on; as many as the gate's hold-out holds at most.
pub const PAIRS_MAX: usize = 400;
/// Losses nearer than this are the same.
const SAME: f64 = 1e-9;

/// How the champion's adaptive form is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContinualSettings {
    /// Whether the mixture of heads that learn from every label answers: `auto` (wherever a candidate needs no person's approval),
    /// `yes` or `no`. Default `auto`.
    #[serde(with = "serve_word")]
    pub serve: Serve,
    /// Share of one core that learning may take on average; blocks of labels grow until it suffices. Default 0.05.
    pub cpu_share: f64,
    /// Seconds from one new head to the next, at least. Default 1.
    pub publish_s: u64,
    /// Seconds from one save of the heads to the next, at least; an orderly end saves too. A save is up to 2 MB. Default 3600.
    pub save_s: u64,
}

/// Whether the mixture answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serve {
    /// Unless a person must approve every candidate.
    Auto,
    /// Always.
    Yes,
    /// Never.
    No,
}

/// `serve = true`, `false` or `"auto"`.
mod serve_word {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Serve;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Word {
        Flag(bool),
        Text(String),
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    pub(super) fn serialize<S: Serializer>(serve: &Serve, to: S) -> Result<S::Ok, S::Error> {
        match serve {
            Serve::Auto => to.serialize_str("auto"),
            Serve::Yes => to.serialize_bool(true),
            Serve::No => to.serialize_bool(false),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Serve, D::Error> {
        match Word::deserialize(from)? {
            Word::Flag(true) => Ok(Serve::Yes),
            Word::Flag(false) => Ok(Serve::No),
            Word::Text(word) if word == "auto" => Ok(Serve::Auto),
            Word::Text(word) => {
                Err(serde::de::Error::custom(format!("`{word}` is not known: write true, false or \"auto\"")))
            }
        }
    }
}

impl Default for ContinualSettings {
    fn default() -> Self {
        Self { serve: Serve::Auto, cpu_share: 0.05, publish_s: 1, save_s: 3_600 }
    }
}

impl ContinualSettings {
    /// Whether the mixture is to answer where candidates wait for a person's approval, or do not.
    #[must_use]
    pub fn serves(&self, asks_approval: bool) -> bool {
        match self.serve {
            Serve::Auto => !asks_approval,
            Serve::Yes => true,
            Serve::No => false,
        }
    }

    /// The first setting outside its range: its name, its value and what is allowed.
    #[must_use]
    pub fn out_of_range(&self) -> Option<(&'static str, String, &'static str)> {
        let share = (0.001..=1.0).contains(&self.cpu_share);
        let wrong = [
            (share, "cpu_share", self.cpu_share.to_string(), "0.001 to 1"),
            ((1..=86_400).contains(&self.publish_s), "publish_s", self.publish_s.to_string(), "1 to 86400"),
            ((1..=604_800).contains(&self.save_s), "save_s", self.save_s.to_string(), "1 to 604800"),
        ];
        wrong.into_iter().find(|(holds, ..)| !holds).map(|(_, key, value, range)| (key, value, range))
    }
}

/// Evidence that the mean of a series in [-1, 1] lies above zero, begun anew at every value and summed over the beginnings.
///
/// `R ← (1 + R)(1 + g·x)` for each strength g, and their mean. While the mean given the past is not above zero, the first time it
/// reaches L comes after at least L values on average. Source: e-detectors (Shin, Ramdas and Rinaldo, 2023), Shiryaev-Roberts form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Rising([f64; STRENGTHS.len()]);

impl Rising {
    fn push(&mut self, x: f64) {
        let x = if x.is_nan() { 1.0 } else { x.clamp(-1.0, 1.0) };
        for (sum, strength) in self.0.iter_mut().zip(STRENGTHS) {
            *sum = ((1.0 + *sum) * (1.0 + strength * x)).min(1e15);
        }
    }

    fn value(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }
}

/// Who answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The mixture.
    #[default]
    Mixed,
    /// The bare champion: the mixture was shown to be worse.
    Bare,
}

/// What has become of the mixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The bare champion answers from now on.
    FellBack,
    /// The mixture answers again.
    Returned,
}

/// Mixture against bare champion, label by label. Plain data, bounded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Contest {
    mode: Mode,
    worse: Rising,
    better: Rising,
    /// Losses of the bare champion and of the mixture, newest last.
    pairs: VecDeque<(f32, f32)>,
    /// Labels on which they differed.
    differed: u64,
    fell_back: u64,
    /// Whether a frozen mixture is wanted.
    wanted: bool,
}

impl Contest {
    /// Takes the losses of one labelled sample, each in [0, 1].
    pub fn push(&mut self, bare: f64, mixed: f64) -> Option<Change> {
        if self.pairs.len() == PAIRS_MAX {
            self.pairs.pop_front();
        }
        #[expect(clippy::cast_possible_truncation, reason = "losses are kept in single precision")]
        self.pairs.push_back((bare as f32, mixed as f32));
        let gain = bare - mixed;
        // Where both say the same nothing is learnt about either.
        if gain.abs() < SAME {
            return None;
        }
        self.differed += 1;
        self.worse.push(-gain);
        self.better.push(gain);
        let (worse, better) = (self.worse.value() >= WORSE_RUN_LENGTH, self.better.value() >= BETTER_RUN_LENGTH);
        match self.mode {
            Mode::Mixed if worse => {
                (self.mode, self.wanted) = (Mode::Bare, false);
                self.fell_back += 1;
                self.begin_anew();
                Some(Change::FellBack)
            }
            Mode::Bare if better => {
                self.mode = Mode::Mixed;
                self.begin_anew();
                Some(Change::Returned)
            }
            Mode::Mixed | Mode::Bare => None,
        }
    }

    fn begin_anew(&mut self) {
        (self.worse, self.better) = (Rising::default(), Rising::default());
    }

    /// Whether the mixture answers.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        self.mode == Mode::Mixed
    }

    /// Whether the mixture has been shown to be better than the champion since the last answer to that.
    #[must_use]
    pub fn is_better(&self) -> bool {
        self.mode == Mode::Mixed && self.better.value() >= BETTER_RUN_LENGTH
    }

    /// Champion and mixture on the newest labelled samples.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        let mut evidence = Evidence::default();
        for (bare, mixed) in &self.pairs {
            let (bare, mixed) = (f64::from(*bare), f64::from(*mixed));
            evidence.push(bare, mixed);
            evidence.differed += u64::from((bare - mixed).abs() >= SAME);
        }
        evidence
    }

    /// Wants the mixture frozen, or no longer.
    pub fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    /// Whether a frozen mixture is wanted.
    #[must_use]
    pub fn wants_frozen(&self) -> bool {
        self.wanted
    }

    /// What is shown has been acted upon, or could not be: it has to be shown anew.
    pub fn answered(&mut self) {
        self.wanted = false;
        self.begin_anew();
    }

    /// Another champion: all pairs were about the one before. Its adaptive form answers.
    pub fn replaced(&mut self) {
        *self = Self { fell_back: self.fell_back, ..Self::default() };
    }

    /// Labels on which they differed, and how often the bare champion had to take over.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.differed, self.fell_back)
    }

    /// Evidence for a worse and for a better mixture, each as a share of what would show it.
    #[must_use]
    pub fn shown(&self) -> (f64, f64) {
        (self.worse.value() / WORSE_RUN_LENGTH, self.better.value() / BETTER_RUN_LENGTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chance in [0, 1) without order.
    fn chance(number: u64) -> f64 {
        let mixed = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn right_or_wrong(number: u64, error: f64) -> f64 {
        f64::from(u8::from(chance(number) < error))
    }

    /// Labels until the first change, of at most `labels`.
    fn until_change(contest: &mut Contest, labels: u64, bare: f64, mixed: f64, seed: u64) -> Option<(u64, Change)> {
        (0..labels).find_map(|label| {
            let number = seed + 2 * label;
            let change = contest.push(right_or_wrong(number, bare), right_or_wrong(number + 1, mixed));
            change.map(|change| (label + 1, change))
        })
    }

    #[test]
    fn a_mixture_that_turns_bad_gives_way_to_the_champion_however_long_it_was_good_and_comes_back_once_it_is_better() {
        let mut contest = Contest::default();
        assert_eq!(until_change(&mut contest, 20_000, 0.3, 0.05, 1), None);
        assert!(contest.is_mixed() && contest.is_better());
        let (labels, change) = until_change(&mut contest, 1_000, 0.1, 0.5, 90_001).expect("harm is found");
        assert!(change == Change::FellBack && labels < 120, "after {labels} labels");
        assert!(!contest.is_mixed() && !contest.is_better() && contest.counts().1 == 1);
        let (labels, change) = until_change(&mut contest, 2_000, 0.4, 0.1, 190_001).expect("it may return");
        assert!(change == Change::Returned && labels < 200, "after {labels} labels");
    }

    #[test]
    fn equals_hardly_ever_fall_back() {
        let falls = (0..20).filter(|run| {
            let mut contest = Contest::default();
            until_change(&mut contest, 2_000, 0.2, 0.2, 1_000_003 * run).is_some()
        });
        // 2,000 labels are 640 differing pairs, a sixteenth of the run length.
        let falls = falls.count();
        assert!(falls <= 4, "{falls} of 20 runs");
        let mut same = Contest::default();
        assert!((0..100_000).all(|_| same.push(1.0, 1.0).is_none()), "agreement is no evidence");
    }

    #[test]
    fn the_state_is_bounded_and_survives_its_serialisation_to_the_bit() {
        let mut contest = Contest::default();
        until_change(&mut contest, 5_000, 0.4, 0.1, 7);
        assert_eq!(contest.evidence().rows, PAIRS_MAX as u64);
        let text = serde_json::to_string(&contest).unwrap();
        let mut again: Contest = serde_json::from_str(&text).unwrap();
        assert_eq!(again, contest);
        assert_eq!(until_change(&mut again, 500, 0.1, 0.6, 9), until_change(&mut contest, 500, 0.1, 0.6, 9),);
        contest.replaced();
        assert!(contest.is_mixed() && contest.evidence().rows == 0);
    }

    #[test]
    fn whether_it_serves_follows_from_a_word_and_from_who_approves() {
        let of = |text: &str| toml::from_str::<ContinualSettings>(text);
        assert!(of("").unwrap().serves(false) && !of("").unwrap().serves(true));
        assert!(of("serve = true").unwrap().serves(true) && !of("serve = false").unwrap().serves(false));
        assert!(of("serve = \"sometimes\"").unwrap_err().to_string().contains("auto"));
        let wrong = ContinualSettings { cpu_share: 0.0, ..ContinualSettings::default() };
        assert_eq!(wrong.out_of_range(), Some(("cpu_share", "0".to_owned(), "0.001 to 1")));
    }
}
