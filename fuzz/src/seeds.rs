//! The first inputs of a corpus: one that is accepted, of each kind there is. Made where the folder has none.
use std::fs;
use std::path::Path;

use fleet_protocol::data::{Batch, Row};
use fleet_protocol::envelope::{Envelope, Kind};
use fleet_protocol::keys::SigningKey;
use fleet_protocol::names::Micros;
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
        "topic" => topics(),
        "payload" => payloads(),
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

fn topics() -> Vec<Vec<u8>> {
    let (id, digest) = ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "ab".repeat(32));
    let own = ["state", "birth", "reported", "model/main", "drift/main", "metrics", "evt/promoted", "data/records"];
    let up = own.iter().map(|rest| format!("hone/v1/d/press-7/up/{rest}"));
    let more = [
        format!("hone/v1/d/press-7/up/cmd/{id}"),
        format!("hone/v1/d/press-7/down/cmd/{id}"),
        "hone/v1/d/press-7/down/desired".to_owned(),
        format!("hone/v1/d/press-7/down/blob/{digest}/10"),
        "hone/v1/g/hall-2/down/notice/freeze".to_owned(),
        "hone/v1/ctl/ctl1/state".to_owned(),
        "hone/v1/ctl/ctl1/rollout/autumn".to_owned(),
        "hone/v1/ctl/ctl1/rollout/autumn/wish".to_owned(),
    ];
    up.chain(more).map(String::into_bytes).collect()
}

/// One line of each golden file, behind the digit of its kind.
fn payloads() -> Vec<Vec<u8>> {
    let golden = |file: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fleet/protocol/golden").join(file);
        fs::read_to_string(path).expect("a golden file")
    };
    let mut all: Vec<String> =
        ('0'..).zip(golden("reports.jsonl").lines()).map(|(kind, line)| format!("{kind}{line}")).collect();
    all.extend(golden("events.jsonl").lines().map(|line| format!("5{line}")));
    all.extend(golden("status.jsonl").lines().map(|line| format!("6{line}")));
    all.extend(golden("commands.jsonl").lines().map(|line| format!("9{line}")));
    all.push(r#"t{"have":3,"chunks":8,"want":[[0,2],[5,7]]}"#.to_owned());
    let member = r#"{"install":"01ARZ3NDEKTSV4RRFFQ69G5FAV","promote":"01ARZ3NDEKTSV4RRFFQ69G5FAV","signed":[],"standing":"proving","seen":true,"since":1}"#;
    let rules =
        r#"{"win_share":0.9,"fail_share":0.1,"rollback_share":0.0,"prove_s":60,"drift_cleared":true,"deadline_s":600}"#;
    all.push(format!(
        r#"7{{"v":1,"id":"autumn","digest":"{}","size_bytes":9,"rules":{rules},"waves":[["a"],["b"]],"wave":0,"state":{{"state":"running"}},"since":1,"devices":{{"a":{member}}}}}"#,
        "ab".repeat(32)
    ));
    let mut all: Vec<Vec<u8>> = all.into_iter().map(String::into_bytes).collect();
    let rebirth: &[u8] = b"\x12\x1a\x0a\x14Node Control/Rebirth\x20\x0b\x70\x01";
    all.push([b"s", rebirth].concat());
    let row = Row {
        id: Default::default(),
        ts: Micros(1),
        source: "a".to_owned(),
        segment: None,
        model: fleet_protocol::names::Digest::of(b"m"),
        features: vec![1.0, f32::NAN],
        output: vec![0.5],
    };
    let batch = Batch { v: 1, cmd: Default::default(), from: 1, to: 1, rows: vec![row], extra: Default::default() };
    all.push([&b"8"[..], &batch.to_cbor().expect("it is short")].concat());
    all
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
