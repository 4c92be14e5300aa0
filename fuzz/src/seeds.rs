//! The first inputs of a corpus: one that is accepted, of each kind there is. Made where the folder has none.
use std::fs;
use std::path::Path;

use fleet_protocol::envelope::{Envelope, Kind};
use fleet_protocol::keys::SigningKey;
use hone_agent::shell::trainer::frames::{self, Answer, Checkpointing, Job, Report, Usage, Word};
use hone_agent::shell::trainer::limits::Limits;
use trainer_core::bundle;
use trainer_core::digest::Digest;
use trainer_core::model::Strategy;
use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};
use trainer_core::session::RunChoices;
use trainer_core::spec::{Layer, Spec};
use trainer_core::train::{TrainSettings, adapt, base as train};

use crate::targets::KEY_SEED;

/// The input others are written as differences from.
pub fn base(target: &str, folder: &Path) -> Vec<u8> {
    let path = folder.join("base.bin");
    if let Ok(bytes) = fs::read(&path) {
        return bytes;
    }
    let all: Vec<Vec<u8>> = match target {
        "bundle" => vec![a_bundle()],
        "envelope" => envelopes(),
        _ => all_frames(),
    };
    fs::write(&path, &all[0]).expect("the corpus can be written");
    for (number, bytes) in all.iter().enumerate().skip(1) {
        fs::write(folder.join(format!("seed-{number}.bin")), bytes).expect("the corpus can be written");
    }
    all.into_iter().next().expect("each target has one")
}

fn a_bundle() -> Vec<u8> {
    let mut rows = Rows::empty(2, 1);
    for row in 0..60_u8 {
        let x = f32::from(row % 10) - 4.5;
        rows.push(&[x, f32::from(row % 2)], &[f32::from(u8::from((x > 0.0) == (row % 2 == 0)))]);
    }
    let number =
        Feature { name: "x".into(), unit: Some("mm".into()), kind: FeatureKind::Number, range: Some([-9.0, 9.0]) };
    let kind = FeatureKind::Category { values: vec!["a".into(), "b".into()] };
    let mode = Feature { name: "mode".into(), unit: None, kind, range: None };
    let task = Task::Classification { classes: vec!["no".into(), "yes".into()] };
    let schema = Schema { features: vec![number, mode], task };
    let layers = vec![Layer::Linear { outputs: 4 }, Layer::BatchNorm, Layer::Relu, Layer::LayerNorm];
    let settings = TrainSettings::default();
    let first = train(&schema, &Spec { cut: 2, layers, reconstruct: false }, &rows, &settings, 3)
        .expect("it can be trained")
        .model;
    let mut model = adapt(&first, Strategy::Head, &rows, &settings, 4).expect("it can be trained").model;
    bundle::write(&mut model).0
}

fn envelopes() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"bundle");
    let key = SigningKey::from_bytes(&KEY_SEED);
    let sign = |kind: Kind, text: String| Envelope::sign(kind, text.as_bytes(), &[&key]).to_json();
    vec![
        sign(
            Kind::Bundle,
            format!(
                r#"{{"v":1,"digest":"{digest}","sequence":7,"parent":null,"epoch":0,"role":"vendor","device":null,"trainable":["head.weight"]}}"#
            ),
        ),
        sign(
            Kind::Command,
            r#"{"v":1,"id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","dev":"press-7","cmd":"retrain.start","iat":1,"exp":9,"ctr":1,"args":{"strategy":"head"}}"#
                .to_owned(),
        ),
        sign(Kind::Desired, r#"{"v":1,"dev":"press-7","rev":3,"iat":1,"config":{"cycle":{"seed":1}}}"#.to_owned()),
        sign(
            Kind::Notice,
            r#"{"v":1,"id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","group":"hall-2","iat":1,"ctr":1,"notice":{"kind":"freeze","until":9}}"#
                .to_owned(),
        ),
    ]
}

fn all_frames() -> Vec<Vec<u8>> {
    fn framed(message: &impl serde::Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        frames::write(&mut bytes, message).expect("it is short");
        bytes
    }
    let checkpoint = Some(Checkpointing::at("/state/x.checkpoint".into()));
    let limits = Limits { memory_bytes: Some(1 << 26), cpu_share: Some(0.5), deadline_s: None };
    vec![
        framed(&Job { parent: Some(vec![7; 40]), choices: RunChoices::default(), limits, checkpoint }),
        framed(&Answer::Progress(Report { steps: 3, steps_max: 90, remaining_s: Some(1.5), usage: Usage::default() })),
        framed(&Answer::Refused { reason: "too few rows".to_owned() }),
        framed(&Word::Share(250)),
    ]
}
