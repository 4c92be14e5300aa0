//! Stories of the loop: what goes in on the left, what it reports and orders on the right.
use std::fmt::Write as _;

use expect_test::{Expect, expect};
use trainer_core::bundle;
use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};
use trainer_core::spec::Spec;
use trainer_core::train::{TrainSettings, base};

use super::*;
use crate::decide::policy::Policy;
use crate::decide::rollout::{Mode, RolloutSettings};
use crate::decide::time::Timestamp;
use crate::decide::watch::Watcher;
use crate::decide::watch::finding::Measure;

/// A small model of two features and two classes, with its digest.
fn model() -> (Model, Digest) {
    let feature = |name: &str| Feature { name: name.into(), unit: None, kind: FeatureKind::Number, range: None };
    let task = Task::Classification { classes: vec!["a".into(), "b".into()] };
    let schema = Schema { features: vec![feature("x"), feature("y")], task };
    let mut rows = Rows::empty(2, 1);
    for row in 0_u16..400 {
        let [x, y] = self::row(row.into());
        rows.push(&[x, y], &[f32::from(u8::from(x > 0.0))]);
    }
    let mut model = base(&schema, &Spec::default(), &rows, &TrainSettings::default(), 0).unwrap().model;
    let (_, digest) = bundle::write(&mut model);
    (model, digest)
}

/// Row number `number`: even numbers in [-1, 1) and [0, 7), without order.
fn row(number: u64) -> [f32; 2] {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    #[expect(clippy::cast_precision_loss, reason = "20 bits")]
    let even = |shift: u32| ((mixed >> shift) & 0xF_FFFF) as f32 / 1_048_576.0;
    [even(40) * 2.0 - 1.0, even(16) * 7.0]
}

/// A digest that prints as its own number.
fn named(number: u8) -> Digest {
    format!("{number:02x}").repeat(32).parse().unwrap()
}

/// The label of a sample that was answered with `loss`.
fn label(sample: u64, loss: f64, answered_by: Digest) -> Label<'static> {
    let truth: &[f32] = if loss > 0.5 { &[1.0] } else { &[0.0] };
    Label { sample, loss, answer: &[0.9, 0.1], truth, segment: None, answered_by }
}

/// A row that was answered with class a.
fn sample(row: &[f32]) -> Sample<'_> {
    Sample { row, answer: &[0.9, 0.1], embedding: &[], at: None }
}

/// The newest 300 rows.
fn recent() -> BaselineRows {
    BaselineRows { rows: (0..300).flat_map(row).collect(), at: Vec::new() }
}

struct Story {
    cycle: Cycle,
    settings: CycleSettings,
    factory: Digest,
    text: String,
    sample: u64,
}

impl Story {
    fn new(policy: &str) -> Self {
        let rollout = RolloutSettings { mode: Mode::Gate, ..RolloutSettings::default() };
        let settings = CycleSettings { policy: policy.parse().unwrap(), rollout, ..CycleSettings::default() };
        let (model, factory) = model();
        let cycle = Cycle::new(&model, factory, &settings);
        Self { cycle, settings, factory, text: String::new(), sample: 0 }
    }

    fn name(&self, digest: Digest) -> String {
        if digest == self.factory { "factory".to_owned() } else { digest.to_string()[..2].to_owned() }
    }

    fn tell(&mut self, what: &str, reports: &[Report]) {
        for report in reports {
            let said = match report {
                Report::Drift { findings, opened, .. } => {
                    let by = findings.last().map_or("nobody", |finding| finding.watcher.name());
                    format!("drift by {by}, opened {opened}")
                }
                Report::Retrain { order } => {
                    let rows = order.rows;
                    format!(
                        "run {} {:?}: {:?} on {} rows, {} held out, {} older",
                        order.run, order.reason, order.task, rows.newest, rows.holdout, rows.history
                    )
                }
                Report::Waiting { missing, .. } => format!("waiting for {missing} labels"),
                Report::Failed { run, reason } => format!("run {run} failed: {reason}"),
                Report::Gate { run, candidate, verdict } => {
                    format!(
                        "gate of run {run}, candidate {}: {}",
                        self.name(*candidate),
                        if verdict.passed { "passed" } else { "refused" }
                    )
                }
                Report::Promote { run, from, to } => {
                    format!("run {run} promoted {} over {}", self.name(*to), self.name(*from))
                }
                Report::Considered { sentence, .. } => sentence.clone(),
                Report::Adaptation { change, .. } => format!("the mixture {change:?}"),
                Report::Consolidated { order } => format!("run {} freezes the mixture: {:?}", order.run, order.task),
                Report::Rebaseline { rows } => format!("baseline of {rows} rows"),
                Report::Rollout(report) => format!("{report:?}"),
                Report::Rollback { from, to } => format!("rolled back from {} to {}", self.name(*from), self.name(*to)),
            };
            let _ = writeln!(self.text, "{what:<12}{said}");
        }
    }

    /// `count` samples, each labelled at once and answered wrongly in `wrong` of ten.
    fn rows(&mut self, count: u64, wrong: u64) -> &mut Self {
        for _ in 0..count {
            let row = row(self.sample);
            let mut reports = self.cycle.sample(&sample(&row), &self.settings);
            let loss = if self.sample * 7 % 10 < wrong { 1.0 } else { 0.0 };
            let serving = self.cycle.orders().serve;
            reports.extend(self.cycle.label(&label(self.sample, loss, serving), &self.settings));
            self.sample += 1;
            let what = format!("label {}", self.sample);
            self.tell(&what, &reports);
        }
        self
    }

    /// Answers the open order with `candidate`, better (or worse) in `gain` of its held-out rows.
    fn judged(&mut self, candidate: u8, gain: f64) -> &mut Self {
        let order = self.cycle.orders().work.expect("an order is open");
        let mut evidence = Evidence::default();
        for row in 0..order.rows.holdout {
            let differs = (row as f64) < gain.abs() * order.rows.holdout as f64;
            let loss = f64::from(u8::from(differs));
            if gain > 0.0 { evidence.push(loss, 0.0) } else { evidence.push(0.0, loss) }
        }
        self.step(Event::Judged {
            run: order.run,
            candidate: named(candidate),
            evidence,
            measures: Box::default(),
            recent: recent(),
        })
    }

    fn step(&mut self, event: Event) -> &mut Self {
        match self.cycle.step(event, &self.settings) {
            Ok(reports) => self.tell("", &reports),
            Err(refusal) => {
                let _ = writeln!(self.text, "{:<12}refused: {refusal}", "");
            }
        }
        self
    }

    fn roll_back(&mut self) -> &mut Self {
        let (model, _) = model();
        self.step(Event::RollBack { reference: model.manifest.reference, baseline: BaselineRows::of(&model) })
    }

    /// Power off, power on: the state comes back from its bytes.
    fn restart(&mut self) -> &mut Self {
        let bytes = serde_json::to_vec(&self.cycle).unwrap();
        let back: Cycle = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(back, self.cycle);
        self.cycle = back;
        self
    }

    fn check(&self, expected: &Expect) {
        let orders = self.cycle.orders();
        let keep = orders.keep.map_or("nothing".to_owned(), |digest| self.name(digest));
        let work = orders.work.map_or("no work".to_owned(), |order| format!("run {} open", order.run));
        expected.assert_eq(&format!("{}serves {}, keeps {keep}, {work}\n", self.text, self.name(orders.serve)));
    }
}

#[test]
fn rising_errors_lead_to_a_gated_refitted_and_promoted_head_also_across_restarts() {
    let mut story = Story::new("trigger:e_sr");
    story.rows(300, 0).rows(120, 5).restart().judged(1, 0.4).restart().judged(2, 0.0).rows(50, 0);
    story.check(&expect![[r#"
        label 307   drift by e_sr, opened true
        label 400   run 1 Drift: Train { strategy: Head, seed: 1 } on 400 rows, 20 held out, 800 older
                    gate of run 1, candidate 01: passed
                    run 1 promoted 02 over factory
        serves 02, keeps factory, no work
    "#]]);
}

#[test]
fn a_candidate_that_is_no_better_is_refused_and_the_next_size_is_tried() {
    let mut story = Story::new("trigger:e_sr");
    story.rows(300, 0).rows(120, 5).judged(1, -0.3).rows(100, 1);
    story.check(&expect![[r#"
        label 307   drift by e_sr, opened true
        label 400   run 1 Drift: Train { strategy: Head, seed: 1 } on 400 rows, 20 held out, 800 older
                    gate of run 1, candidate 01: refused
        label 500   run 2 Drift: Train { strategy: Head, seed: 2 } on 500 rows, 40 held out, 800 older
        serves factory, keeps nothing, run 2 open
    "#]]);
}

#[test]
fn a_champion_is_never_promoted_over_itself() {
    let mut story = Story::new("trigger:psi");
    story.rows(200, 0).step(Event::Retrain { strategy: Strategy::Head });
    let order = story.cycle.orders().work.unwrap();
    let mut evidence = Evidence::default();
    (0..order.rows.holdout).for_each(|row| evidence.push(f64::from(u8::from(row % 2 == 0)), 0.0));
    let (run, candidate, measures) = (order.run, story.factory, Box::default());
    let judged = Event::Judged { run, candidate, evidence, measures, recent: recent() };
    let reports = story.cycle.step(judged, &story.settings).unwrap();
    assert!(
        matches!(&reports[..], [Report::Gate { verdict, .. }] if !verdict.passed && verdict.decided_by == Check::Other),
        "{reports:?}"
    );
    assert_eq!((story.cycle.orders().serve, story.cycle.orders().work), (story.factory, None));
}

#[test]
fn a_refit_that_spoils_what_passed_is_left_aside() {
    let mut story = Story::new("trigger:e_sr");
    story.rows(300, 0).rows(120, 5).judged(1, 0.4).judged(2, -0.5);
    story.check(&expect![[r#"
        label 307   drift by e_sr, opened true
        label 400   run 1 Drift: Train { strategy: Head, seed: 1 } on 400 rows, 20 held out, 800 older
                    gate of run 1, candidate 01: passed
                    run 1 promoted 01 over factory
        serves 01, keeps factory, no work
    "#]]);
}

#[test]
fn commands_are_refused_with_the_reason_and_a_rolled_back_model_is_not_offered_again() {
    let mut story = Story::new("static");
    story.roll_back().step(Event::Retrain { strategy: Strategy::Head }).rows(200, 0);
    story.step(Event::Offered { candidate: named(7) }).step(Event::Offered { candidate: named(8) }).judged(7, 0.3);
    story.roll_back().step(Event::Offered { candidate: named(7) }).roll_back();
    story.check(&expect![[r#"
                    refused: there is no previous model to go back to: the champion is the first one, or a rollback has just brought it back
                    refused: 0 labelled rows are too few to train and to judge: 40 more are needed
                    run 1 Offer: Judge { candidate: 070707070707 } on 200 rows, 200 held out, 0 older
                    refused: run 1 is still under way: try again when it has ended (`hone status`)
                    gate of run 1, candidate 07: passed
                    run 1 promoted 07 over factory
                    rolled back from 07 to factory
                    refused: model 070707070707 was refused before: train another one
                    refused: there is no previous model to go back to: the champion is the first one, or a rollback has just brought it back
        serves factory, keeps nothing, no work
    "#]]);
}

#[test]
fn late_labels_of_an_earlier_model_raise_no_alarm_against_the_new_one() {
    let mut story = Story::new("trigger:adwin");
    story.rows(300, 0);
    let before = story.cycle.watch().clone();
    for sample in 300..700 {
        let reports = story.cycle.label(&label(sample, 1.0, named(99)), &story.settings);
        assert!(reports.is_empty(), "{reports:?}");
    }
    assert_eq!(story.cycle.watch(), &before);
}

#[test]
fn the_schedule_asks_every_n_labels_and_waits_while_there_are_too_few() {
    let mut story = Story::new("fixed:30");
    story.rows(30, 0).rows(30, 0).judged(1, -0.2).rows(30, 0);
    story.check(&expect![[r#"
        label 30    waiting for 10 labels
        label 60    run 1 Schedule: Train { strategy: Head, seed: 1 } on 60 rows, 20 held out, 800 older
                    gate of run 1, candidate 01: refused
        label 90    run 2 Schedule: Train { strategy: Head, seed: 2 } on 90 rows, 20 held out, 800 older
        serves factory, keeps nothing, run 2 open
    "#]]);
}

#[test]
fn moved_inputs_raise_an_alarm_that_names_the_features() {
    let mut story = Story::new("trigger:psi");
    story.rows(400, 0);
    let mut seen = None;
    for row in 0..400 {
        let [x, y] = self::row(1_000 + row);
        let moved = [x + 3.0, y];
        for report in story.cycle.sample(&sample(&moved), &story.settings) {
            if let Report::Drift { findings, opened, .. } = report {
                seen.get_or_insert((row, findings, opened));
            }
        }
    }
    let (row, findings, opened) = seen.expect("half of the features moved by three of their ranges");
    assert!(row < 300 && opened, "after {row} rows");
    let measures: Vec<_> = findings.into_iter().map(|finding| finding.measure).collect();
    assert_eq!(measures, [Measure::Feature("x".into()), Measure::Features]);
}

#[test]
fn what_a_person_takes_for_normal_raises_no_alarm_and_too_few_rows_are_no_baseline() {
    let mut story = Story::new("trigger:psi");
    story.rows(400, 0);
    let moved = |number: u64| {
        let [x, y] = row(1_000 + number);
        [x + 3.0, y]
    };
    let baseline = |rows: u64| Event::Rebaseline {
        baseline: BaselineRows { rows: (0..rows).flat_map(moved).collect(), at: Vec::new() },
    };
    let before = story.cycle.clone();
    let refused = story.cycle.step(baseline(199), &story.settings).unwrap_err();
    assert_eq!(refused, Refusal::TooFewRows { known: 199, missing: 1 });
    assert_eq!(story.cycle, before, "a refusal changes nothing");
    assert_eq!(story.cycle.step(baseline(200), &story.settings), Ok(vec![Report::Rebaseline { rows: 200 }]));
    for row in 0..1000 {
        assert_eq!(story.cycle.sample(&sample(&moved(row)), &story.settings), []);
    }
}

#[test]
fn new_labels_alone_lead_to_attempts_that_come_more_rarely_while_nothing_is_gained() {
    let mut story = Story::new("trigger:any");
    story.settings.trigger.labels.every = 100;
    story.settings.watch.watchers = vec![Watcher::ESr];
    story.cycle.adopt(&story.settings, &model().0);
    story.rows(100, 0).judged(1, -0.2).rows(200, 0).restart().judged(2, 0.0).judged(3, 0.0);
    story.rows(400, 0).judged(4, 0.3).judged(5, 0.0).rows(100, 0);
    story.check(&expect![[r#"
        label 100   run 1 Labels: Train { strategy: Head, seed: 1 } on 100 rows, 20 held out, 800 older
                    gate of run 1, candidate 01: refused
        label 300   run 2 Labels: Train { strategy: Head, seed: 2 } on 300 rows, 60 held out, 800 older
                    gate of run 2, candidate 02: passed
                    run 2 promoted 03 over factory
        label 700   run 3 Labels: Train { strategy: Head, seed: 3 } on 700 rows, 140 held out, 800 older
                    gate of run 3, candidate 04: passed
                    run 3 promoted 05 over 03
        label 800   run 4 Labels: Train { strategy: Head, seed: 4 } on 800 rows, 100 held out, 800 older
        serves 05, keeps 03, run 4 open
    "#]]);
}

#[test]
fn a_policy_that_names_its_tests_has_no_other_reason_and_a_static_one_none_at_all() {
    for policy in ["trigger:psi", "static"] {
        let mut story = Story::new(policy);
        story.settings.trigger.labels.every = 50;
        story.settings.watch.watchers = vec![Watcher::ESr];
        story.cycle.adopt(&story.settings, &model().0);
        story.rows(300, 0);
        assert_eq!(story.text, "", "{policy}");
    }
}

#[test]
fn the_clock_orders_one_attempt_a_night_and_waits_for_work_under_way() {
    let mut story = Story::new("trigger:psi");
    story.settings.trigger.schedule.hours = "22:00-05:00".parse().unwrap();
    let night =
        |day: i64, minute: i64| Timestamp(1_795_219_200_000_000 + (day * 1_440 + 22 * 60 + minute) * 60_000_000);
    let tick = |story: &mut Story, now: Timestamp| {
        let reports = story.cycle.tick(now, &story.settings);
        story.tell("tick", &reports);
    };
    tick(&mut story, night(0, 0));
    story.rows(100, 0);
    tick(&mut story, night(0, 1));
    story.step(Event::Retrain { strategy: Strategy::Head });
    tick(&mut story, night(1, 0));
    story.judged(1, -0.2);
    tick(&mut story, night(1, -30));
    tick(&mut story, night(1, 5));
    story.judged(2, -0.2).restart();
    tick(&mut story, night(1, 6));
    story.settings.policy = Policy::Static;
    tick(&mut story, night(2, 0));
    story.check(&expect![[r#"
        tick        waiting for 40 labels
                    run 1 Command: Train { strategy: Head, seed: 1 } on 100 rows, 20 held out, 800 older
                    gate of run 1, candidate 01: refused
        tick        run 2 Schedule: Train { strategy: Head, seed: 2 } on 100 rows, 20 held out, 800 older
                    gate of run 2, candidate 02: refused
        serves factory, keeps nothing, no work
    "#]]);
}
