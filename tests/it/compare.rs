//! `hone drift compare`, `calibrate` and `--watch`, and `hone rebaseline`: figures of others, a quiet recording, a running agent.
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hone_tests::agent::Device;
use hone_tests::until;
use hone_tests::world::{self, Law, World, sample};
use serde_json::Value;

use hone_tests::bench::{Bench, Chance};

/// Directories with published figures: the one of the repository, and the one of `HONE_VECTORS` if it is set.
fn directories() -> Vec<PathBuf> {
    let mut found = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")];
    match std::env::var_os("HONE_VECTORS") {
        Some(directory) => found.push(directory.into()),
        None => eprintln!("skipped: HONE_VECTORS is not set, only the vectors of the repository are compared"),
    }
    found
}

#[track_caller]
fn near(what: &str, found: &Value, expected: &Value, tolerance: f64) {
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{what}: {value} is no number"));
    let (found, expected) = (number(found), number(expected));
    assert!((found - expected).abs() <= tolerance * expected.abs().max(1e-3), "{what}: {found}, not {expected}");
}

#[test]
fn published_distances_and_p_values_are_reproduced() {
    let bench = Bench::new();
    for directory in directories() {
        let text = fs::read_to_string(directory.join("distances.json")).expect("the vectors can be read");
        let all: Value = serde_json::from_str(&text).expect("they are JSON");
        let (mut numbers, mut categories) = (0, 0);
        for pair in all["pairs"].as_array().expect("a list") {
            if let Some(stream) = pair["stream"].as_str() {
                numbers += 1;
                let stream = fs::read_to_string(directory.join(format!("streams/{stream}.txt"))).expect("a stream");
                let lines: Vec<&str> = stream.lines().collect();
                let part = |key: &str| {
                    let end =
                        |place: usize| usize::try_from(pair[key][place].as_u64().expect("an index")).expect("small");
                    lines[end(0)..end(1)].join("\n")
                };
                bench.write("reference.txt", part("ref"));
                bench.write("current.txt", part("cur"));
                let found = compared(&bench, "reference.txt", "current.txt");
                let what = |key: &str| format!("{key} of {} {}", pair["stream"], pair["ref"]);
                for (key, published) in [
                    ("psi", "psi"),
                    ("js", "js_distance_nat"),
                    ("tvd", "tvd"),
                    ("hellinger", "hellinger"),
                    ("ks_binned", "ks_on_bins"),
                ] {
                    let expected = &pair["frozen10"][published];
                    let gap = found[key].as_f64().expect("a number") - expected.as_f64().expect("a number");
                    assert!(gap.abs() <= 1e-9, "{}: {gap}", what(key));
                }
                for (key, published) in [
                    ("ks", "ks_D"),
                    ("wasserstein", "wasserstein1"),
                    ("energy", "energy"),
                    ("cramer_von_mises", "cvm_stat"),
                ] {
                    if !pair[published].is_null() {
                        near(&what(key), &found[key], &pair[published], 1e-9);
                    }
                }
                let gap = found["ks_p"].as_f64().expect("a number") - pair["ks_p_asymp"].as_f64().expect("a number");
                assert!(gap.abs() <= 1e-6, "{}: {gap}", what("ks_p"));
            } else {
                categories += 1;
                let side = |key: &str| {
                    let counts =
                        pair["categorical"].as_array().expect("keys").iter().zip(pair[key].as_array().expect("counts"));
                    counts.fold("c\n".to_owned(), |text, (name, count)| {
                        let line = format!("k{}\n", name.as_str().expect("a name"));
                        text + &line.repeat(usize::try_from(count.as_u64().expect("a count")).expect("small"))
                    })
                };
                bench.write("reference.csv", side("ref_counts"));
                bench.write("current.csv", side("cur_counts"));
                let found = compared(&bench, "reference.csv", "current.csv");
                // Categories the reference does not know are one bin here.
                let unseen = pair["ref_counts"].as_array().expect("counts").iter().filter(|count| **count == 0).count();
                if unseen <= 1 {
                    near("psi", &found["psi"], &pair["psi_floor1e-4"], 1e-9);
                    // The published test corrects for continuity when there are two categories; ours never does.
                    if pair["ref_counts"].as_array().expect("counts").len() > 2 {
                        near("chi2", &found["chi_square_p"], &pair["chi2_contingency_p"], 1e-6);
                    }
                }
            }
        }
        println!("compared {numbers} pairs of numbers and {categories} of categories");
        assert!(numbers >= 30, "only {numbers} pairs were found");
    }
}

fn compared(bench: &Bench, reference: &str, current: &str) -> Value {
    bench.facts(&["drift", "compare", "--reference", reference, "--current", current])["columns"][0].clone()
}

/// A day at a press: `temp` moves by `shift`, `mode` turns over if it does, `load` and the clock stay.
fn press(seed: u64, rows: usize, shift: f64) -> String {
    let mut chance = Chance(seed);
    let mut text = "at,temp,load,mode,extra\n".to_owned();
    for row in 0..rows {
        let [temp, load, mode] = [(); 3].map(|()| chance.draw());
        let mode = if (mode < 0.8) == (shift == 0.0) { "run" } else { "idle" };
        let temp = if row % 50 == 0 { String::new() } else { format!("{:.6}", temp + shift) };
        writeln!(text, "t{row},{temp},{load:.6},{mode},1").expect("writing to a text");
    }
    text
}

#[test]
fn two_recordings_are_compared_column_by_column_and_what_is_left_out_is_named() {
    let bench = Bench::new();
    bench.write("january.csv", press(1, 1000, 0.0));
    bench.write("june.csv", press(2, 500, 0.4).replace(",extra", ",other"));
    bench.write("february.csv", press(3, 500, 0.0));
    let ask = |current: &'static str| ["drift", "compare", "--all", "--reference", "january.csv", "--current", current];
    let facts = bench.facts(&ask("june.csv"));
    let verdicts = |facts: &Value| {
        let columns = facts["columns"].as_array().expect("columns").iter();
        columns.map(|column| format!("{} {}", column["name"], column["verdict"]).replace('"', "")).collect::<Vec<_>>()
    };
    assert_eq!(verdicts(&facts), ["temp drift", "load none", "mode drift"]);
    assert_eq!(facts["columns"][0]["current"], serde_json::json!({"rows": 500, "missing": 10, "infinite": 0}));
    let out: Vec<_> = facts["left_out"].as_array().expect("a list").iter().map(|out| out["name"].clone()).collect();
    assert_eq!(out, ["at", "extra", "other"]);
    assert_eq!(verdicts(&bench.facts(&ask("february.csv"))), ["temp none", "load none", "mode none", "extra none"]);
    let printed = bench.does(&ask("june.csv"));
    for part in
        ["drift: psi above 0.25 and p at most 0.01", "left out: at, text", "left out: other, only in the current"]
    {
        assert!(printed.contains(part), "`{part}` is missing in:\n{printed}");
    }
    bench.write("few.txt", "1\n2\ninf\n\n");
    let few = bench.facts(&["drift", "compare", "--reference", "few.txt", "--current", "few.txt"]);
    assert_eq!(few["columns"][0]["verdict"], "too_few_rows");
    assert_eq!(few["columns"][0]["reference"], serde_json::json!({"rows": 4, "missing": 1, "infinite": 1}));
    let column = |name: &'static str| [&ask("june.csv")[..2], &["--column", name], &ask("june.csv")[3..]].concat();
    bench.refuses(&column("tmep"), 4, &["no column `tmep`", "did you mean `temp`?"]);
    bench.refuses(&column("at"), 4, &["column `at` is text"]);
    bench.refuses(
        &["drift", "compare", "--reference", "few.txt", "--current", "june.csv"],
        4,
        &["no column that can be compared"],
    );
    bench.refuses(&["drift", "compare", "--reference", "-", "--current", "-"], 2, &["standard input"]);
    let wide: Vec<String> = (0..900).map(|column| format!("c{column}")).collect();
    bench.write("wide.csv", format!("{}\n{}\n", wide.join(","), vec!["1"; 900].join(",")));
    bench.refuses(
        &["drift", "compare", "--reference", "wide.csv", "--current", "few.txt"],
        4,
        &["`c0` only", "and 889 more"],
    );
    bench.refuses(&["drift", "scan", "--detector", "adwin", "--input", "wide.csv"], 4, &["c0, c1", "c11 and 888 more"]);
}

#[test]
fn a_quiet_recording_gives_settings_that_the_configuration_takes_and_delays_that_fall_with_the_shift() {
    let bench = Bench::new();
    bench.write("quiet.csv", press(4, 2500, 0.0));
    let ask = ["drift", "calibrate", "--data", "quiet.csv", "--false-alarms", "1 per 30 days", "--rate", "10/min"];
    let facts = bench.facts(&ask);
    assert_eq!(facts["run_length_rows"], 432_000.0);
    assert_eq!(bench.facts(&ask), facts, "the same seed gives the same figures");
    let columns = facts["columns"].as_array().expect("columns");
    assert_eq!(columns.iter().map(|column| column["name"].clone()).collect::<Vec<_>>(), ["temp", "load", "extra"]);
    for column in &columns[..2] {
        let delays = column["delays"].as_array().expect("delays");
        assert_eq!(delays.len(), 6, "{column}");
        for test in delays.chunks(3) {
            let median = |place: usize| test[place]["median_rows"].as_u64().unwrap_or(u64::MAX);
            assert!(median(0) > median(1) && median(1) > median(2) && median(2) < 300, "{column}");
            assert_eq!(test[2]["median_s"].as_f64().map(f64::round), Some(median(2) as f64 * 6.0));
        }
        // The guard's running correlation of independent rows may wander past its limit once: short blocks, never long ones.
        let blocks = column["block_rows"].as_u64().expect("a number");
        assert!(column["quiet"] == true && blocks <= 8 && column["mean_alarms"] == 0, "{column}");
    }
    assert!((columns[0]["missing_rate"].as_f64().expect("a rate") - 0.02).abs() < 1e-9);
    assert_eq!(columns[2]["delays"], serde_json::json!([]), "a constant has no deviation to be shifted by");
    // The excerpt is taken as it is printed: the agent is not reached, but the file is read.
    fs::create_dir(bench.path("empty")).expect("a temporary folder can be written");
    let printed = bench.does(&ask);
    let excerpt = &printed[printed.find("[cycle.watch]").expect("an excerpt")..];
    assert_eq!(excerpt, facts["config"].as_str().map(|text| format!("{text}\n")).expect("a text"));
    bench.write("hone.toml", excerpt);
    bench.refuses(&["status", "--config", "hone.toml", "--state-dir", "empty"], 8, &["no agent answers"]);
}

#[test]
fn what_cannot_be_calibrated_is_refused_with_what_would_do() {
    let bench = Bench::new();
    bench.write("quiet.csv", press(4, 1200, 0.0));
    bench.write("short.csv", press(4, 940, 0.0));
    bench.write("times.csv", "at,x\n5,1\n".to_owned() + &"4,1\n".repeat(1000));
    let ask = |data: &'static str, target: &'static str, rate: &'static str| {
        vec!["drift", "calibrate", "--data", data, "--false-alarms", target, "--rate", rate]
    };
    let month = "1 per 30 days";
    bench.refuses(&ask("short.csv", month, "10/min"), 4, &["940 rows are too few: 60 more are needed"]);
    bench.refuses(&ask("quiet.csv", month, "often"), 2, &["--rate", "\"10/min\"", "\"1 per 5 s\""]);
    bench.refuses(
        &ask("quiet.csv", "seldom", "10/min"),
        2,
        &["--false-alarms", "\"1 per 30 days\"", "\"1 per 10000 rows\""],
    );
    bench.refuses(&ask("quiet.csv", "1 per 1 rows", "10/min"), 2, &["cannot be promised"]);
    bench.refuses(&ask("quiet.csv", month, "1e300/s"), 2, &["in 2.5920e306 rows cannot be promised"]);
    let loss = [ask("quiet.csv", month, "1/s"), vec!["--loss", "lss"]].concat();
    bench.refuses(&loss, 4, &["quiet.csv:1", "no column `lss` for --loss"]);
    let timed = |data, column| [ask(data, month, "1/s"), vec!["--time", column]].concat();
    bench.refuses(&timed("times.csv", "at"), 4, &["times.csv:3", "goes back"]);
    bench.refuses(&timed("quiet.csv", "at"), 4, &["quiet.csv:2", "is no time"]);
    let only = [ask("quiet.csv", month, "1/s"), vec!["--column", "mode"]].concat();
    bench.refuses(&only, 4, &["quiet.csv:2"]);
}

/// Sends rows without labels, so that nothing is trained meanwhile, and waits until the loop has looked at them.
fn send(agent: &hone_tests::agent::Agent, world: &mut World, law: Law, rows: usize) {
    let seen = || agent.socket("GET", "/v1/drift", "").json()["samples"].as_u64().expect("a count");
    let body: String = (0..rows).map(|_| sample(world.row(law).0)).collect();
    let before = seen();
    assert_eq!(agent.socket("POST", "/v1/samples", &body).status, 200);
    until("the rows", || (seen() == before + rows as u64).then_some(()));
}

#[test]
fn a_new_baseline_takes_the_newest_rows_for_normal_and_too_few_are_refused() {
    let device = Device::new();
    let base = world::train(device.path(), "base", 1, false);
    let agent = device.start(Some(&base));
    let mut world = World::new(5);
    send(&agent, &mut world, Law::Old, 120);
    let (code, _, said) = device.ask(&["rebaseline"]);
    assert!(code == Some(9) && said.contains("120 are stored: 80 are missing"), "{said}");
    send(&agent, &mut world, Law::Old, 280);
    send(&agent, &mut world, Law::New, 400);
    let first = || agent.socket("GET", "/v1/drift", "").json()["features"][0].clone();
    let moved = first()["psi"]["value"].as_f64().expect("a psi");
    assert!(moved > 0.25, "{moved}");
    let (_, picture, _) = device.ask(&["drift"]);
    assert!(picture.contains("!  ") && picture.contains("NO DRIFT"), "{picture}");
    let (code, said, error) = device.ask(&["rebaseline", "--rows", "250"]);
    assert!(code == Some(0) && said.contains("the newest 250 rows"), "{said}{error}");
    assert_eq!(agent.reports("rebaseline")[0]["rows"], 250);
    assert_eq!(first()["psi"], Value::Null, "no verdict before the window has filled again");
    send(&agent, &mut world, Law::New, 400);
    let same = first()["psi"]["value"].as_f64().expect("a psi");
    assert!(same < 0.25, "{same}");
    let (code, said, _) = device.ask(&["rebaseline", "--since", "2000-01-01T00:00:00Z", "--json"]);
    assert!(code == Some(0) && said.contains("\"rows\":1200"), "{said}");
    let (code, _, said) = device.ask(&["rebaseline", "--since", "2999-01-01T00:00:00Z"]);
    assert!(code == Some(9) && said.contains("0 are stored: 200 are missing"), "{said}");
    let (code, _, said) = device.ask(&["rebaseline", "--since", "yesterday"]);
    assert!(code == Some(4) && said.contains("`yesterday` is no moment"), "{said}");
    assert_eq!(device.ask(&["rebaseline", "--rows", "199"]).0, Some(2));
    assert_eq!(agent.tcp("POST", "/v1/rebaseline", "{}").status, 403, "commands come over the socket");
}

#[test]
fn the_picture_is_followed_until_ctrl_c_and_ends_with_the_agent() {
    let device = Device::new();
    let base = world::train(device.path(), "base", 1, false);
    let agent = device.start(Some(&base));
    let follow = |arguments: &[&str]| {
        let command = [&["drift", "--watch", "--every", "0.1"], arguments].concat();
        let mut child: std::process::Child =
            device.command(&command).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("hone starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map(|line| line.expect("a line"));
        (child, lines)
    };
    let (mut json, mut objects) = follow(&["--json"]);
    let (mut text, mut lines) = follow(&[]);
    let next = |objects: &mut dyn Iterator<Item = String>| -> Value {
        serde_json::from_str(&objects.next().expect("a line")).expect("an object per line")
    };
    assert_eq!(next(&mut objects)["samples"], 0);
    assert!(lines.any(|line| line.starts_with("trigger")));
    send(&agent, &mut World::new(1), Law::Old, 7);
    assert_eq!(next(&mut objects)["samples"], 7);
    let changed = lines.next().expect("a changed line");
    assert!(changed.trim_start().starts_with("a ") && changed.contains(" 7 "), "only what changed is told: {changed}");
    let killed = Command::new("kill").args(["-INT", &json.id().to_string()]).status().expect("kill can be started");
    assert!(killed.success());
    assert_eq!(json.wait().expect("a child of ours").code(), Some(0), "Ctrl-C is an orderly end");
    drop(agent);
    assert_eq!(text.wait().expect("a child of ours").code(), Some(8));
}
