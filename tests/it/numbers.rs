//! Promised figures on public streams, measured with the built binary; the files are not ours to ship.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use hone_tests::hone;
use serde_json::Value;

/// Means over these seeds are promised.
const SEEDS: [u64; 3] = [0, 1, 2];
/// Replays at the same time.
const WORKERS: usize = 2;

/// A stream and how it is read.
struct Stream {
    file: &'static str,
    arguments: &'static [&'static str],
}

const GAS: Stream =
    Stream { file: "gas.csv", arguments: &["--label", "gas", "--ignore", "batch,ppm", "--first-rows", "445"] };
const GAS_LATE: Stream = Stream {
    file: "gas.csv",
    arguments: &["--label", "gas", "--ignore", "batch,ppm", "--first-rows", "445", "--label-delay", "111"],
};
const SINE: Stream = Stream { file: "sine_abrupt.csv", arguments: &["--label", "class", "--first-rows", "1000"] };
const ELEC: Stream =
    Stream { file: "elec2.csv", arguments: &["--label", "class", "--first-rows", "2000", "--label-delay", "48"] };
const AIR: &str = "pt08_s1_co,pt08_s3_nox,pt08_s4_no2,pt08_s5_o3,temp_c,rh_pct,ah";
const CARBON: Stream = Stream {
    file: "air_quality.csv",
    arguments: &["--label", "co_mg_m3", "--features", AIR, "--drop-incomplete", "--first-rows", "1000"],
};
const NITROGEN: Stream = Stream {
    file: "air_quality.csv",
    arguments: &["--label", "no2_ug_m3", "--features", AIR, "--drop-incomplete", "--first-rows", "1000"],
};

const SINE_LATE: Stream = Stream {
    file: "sine_abrupt.csv",
    arguments: &["--label", "class", "--first-rows", "1000", "--label-delay", "250"],
};
const ELEC_LATE: Stream =
    Stream { file: "elec2.csv", arguments: &["--label", "class", "--first-rows", "2000", "--label-delay", "500"] };
const CARBON_LATE: Stream = Stream {
    file: "air_quality.csv",
    arguments: &[
        "--label",
        "co_mg_m3",
        "--features",
        AIR,
        "--drop-incomplete",
        "--first-rows",
        "1000",
        "--label-delay",
        "24",
    ],
};
const NITROGEN_LATE: Stream = Stream {
    file: "air_quality.csv",
    arguments: &[
        "--label",
        "no2_ug_m3",
        "--features",
        AIR,
        "--drop-incomplete",
        "--first-rows",
        "1000",
        "--label-delay",
        "24",
    ],
};

/// Where the public streams lie, as CSV files; `docs` says how to get them.
fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("HONE_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!(
            "skipped: HONE_DATA is not set to the folder of gas.csv, sine_abrupt.csv, elec2.csv and air_quality.csv"
        );
    }
    folder
}

/// One policy's summary of one replay.
fn replay(folder: &Path, stream: &Stream, policy: &str, seed: u64) -> Value {
    let file = folder.join(stream.file);
    let mut command = Command::new(hone());
    command.arg("backtest").arg("--data").arg(&file).args(stream.arguments);
    command.args(["--policy", policy, "--seed", &seed.to_string(), "--json"]);
    let output = command.output().expect("hone can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {policy} with seed {seed}: {said}", file.display());
    let facts: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    facts["policies"][0].clone()
}

/// The mean over the seeds of what `figures` are called, for each policy.
fn means<const N: usize>(folder: &Path, stream: &Stream, policies: &[&str], figures: [&str; N]) -> Vec<[f64; N]> {
    let jobs: Vec<(&str, u64)> = policies.iter().flat_map(|policy| SEEDS.map(|seed| (*policy, seed))).collect();
    let next = Mutex::new(jobs.iter().enumerate());
    let done = Mutex::new(vec![Value::Null; jobs.len()]);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let Some((index, (policy, seed))) = next.lock().expect("no job panics holding it").next() else {
                        return;
                    };
                    let summary = replay(folder, stream, policy, *seed);
                    done.lock().expect("no job panics holding it")[index] = summary;
                }
            });
        }
    });
    let done = done.into_inner().expect("every worker is done");
    let mean = |summaries: &[Value], figure: &str| {
        let value = |summary: &Value| summary.pointer(figure).and_then(Value::as_f64);
        let each = |summary| value(summary).unwrap_or_else(|| panic!("no {figure} in {summary}"));
        summaries.iter().map(each).sum::<f64>() / SEEDS.len() as f64
    };
    let all = done.chunks(SEEDS.len()).map(|summaries| figures.map(|figure| mean(summaries, figure))).collect();
    for (policy, figures) in policies.iter().zip(&all as &Vec<[f64; N]>) {
        println!("{} {:?}, {policy}: mean over {SEEDS:?} {figures:.4?}", stream.file, stream.arguments);
    }
    all
}

const ACCURACY: &str = "/accuracy";
const TRAIN_CPU: &str = "/measured/train_cpu_s";
const RMSE: &str = "/rmse";

#[test]
fn ageing_gas_sensors_are_followed_by_the_continual_heads_at_a_second_of_training() {
    let Some(folder) = data() else { return };
    let [accuracy, cpu_s] = means(&folder, &GAS, &["continual"], [ACCURACY, TRAIN_CPU])[0];
    assert!(accuracy >= 0.986, "{accuracy}");
    // The binary under test has the profile of the test.
    let cpu_s_max = if cfg!(debug_assertions) { 3.0 } else { 1.0 };
    assert!(cpu_s <= cpu_s_max, "{cpu_s} CPU seconds of training, promised are {cpu_s_max}");
    let [late] = means(&folder, &GAS_LATE, &["continual"], [ACCURACY])[0];
    assert!(late >= 0.967, "{late} with labels 111 rows late");
}

#[test]
fn ageing_gas_sensors_are_followed_by_the_default_triggers() {
    let Some(folder) = data() else { return };
    let [any] = means(&folder, &GAS, &["trigger:any"], [ACCURACY])[0];
    assert!(any >= 0.970, "{any}");
    let [late] = means(&folder, &GAS_LATE, &["trigger:any"], [ACCURACY])[0];
    assert!(late >= 0.955, "{late} with labels 111 rows late");
}

#[test]
fn a_rule_that_turns_round_is_learned_anew() {
    let Some(folder) = data() else { return };
    let found = means(&folder, &SINE, &["continual", "trigger:any"], [ACCURACY]);
    let [[continual], [any]] = found[..] else { panic!("two policies were asked for") };
    assert!(continual >= 0.972, "{continual}");
    assert!(any >= 0.945, "trigger:any {any}");
}

#[test]
fn an_electricity_market_is_followed_with_labels_a_day_late() {
    let Some(folder) = data() else { return };
    let [accuracy] = means(&folder, &ELEC, &["continual"], [ACCURACY])[0];
    assert!(accuracy >= 0.795, "{accuracy}");
}

#[test]
fn sensors_of_the_air_are_kept_in_tune() {
    let Some(folder) = data() else { return };
    let [carbon] = means(&folder, &CARBON, &["continual"], [RMSE])[0];
    assert!(carbon <= 0.34, "RMSE of CO is {carbon} mg/m³");
    let [nitrogen] = means(&folder, &NITROGEN, &["continual"], [RMSE])[0];
    assert!(nitrogen <= 14.6, "RMSE of NO2 is {nitrogen} µg/m³");
}

/// The default policy on streams with timely labels.
#[test]
#[ignore = "long: the default policy on four public streams, three seeds each; run by .ci/nightly"]
fn the_default_policy_keeps_its_promises_with_timely_labels() {
    let Some(folder) = data() else { return };
    let [gas, cpu_s] = means(&folder, &GAS, &["value"], [ACCURACY, TRAIN_CPU])[0];
    assert!(gas >= 0.987, "gas {gas}");
    let cpu_s_max = if cfg!(debug_assertions) { 0.9 } else { 0.3 };
    assert!(cpu_s <= cpu_s_max, "{cpu_s} CPU seconds of training, promised are {cpu_s_max}");
    let [sine] = means(&folder, &SINE, &["value"], [ACCURACY])[0];
    assert!(sine >= 0.972, "sine {sine}");
    let [elec] = means(&folder, &ELEC, &["value"], [ACCURACY])[0];
    assert!(elec >= 0.795, "elec2 {elec}");
    let [carbon] = means(&folder, &CARBON, &["value"], [RMSE])[0];
    let [nitrogen] = means(&folder, &NITROGEN, &["value"], [RMSE])[0];
    assert!(carbon <= 0.34 && nitrogen <= 14.6, "CO {carbon} mg/m³, NO2 {nitrogen} µg/m³");
}

#[test]
#[ignore = "long: the default policy on five public streams with late labels, three seeds each; run by .ci/nightly"]
fn the_default_policy_keeps_its_promises_with_late_labels() {
    let Some(folder) = data() else { return };
    let [gas] = means(&folder, &GAS_LATE, &["value"], [ACCURACY])[0];
    assert!(gas >= 0.967, "gas {gas}");
    let [sine] = means(&folder, &SINE_LATE, &["value"], [ACCURACY])[0];
    assert!(sine >= 0.940, "sine {sine}");
    let [elec] = means(&folder, &ELEC_LATE, &["value"], [ACCURACY])[0];
    assert!(elec >= 0.780, "elec2 {elec}");
    let [carbon] = means(&folder, &CARBON_LATE, &["value"], [RMSE])[0];
    let [nitrogen] = means(&folder, &NITROGEN_LATE, &["value"], [RMSE])[0];
    assert!(carbon <= 0.52 && nitrogen <= 22.8, "CO {carbon} mg/m³, NO2 {nitrogen} µg/m³");
}
