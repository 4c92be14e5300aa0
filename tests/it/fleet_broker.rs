//! The broker that `hone-fleet broker write` sets up: devices enrolled into it, kept apart, and what happens when a rule is missing.
use std::fs;
use std::path::Path;

use hone_tests::agent::Device;
use hone_tests::broker::{Broker, free_port};
use hone_tests::fleet::{Console, DEVICE, keys_are_promised};
use hone_tests::{until, world};
use serde_json::{Value, json};

/// A folder with authority, rules and certificates, and the broker that runs on them.
struct Site {
    folder: tempfile::TempDir,
    broker: Broker,
    console: Console,
    url: String,
}

/// `change` edits the access rules before the broker starts.
fn site(change: impl Fn(String) -> String) -> Option<Site> {
    site_with(change, |configuration| configuration)
}

/// The same, with a configuration that is edited too.
fn site_with(change: impl Fn(String) -> String, configure: impl Fn(String) -> String) -> Option<Site> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let _ = hone_tests::hone();
    let port = free_port();
    let url = format!("mqtts://localhost:{port}");
    let path = folder.path();
    let port_text = port.to_string();
    let alone = Console::new(path, &[]);
    let neighbours = ["--home-assistant", "--thin-edge"];
    let write = ["broker", "write", "site", "--host", "localhost", "--port", &port_text];
    let written = alone.json(&[&write[..], &neighbours].concat());
    assert_eq!(written["controllers"], json!(["ctl1"]));
    assert_eq!(alone.ask(&["broker", "write", "site", "--host", "localhost"]).0, Some(7), "nothing is overwritten");
    let rules = path.join("site/hone.acl");
    fs::write(&rules, change(fs::read_to_string(&rules).expect("rules"))).expect("a temporary folder");
    let configuration = fs::read_to_string(path.join("site/mosquitto.conf")).expect("a configuration");
    let broker = Broker::start_with(&configure(configuration), port)?;
    let with = [
        "--broker",
        &url,
        "--ca",
        "site/ca.pem",
        "--certificate",
        "site/ctl1.pem",
        "--certificate-key",
        "site/ctl1.key",
    ];
    let console = Console::new(path, &with);
    Some(Site { folder, broker, console, url })
}

fn broken(report: &Value) -> Vec<String> {
    let attempts = report["attempts"].as_array().expect("attempts").iter();
    attempts
        .filter(|attempt| attempt["held"] == false)
        .map(|attempt| attempt["attempt"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn check(site: &Site) -> (Option<i32>, Value) {
    let (code, out, err) = site.console.ask(&["broker", "check", "site", "--json"]);
    let report = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    keys_are_promised("broker check", &report, &site.console.ask(&["broker", "check", "--help"]).1);
    (code, report)
}

#[test]
fn no_device_reads_writes_or_enters_as_another_and_the_check_finds_a_rule_that_is_missing() {
    let Some(tight) = site(|rules| rules) else { return };
    let (code, report) = check(&tight);
    assert_eq!((code, broken(&report), &report["held"]), (Some(0), Vec::new(), &json!(true)));
    assert!(report["attempts"].as_array().is_some_and(|attempts| attempts.len() >= 12), "{report}");
    drop(tight);
    // Each hole is found by what it lets through.
    for (hole, found) in [
        ("pattern read hone/v1/d/+/down/#\n", "a device reads what is sent to another"),
        ("pattern read hone/v1/d/+/up/#\n", "a device reads what another says"),
        ("pattern write hone/v1/d/+/up/#\n", "a device speaks as another"),
        ("pattern write hone/v1/d/+/down/#\n", "a device commands another, or its group"),
        ("pattern write hone/v1/ctl/#\n", "a device speaks as a controller"),
        ("pattern write hone/v1/d/%u/down/#\n", "a device commands itself"),
        ("pattern write hone/v1/g/all/down/notice/freeze\n", "a device commands another, or its group"),
        ("pattern read hone/v1/ctl/#\n", "a device reads what controllers tell each other"),
        ("pattern write hone/v1/ctl/+/state\n", "a controller speaks as another"),
    ] {
        let Some(leaky) = site(|rules| format!("{hole}{rules}")) else { return };
        let (code, report) = check(&leaky);
        assert!(code == Some(9) && broken(&report).contains(&found.to_owned()), "{hole}: {report}");
    }
}

#[test]
fn the_check_finds_a_broker_that_goes_by_what_clients_say_of_themselves_or_lets_strangers_in() {
    let by_client_id = |rules: String| format!("pattern write hone/v1/d/%c/up/#\n{rules}");
    let own_ids = |text: String| text.replace("use_username_as_clientid true", "use_username_as_clientid false");
    let Some(named) = site_with(by_client_id, own_ids) else { return };
    let (code, report) = check(&named);
    let found = broken(&report);
    assert_eq!(code, Some(9), "{report}");
    for attempt in ["a device throws another out by its name", "a device speaks as another by its client id"] {
        assert!(found.contains(&attempt.to_owned()), "{attempt}: {report}");
    }
    drop(named);
    // Whoever has no certificate is nobody, and nobody gets in.
    let strangers = |text: String| {
        ["require_certificate", "use_identity_as_username", "use_username_as_clientid"]
            .iter()
            .fold(text, |text, rule| text.replace(&format!("{rule} true"), &format!("{rule} false")))
            .replace("allow_anonymous false", "allow_anonymous true")
    };
    let Some(open) = site_with(|_| "topic readwrite #\n".to_owned(), strangers) else { return };
    let (code, report) = check(&open);
    let found = broken(&report);
    assert_eq!(code, Some(9), "{report}");
    for attempt in ["a stranger without a certificate connects", "a certificate of another authority connects"] {
        assert!(found.contains(&attempt.to_owned()), "{attempt}: {report}");
    }
}

fn joined(site: &Site, name: &str, device: &str, public: &str) -> Device {
    let trust = format!("{public}=operator,admin");
    let enroll = ["enroll", device, "--authority", "site", "--trust", &trust, "--group", "hall-3", "--out", name];
    // The console's own certificate is named too; it is not what is enrolled.
    assert_eq!(site.console.json(&enroll)["device"], device);
    let machine = Device::new();
    let (code, out, err) = machine.ask(&["join", &site.folder.path().join(name).display().to_string()]);
    assert!(code == Some(0) && out.contains(device), "{out}{err}");
    machine
}

fn secret(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).expect("a key").permissions().mode() & 0o777
}

#[test]
fn an_enrolled_device_joins_is_steered_over_tls_and_its_certificate_is_worth_nothing_to_another() {
    let Some(site) = site(|rules| rules) else { return };
    let public = site.console.keygen("ada.key");
    let device = joined(&site, "new", DEVICE, &public);
    assert_eq!(secret(&device.path().join("fleet/device.key")), 0o600);
    let again = device.ask(&["join", &site.folder.path().join("new").display().to_string()]);
    assert_eq!(again.0, Some(9), "an enrolment is not replaced by accident: {}", again.2);
    let model = world::train(device.path(), "base", 1, false);
    // The rules let it speak to its neighbours too.
    let more = "[mqtt]\nhome_assistant = true\nthin_edge = true\n";
    fs::write(device.path().join("conf.d/60-neighbours.toml"), more).expect("a temporary folder");
    let agent = device.start(Some(&model));
    until("the encrypted link is up and the outbox empty", || {
        let link = agent.status()["link"].clone();
        (link["state"] == "online" && link["delivered"].as_u64() > Some(0)).then_some(())
    });
    let link = agent.status()["link"].clone();
    assert_eq!((link.get("alarm"), &link["connections"]), (None, &json!(1)), "nothing is refused");
    let listed = site.console.json(&["devices"])["devices"][0].clone();
    assert_eq!((&listed["device"], &listed["presence"]), (&json!(DEVICE), &json!("online")));
    let status = site.console.json(&["send", "--key", "ada.key", "--device", DEVICE, "agent.selftest"]);
    assert_eq!(status["status"], "successful");
    // Another's name in the settings: the broker goes by the certificate, and takes nothing.
    let thief = joined(&site, "other", "press-08", &public);
    let text = fs::read_to_string(thief.path().join("conf.d/50-fleet.toml")).expect("settings");
    fs::write(thief.path().join("conf.d/50-fleet.toml"), text.replace("press-08", DEVICE)).expect("a temporary folder");
    let other = thief.start(Some(&model));
    let alarm = until("the refusal is told", || other.status()["link"]["alarm"].as_str().map(str::to_owned));
    assert!(alarm.contains("0x87"), "{alarm}");
    let link = other.status()["link"].clone();
    assert_eq!((&link["delivered"], &link["parked_reports"]), (&json!(0), &json!(0)), "nothing is given up");
    assert_eq!(agent.status()["link"]["state"], "online", "and the owner of the name stays");
    // Without the console's certificate there is no way in.
    let bare = Console::new(site.folder.path(), &["--broker", &site.url, "--ca", "site/ca.pem"]);
    let (code, _, error) = bare.ask(&["devices"]);
    assert!(code == Some(8) && error.contains("--certificate-key"), "{error}");
    // Each mistake with the files is told with what to do about it.
    fs::write(site.folder.path().join("empty.pem"), "").expect("a temporary folder");
    let mistaken = |ca: &str, certificate: &str, key: &str| {
        let with = ["--broker", &site.url, "--ca", ca, "--certificate", certificate, "--certificate-key", key];
        let (code, _, error) = Console::new(site.folder.path(), &with).ask(&["devices"]);
        (code, error)
    };
    let (ca, own, secret) = ("site/ca.pem", "site/ctl1.pem", "site/ctl1.key");
    for (given, expected, word) in [
        (mistaken("empty.pem", own, secret), 4, "empty.pem"),
        (mistaken(ca, "empty.pem", secret), 4, "empty.pem"),
        (mistaken(ca, own, "empty.pem"), 4, "empty.pem"),
        (mistaken(ca, own, "site/server.key"), 4, "do not fit together"),
        (mistaken("site/server.pem", own, secret), 8, "--ca"),
    ] {
        assert!(given.0 == Some(expected) && given.1.contains(word) && given.1.contains("hint:"), "{given:?}");
    }
    let _ = site.broker.port;
}
