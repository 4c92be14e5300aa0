//! Every way samples and labels come in, through the built binary: a local broker, files, windows of readings.
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use hone_tests::agent::Device;
use hone_tests::broker::Broker;
use hone_tests::local::Machine;
use hone_tests::world::{self, Law, World};
use hone_tests::{hone, until};
use serde_json::{Value, json};

fn input(port: u16, more: &str) -> String {
    format!("\n[input.mqtt]\nbroker = \"mqtt://127.0.0.1:{port}\"\njoin_ms = 100\n{more}")
}

fn counted(status: &Value, key: &str) -> u64 {
    status["input"]["mqtt"][key].as_u64().unwrap_or(0)
}

#[test]
fn thin_edge_measurements_are_answered_labelled_and_refused_with_a_count() {
    let Some(mut broker) = Broker::start("") else { return };
    let device = Device::new();
    let topics = r#"topics = [
        { topic = "te/+/+/+/+/m/+", source = "{2}/{3}/{4}/{5}", output = "hone/answers/{3}" },
        { topic = "hone/labels", kind = "labels", output = "hone/outcomes" },
    ]"#;
    device.set(&input(broker.port, topics));
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let machine = Machine::new(broker.port, "hone/#");
    until("the agent reads", || (agent.status()["input"]["mqtt"]["state"] == "subscribed").then_some(()));

    // One message with everything is a row at once; one feature each makes a row of three messages.
    let whole = json!({"time": "2026-11-21T01:40:00Z", "a": 1.0, "b": 2.0, "c": 0.5});
    machine.publish("te/device/press-1///m/all", &whole);
    for (name, value) in [("a", 1.0), ("b", 2.0), ("c", 0.5)] {
        machine.publish("te/device/press-2///m/one", &json!({name: value}));
    }
    let answers = until("both are answered", || {
        let answers: Vec<_> =
            machine.heard().into_iter().filter(|(topic, _)| topic.starts_with("hone/answers/")).collect();
        (answers.len() == 2).then_some(answers)
    });
    for (answer, press) in answers.iter().zip(["press-1", "press-2"]) {
        assert_eq!(answer.0, format!("hone/answers/{press}"));
        assert_eq!((&answer.1["label"], &answer.1["source"]), (&json!("high"), &json!(format!("device/{press}"))));
    }
    // What never comes is missing, after the time that a row waits.
    machine.publish("te/device/press-3///m/part", &json!({"a": 1.0}));
    let records = until("the incomplete row is recorded", || {
        let records = agent.socket("GET", "/v1/records", "").json()["records"].clone();
        (records.as_array().map_or(0, Vec::len) == 3).then_some(records)
    });
    assert_eq!((&records[0]["missing"], &records[0]["source"]), (&json!(2), &json!("device/press-3")));
    assert_eq!(records[2]["time"], "2026-11-21T01:40:00.000Z", "the time is the sample's own");

    machine.publish("hone/labels", &json!({"record_id": answers[0].1["record_id"], "label": "high"}));
    machine.publish("hone/labels", &json!({"record_id": answers[0].1["record_id"], "label": "high"}));
    machine.publish("hone/labels", &json!({"record_id": answers[0].1["record_id"], "label": "sideways"}));
    machine.publish("te/device/press-1///m/all", &json!({"a": "hot", "b": 2.0, "c": 0.5}));
    machine.publish("te/device/main///m/cpu", &json!({"load": 0.5}));
    machine.publish("te/device/main///m/cpu", &json!("no object"));
    let status = until("everything is counted", || {
        let status = agent.status();
        (counted(&status, "messages") == 11 && counted(&status, "refused") == 3).then_some(status)
    });
    assert_eq!((counted(&status, "labels"), counted(&status, "unmatched"), counted(&status, "answered")), (2, 1, 3));
    assert_eq!((counted(&status, "dropped"), &status["labels"]), (0, &json!(1)));
    let refused = &status["requests"]["refused"];
    assert_eq!(
        (&refused["unknown_class"], &refused["wrong_type"], &refused["malformed"]),
        (&json!(1), &json!(1), &json!(1))
    );
    let outcomes = until("both outcomes are heard", || {
        let heard = machine.heard().into_iter().filter(|(topic, _)| topic == "hone/outcomes");
        let outcomes: Vec<_> = heard.map(|(_, said)| said["outcome"].clone()).collect();
        (outcomes.len() == 2).then_some(outcomes)
    });
    assert_eq!(outcomes, ["stored", "duplicate"]);

    // A broker that dies and comes back is found again.
    broker.kill();
    until("the agent notices", || (agent.status()["input"]["mqtt"]["state"] == "away").then_some(()));
    assert_eq!(agent.socket("POST", "/v1/samples", &world::sample([1.0, 2.0, 0.5])).status, 200);
    broker.restart();
    until("the agent is back", || (agent.status()["input"]["mqtt"]["state"] == "subscribed").then_some(()));
    machine.publish("te/device/press-1///m/all", &whole);
    until("it answers again", || (counted(&agent.status(), "answered") == 4).then_some(()));
}

#[test]
fn a_flood_with_acknowledgements_is_held_back_and_one_without_is_dropped_and_counted() {
    const ROWS: usize = 1_000;
    let Some(broker) = Broker::start("") else { return };
    let device = Device::new();
    // Small queues, so that the broker must hold back nearly all of it, and the recorder us.
    device.set(&input(broker.port, "queue_messages = 32\n"));
    narrow(&device);
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let machine = Machine::new(broker.port, "nothing");
    until("the agent reads", || (agent.status()["input"]["mqtt"]["state"] == "subscribed").then_some(()));
    let mut world = World::new(5);
    for _ in 0..ROWS {
        let ([a, b, c], _) = world.row(Law::Old);
        machine.publish("te/device/press-1///m/all", &json!({"a": a, "b": b, "c": c}));
    }
    let status = until("all are answered", || {
        let status = agent.status();
        (counted(&status, "answered") == ROWS as u64).then_some(status)
    });
    assert_eq!(counted(&status, "dropped"), 0);
    let recorded = until("all are recorded", || {
        let recorder = agent.status()["recorder"].clone();
        (recorder["recorded"] == json!(ROWS)).then_some(recorder)
    });
    assert_eq!((&recorded["dropped"], &recorded["unrecorded"]), (&json!(0), &json!(0)), "the way that can wait waits");

    let dropped = (0..15).any(|_| {
        for _ in 0..ROWS {
            machine.throw("te/device/press-1///m/all", &json!({"a": 1.0, "b": 2.0, "c": 0.5}));
        }
        counted(&agent.status(), "dropped") > 0
    });
    assert!(dropped, "what nobody holds back is dropped, and counted");
    machine.publish("te/device/press-1///m/all", &json!({"a": 1.0, "b": 2.0, "c": 0.5}));
    until("all are answered or counted", || {
        let status = agent.status();
        let messages = counted(&status, "messages");
        let ended = counted(&status, "answered") + counted(&status, "dropped") + counted(&status, "unmatched");
        (messages > ROWS as u64 && ended == messages).then_some(())
    });
}

#[test]
fn a_file_and_standard_input_are_replayed_with_their_labels() {
    const ROWS: usize = 600;
    let device = Device::new();
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let mut world = World::new(3);
    let mut text = "when,a,b,c,machine,truth\n".to_owned();
    for row in 0..ROWS {
        let ([a, b, c], state) = world.row(Law::Old);
        let cell = if row == 7 { "NA".to_owned() } else { a.to_string() };
        writeln!(text, "{},{cell},{b},{c},press-{},{state}", 1_000_000 + row, row % 2).unwrap();
    }
    let file = device.path().join("shift.csv");
    std::fs::write(&file, &text).unwrap();
    let arguments = [
        "replay",
        "FILE",
        "--time",
        "when",
        "--source-column",
        "machine",
        "--label",
        "truth",
        "--label-delay",
        "50",
        "--json",
    ];
    let arguments = arguments.map(|word| if word == "FILE" { file.to_str().unwrap() } else { word });
    let (code, out, error) = device.ask(&arguments);
    assert_eq!(code, Some(0), "{error}");
    let summary: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&summary["answered"], &summary["labels"]["stored"]), (&json!(ROWS), &json!(ROWS)), "{summary}");
    let status = agent.status();
    assert_eq!((&status["records"]["records"], &status["labels"]), (&json!(ROWS), &json!(ROWS)));
    assert_eq!(status["requests"]["missing_values"], 1);
    let newest = agent.socket("GET", "/v1/records?limit=1", "").json()["records"][0].clone();
    assert_eq!((&newest["source"], &newest["time"]), (&json!("press-1"), &json!("1970-01-12T13:56:39.000Z")));

    // Lines of JSON from standard input: samples, a label, and one that is wrong.
    let id = newest["record_id"].as_str().unwrap();
    let lines = format!(
        "{}{}\n{}\n",
        world::sample([1.0, 2.0, 0.5]),
        json!({"record_id": id, "label": "low", "source": "lab"}),
        json!({"source": "x", "features": {"a": 1.0}})
    );
    let mut child = device.command(&["replay", "-", "--json"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["answered"], &summary["refused"]["missing_feature"]), (&json!(1), &json!(1)), "{summary}");
    assert_eq!(output.status.code(), Some(4), "what was refused shows in the exit code");
    let labels = &summary["labels"];
    assert!(labels["conflict"] == 1 || labels["duplicate"] == 1, "{summary}");
    let (code, _, error) = device.ask(&["replay", "/no/such/file.csv"]);
    assert_eq!(code, Some(4), "{error}");
    drop(agent);
    let (code, _, error) = device.ask(&arguments);
    assert_eq!(code, Some(8), "{error}");
}

/// Lets the recorder's queue hold few messages.
fn narrow(device: &Device) {
    let file = device.path().join("hone.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let narrow = text.replacen("[records.groups]\n", "[records.groups]\nqueue_messages = 16\n", 1);
    assert_ne!(narrow, text);
    std::fs::write(file, narrow).unwrap();
}

#[test]
fn a_batch_that_is_larger_than_every_queue_waits_and_loses_nothing() {
    let device = Device::new();
    narrow(&device);
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let mut world = World::new(6);
    let body: String = (0..3_000).map(|_| world::sample(world.row(Law::Old).0)).collect();
    let answers = agent.socket("POST", "/v1/samples", &body).lines();
    assert!(answers.len() == 3_000 && answers.iter().all(|answer| answer["stored"] == true));
    let recorder = until("all are recorded", || {
        let recorder = agent.status()["recorder"].clone();
        (recorder["recorded"] == 3_000).then_some(recorder)
    });
    assert_eq!((&recorder["dropped"], &recorder["unrecorded"]), (&json!(0), &json!(0)), "{recorder}");
}

#[test]
fn a_replayed_truth_comes_so_many_rows_late() {
    let device = Device::new();
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let mut child = device.command(&["replay", "-", "--csv", "--label", "state", "--label-delay", "2", "--json"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut write = |text: &str| input.write_all(text.as_bytes()).unwrap();
    let seen = |samples: u64, labels: u64| {
        until("it is seen", || {
            let status = agent.status();
            let found = (status["samples"].as_u64().unwrap(), status["labels"].as_u64().unwrap());
            (found.0 >= samples && found.1 >= labels).then_some(found)
        })
    };
    write("a,b,c,state\n1,2,0.5,high\n");
    seen(1, 0);
    write("1,2,0.5,high\n");
    seen(2, 0);
    write("1,2,0.5,high\n");
    assert_eq!(seen(3, 1), (3, 1), "the first truth comes with the third row");
    drop(input);
    let summary: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(summary["labels"]["stored"], 3, "at the end all are told: {summary}");
}

#[test]
fn a_slow_stream_is_answered_line_by_line() {
    let device = Device::new();
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    for (arguments, head, line) in [
        (["replay", "-", "--json"].as_slice(), "", world::sample([1.0, 2.0, 0.5])),
        (&["replay", "-", "--csv", "--json"], "a,b,c\n", "1,2,0.5\n".to_owned()),
    ] {
        let before = agent.status()["samples"].as_u64().unwrap();
        let mut child = device.command(arguments);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(format!("{head}{line}").as_bytes()).unwrap();
        until("the first line is answered while more may come", || {
            (agent.status()["samples"] == before + 1).then_some(())
        });
        drop(input);
        let summary: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(summary["answered"], 1);
    }
}

#[test]
fn readings_of_one_source_make_rows_of_a_model_that_looks_at_several() {
    let device = Device::new();
    device.set("\n[input.window]\nlength = 4\nstride = 2\n");
    let mut text = "t.mean,t[0],t,state\n".to_owned();
    let mut world = World::new(9);
    for _ in 0..400 {
        let ([a, b, c], _) = world.row(Law::Old);
        writeln!(text, "{a},{b},{c},{}", if a > 0.0 { "high" } else { "low" }).unwrap();
    }
    let (data, model) = (device.path().join("w.csv"), device.path().join("w.safetensors"));
    std::fs::write(&data, text).unwrap();
    let mut train = Command::new(hone());
    train.args(["train", "--data", data.to_str().unwrap(), "--label", "state", "-o", model.to_str().unwrap()]);
    assert!(train.output().unwrap().status.success());
    let agent = device.start(Some(&model));
    let mut body = String::new();
    for second in 0..8 {
        for (source, sign) in [("p", 1.0), ("n", -1.0)] {
            let time = format!("2026-11-21T01:40:{second:02}Z");
            let reading = json!({"source": source, "time": time, "features": {"t": sign * f64::from(second + 1)}});
            writeln!(body, "{reading}").unwrap();
        }
    }
    let answers = agent.socket("POST", "/v1/samples", &body).lines();
    let labels: Vec<_> =
        answers.iter().filter(|answer| answer["label"].is_string()).map(|answer| answer["label"].clone()).collect();
    assert_eq!(labels, ["high", "low", "high", "low", "high", "low"], "rows at the readings 4, 6 and 8 of each source");
    assert_eq!(answers.iter().filter(|answer| answer["kept"].is_u64()).count(), 10);
    let records = agent.socket("GET", "/v1/records", "").json()["records"].clone();
    assert_eq!(records.as_array().map_or(0, Vec::len), 6);
    assert_eq!(records[1]["features"], json!({"t.mean": 6.5, "t[0]": 5.0, "t": 8.0}));
    // The inference protocol takes readings too, by their names or as one tensor; half a window is no answer yet.
    let infer = |inputs: Value, source: &str| {
        let body = json!({"parameters": {"source": source}, "inputs": inputs}).to_string();
        agent.socket("POST", "/v2/models/main/infer", &body).json()
    };
    let reading = |name: &str, shape: Value, data: Value| json!([{"name": name, "shape": shape, "datatype": "FP32", "data": data}]);
    let early = infer(reading("t", json!([3]), json!([1, 2, 3])), "oip");
    assert_eq!((&early["parameters"]["kept"], &early["outputs"][2]["shape"]), (&json!(3), &json!([0])), "{early}");
    let row = infer(reading("reading", json!([2, 1]), json!([[4], [5]])), "oip");
    assert_eq!((&row["parameters"]["kept"], &row["outputs"][1]["data"]), (&json!(1), &json!(["high"])), "{row}");
    let record = agent.socket("GET", "/v1/records?limit=1", "").json()["records"][0].clone();
    assert_eq!(
        (&record["record_id"], &record["features"]),
        (&row["parameters"]["record_id"], &json!({"t.mean": 2.5, "t[0]": 1.0, "t": 4.0}))
    );
    // Whole rows of the protocol go past the windows.
    assert_eq!(agent.socket("POST", "/v2/models/main/infer", &world::request([1.0, 1.0, 1.0]).to_string()).status, 200);
}

#[test]
fn two_agents_that_read_under_one_name_are_told_which_setting_names_them() {
    let Some(broker) = Broker::start("") else { return };
    let devices = [Device::new(), Device::new()];
    let agents = devices.each_ref().map(|device| {
        device.set(&input(broker.port, "retry_max_s = 2\n"));
        device.start(Some(&world::train(device.path(), "base", 1, false)))
    });
    let reason = until("one of them says so", || {
        let reasons = agents.iter().map(|agent| agent.status()["input"]["mqtt"]["reason"].as_str().map(str::to_owned));
        reasons.flatten().find(|reason| reason.contains("`input.mqtt.client_id`"))
    });
    assert!(reason.contains("`hone-input`"), "{reason}");
    assert!(devices.iter().any(|device| device.log().contains("`input.mqtt.client_id`")));
}
