//! `hone drift scan`: the published detectors, alarm by alarm, and bad input.
use std::path::Path;
use std::process::{Command, Output};

use hone_tests::hone;
use serde_json::Value;

fn scan(arguments: &[&str]) -> Output {
    Command::new(hone()).args(["drift", "scan"]).args(arguments).output().expect("the built binary starts")
}

#[test]
fn recorded_streams_give_the_published_alarms() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let text = std::fs::read_to_string(folder.join("detectors.json")).expect("the vectors are in the repository");
    let vectors: Value = serde_json::from_str(&text).expect("they are JSON");
    let known = [
        ("ADWIN(delta=0.002,clock=1)", "adwin:delta=0.002,clock=1"),
        ("PageHinkley(threshold=20,delta=0.05,mode=up)", "page_hinkley:threshold=20,delta=0.05,mode=up"),
        ("DDM", "ddm"),
        ("HDDM_A(two_sided)", "hddm_a:two_sided=true"),
    ];
    let mut compared = 0;
    for stream in ["abrupt_mean_1sd", "multi_step", "bern_step_up"] {
        for (published, name) in known {
            let expected = &vectors[stream]["detectors"][published]["drift"];
            if expected.is_null() {
                continue;
            }
            let file = folder.join("streams").join(format!("{stream}.txt"));
            let output = scan(&["--json", "--detector", name, "--input", &file.display().to_string()]);
            let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!(&found["drift"], expected, "{name} on {stream}");
            compared += 1;
        }
    }
    assert!(compared >= 8, "only {compared} lists were found in the vectors");
}

#[test]
fn bad_streams_and_detectors_are_answered_with_the_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let gaps = write("gaps.txt", "1\nNaN\n\ninf\n2\n");
    let output = scan(&["--json", "--detector", "adwin", "--input", &gaps]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((found["n"].as_u64(), found["skipped"].as_u64()), (Some(5), Some(3)));
    let words = write("words.txt", "1\ntwo\n");
    let table = write("table.csv", "a,b\n1,2\n3,x\n");
    for (arguments, code, place) in [
        (vec!["--detector", "adwin", "--input", &words], 4, "words.txt:2"),
        (vec!["--detector", "adwin", "--input", &table, "--column", "b"], 4, "table.csv:3"),
        (vec!["--detector", "adwin", "--input", &table, "--column", "c"], 4, "a, b"),
        (vec!["--detector", "adwin:dleta=1", "--input", &words], 2, "delta"),
        (vec!["--detector", "adwni", "--input", &words], 2, "adwin"),
    ] {
        let output = scan(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(place) && !said.contains("panicked"), "{arguments:?}: {said}");
    }
}
