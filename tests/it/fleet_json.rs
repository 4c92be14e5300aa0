//! The console for machines: every command has one form of JSON, and its `--help` names every key of it.
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use hone_tests::broker::Broker;
use hone_tests::fleet::{Console, DEVICE, joined, keys_are_promised};
use hone_tests::world::{self, Law, World};
use hone_tests::{hone, until};
use serde_json::{Value, json};

/// Every subcommand that prints facts, `completions` being the one that does not.
fn commands(console: &Console, path: &[&str]) -> Vec<String> {
    let (_, help, _) = console.ask(&[path, &["--help"]].concat());
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return vec![path.join(" ")] };
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| !["help", "completions"].contains(name))
        .flat_map(|name| commands(console, &[path, &[name]].concat()))
        .collect()
}

#[test]
fn every_command_says_in_its_help_what_it_prints_for_machines_and_how_it_is_used() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let _ = hone();
    let console = Console::new(folder.path(), &[]);
    let all = commands(&console, &[]);
    assert!(all.len() >= 20 && all.contains(&"rollout start".to_owned()), "{all:?}");
    for command in &all {
        let (code, help, _) = console.ask(&[&command.split(' ').collect::<Vec<_>>()[..], &["--help"]].concat());
        assert_eq!(code, Some(0), "{command}");
        assert!(help.contains("JSON keys"), "{command} --help does not name its JSON keys");
        let wide = help.lines().find(|line| line.chars().count() > 160);
        assert_eq!(wide, None, "{command} --help has a line that no terminal shows whole");
        let shown = help.contains("Example") || command.starts_with("rollout");
        assert!(shown, "{command} --help shows no example");
    }
}

#[test]
fn every_command_prints_the_json_that_its_help_promises() {
    let Some(broker) = Broker::start("") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let console = Console::new(folder.path(), &["--broker", &url]);
    let _ = hone();
    let public = console.promised("keygen", &["ada.key"], &[0])[0]["public"].clone();
    let key_id = console.promised("keygen", &["bob.key"], &[0])[0]["key_id"].clone();
    let device = joined(broker.port, "");
    device.set("[cycle]\npolicy = \"static\"\n\n[rollout]\nmode = \"gate\"\napproval = \"ask\"\n");
    let trust = format!("[mqtt]\ntrust = [{{ public = {public}, roles = [\"operator\", \"admin\"] }}]\n");
    std::fs::write(device.path().join("conf.d/zz.toml"), trust).expect("a temporary folder");
    let agent = device.start(Some(&world::train(device.path(), "flipped", 1, true)));
    agent.live(&mut World::new(7), Law::Old, 300);
    until("it is listed", || (console.json(&["devices"])["devices"][0]["presence"] == "online").then_some(()));
    std::fs::write(folder.path().join("s.toml"), "[mqtt]\nreport_s = 2\n").expect("a temporary folder");
    let right = world::train(folder.path(), "right", 3, false).display().to_string();
    let say = |command: &str, arguments: &[&str], codes: &[i32]| console.promised(command, arguments, codes);
    let key = ["--key", "ada.key"];
    let to = ["--key", "ada.key", "--device", DEVICE];

    say("devices", &[], &[0]);
    assert_eq!(say("show", &[DEVICE], &[0])[0]["presence"], "online");
    assert_eq!(say("watch", &["--count", "3"], &[0]).len(), 3);
    say("sign", &[&to[..], &["agent.selftest"]].concat(), &[0]);
    let signed = say("sign", &[&to[..], &["-o", "x.dsse", "agent.selftest"]].concat(), &[0]);
    let sent = say("send", &["--envelope", "x.dsse"], &[0]);
    assert_eq!((&sent[0]["id"], &sent[0]["ended"]), (&signed[0]["id"], &json!(true)));
    let handed = say("send", &[&to[..], &["agent.selftest", "--wait", "0"]].concat(), &[0]);
    assert_eq!(handed[0]["ended"], false);
    let nobody = ["--key", "ada.key", "--device", "press-99", "agent.selftest", "--wait", "1"];
    assert_eq!(say("send", &nobody, &[75])[0]["ended"], false);
    let refused = say("send", &[&to[..], &["model.rollback", "reason=x"]].concat(), &[9]);
    assert_eq!(refused[0]["reason_code"], "refused");
    // Brought, and a person is asked about it.
    let waits = say("install", &[&[DEVICE, &right, "--promote", "--wait", "5"][..], &key].concat(), &[75]);
    assert_eq!((&waits[0]["ended"], &waits[0]["commands"][0]["status"]), (&json!(false), &json!("successful")));
    assert_eq!(say("approve", &[&[DEVICE][..], &key].concat(), &[0])[0]["status"], "successful");
    let digest = waits[0]["digest"].as_str().expect("a digest").to_owned();
    until("it serves", || (agent.champion() == digest).then_some(()));
    let late = say("reject", &[&[DEVICE, &digest][..], &key].concat(), &[9]);
    assert_eq!(late[0]["reason_code"], "not_tried");
    let settings = say("configure", &[&[DEVICE, "s.toml"][..], &key].concat(), &[0]);
    assert_eq!((&settings[0]["answered"], &settings[0]["applied_rev"]), (&json!(true), &json!(1)));
    say("configure", &[&["press-99", "s.toml", "--wait", "1"][..], &key].concat(), &[75]);
    say("freeze", &[&["--for", "1h"][..], &key].concat(), &[0]);
    say("thaw", &key, &[0]);
    say("revoke", &[&[key_id.as_str().expect("an id")][..], &key].concat(), &[0]);

    until("it is thawed", || console.json(&["show", DEVICE])["view"]["model"]["frozen_until"].is_null().then_some(()));
    let start = [&["a", &right, "--device", DEVICE, "--prove", "0s"][..], &key].concat();
    say("rollout start", &[&start[..], &["--preview"]].concat(), &[0]);
    assert_eq!(say("rollout start", &start, &[0])[0]["state"]["state"], "finished");
    say("rollout show", &["a"], &[0]);
    say("rollout run", &["a", &right], &[0]);
    for wish in ["rollout pause", "rollout resume", "rollout stop"] {
        assert_eq!(say(wish, &["a"], &[0])[0]["rollout"], "a");
    }
    drop(agent);

    // Without a broker, or with one of its own.
    let alone = Console::new(folder.path(), &["--broker", "mqtts://broker.example"]);
    let written = alone.promised("broker write", &["site", "--host", "broker.example"], &[0]);
    assert_eq!(written[0]["controllers"], json!(["ctl1"]));
    let enrolled = alone.promised("enroll", &[DEVICE, "--authority", "site"], &[0]);
    assert_eq!(
        (&enrolled[0]["device"], &enrolled[0]["broker"]),
        (&json!(DEVICE), &json!("mqtts://broker.example:8883"))
    );
    let binary = hone().display().to_string();
    let mut sim = console.process(&["sim", "1", "--hone", &binary, "--json"]);
    let mut sim = sim.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(sim.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    sim.kill().expect("a child of ours");
    let _ = sim.wait();
    let (_, help, _) = console.ask(&["sim", "--help"]);
    let line: Value = serde_json::from_str(&line).expect("JSON");
    keys_are_promised("sim", &line, &help);
    assert_eq!((&line["device"], &line["of"]), (&json!("sim-000"), &json!(1)));
}
