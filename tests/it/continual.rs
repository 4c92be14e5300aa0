//! The champion's adaptive form, as its user meets it: answers follow their labels, each says which head gave it, and restarts lose
//! nothing.
use std::fs;

use hone_tests::agent::{Agent, Device};
use hone_tests::until;
use hone_tests::world::{self, Law, World, sample};
use serde_json::{Value, json};

/// A device whose agent lets the mixture answer.
fn adaptive(more: &str) -> Device {
    let device = Device::new();
    fs::create_dir(device.path().join("conf.d")).expect("a temporary folder can be written");
    let text = format!("[cycle]\npolicy = \"value\"\n{more}");
    fs::write(device.path().join("conf.d/continual.toml"), text).expect("a temporary folder can be written");
    device
}

/// The head that answers has learnt every label that was sent.
fn caught_up(agent: &Agent) -> Value {
    until("the newest head answers", || {
        let status = agent.status();
        let heads = &status["continual"];
        let learnt = heads["labels"].as_u64().unwrap_or(0) >= status["labels"].as_u64().unwrap_or(1);
        (learnt && heads["unserved_labels"] == json!(0)).then_some(status)
    })
}

fn one(agent: &Agent) -> Value {
    agent.tcp("POST", "/v1/samples", &sample([2.0, 2.0, 0.0])).lines().remove(0)
}

#[test]
fn answers_follow_their_labels_without_a_retrain_and_say_which_head_gave_them() {
    // No retrain is worth its price here, so what gets better is the doing of the heads.
    let device = adaptive("[cycle.value]\ncost_errors = 1000.0\n");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let champion = agent.champion();
    let mut world = World::new(3);
    assert!(agent.live(&mut world, Law::Old, 60) > 54);
    let stale = agent.live(&mut world, Law::New, 200);
    caught_up(&agent);
    agent.live(&mut world, Law::New, 400);
    let status = caught_up(&agent);
    assert_eq!(status["continual"]["answers"], json!(true), "{}", status["continual"]);
    let fresh = agent.live(&mut world, Law::New, 200);
    assert!(stale < 150 && fresh > 170, "{stale}, then {fresh} of 200");
    let retrains = agent.reports("retrain");
    assert!(retrains.is_empty(), "no layer was trained for it: {retrains:?} {:?}", agent.reports("considered"));

    let answer = one(&agent);
    let number = answer["adaptation"].as_i64().expect("the head that answered");
    assert!(number > 0);
    let consolidated = agent.reports("consolidated");
    assert!(
        consolidated.is_empty() || agent.champion() != champion,
        "what is frozen goes through the gate: {consolidated:?}"
    );
    assert_eq!(answer["digest"], json!(agent.champion()));
    let records = agent.tcp("GET", "/v1/records?limit=1", "").json();
    assert_eq!(records["records"][0]["adaptation"], json!(number), "{records}");
    let lines = fs::read_to_string(device.state_dir().join("continual/adaptations.jsonl")).expect("each is on record");
    let noted = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let noted = noted.filter(|line| line["adaptation"] == json!(number)).count();
    assert_eq!(noted, 1, "{lines}");
    // A version that is named answers as its bundle says, the champion's too.
    let body = world::request([2.0, 2.0, 0.0]).to_string();
    let answer = agent.tcp("POST", "/v2/models/main/infer", &body).json();
    let pinned = format!("/v2/models/main/versions/{}/infer", agent.champion());
    let bare = agent.tcp("POST", &pinned, &body).json();
    assert!(bare["parameters"].get("adaptation").is_none() && bare["outputs"] != answer["outputs"], "{bare}");
    assert!(answer["parameters"]["adaptation"].as_u64().is_some(), "{answer}");
}

#[test]
fn a_person_may_have_the_heads_frozen_and_is_told_beforehand_what_and_why() {
    let device = adaptive("[cycle.value]\ncost_errors = 1000.0\n");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let champion = agent.champion();
    let plan = |device: &Device| {
        let (code, said, error) = device.ask(&["retrain", "--strategy", "continual", "--dry-run", "--json"]);
        assert_eq!(code, Some(0), "{error}");
        serde_json::from_str::<Value>(&said).expect("JSON")
    };
    let early = plan(&device);
    assert_eq!(early["possible"], json!(false), "{early}");
    let (code, _, error) = device.ask(&["retrain", "--strategy", "continual"]);
    assert!(code != Some(0) && error.contains("labelled answers are too few"), "{error}");

    let mut world = World::new(3);
    for count in [200, 400] {
        agent.live(&mut world, Law::New, count);
        caught_up(&agent);
    }
    let ready = plan(&device);
    assert_eq!((&ready["possible"], &ready["rows"]["held_out"]), (&json!(true), &json!(400)), "{ready}");
    assert!(ready["reasons"].as_array().is_some_and(|reasons| reasons.len() >= 2), "{ready}");
    let (code, _, error) = device.ask(&["retrain", "--strategy", "continual"]);
    assert_eq!(code, Some(0), "{error}");
    // At such a price not even a good head is worth a promotion: the gate decides, whoever asks.
    let gate = until("the gate has spoken", || agent.reports("gate").pop());
    assert_eq!(agent.reports("consolidated").len(), 1);
    assert!(gate.to_string().contains("worth") && agent.champion() == champion, "{gate}");
    let (_, energy, _) = device.ask(&["energy"]);
    assert!(energy.contains("continual"), "{energy}");
}

#[test]
fn a_restart_and_a_kill_lose_nothing_that_was_learnt_and_give_no_number_twice() {
    let device = adaptive("");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let mut world = World::new(3);
    agent.live(&mut world, Law::New, 600);
    let status = caught_up(&agent);
    let (labels, number) = (status["continual"]["labels"].clone(), one(&agent)["adaptation"].as_i64());
    assert!(agent.terminate().success());
    assert!(device.state_dir().join("continual/heads").is_file());

    let agent = device.start(None);
    let status = agent.status();
    assert_eq!(status["continual"]["labels"], labels, "{}", status["continual"]);
    assert!(one(&agent)["adaptation"].as_i64() > number);
    assert!(agent.live(&mut world, Law::New, 200) > 170, "what was learnt is still known");
    caught_up(&agent);
    let number = one(&agent)["adaptation"].as_i64();
    agent.kill();

    let agent = device.start(None);
    assert_eq!(agent.status()["continual"]["labels"].as_u64(), labels.as_u64().map(|labels| labels + 200));
    assert!(one(&agent)["adaptation"].as_i64() > number);
    assert!(agent.live(&mut world, Law::New, 100) > 85);
    agent.kill();

    // Without the saved heads they are built again from the records.
    fs::remove_file(device.state_dir().join("continual/heads")).expect("it is there");
    let agent = device.start(None);
    assert!(agent.live(&mut world, Law::New, 200) > 170);
}

#[test]
fn a_device_that_must_not_adapt_by_itself_answers_with_the_bare_bundle() {
    let device = adaptive("[continual]\nserve = false\n");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    agent.live(&mut World::new(3), Law::Old, 100);
    assert_eq!(agent.status()["continual"]["serve"], json!(false));
    assert_eq!(one(&agent).get("adaptation"), None);
}

#[test]
fn where_a_person_approves_every_candidate_nothing_adapts_by_itself_unless_told_to() {
    let device = adaptive("[rollout]\napproval = \"ask\"\n");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    agent.live(&mut World::new(3), Law::Old, 100);
    assert_eq!(agent.status()["continual"]["serve"], json!(false));
    assert_eq!(one(&agent).get("adaptation"), None);
    drop(agent);
    let device = adaptive("[rollout]\napproval = \"ask\"\n[continual]\nserve = true\n");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    assert_eq!(agent.status()["continual"]["serve"], json!(true));
}
