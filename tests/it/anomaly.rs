//! Anomaly models through the built binary: trained on rows that hardly anybody has labelled, served, judged, replayed.
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use hone_tests::agent::{Agent, Device};
use serde_json::{Value, json};
use trainer_core::bundle;

const INFER: &str = "/v2/models/main/infer";

/// Six sensors of one hidden state. Where two have come loose, that is a fault.
struct Press(u64);

impl Press {
    fn normal(&mut self) -> f64 {
        let mut uniform = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            f64::from(u32::try_from(self.0 >> 32).unwrap_or_default()) / f64::from(u32::MAX)
        };
        (0..12).map(|_| uniform()).sum::<f64>() - 6.0
    }

    fn row(&mut self, shift: f64, loose: bool) -> [f64; 6] {
        let state = self.normal();
        let mut row = [0.0; 6];
        for (sensor, value) in (0_u8..).zip(&mut row) {
            *value = (f64::from(sensor) - 2.5) * state + 0.1 * self.normal();
        }
        (row[1], row[3]) = (row[1] + shift, row[3] - shift);
        if loose {
            (row[0], row[5]) = (4.0 + self.normal(), 4.0 + self.normal());
        }
        row
    }

    /// A file of rows, each 50th a fault; nobody has labelled the others. From row `turn` on two sensors read one off.
    fn file(&mut self, path: &Path, rows: usize, turn: usize) {
        let mut text = "s0,s1,s2,s3,s4,s5,state\n".to_owned();
        for number in 0..rows {
            let loose = number % 50 == 49;
            let row = self.row(if number < turn { 0.0 } else { 1.0 }, loose).map(|value| value.to_string());
            writeln!(text, "{},{}", row.join(","), if loose { "fault" } else { "" }).expect("a string takes any text");
        }
        fs::write(path, text).expect("a temporary folder can be written");
    }
}

fn trained(device: &Device) -> PathBuf {
    let place = |name: &str| device.path().join(name);
    Press(11).file(&place("press.csv"), 800, usize::MAX);
    let (data, model) = (place("press.csv"), place("press.safetensors"));
    let (data, out) = (data.display().to_string(), model.display().to_string());
    let train = ["train", "--task", "anomaly", "--label", "state", "--data", &data, "-o", &out];
    let (code, said, error) = device.ask(&train);
    assert_eq!(code, Some(0), "{said}{error}");
    model
}

/// The same model with another threshold.
fn with_threshold(folder: &Path, base: &Path, name: &str, factor: f32) -> PathBuf {
    let mut model = bundle::read(&fs::read(base).expect("it is there")).expect("a bundle");
    model.manifest.threshold = model.manifest.threshold.map(|threshold| threshold * factor);
    model.golden.1 = bundle::golden_answers(&model);
    let path = folder.join(name);
    fs::write(&path, bundle::write(&mut model).0).expect("a temporary folder can be written");
    path
}

/// Sends rows of a press whose sensors read `shift` off; each `every`th is a fault, and nobody labels any.
fn unlabelled(agent: &Agent, press: &mut Press, count: usize, shift: f64, every: usize) {
    let line = |row: [f64; 6]| {
        let features: serde_json::Map<_, _> = (0..6).map(|at| (format!("s{at}"), json!(row[at]))).collect();
        format!("{}\n", json!({"source": "press-1", "features": features}))
    };
    let body: String = (0..count).map(|number| line(press.row(shift, number % every == every - 1))).collect();
    assert_eq!(agent.socket("POST", "/v1/samples", &body).lines().len(), count);
}

/// Sends rows; labels only faults, as people do.
fn live(agent: &Agent, press: &mut Press, count: usize, loose: bool) {
    let line = |row: [f64; 6]| {
        let features: serde_json::Map<_, _> = (0..6).map(|at| (format!("s{at}"), json!(row[at]))).collect();
        format!("{}\n", json!({"source": "press-1", "features": features}))
    };
    let body: String = (0..count).map(|_| line(press.row(0.0, loose))).collect();
    let answers = agent.socket("POST", "/v1/samples", &body).lines();
    assert_eq!(answers.len(), count);
    if loose {
        let label = |answer: &Value| format!("{}\n", json!({"record_id": answer["record_id"], "label": "fault"}));
        let labels: String = answers.iter().map(label).collect();
        assert_eq!(agent.socket("POST", "/v1/labels", &labels).status, 200);
    }
}

fn said(agent: &Agent, row: [f64; 6]) -> String {
    let request = json!({"inputs": [{"name": "input", "shape": [6], "datatype": "FP32", "data": row}]});
    let answer = agent.tcp("POST", INFER, &request.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text);
    let outputs = answer.json()["outputs"].clone();
    let label = outputs.as_array().and_then(|outputs| outputs.iter().find(|output| output["name"] == "label").cloned());
    label.expect("a label")["data"][0].as_str().expect("text").to_owned()
}

#[test]
fn an_anomaly_model_is_trained_without_labels_of_normal_rows_served_and_judged_by_its_alarms() {
    let device = Device::new();
    device.set("[cycle]\npolicy = \"static\"\n");
    let base = trained(&device);
    let (_, about, _) = device.ask(&["model", "inspect", &base.display().to_string()]);
    assert!(about.contains("anomaly: `normal` is normal, `fault` is not"), "{about}");
    let agent = device.start(Some(&base));
    let mut press = Press(5);
    let calm = (0..200).filter(|_| said(&agent, press.row(0.0, false)) == "fault").count();
    let loose = (0..50).filter(|_| said(&agent, press.row(0.0, true)) == "fault").count();
    assert!(calm <= 8 && loose >= 45, "{calm} of 200 normal rows, {loose} of 50 faults");

    live(&agent, &mut press, 60, true);
    live(&agent, &mut press, 400, false);
    let jumpy = with_threshold(device.path(), &base, "jumpy.safetensors", 0.4);
    let (code, _, error) = device.ask(&["promote", &jumpy.display().to_string()]);
    assert_eq!(code, Some(9), "{error}");
    assert!(error.contains("more of the newest rows anomalous"), "{error}");
    let verdict = agent.reports("gate")[0]["verdict"].clone();
    assert_eq!(verdict["decided_by"], "false_alarms", "{verdict}");
    let deaf = with_threshold(device.path(), &base, "deaf.safetensors", 1e4);
    let (code, _, error) = device.ask(&["promote", &deaf.display().to_string()]);
    assert!(code == Some(9) && error.contains("refused"), "{error}");
    let alike = with_threshold(device.path(), &base, "alike.safetensors", 1.001);
    let (code, out, error) = device.ask(&["promote", &alike.display().to_string()]);
    assert_eq!(code, Some(0), "{out}{error}");
}

/// Share of normal rows called faults, and of faults found, where sensors read `shift` off.
fn rates(agent: &Agent, press: &mut Press, shift: f64) -> (f64, f64) {
    let mut share = |count: u32, loose| {
        let called = (0..count).filter(|_| said(agent, press.row(shift, loose)) == "fault").count();
        called as f64 / f64::from(count)
    };
    (share(200, false), share(50, true))
}

#[test]
fn an_anomaly_model_whose_plant_has_changed_is_retrained_on_samples_that_nobody_has_labelled() {
    let device = Device::new();
    device.set("[cycle]\npolicy = \"static\"\n");
    let base = trained(&device);
    let agent = device.start(Some(&base));
    let mut press = Press(5);
    let (code, _, error) = device.ask(&["retrain"]);
    assert!(code == Some(9) && error.contains("samples are too few") && error.contains("40 more"), "{error}");
    unlabelled(&agent, &mut press, 300, 0.0, 50);
    unlabelled(&agent, &mut press, 900, 1.0, 50);
    let stale = (0..100).filter(|_| said(&agent, press.row(1.0, false)) == "fault").count();
    assert!(stale > 10, "the change must hurt: {stale}");

    let (code, plan, error) = device.ask(&["retrain", "--dry-run", "--strategy", "tail", "--json"]);
    assert_eq!(code, Some(0), "{error}");
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    assert!(plan["reasons"][0].as_str().is_some_and(|why| why.contains("count as normal")), "{plan}");
    assert!(plan["labels"] == 0 && plan["rows"]["held_out"].as_u64() == Some(96), "{plan}");
    let (code, said, error) = device.ask(&["retrain", "--strategy", "tail", "--wait"]);
    assert_eq!(code, Some(0), "{said}{error}");
    let gate = agent.reports("gate");
    assert_eq!(agent.reports("promote").len(), 1, "{gate:?}");
    let fresh = rates(&agent, &mut press, 1.0);
    println!("{stale} false alarms in a hundred before, false alarms and faults found after: {fresh:?}");
    assert!(fresh.0 < 0.06, "{fresh:?}");
    assert!(fresh.1 > 0.8, "what stood out was not learnt as normal: {fresh:?}");
}

#[test]
fn an_alarm_about_an_anomaly_model_leads_to_a_retrain_without_any_label() {
    let device = Device::new();
    device.set("[cycle]\npolicy = \"trigger:any\"\n[budget]\ncpu_share = 1.0\n");
    let base = trained(&device);
    let agent = device.start(Some(&base));
    let mut press = Press(6);
    let mut sent = 0;
    let ordered = hone_tests::until("a retrain is ordered", || {
        let shift = if sent < 400 { 0.0 } else { 3.0 };
        unlabelled(&agent, &mut press, 100, shift, 50);
        sent += 100;
        assert!(sent < 20_000, "{:?}", agent.reports("drift"));
        agent.reports("retrain").pop()
    });
    assert_eq!((&ordered["order"]["reason"], &agent.status()["labels"]), (&json!("drift"), &json!(0)));
    let mut looks = 0;
    let promoted = hone_tests::until("the retrained detector serves", || {
        // Samples for the next attempt, should the first not do; few, because the training gets what they leave of the processor.
        if looks % 20 == 0 {
            unlabelled(&agent, &mut press, 20, 3.0, 50);
        }
        looks += 1;
        agent.reports("promote").pop()
    });
    assert_eq!(promoted["run"].as_u64().map(|run| run >= 1), Some(true), "{promoted}");
    let fresh = rates(&agent, &mut press, 3.0);
    assert!(fresh.0 < 0.2 && fresh.1 > 0.8, "{fresh:?}");
}

#[test]
fn a_replay_of_a_press_whose_sensors_change_retrains_the_detector() {
    let device = Device::new();
    let data = device.path().join("press.csv");
    Press(3).file(&data, 1_500, 900);
    let data = data.display().to_string();
    let replay = |more: &[&str]| {
        let begin = ["backtest", "--task", "anomaly", "--label", "state", "--first-rows", "600", "--data", &data];
        device.ask(&[&begin[..], more].concat())
    };
    let (code, out, error) = replay(&["--policy", "static", "--policy", "fixed:200", "--json"]);
    assert_eq!(code, Some(0), "{error}");
    let facts: Value = serde_json::from_str(&out).expect("JSON");
    let [still, fixed] = [0, 1].map(|at| facts["policies"][at].clone());
    let figure = |policy: &Value, name: &str| policy[name].as_f64().expect("a number");
    println!("accuracy {} without, {} with retrains", figure(&still, "accuracy"), figure(&fixed, "accuracy"));
    assert!(figure(&fixed, "promotions") >= 1.0, "{}", fixed["promotions"]);
    let gained = figure(&fixed, "accuracy") - figure(&still, "accuracy");
    assert!(gained > 0.05, "{gained}");
    let (code, _, error) = replay(&["--policy", "continual"]);
    assert!(code != Some(0) && error.contains("has none"), "{error}");
}
