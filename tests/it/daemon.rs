//! The running agent, as its user meets it: answers, labels, restarts, drift, promotion, rollback, refusals, damage.
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hone_tests::agent::Device;
use hone_tests::world::{self, Law, World, request, sample};
use hone_tests::{http, until};
use serde_json::{Value, json};

const INFER: &str = "/v2/models/main/infer";

fn count(status: &Value, pointer: &str) -> u64 {
    status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

#[test]
fn both_doors_answer_and_every_answer_is_on_record() {
    let device = Device::new();
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let champion = agent.champion();
    assert_eq!(agent.tcp("GET", "/v2/health/live", "").json(), json!({"live": true}));
    assert_eq!(agent.tcp("GET", "/v2/health/ready", "").status, 200);
    assert_eq!(agent.tcp("GET", "/v2", "").json()["name"], "hone");
    let metadata = agent.socket("GET", "/v2/models/main", "").json();
    assert_eq!((&metadata["platform"], &metadata["inputs"][0]["name"]), (&json!("hone"), &json!("a")));
    assert_eq!(agent.tcp("GET", "/v2/models/main/ready", "").json(), json!({"name": "main", "ready": true}));

    let body = request([1.5, 1.0, 0.0]).to_string();
    let (tcp, socket) = (agent.tcp("POST", INFER, &body).json(), agent.socket("POST", INFER, &body).json());
    assert_eq!(tcp["outputs"][1]["data"], json!(["high"]));
    assert_eq!(tcp["outputs"][0], socket["outputs"][0]);
    assert_eq!((&tcp["parameters"]["served_by"], &tcp["parameters"]["stored"]), (&json!("champion"), &json!(true)));
    assert_eq!(tcp["model_version"], champion);
    let pinned = format!("/v2/models/main/versions/{champion}/infer");
    assert_eq!(agent.tcp("POST", &pinned, &body).json()["outputs"][0], tcp["outputs"][0]);
    let nobody = format!("/v2/models/main/versions/{}/infer", "0".repeat(64));
    assert_eq!(agent.tcp("POST", &nobody, &body).json()["code"], "unknown_version");
    assert_eq!(agent.tcp("POST", "/v2/models/other/infer", &body).status, 404);

    let answer = agent.tcp("POST", "/v1/samples", &sample([-1.0, -2.0, 0.0])).lines().remove(0);
    assert_eq!((&answer["label"], &answer["line"], &answer["digest"]), (&json!("low"), &json!(1), &json!(champion)));
    let records = agent.tcp("GET", "/v1/records?limit=2", "").json();
    assert_eq!(records["records"][0]["record_id"], answer["record_id"]);
    assert_eq!(records["records"][0]["features"], json!({"a": -1.0, "b": -2.0, "c": 0.0}));
    assert_eq!(records["records"][0]["source"], "press-1");
    assert_eq!(count(&agent.status(), "/records/records"), 4);
}

#[test]
fn commands_foreign_hosts_and_large_bodies_are_refused() {
    let device = Device::new();
    fs::create_dir(device.path().join("conf.d")).expect("a temporary folder can be written");
    fs::write(device.path().join("conf.d/small.toml"), "[agent]\nbody_bytes_max = 2000\n")
        .expect("a temporary folder can be written");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    for (path, body) in [("/v1/commands", r#"{"command":"rollback"}"#), ("/v1/models", "bytes")] {
        let answer = agent.tcp("POST", path, body);
        assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("socket_only")));
        assert!(answer.text.contains("api.sock"), "{}", answer.text);
    }
    let foreign = http::tcp(&agent.address, "evil.example", "GET", "/v1/status", b"").expect("an answer");
    assert_eq!((foreign.status, &foreign.json()["code"]), (403, &json!("host")));
    assert_eq!(agent.socket("POST", "/v1/commands", r#"{"command":"rollback"}"#).status, 409, "nothing to go back to");
    assert_eq!(agent.socket("POST", "/v1/commands", r#"{"command":"dance"}"#).status, 400);
    assert_eq!(agent.socket("POST", "/v1/samples", &"x".repeat(3_000)).json()["code"], "body_too_large");
}

#[test]
fn bad_samples_are_answered_with_their_field_and_counted_and_the_agent_goes_on() {
    let device = Device::new();
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let body = concat!(
        r#"{"source":"p","features":{"a":1,"b":1}}"#,
        "\n",
        r#"{"source":"p","features":{"a":1,"b":1,"c":1,"d":1}}"#,
        "\n\n",
        r#"{"source":"p","features":{"a":1,"b":"NaN","c":1}}"#,
        "\n",
        r#"{"source":"p","features":{"a":1,"b":null,"c":1}}"#,
        "\n",
        "no json\n",
    );
    let answer = agent.tcp("POST", "/v1/samples", body);
    let seen: Vec<_> = answer
        .lines()
        .iter()
        .map(|line| {
            (line["line"].as_u64(), line["code"].as_str().map(str::to_owned), line["field"].as_str().map(str::to_owned))
        })
        .collect();
    let bad = |line, code: &str, field: Option<&str>| (Some(line), Some(code.to_owned()), field.map(str::to_owned));
    assert_eq!(
        seen,
        [
            bad(1, "missing_feature", Some("c")),
            bad(2, "unknown_field", Some("d")),
            bad(4, "not_finite", Some("b")),
            (Some(5), None, None),
            bad(6, "malformed", None)
        ]
    );
    let short = json!({"inputs": [{"name": "input", "shape": [3], "datatype": "FP32", "data": [1, 2]}]});
    let refused = agent.tcp("POST", INFER, &short.to_string());
    assert_eq!(
        (refused.status, &refused.json()["code"], &refused.json()["field"]),
        (400, &json!("wrong_length"), &json!("input"))
    );
    let status = agent.status();
    for code in ["missing_feature", "unknown_field", "not_finite", "malformed", "wrong_length"] {
        assert_eq!(count(&status, &format!("/requests/refused/{code}")), 1, "{code}");
    }
    assert_eq!(count(&status, "/requests/missing_values"), 1);
    assert_eq!(count(&status, "/samples"), 1, "what is refused is never data");
    assert_eq!(agent.tcp("POST", INFER, &request([1.0, 1.0, 1.0]).to_string()).status, 200);
}

#[test]
fn labels_come_late_once_and_by_command_line_too() {
    let device = Device::new();
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let answers =
        agent.tcp("POST", "/v1/samples", &[sample([2.0, 2.0, 0.0]), sample([-2.0, -2.0, 0.0])].concat()).lines();
    let (first, second) = (&answers[0]["record_id"], &answers[1]["record_id"]);
    let body: String = [
        json!({"record_id": first, "label": "high"}),
        json!({"record_id": first, "label": "high"}),
        json!({"record_id": first, "label": "low"}),
        json!({"record_id": "01JD6Y9K3V0000000000000000", "label": "low"}),
        json!({"record_id": second, "label": "maybe"}),
    ]
    .iter()
    .map(|line| format!("{line}\n"))
    .collect();
    let outcomes = agent.tcp("POST", "/v1/labels", &body).lines();
    let said: Vec<_> = outcomes.iter().map(|line| line["outcome"].as_str().or(line["code"].as_str())).collect();
    assert_eq!(said, [Some("stored"), Some("duplicate"), Some("conflict"), Some("unknown"), Some("unknown_class")]);
    let second = second.as_str().expect("an id");
    assert_eq!(device.ask(&["label", second, "high"]).0, Some(0));
    assert_eq!(device.ask(&["label", second, "low"]).0, Some(9), "the same source has said something else");
    assert_eq!(device.ask(&["label", second, "maybe"]).0, Some(4));
    let status =
        until("both labels are counted", || Some(agent.status()).filter(|status| count(status, "/labels") == 2));
    assert_eq!(status["loss"]["mean"], 0.5, "one answer was right, one wrong");
}

#[test]
fn a_restart_and_a_kill_lose_neither_records_nor_labels_nor_the_state() {
    let device = Device::new();
    let model = world::train(device.path(), "base", 1, false);
    let mut world = World::new(3);
    let agent = device.start(Some(&model));
    agent.live(&mut world, Law::Old, 300);
    let champion = agent.champion();
    let begun = Instant::now();
    let status = agent.terminate();
    assert!(status.success() && begun.elapsed() < Duration::from_secs(2), "{status}, {:?}", begun.elapsed());
    assert_eq!(device.ask(&["status"]).0, Some(8), "nobody answers now");

    let agent = device.start(None);
    let status = agent.status();
    assert_eq!(
        (count(&status, "/samples"), count(&status, "/labels"), count(&status, "/records/records")),
        (300, 300, 300)
    );
    agent.live(&mut world, Law::Old, 40);
    // Labels are answered once they are durable; the state is stored later, and the kill comes before.
    agent.kill();
    let agent = device.start(Some(&model));
    let status = agent.status();
    assert_eq!(
        (count(&status, "/labels"), count(&status, "/records/records"), count(&status, "/records/labels")),
        (340, 340, 340)
    );
    assert_eq!(status["champion"], champion);
    assert_eq!(agent.reports("installed").len(), 1);
    agent.live(&mut world, Law::Old, 10);
    let records = agent.socket("GET", "/v1/records?limit=1", "").json();
    assert_eq!(records["records"][0]["seq"], 350);
}

#[test]
fn drift_leads_to_a_better_model_without_a_failed_request_and_rollback_is_quick() {
    let device = Device::new();
    let base = world::train(device.path(), "base", 1, false);
    let agent = device.start(Some(&base));
    let champion = agent.champion();
    let mut world = World::new(5);
    assert!(agent.live(&mut world, Law::Old, 200) > 180, "the base model is good");
    assert!(agent.reports("drift").is_empty());
    let done = AtomicBool::new(false);
    let (asked, failed) = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let body = request([0.5, 0.5, 0.5]).to_string();
            let (mut asked, mut failed) = (0_u32, 0_u32);
            while !done.load(Ordering::Relaxed) {
                asked += 1;
                failed += u32::from(
                    http::tcp(&agent.address, "localhost", "POST", INFER, body.as_bytes())
                        .map_or(true, |answer| answer.status != 200),
                );
            }
            (asked, failed)
        });
        until("a promotion", || {
            agent.live(&mut world, Law::New, 20);
            (agent.champion() != champion).then_some(())
        });
        done.store(true, Ordering::Relaxed);
        asking.join().expect("the client does not panic")
    });
    assert!(asked > 10 && failed == 0, "{failed} of {asked} requests failed");
    assert!(
        !agent.reports("drift").is_empty()
            && !agent.reports("trained").is_empty()
            && !agent.reports("promote").is_empty()
    );
    until("the new model is good", || {
        let right = agent.live(&mut world, Law::New, 50);
        (right >= 40).then_some(())
    });
    let models = agent.socket("GET", "/v1/models", "").json();
    let status_of = |digest: &str| {
        models["models"]
            .as_array()
            .and_then(|rows| rows.iter().find(|row| row["digest"] == digest))
            .map(|row| row["status"].clone())
    };
    assert_eq!(status_of(&agent.champion()), Some(json!("champion")));
    let runs = agent.socket("GET", "/v1/runs", "").json();
    let passed = |run: &Value| {
        run["state"] == "promoted" && run["cpu_s"].as_f64() > Some(0.0) && run["verdict"]["passed"] == true
    };
    assert!(runs["runs"].as_array().is_some_and(|runs| runs.iter().any(passed)), "{runs}\n{}", device.log());

    // The previous model answers pinned requests, and everybody again after a rollback.
    let before = until("no work is under way", || Some(agent.status()).filter(|status| status["work"].is_null()));
    let previous = before["previous"].as_str().expect("a previous model").to_owned();
    let pinned = format!("/v2/models/main/versions/{previous}/infer");
    assert_eq!(
        agent.tcp("POST", &pinned, &request([0.0; 3]).to_string()).json()["parameters"]["served_by"],
        "previous"
    );
    let begun = Instant::now();
    let (code, _, error) = device.ask(&["rollback"]);
    assert!(code == Some(0) && begun.elapsed() < Duration::from_secs(1), "{code:?} {error} {:?}", begun.elapsed());
    assert_eq!(agent.tcp("POST", INFER, &request([0.0; 3]).to_string()).json()["model_version"], previous);
    agent.kill();
    assert_eq!(device.start(None).champion(), previous, "stored first, visible second");
}

#[test]
fn a_poisoned_bundle_is_refused_by_the_gate_and_an_honest_one_is_not_needed_twice() {
    let device = Device::new();
    let base = world::train(device.path(), "base", 1, false);
    let poisoned = world::train(device.path(), "poisoned", 2, true).display().to_string();
    let agent = device.start(Some(&base));
    let champion = agent.champion();
    let (code, _, error) = device.ask(&["promote", &poisoned]);
    assert!(code == Some(9) && error.contains("too few"), "without labels nothing can be judged: {error}");
    agent.live(&mut World::new(7), Law::Old, 100);
    let (code, _, error) = device.ask(&["promote", &poisoned]);
    assert!(code == Some(9) && error.contains("refused: it is worse"), "{error}");
    assert_eq!(agent.champion(), champion);
    let (code, _, error) = device.ask(&["promote", &poisoned]);
    assert!(code == Some(9) && error.contains("was refused before"), "{error}");
    let (code, _, error) = device.ask(&["promote", &base.display().to_string()]);
    assert!(code == Some(9) && error.contains("is serving already"), "{error}");
    let mut bytes = fs::read(&base).expect("a model");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let broken = device.path().join("broken.safetensors");
    fs::write(&broken, bytes).expect("a temporary folder can be written");
    assert_eq!(device.ask(&["promote", &broken.display().to_string()]).0, Some(5));
    let files = fs::read_dir(agent.state_dir().join("models")).expect("a folder").count();
    assert_eq!(files, 4, "the champion, and the newest that was refused for a look, each with its signature");
}

#[test]
fn a_command_retrains_and_a_second_agent_is_told_who_holds_the_directory() {
    let device = Device::new();
    let base = world::train(device.path(), "base", 1, false);
    let agent = device.start(Some(&base));
    assert_eq!(device.ask(&["retrain"]).0, Some(9), "there are no labels yet");
    agent.live(&mut World::new(9), Law::Old, 120);
    let (code, said, error) = device.ask(&["retrain", "--wait"]);
    assert!(
        code == Some(0) && said.contains("serves now") || code == Some(9) && error.contains("refused"),
        "{said}{error}"
    );
    let (code, _, error) = device.ask(&["run"]);
    assert!(code == Some(6) && error.contains("in use by process"), "{error}");
    let other = world::train(device.path(), "other", 4, false).display().to_string();
    assert!(agent.terminate().success());
    let (code, _, error) = device.ask(&["run", "--model", &other]);
    assert!(code == Some(9) && error.contains("hone promote"), "{error}");
}

#[test]
fn a_damaged_champion_gives_way_to_the_previous_model_and_without_any_the_agent_still_runs() {
    let device = Device::new();
    let base = world::train(device.path(), "base", 1, false);
    let agent = device.start(Some(&base));
    let factory = agent.champion();
    let mut world = World::new(5);
    agent.live(&mut world, Law::Old, 50);
    until("a promotion", || {
        agent.live(&mut world, Law::New, 20);
        (agent.champion() != factory).then_some(())
    });
    until("no work is under way", || agent.status()["work"].is_null().then_some(()));
    let champion = agent.champion();
    let previous = agent.status()["previous"].as_str().expect("a previous model").to_owned();
    let file = |digest: &str| device.state_dir().join(format!("models/{digest}.safetensors"));
    assert!(agent.terminate().success());
    fs::write(file(&champion), "damaged").expect("a model");
    let agent = device.start(None);
    assert_eq!(agent.champion(), previous);
    assert_eq!(agent.reports("model_damaged")[0]["digest"], champion);
    assert_eq!(agent.reports("rollback")[0]["to"], previous);
    assert_eq!(agent.tcp("POST", INFER, &request([0.0; 3]).to_string()).status, 200);

    assert!(agent.terminate().success());
    for entry in fs::read_dir(device.state_dir().join("models")).expect("a folder") {
        fs::remove_file(entry.expect("an entry").path()).expect("a model");
    }
    let agent = device.start(None);
    let refused = agent.tcp("POST", INFER, &request([0.0; 3]).to_string());
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("no_model")));
    assert_eq!(agent.tcp("GET", "/v2/health/ready", "").status, 503);
    assert_eq!(agent.tcp("GET", "/v2/health/live", "").status, 200);
    let (code, _, error) = device.ask(&["promote", &base.display().to_string()]);
    assert_eq!(code, Some(0), "the factory model repairs the device: {error}");
    until("it answers", || (agent.tcp("POST", INFER, &request([0.0; 3]).to_string()).status == 200).then_some(()));
}

#[test]
fn an_agent_without_a_model_runs_and_takes_its_first_one_by_command() {
    let device = Device::new();
    let agent = device.start(None);
    for path in ["/v1/samples", "/v1/labels", INFER] {
        let refused = agent.tcp("POST", path, "{}");
        assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("no_model")));
    }
    assert_eq!(device.ask(&["status"]).0, Some(0));
    let base = world::train(device.path(), "base", 1, false).display().to_string();
    assert_eq!(device.ask(&["promote", &base]).0, Some(0));
    assert_eq!(agent.tcp("POST", INFER, &request([0.0; 3]).to_string()).status, 200);
    assert!(agent.terminate().success());
    assert_ne!(device.start(None).champion(), "none");
}
