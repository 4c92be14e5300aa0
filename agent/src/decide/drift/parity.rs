//! Parity with the peers' published code: every stream, every detector, every alarm.
//!
//! The synthetic vectors are part of the repository; `HONE_VECTORS` names a directory with more.
#![expect(clippy::disallowed_methods, reason = "these tests read the vector files")]
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::adwin::{Adwin, AdwinSettings};
use super::bins::{BinWindow, FrozenBins};
use super::distances::{distances, psi_of_shares, two_sample_chi_square};
use super::kolmogorov::two_sample_p;
use super::statistics::two_sample;
use super::{Detector, spec::AnyDetector};

/// Directories to check: the one of the repository, and the one of `HONE_VECTORS` if it is set.
fn directories() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors"))];
    match std::env::var_os("HONE_VECTORS") {
        Some(directory) => found.push(directory.into()),
        None => eprintln!("skipped: HONE_VECTORS is not set, only the synthetic vectors are checked"),
    }
    found
}

fn json(directory: &Path, name: &str) -> Value {
    let text = std::fs::read_to_string(directory.join(name)).expect("the vectors are readable");
    serde_json::from_str(&text).expect("the vectors are JSON")
}

fn stream(directory: &Path, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(directory.join(format!("streams/{name}.txt"))).expect("the stream is readable");
    text.lines().map(|line| line.parse().expect("one number a line")).collect()
}

/// Streams of a directory with their expectations.
fn streams(directory: &Path) -> Vec<(String, Vec<f64>, Value)> {
    let all = json(directory, "detectors.json");
    let named = all.as_object().expect("an object").iter().filter(|(name, _)| *name != "_meta");
    named.map(|(name, expected)| (name.clone(), stream(directory, name), expected["detectors"].clone())).collect()
}

fn indices(value: &Value) -> Vec<u64> {
    value.as_array().expect("a list").iter().map(|index| index.as_u64().expect("an index")).collect()
}

#[track_caller]
fn close(what: &str, actual: f64, expected: f64) {
    assert!((actual - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{what}: {actual} is not {expected}");
}

/// Runs `specification` over every stream that lists `name`; alarms and the first warnings must be equal.
fn check(name: &str, specification: &str) {
    for directory in directories() {
        let mut equal = 0;
        for (stream, values, expected) in streams(&directory) {
            let Some(expected) = expected.get(name) else { continue };
            let mut detector: AnyDetector = specification.parse().expect("a known detector");
            let (mut drifts, mut warnings) = (Vec::new(), Vec::new());
            for (row, x) in (0..).zip(values) {
                if let Some(alarm) = detector.update(x) {
                    assert_eq!(alarm.index, row);
                    assert!(alarm.change_point <= row, "{name} on {stream}: {alarm:?}");
                    drifts.push(row);
                } else if detector.is_warning() {
                    warnings.push(row);
                }
            }
            assert_eq!(drifts, indices(&expected["drift"]), "{name} on {stream}");
            if let Some(count) = expected.get("n_warning").and_then(Value::as_u64) {
                assert_eq!(warnings.len() as u64, count, "warnings of {name} on {stream}");
                warnings.truncate(50);
                assert_eq!(warnings, indices(&expected["first_warnings"]), "warnings of {name} on {stream}");
            }
            equal += 1;
        }
        println!("parity: {name}: {equal} streams equal in {}", directory.file_name().unwrap_or_default().display());
        assert!(equal > 0, "no stream lists {name}");
    }
}

#[test]
fn adwin_fires_where_river_does() {
    check("ADWIN(delta=0.002)", "adwin");
    check("ADWIN(delta=0.05)", "adwin:delta=0.05");
    check("ADWIN(delta=0.002,clock=1)", "adwin:delta=0.002,clock=1");
}

#[test]
fn adwin_keeps_the_windows_river_keeps() {
    let default = AdwinSettings::default();
    let cases = [
        ("ADWIN(delta=0.002)", default),
        ("ADWIN(delta=0.05)", AdwinSettings { delta: 0.05, ..default }),
        ("ADWIN(delta=0.002,clock=1)", AdwinSettings { clock: 1, ..default }),
    ];
    for directory in directories() {
        for (stream, values, expected) in streams(&directory) {
            for (name, settings) in cases {
                let mut adwin = Adwin::new(settings).expect("valid settings");
                let mut checkpoints =
                    expected[name]["checkpoints_[i,width,mean,var]"].as_array().expect("a list").iter();
                for (row, x) in (0..).zip(&values) {
                    adwin.update(*x);
                    if row % 1000 == 999 {
                        let checkpoint = checkpoints.next().expect("one per 1,000 rows");
                        let number = |place: usize| checkpoint[place].as_f64().expect("a number");
                        assert_eq!(checkpoint[0].as_u64(), Some(row));
                        close(&format!("width of {name} on {stream}"), adwin.width() as f64, number(1));
                        close(&stream, adwin.mean(), number(2));
                        close(&stream, adwin.deviation_sum(), number(3));
                    }
                }
                assert!(checkpoints.next().is_none());
            }
        }
    }
}

#[test]
fn page_hinkley_fires_where_river_does() {
    check("PageHinkley(default)", "page_hinkley");
    check("PageHinkley(threshold=20,delta=0.05,mode=up)", "page_hinkley:threshold=20,delta=0.05,mode=up");
}

#[test]
fn ddm_and_eddm_fire_and_warn_where_river_does() {
    check("DDM", "ddm");
    check("EDDM", "eddm");
}

#[test]
fn hddm_fires_and_warns_where_river_does() {
    check("HDDM_A", "hddm_a");
    check("HDDM_A(two_sided)", "hddm_a:two_sided=true");
    check("HDDM_W", "hddm_w");
    check("HDDM_W(two_sided)", "hddm_w:two_sided=true");
}

#[test]
fn fhddm_fires_where_river_does() {
    check("FHDDM", "fhddm");
}

#[test]
fn kswin_fires_where_river_does() {
    check("KSWIN(seed=42)", "kswin:seed=42");
}

#[test]
fn distances_of_numeric_pairs_equal_the_published_ones() {
    for directory in directories() {
        let all = json(&directory, "distances.json");
        let mut equal = 0;
        for pair in all["pairs"].as_array().expect("a list") {
            let Some(name) = pair["stream"].as_str() else { continue };
            let values = stream(&directory, name);
            let range = |key: &str| {
                let ends = indices(&pair[key]);
                &values[usize::try_from(ends[0]).unwrap()..usize::try_from(ends[1]).unwrap()]
            };
            let (reference, current) = (range("ref"), range("cur"));
            let what = format!("{name} {}", pair["ref"]);

            let bins = FrozenBins::from_numbers(reference.iter().copied(), 10, None).unwrap();
            let mut window = BinWindow::new(&bins, current.len());
            for x in current {
                window.record(bins.place(*x));
            }
            let frozen = &pair["frozen10"];
            let edges = frozen["edges"].as_array().unwrap();
            assert_eq!(bins.edges().len(), edges.len(), "{what}");
            for (edge, expected) in bins.edges().iter().zip(edges) {
                close(&what, *edge, expected.as_f64().unwrap());
            }
            assert_eq!(bins.counts(), indices(&frozen["ref_counts"]), "{what}");
            assert_eq!(window.counts(), indices(&frozen["cur_counts"]), "{what}");
            let reading = distances(&bins, &window);
            for (key, actual) in [
                ("psi", reading.psi.psi),
                ("js_distance_nat", reading.jensen_shannon),
                ("tvd", reading.total_variation),
                ("hellinger", reading.hellinger),
                ("ks_on_bins", reading.binned_ks),
            ] {
                close(&format!("{key} of {what}"), actual, frozen[key].as_f64().unwrap());
            }

            let statistics = two_sample(reference, current).unwrap();
            for (key, actual) in [
                ("ks_D", statistics.ks),
                ("wasserstein1", statistics.wasserstein),
                ("energy", statistics.energy),
                ("cvm_stat", statistics.cramer_von_mises),
            ] {
                if let Some(expected) = pair[key].as_f64() {
                    assert!(
                        (actual - expected).abs() <= 1e-9 * expected.abs().max(1e-3),
                        "{key} of {what}: {actual}, not {expected}"
                    );
                }
            }
            let p = two_sample_p(statistics.ks, reference.len() as u64, current.len() as u64);
            let expected = pair["ks_p_asymp"].as_f64().unwrap();
            assert!((p - expected).abs() <= 1e-6, "p of {what}: {p}, not {expected}");
            equal += 1;
        }
        println!("parity: distances: {equal} pairs equal in {}", directory.file_name().unwrap_or_default().display());
        assert!(equal >= 30);
    }
}

#[test]
fn distances_of_categorical_pairs_equal_the_published_ones() {
    for directory in directories().into_iter().skip(1) {
        for pair in json(&directory, "distances.json")["pairs"].as_array().expect("a list") {
            if pair.get("categorical").is_none() {
                continue;
            }
            let (a, b) = (indices(&pair["ref_counts"]), indices(&pair["cur_counts"]));
            let shares = |counts: &[u64]| -> Vec<f64> {
                let rows: u64 = counts.iter().sum();
                counts.iter().map(|count| *count as f64 / rows as f64).collect()
            };
            close("psi", psi_of_shares(&shares(&a), &shares(&b)), pair["psi_floor1e-4"].as_f64().unwrap());
            // The published test corrects for continuity when there are two categories; ours never does.
            if a.len() > 2 {
                let p = two_sample_chi_square(&a, &b).p;
                assert!((p - pair["chi2_contingency_p"].as_f64().unwrap()).abs() < 1e-6, "{p}");
            }
        }
    }
}

#[test]
fn varied_parameters_and_streams_give_the_alarms_and_warnings_river_gives() {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/varied.json"));
    let text = std::fs::read_to_string(path).expect("the vectors are in the repository");
    let cases: Vec<Value> = serde_json::from_str(&text).expect("they are JSON");
    let mut fired = 0;
    for (number, case) in cases.iter().enumerate() {
        let specification = case["detector"].as_str().expect("a specification");
        let mut detector: AnyDetector = specification.parse().expect("a known detector with river's parameters");
        let (mut drifts, mut warnings) = (Vec::new(), Vec::new());
        for (row, x) in (0..).zip(case["values"].as_array().expect("a list")) {
            if detector.update(x.as_f64().expect("a number")).is_some() {
                drifts.push(row);
            } else if detector.is_warning() {
                warnings.push(row);
            }
        }
        fired += drifts.len();
        assert_eq!(drifts, indices(&case["drift"]), "case {number}: {specification}");
        assert_eq!(warnings, indices(&case["warning"]), "warnings of case {number}: {specification}");
    }
    assert!(cases.len() >= 70 && fired > 300, "{} cases with {fired} alarms", cases.len());
}
