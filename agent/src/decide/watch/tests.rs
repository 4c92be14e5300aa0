//! The whole watch: what each kind of decay makes it say, and what it forgets over a restart.
use trainer_core::schema::{Feature, FeatureKind, Rows};
use trainer_core::spec::Spec;
use trainer_core::train::{TrainSettings, base};

use super::columns::ColumnSettings;
use super::*;
use crate::decide::drift::seeded::Draws;

/// Three even numbers in [0, 1).
fn drawn(draws: &mut Draws) -> [f32; 3] {
    #[expect(clippy::cast_precision_loss, reason = "24 bits")]
    [(); 3].map(|()| (draws.bits() >> 40) as f32 / 16_777_216.0)
}

/// Three features, two classes: which side of a line.
fn model() -> Model {
    let feature = |name: &str| Feature { name: name.into(), unit: None, kind: FeatureKind::Number, range: None };
    let task = Task::Classification { classes: vec!["a".into(), "b".into()] };
    let schema = Schema { features: ["x", "y", "z"].map(feature).into(), task };
    let (mut rows, mut draws) = (Rows::empty(3, 1), Draws::new(1));
    for _ in 0..800 {
        let row = drawn(&mut draws);
        rows.push(&row, &[f32::from(u8::from(row[0] > row[1]))]);
    }
    base(&schema, &Spec::default(), &rows, &TrainSettings::default(), 0).unwrap().model
}

struct Stream {
    model: Model,
    watch: Watch,
    draws: Draws,
    work: Work,
    labels: u64,
}

impl Stream {
    fn new(settings: &WatchSettings) -> Self {
        let model = model();
        let watch = Watch::new(&model, settings);
        Self { model, watch, draws: Draws::new(3), work: Work::default(), labels: 0 }
    }

    /// `count` rows through `change`, labelled by the line `truth`.
    fn rows(
        &mut self,
        count: u64,
        change: impl Fn(&mut [f32; 3]),
        truth: impl Fn(&[f32; 3]) -> bool,
        segment: Option<&str>,
    ) -> Vec<Finding> {
        let mut said = Vec::new();
        for _ in 0..count {
            let mut row = drawn(&mut self.draws);
            let class = truth(&row);
            change(&mut row);
            self.model.embed(&row, &mut self.work);
            let at = Some(Timestamp(i64::try_from(self.labels).unwrap() * 60_000_000));
            let sample = Sample { row: &row, answer: &self.work.answer, embedding: &self.work.h, at };
            said.extend(self.watch.sample(&sample));
            let truth = [f32::from(u8::from(class))];
            let loss = self.model.loss(&self.work.answer, &truth);
            let answered_by = trainer_core::digest::Digest::of(b"it");
            let (sample, answer) = (self.labels, &self.work.answer);
            let label = Label { sample, loss, answer, truth: &truth, segment, answered_by };
            said.extend(self.watch.label(&label, self.labels));
            self.labels += 1;
        }
        said
    }
}

fn unchanged(_: &mut [f32; 3]) {}

fn line(row: &[f32; 3]) -> bool {
    row[0] > row[1]
}

fn spoke(findings: &[Finding], watcher: Watcher) -> Option<&Finding> {
    findings.iter().find(|finding| finding.watcher == watcher && finding.grade == Grade::Alarm)
}

#[test]
fn a_quiet_stream_is_quiet_and_each_kind_of_decay_is_seen_by_its_own_test() {
    let settings = WatchSettings::default();
    let quiet = Stream::new(&settings).rows(3_000, unchanged, line, Some("north"));
    assert!(quiet.iter().all(|finding| finding.grade == Grade::Notice), "{quiet:?}");

    let mut stream = Stream::new(&settings);
    stream.rows(1_000, unchanged, line, None);
    let moved = stream.rows(600, |row| row[2] += 0.3, line, None);
    let psi = moved.iter().find(|finding| finding.measure == Measure::Feature("z".into())).expect("a moved feature");
    assert!(!psi.picture.is_empty() && psi.since_at.is_some(), "{psi:?}");
    assert!(spoke(&moved, Watcher::Mean).is_some() && spoke(&moved, Watcher::QtEwma).is_some(), "{moved:?}");
    assert!(spoke(&moved, Watcher::ESr).is_none(), "the answer does not depend on it");

    let mut stream = Stream::new(&settings);
    stream.rows(1_000, unchanged, line, None);
    let wrong = stream.rows(300, unchanged, |row| row[0] + 0.3 > row[1], None);
    let loss = spoke(&wrong, Watcher::ESr).expect("more errors");
    let Since::Label(since) = loss.since else { panic!("counted in labels") };
    assert!((950..1_100).contains(&since), "{since}");
    assert!(spoke(&wrong, Watcher::Psi).is_none(), "the inputs are the same");

    let mut stream = Stream::new(&settings);
    stream.rows(1_000, unchanged, line, None);
    let missing = stream.rows(300, |row| row[1] = f32::NAN, line, None);
    let quality = spoke(&missing, Watcher::Quality).expect("a dead sensor");
    assert_eq!(quality.measure, Measure::Missing("y".into()));

    let mut stream = Stream::new(&settings);
    stream.rows(1_000, unchanged, line, None);
    let shifted = stream.rows(600, |row| row[0] += 0.5, line, None);
    assert!(spoke(&shifted, Watcher::Prediction).is_some(), "nearly all answers are of one class");

    let mut stream = Stream::new(&settings);
    for _ in 0..150 {
        stream.rows(5, unchanged, line, Some("north"));
        stream.rows(1, unchanged, line, Some("south"));
    }
    let mut said = Vec::new();
    for _ in 0..150 {
        said.extend(stream.rows(5, unchanged, line, Some("north")));
        said.extend(stream.rows(1, unchanged, |row| !line(row), Some("south")));
    }
    let segment = spoke(&said, Watcher::Segments).expect("one segment went wrong");
    assert_eq!(segment.measure, Measure::Segment("south".into()));
}

#[test]
fn a_restart_in_mid_stream_changes_nothing() {
    let all = WatchSettings { watchers: Watcher::ALL.to_vec(), ..WatchSettings::default() };
    let embedding =
        WatchSettings { joint: joint::JointSettings { space: Space::Embedding, ..all.joint.clone() }, ..all };
    for settings in [&embedding, &WatchSettings::default()] {
        let (mut whole, mut cut) = (Stream::new(settings), Stream::new(settings));
        for (rows, shift) in [(300, 0.0), (400, 0.0), (250, 0.4), (200, 0.1)] {
            let change = |row: &mut [f32; 3]| row[0] += shift;
            let expected = whole.rows(rows, change, line, Some("a"));
            assert_eq!(cut.rows(rows, change, line, Some("a")), expected);
            let text = serde_json::to_string(&cut.watch).unwrap();
            cut.watch = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&cut.watch).unwrap(), text);
        }
        assert_eq!(cut.watch.view(), whole.watch.view());
    }
}

#[test]
fn a_new_model_gathers_what_its_answers_look_like_before_they_are_judged() {
    let mut stream = Stream::new(&WatchSettings::default());
    assert_eq!(stream.watch.view().gathering, None, "the first model brings its own");
    stream.watch.replaced();
    let shifted = |row: &mut [f32; 3]| row[0] += 0.5;
    stream.rows(500, shifted, line, None);
    assert_eq!(stream.watch.view().gathering, Some(500));
    let said = stream.rows(900, shifted, line, None);
    assert_eq!(stream.watch.view().gathering, None);
    assert!(spoke(&said, Watcher::Prediction).is_none(), "it was so from the beginning");
}

#[test]
fn other_settings_start_the_tests_anew_and_equal_ones_do_not() {
    let mut stream = Stream::new(&WatchSettings::default());
    stream.rows(300, unchanged, line, None);
    let before = stream.watch.clone();
    stream.watch.adopt(&WatchSettings::default(), &stream.model);
    assert_eq!(stream.watch, before);
    let stricter =
        WatchSettings { columns: ColumnSettings { psi: 0.5, ..ColumnSettings::default() }, ..WatchSettings::default() };
    stream.watch.adopt(&stricter, &stream.model);
    assert_eq!(stream.watch.recent_loss(), None);
    stream.rows(500, unchanged, line, None);
    let moved = stream.rows(600, |row| row[2] += 0.4, line, None);
    let Some(Since::Sample(since)) = spoke(&moved, Watcher::Mean).map(|finding| finding.since) else {
        panic!("the mean moved")
    };
    assert!((600..900).contains(&since), "numbers go on: {since}");
}

#[test]
fn a_model_that_knows_its_training_rows_by_heart_is_not_told_of_again_and_again() {
    let feature =
        |number: usize| Feature { name: format!("f{number}"), unit: None, kind: FeatureKind::Number, range: None };
    let task = Task::Classification { classes: vec!["a".into(), "b".into()] };
    let schema = Schema { features: (0..16).map(feature).collect(), task };
    let (mut rows, mut even) = (Rows::empty(16, 1), Draws::new(5));
    let row = |even: &mut Draws| -> Vec<f32> { (0..6).flat_map(|_| drawn(even)).take(16).collect() };
    for _ in 0..300 {
        rows.push(&row(&mut even), &[f32::from(u8::from(even.uniform() > 0.5))]);
    }
    let model = base(&schema, &Spec::default(), &rows, &TrainSettings::default(), 0).unwrap().model;
    let mut watch = Watch::new(&model, &WatchSettings::default());
    let mut work = Work::default();
    let mut told = [0; 2];
    for number in 0..20_000 {
        let row = row(&mut even);
        model.embed(&row, &mut work);
        let said = watch.sample(&Sample { row: &row, answer: &work.answer, embedding: &work.h, at: None });
        let alarms = said.iter().filter(|said| said.grade == Grade::Alarm && said.watcher == Watcher::Prediction);
        told[usize::from(number >= joint::BASELINE_ROWS_MAX)] += alarms.count();
    }
    // It may be told of once or twice: the answers do differ from those it was shipped with.
    assert!(told[0] <= 2 && told[1] == 0, "{told:?}");
}
