//! `hone doctor` and `hone init` as a person runs them: exit codes, JSON, a real broker that grants and one that denies.
use std::fs;

use hone_tests::agent::Device;
use hone_tests::broker::Broker;
use serde_json::Value;

/// What `hone doctor` says of a made-up gateway: exit code and findings.
fn doctor(device: &Device) -> (Option<i32>, Vec<Value>) {
    let root = device.sensors();
    fs::create_dir_all(&root).expect("a temporary folder can be written");
    let (code, text, error) = device.ask(&["doctor", "--json", "--root", &root.display().to_string()]);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{error}"));
    (code, report["findings"].as_array().expect("findings").clone())
}

fn level(findings: &[Value], check: &str) -> String {
    let found = findings.iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("no {check}"))["level"].as_str().expect("a level").to_owned()
}

#[test]
fn warnings_are_no_failure_a_refused_configuration_is_one_and_the_rest_is_looked_at_all_the_same() {
    let device = Device::new();
    let (code, findings) = doctor(&device);
    assert_eq!((code, level(&findings, "heat")), (Some(0), "warning".to_owned()));
    assert!(findings.iter().all(|finding| finding["level"] == "good" || finding["costs"].is_string()), "{findings:?}");
    device.set("[cycle]\npolcy = \"value\"\n");
    let (code, findings) = doctor(&device);
    assert_eq!(
        (code, level(&findings, "config"), level(&findings, "heat")),
        (Some(3), "bad".to_owned(), "warning".to_owned())
    );
}

#[test]
fn a_broker_is_asked_what_it_grants() {
    let device = Device::new();
    let Some(open) = Broker::start("") else { return };
    device.set(&format!("[mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\ndevice = \"press-1\"\n", open.port));
    let (_, findings) = doctor(&device);
    assert_eq!(level(&findings, "broker"), "good", "{findings:?}");

    let rules = device.path().join("rules");
    fs::write(&rules, "topic read other/#\n").expect("a temporary folder can be written");
    let Some(closed) = Broker::start(&format!("acl_file {}", rules.display())) else { return };
    device.set(&format!("[mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\ndevice = \"press-1\"\n", closed.port));
    let (code, findings) = doctor(&device);
    let broker = findings.iter().find(|finding| finding["check"] == "broker").expect("a finding");
    assert_eq!((code, broker["level"].as_str()), (Some(9), Some("bad")), "{broker}");
    // Some versions of mosquitto end a connection whose last will they would not publish, others refuse the first report.
    let found = broker["found"].as_str().expect("words");
    assert!(found.contains("does not let us in") || found.contains("denies reporting"), "{broker}");
}

#[test]
fn init_writes_what_it_is_told_and_refuses_what_the_agent_would_refuse() {
    let device = Device::new();
    let file = device.path().join("new.toml").display().to_string();
    let hone = |more: &[&str]| device.ask(&[&["init", "-o", &file], more].concat());
    let (code, _, error) = hone(&["--hours", "25-99"]);
    assert_eq!((code, fs::exists(&file).expect("a folder")), (Some(3), false), "{error}");
    let (code, _, error) = hone(&["--broker", "mqtt://b:1883", "--device", "press-7", "--keep-mb", "64"]);
    assert_eq!(code, Some(0), "{error}");
    let text = fs::read_to_string(&file).expect("it was written");
    assert!(text.contains("\nkeep_bytes = 67108864\n") && text.contains("\ndevice = \"press-7\"\n"), "{text}");
    assert_eq!(hone(&[]).0, Some(9), "a file that is there is left alone");
}
