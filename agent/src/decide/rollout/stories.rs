//! Stories of the rollout: what happens on the left, what it says on the right.
#![expect(clippy::float_cmp, reason = "classes are whole numbers")]
mod people;

use std::fmt::Write as _;
use std::time::Duration;

use expect_test::{Expect, expect};

use super::*;
use crate::decide::gate::{self, Evidence, GateSettings};

/// A candidate that was as good as the champion on 200 held-out rows, differing on 16.
pub(super) fn candidate(number: u8) -> Candidate {
    let mut evidence = Evidence { differed: 16, ..Evidence::default() };
    for row in 0..200 {
        let (champion, challenger) = (f64::from(u8::from(row % 25 == 0)), f64::from(u8::from(row % 25 == 1)));
        evidence.push(champion, challenger);
    }
    let mut verdict = gate::judge(&evidence, &GateSettings::default());
    verdict.passed = true;
    Candidate { digest: named(number), run: number.into(), verdict }
}

pub(super) fn named(number: u8) -> Digest {
    format!("{number:02x}").repeat(32).parse().unwrap()
}

fn at(seconds: u64) -> Uptime {
    Uptime(Duration::from_secs(seconds))
}

fn answer(by: &str) -> Answer {
    Answer::new(by, Timestamp(0))
}

/// One sample a second, labelled at once unless told otherwise.
struct Story {
    rollout: Rollout,
    settings: RolloutSettings,
    now: u64,
    labels: bool,
    promoted: bool,
    /// How sure the model is that is tried; the champion is certain.
    sure: f32,
    text: String,
}

impl Story {
    fn new(approval: &str) -> Self {
        let settings = RolloutSettings { approval: approval.parse().unwrap(), ..RolloutSettings::default() };
        Self {
            rollout: Rollout::default(),
            settings,
            now: 0,
            labels: true,
            promoted: false,
            sure: 1.0,
            text: String::new(),
        }
    }

    fn tell(&mut self, reports: &[Report]) -> &mut Self {
        for report in reports {
            let said = match report {
                Report::ApprovalRequired { silence, wait_s, .. } => format!("asks, {silence:?} after {wait_s} s"),
                Report::Approved { answer, .. } => format!("approved by {}", answer.by),
                Report::CanaryStep { stage, held, standing, .. } => {
                    format!("{stage:?}{} after {} pairs", if *held { " held" } else { "" }, standing.pairs)
                }
                Report::TrialEnded { why, answer, standing, .. } => {
                    let by = answer.as_ref().map_or(String::new(), |answer| format!(" by {}", answer.by));
                    format!("ended{by}: {why:?} after {} pairs, abort {:.1}", standing.pairs, standing.abort_e)
                }
                Report::TrialWon { standing, arms, answer, .. } => {
                    let by = answer.as_ref().map_or(String::new(), |answer| format!(" by {}", answer.by));
                    let arms = arms.map_or(String::new(), |arms| {
                        format!(
                            ", {:.0}/{} against {:.0}/{}",
                            arms.challenger_loss, arms.challenger_labels, arms.champion_loss, arms.champion_labels
                        )
                    });
                    format!(
                        "won{by} after {} pairs, promote {:.1}, {} missed{arms}",
                        standing.pairs, standing.promote_e, standing.missed
                    )
                }
                Report::Regretted { standing, .. } => format!("regretted after {} pairs", standing.pairs),
                Report::ClassShift { .. } => "class shift".to_owned(),
                Report::ConfidenceShift { unsure, .. } => {
                    format!("confidence {:.2} against {:.2}", unsure.challenger, unsure.champion)
                }
            };
            let _ = writeln!(self.text, "{:<8}{said}", self.now);
        }
        self
    }

    fn step(&mut self, event: Event) -> &mut Self {
        match self.rollout.step(event, at(self.now), &self.settings) {
            Ok(reports) => self.tell(&reports),
            Err(refused) => {
                let _ = writeln!(self.text, "{:<8}refused: {refused}", self.now);
                self
            }
        }
    }

    fn passed(&mut self, number: u8) -> &mut Self {
        self.step(Event::Passed(Box::new(candidate(number))))
    }

    /// `count` seconds; of every 100 samples the challenger alone is wrong on `worse`, the champion alone on `better`.
    fn rows(&mut self, count: u64, worse: u64, better: u64) -> &mut Self {
        for _ in 0..count {
            let row = self.now * 37 % 100;
            #[expect(clippy::cast_precision_loss, reason = "classes are few")]
            let truth = (self.now / 3 % 4) as f32;
            let wrong = (truth + 1.0) % 4.0;
            let challenger = if row < worse { wrong } else { truth };
            let champion = if (worse..worse + better).contains(&row) { wrong } else { truth };
            let id = SampleId(0, self.now);
            let orders = self.rollout.orders();
            let served = orders
                .route
                .is_some_and(|route| route.takes("pump", Timestamp(self.now.cast_signed() * 1_000_000_000)));
            let hot = |class: f32, sure: f32| {
                let share = |index: u8| if f32::from(index) == class { sure } else { (1.0 - sure) / 3.0 };
                (0..4_u8).map(share).collect::<Vec<_>>()
            };
            let (champion, challenger) = (hot(champion, 1.0), hot(challenger, self.sure));
            // Once promoted, the challenger is the champion, and the former one looks on.
            let (champion, challenger) = if self.promoted { (challenger, champion) } else { (champion, challenger) };
            let measure = Measure::Classes;
            let pair = Pair {
                id,
                now: at(self.now),
                source: 1,
                served,
                champion: &champion,
                challenger: &challenger,
                took_us: None,
                measure: &measure,
            };
            let reports = self.rollout.pair(&pair, &self.settings);
            self.tell(&reports);
            if self.labels {
                let loss = |answer: &[f32]| measure.loss(&measure.essence(answer), &[truth]);
                let arm = if served { (Arm::Challenger, loss(&challenger)) } else { (Arm::Champion, loss(&champion)) };
                let told = Told { id, now: at(self.now), truth: &[truth], measure: &measure, arm: Some(arm) };
                let reports = self.rollout.label(&told, &self.settings);
                self.tell(&reports);
            }
            self.now += 1;
            if self.rollout.orders().promote.is_some() {
                self.step(Event::Promoted(named(0)));
                self.promoted = true;
            }
        }
        self
    }

    /// Power off, power on, and a look at the clock.
    fn restart(&mut self) -> &mut Self {
        let bytes = serde_json::to_vec(&self.rollout).unwrap();
        let back: Rollout = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(back, self.rollout);
        self.rollout = back;
        self
    }

    fn check(&mut self, expected: &Expect) {
        expected.assert_eq(&format!("{}{:?}\n", self.text, self.rollout.orders()));
    }
}

#[test]
fn a_better_model_goes_through_shadow_and_every_stage_also_across_restarts() {
    let mut story = Story::new("auto");
    story.passed(1);
    for _ in 0..100 {
        story.rows(80, 0, 4).restart();
    }
    story.check(&expect![[r#"
        0       approved by policy
        0       Shadow after 0 pairs
        600     Canary { share: 1 } after 601 pairs
        5161    Canary { share: 10 } after 5162 pairs
        5761    Canary { share: 50 } after 5762 pairs
        6361    Canary { share: 100 } after 6362 pairs
        6961    won after 6962 pairs, promote 1035191084093975766855031009598660769412441757164567243045416143054732815555031619565457722354795563867343201044161617362372081483776.0, 0 missed
        Orders { compare: Some(000000000000), route: None, promote: None, regret: false }
    "#]]);
}

#[test]
fn a_bad_model_is_aborted_in_the_shadow_before_it_answered_anything() {
    let mut story = Story::new("auto");
    story.passed(1).rows(300, 10, 0);
    story.check(&expect![[r#"
        0       approved by policy
        0       Shadow after 0 pairs
        65      ended: Worse after 66 pairs, abort 31.9
        Orders { compare: None, route: None, promote: None, regret: false }
    "#]]);
}

#[test]
fn a_model_that_is_far_less_sure_is_told_of_without_a_label_in_the_trial_and_after_its_promotion() {
    let mut story = Story::new("auto");
    story.labels = false;
    story.settings.dwell_s = 0;
    story.settings.stages = vec![100];
    story.sure = 0.6;
    story.passed(1).rows(400, 0, 0);
    story.check(&expect![[r#"
        0       approved by policy
        0       Shadow after 0 pairs
        28      confidence 0.60 against 1.00
        252     Canary { share: 100 } after 253 pairs
        302     won after 303 pairs, promote 45.0, 0 missed
        331     confidence 0.60 against 1.00
        Orders { compare: Some(000000000000), route: None, promote: None, regret: false }
    "#]]);
    let mut alike = Story::new("auto");
    alike.labels = false;
    alike.sure = 0.95;
    alike.passed(1).rows(400, 0, 0);
    assert!(!alike.text.contains("confidence"), "{}", alike.text);
}

#[test]
fn without_labels_many_agreements_prove_enough_and_disagreements_do_not() {
    let mut story = Story::new("auto");
    story.labels = false;
    story.settings.dwell_s = 0;
    story.passed(1).rows(700, 0, 0);
    let mut doubtful = Story::new("auto");
    doubtful.labels = false;
    (doubtful.settings.label_wait_h, doubtful.settings.samples_max) = (0.1, 1_000);
    doubtful.passed(1).rows(1_700, 0, 4);
    doubtful.step(Event::Tick(Timestamp(0)));
    story.text = format!("{}--\n{}", story.text, doubtful.text);
    story.check(&expect![[r#"
        0       approved by policy
        0       Shadow after 0 pairs
        252     Canary { share: 1 } after 253 pairs
        --
        0       approved by policy
        0       Shadow after 0 pairs
        1700    ended: Undecided after 1000 pairs, abort 1.0
        Orders { compare: Some(010101010101), route: Some(Route { challenger: 010101010101, share: 1, by_source: false, salt: 1, at_least: 0 }), promote: None, regret: false }
    "#]]);
}

#[test]
fn half_of_the_samples_for_a_fixed_period_end_with_a_report() {
    let mut story = Story::new("auto");
    (story.settings.mode, story.settings.ab_h) = (Mode::Ab, 1.0);
    story.passed(1).rows(5_000, 1, 3);
    let mut even = Story::new("auto");
    (even.settings.mode, even.settings.ab_h) = (Mode::Ab, 0.1);
    even.passed(1).rows(1_100, 4, 4);
    story.text = format!("{}--\n{}", story.text, even.text);
    story.check(&expect![[r#"
        0       approved by policy
        0       Shadow after 0 pairs
        600     Ab { until: Uptime(4200s) } after 601 pairs
        4200    won after 4201 pairs, promote 83748794259806787717896117157888.0, 0 missed, 18/1798 against 42/1802
        --
        0       approved by policy
        0       Shadow after 0 pairs
        662     Ab { until: Uptime(1022s) } after 663 pairs
        1022    ended: Undecided after 1023 pairs, abort 0.1
        Orders { compare: Some(000000000000), route: None, promote: None, regret: false }
    "#]]);
}

#[test]
fn a_champion_that_turns_bad_after_its_promotion_is_regretted() {
    let mut story = Story::new("auto");
    (story.settings.dwell_s, story.settings.stages) = (0, vec![100]);
    story.passed(1).rows(400, 0, 5).rows(1_000, 10, 0);
    story.check(&expect![[r#"
        0       approved by policy
        0       Shadow after 0 pairs
        92      Canary { share: 100 } after 93 pairs
        142     won after 143 pairs, promote 205.3, 0 missed
        738     regretted after 596 pairs
        Orders { compare: None, route: None, promote: None, regret: true }
    "#]]);
}

#[test]
fn what_cannot_be_used_and_what_was_tried_against_another_champion_is_dropped() {
    let mut story = Story::new("auto");
    story.passed(1).rows(10, 0, 0).step(Event::Broken("its file is damaged".to_owned()));
    story.passed(2).rows(10, 0, 0).step(Event::Void).step(Event::Void);
    story.passed(3).rows(5, 0, 0);
    let measure = Measure::Classes;
    let pair = Pair {
        id: SampleId(0, 0),
        now: at(story.now),
        source: 1,
        served: false,
        champion: &[0.5, 0.5],
        challenger: &[f32::NAN, 0.5],
        took_us: None,
        measure: &measure,
    };
    let reports = story.rollout.pair(&pair, &story.settings);
    story.tell(&reports);
    story.check(&expect![[r#"
        0       approved by policy
        0       Shadow after 0 pairs
        10      ended: Broken { reason: "its file is damaged" } after 10 pairs, abort 1.0
        10      approved by policy
        10      Shadow after 0 pairs
        20      ended: Void after 10 pairs, abort 1.0
        20      approved by policy
        20      Shadow after 0 pairs
        25      ended: Guard { guard: NotFinite } after 5 pairs, abort 1.0
        Orders { compare: None, route: None, promote: None, regret: false }
    "#]]);
}

#[test]
fn a_stage_that_would_take_too_long_is_skipped_and_the_shadow_decides() {
    let mut story = Story::new("auto");
    // One sample an hour: 50 answers at one percent would take 208 days.
    story.passed(1);
    let measure = Measure::Classes;
    for row in 0..720_u64 {
        let wrong = row % 4 == 0;
        let id = SampleId(0, row);
        let champion: &[f32] = if wrong { &[1.0, 0.0] } else { &[0.0, 1.0] };
        let pair = Pair {
            id,
            now: at(story.now),
            source: 1,
            served: story
                .rollout
                .orders()
                .route
                .is_some_and(|route| route.takes("pump", Timestamp(story.now.cast_signed() * 1_000_000))),
            champion,
            challenger: &[0.0, 1.0],
            took_us: None,
            measure: &measure,
        };
        let mut reports = story.rollout.pair(&pair, &story.settings);
        let told = Told { id, now: at(story.now), truth: &[1.0], measure: &measure, arm: None };
        reports.extend(story.rollout.label(&told, &story.settings));
        story.tell(&reports);
        story.now += 3_600;
    }
    story.check(&expect![[r#"
        0       approved by policy
        0       Shadow after 0 pairs
        176400  Canary { share: 50 } after 50 pairs
        500400  Canary { share: 100 } after 140 pairs
        680400  won after 190 pairs, promote 99944056813833.5, 0 missed
        Orders { compare: Some(010101010101), route: Some(Route { challenger: 010101010101, share: 100, by_source: false, salt: 1, at_least: 0 }), promote: Some(010101010101), regret: false }
    "#]]);
}
