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
        (vec!["--detector", "adwin", "--input", &table], 4, "a, b"),
        (vec!["--detector", "adwin:dleta=1", "--input", &words], 2, "delta"),
        (vec!["--detector", "adwni", "--input", &words], 2, "adwin"),
    ] {
        let output = scan(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(place) && !said.contains("panicked"), "{arguments:?}: {said}");
    }
}

#[test]
fn streams_of_other_systems_and_from_standard_input_are_read_alike() {
    let folder = tempfile::tempdir().expect("a folder");
    let values = ["0", "1", "", "NaN", "inf", "-1e300", "0.5", "null"];
    let lines = values.join("\n");
    let files = [
        ("unix.txt", format!("{lines}\n")),
        ("dos.txt", format!("\u{feff}{}\r\n", values.join("\r\n"))),
        ("one.csv", format!("error\n{}\n", values.map(|value| if value.is_empty() { "NA" } else { value }).join("\n"))),
    ];
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::write(&path, &text).expect("written");
        let output = scan(&["--json", "--detector", "adwin", "--input", &path.display().to_string()]);
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((found["n"].as_u64(), found["skipped"].as_u64()), (Some(8), Some(5)), "{name}: {found}");
        let mut piped = Command::new(hone())
            .args(["drift", "scan", "--json", "--detector", "adwin", "--input", "-"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the built binary starts");
        std::io::Write::write_all(&mut piped.stdin.take().expect("a pipe"), text.as_bytes()).expect("it reads");
        let output = piped.wait_with_output().expect("it ends");
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).expect("JSON"), found, "{name}");
    }
    let path = folder.path().join("empty.txt").display().to_string();
    std::fs::write(&path, "").expect("written");
    for (input, says) in [(path.as_str(), "the file is empty"), ("nowhere.txt", "no such file"), ("/", "cannot read /")]
    {
        let output = scan(&["--detector", "adwin", "--input", input]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(4) && said.contains(says), "{input}: {said}");
    }
    let constant = folder.path().join("constant.txt").display().to_string();
    std::fs::write(&constant, "1e9\n".repeat(3000)).expect("written");
    for detector in ["adwin", "page_hinkley", "kswin", "hddm_a", "fhddm"] {
        let output = scan(&["--json", "--detector", detector, "--input", &constant]);
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&found["n"], &found["drift"]), (&3000.into(), &serde_json::json!([])), "{detector}");
    }
}
