//! What an operator who freezes a device, or has its records deleted, may rely on, whenever the agent dies.
use std::time::Duration;

use fleet_protocol::names::Micros;
use fleet_protocol::order::NoticeBody;
use hone_tests::fleet::{Site, ended, now, up};
use hone_tests::until;
use hone_tests::world::{self, Law, World, sample};
use serde_json::{Value, json};

fn freeze(site: &Site, ctr: u64) {
    site.notify(4, "all", ctr, NoticeBody::Freeze { until: Micros(now() + 86_400_000_000) });
    until("it is told as frozen", || {
        site.peer.last(&up("model/main")).filter(|model| !model["frozen_until"].is_null())
    });
}

fn thaw(site: &Site, ctr: u64) {
    site.notify(4, "all", ctr, NoticeBody::Thaw {});
    until("it is told as thawed", || site.peer.last(&up("model/main")).filter(|model| model["frozen_until"].is_null()));
}

/// What the model says to one sample, and which head said so.
fn answer(site: &Site) -> (Value, Value) {
    let mut answer = site.agent.tcp("POST", "/v1/samples", &sample([2.0, 2.0, 0.0])).lines().remove(0);
    let number = answer["adaptation"].take();
    answer["record_id"].take();
    (number, answer)
}

fn heads(site: &Site) -> Value {
    site.agent.status()["continual"].clone()
}

fn caught_up(site: &Site) {
    until("every label is learnt and answers", || {
        let status = site.agent.status();
        let heads = &status["continual"];
        (heads["labels"].as_u64() >= status["labels"].as_u64() && heads["unserved_labels"] == json!(0)).then_some(())
    });
}

#[test]
fn a_frozen_device_answers_as_it_did_over_kills_and_restarts_and_learns_what_it_missed_once_it_is_thawed() {
    let own = "[cycle]\npolicy = \"value\"\n[cycle.value]\ncost_errors = 1000.0\n";
    let Some(mut site) = Site::start_with("", own, |_| {}) else { return };
    let mut world = World::new(3);
    site.agent.live(&mut world, Law::New, 300);
    caught_up(&site);
    freeze(&site, 10);
    until("the heads are held", || (heads(&site)["frozen"] == true).then_some(()));
    let (number, said) = answer(&site);
    let learnt = heads(&site)["labels"].clone();
    assert!(number.as_i64() > Some(0) && learnt.as_u64() >= Some(300), "{number} {learnt}");
    site.agent.live(&mut world, Law::New, 300);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((answer(&site), heads(&site)["labels"].clone()), ((number.clone(), said.clone()), learnt.clone()));
    site.kill();
    assert_eq!(answer(&site), (number.clone(), said.clone()), "after a kill");
    site.agent.live(&mut world, Law::New, 50);
    site.restart();
    assert_eq!(answer(&site), (number.clone(), said.clone()), "after a restart");
    assert_eq!(heads(&site)["labels"], learnt, "nothing was learnt");
    thaw(&site, 11);
    caught_up(&site);
    let (next, _) = answer(&site);
    assert!(next.as_i64() > number.as_i64(), "{next} after {number}");
    assert!(heads(&site)["labels"].as_u64() >= learnt.as_u64().map(|labels| labels + 350), "{}", heads(&site));
    site.kill();
    assert!(answer(&site).0.as_i64() > number.as_i64(), "the freeze is forgotten");
    // A held head that labels show to be worse than the bare champion gives way to it: that is a way back.
    freeze(&site, 12);
    until("the bare champion answers", || {
        site.agent.live(&mut world, Law::Old, 50);
        answer(&site).0.is_null().then_some(())
    });
    assert_eq!(heads(&site)["fell_back"], 1);
}

#[test]
fn a_freeze_holds_a_trial_and_a_thaw_lets_it_go_on_also_over_a_restart_but_not_against_a_person() {
    let own =
        "[cycle]\npolicy = \"static\"\n[rollout]\nstages = [50]\ndwell_rows = 20\ndwell_s = 0\nwatch_samples = 0\n";
    let Some(mut site) = Site::start_with("", own, |_| {}) else { return };
    let opposite = world::train(site.device.path(), "opposite", 3, true);
    let mut world = World::new(7);
    site.agent.live(&mut world, Law::Opposite, 300);
    let champion = site.agent.champion();
    let (code, said, error) = site.device.ask(&["promote", &opposite.display().to_string()]);
    assert!(code == Some(0) && said.contains("is being tried"), "{said}{error}");
    let held = |site: &Site| site.agent.status()["rollout"]["held"]["by"].clone();
    assert_eq!(site.device.ask(&["canary", "hold", "--by", "bert"]).0, Some(0));
    freeze(&site, 20);
    assert_eq!(held(&site), "bert");
    assert_eq!(site.device.ask(&["canary", "resume"]).0, Some(9), "not while it is frozen");
    thaw(&site, 21);
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(held(&site), "bert", "what a person holds, a thaw does not let go");
    assert_eq!(site.device.ask(&["canary", "resume"]).0, Some(0));
    freeze(&site, 22);
    until("the freeze holds it", || (held(&site) == "freeze").then_some(()));
    site.kill();
    assert_eq!(held(&site), "freeze");
    // All that labels can show is shown, and still it stays where it is and nobody is promoted.
    site.agent.live(&mut world, Law::Opposite, 200);
    std::thread::sleep(Duration::from_millis(1_500));
    let rollout = site.agent.status()["rollout"].clone();
    assert_eq!((&rollout["phase"], &rollout["canary_percent"]), (&json!("trial"), &json!(0)), "{rollout}");
    assert_eq!((&rollout["decided"], site.agent.champion()), (&json!(true), champion.clone()), "{rollout}");
    assert_eq!(site.device.ask(&["promote"]).0, Some(9), "not by a person either");
    thaw(&site, 23);
    until("it wins its trial", || {
        site.agent.live(&mut world, Law::Opposite, 20);
        (site.agent.champion() != champion).then_some(())
    });
    // And the way back is open while it is frozen.
    freeze(&site, 24);
    assert_eq!(site.device.ask(&["rollback"]).0, Some(0));
    assert_eq!(site.agent.champion(), champion);
}

#[test]
fn a_purge_that_a_kill_interrupts_is_ended_by_the_next_start() {
    let Some(mut site) = Site::start("[cycle]\npolicy = \"static\"\n") else { return };
    let mut world = World::new(7);
    for (round, wait_ms) in [0, 160, 175, 190].into_iter().enumerate() {
        let begun = now();
        site.agent.live(&mut world, Law::Old, 400);
        let middle = now();
        site.agent.live(&mut world, Law::Old, 20);
        until("all is recorded", || {
            (site.agent.status()["records"]["records"] == json!(420 + 20 * round)).then_some(())
        });
        let purge = json!({"cmd": "data.purge", "args": {"since": begun, "until": middle}});
        let id = site.order(4, &purge);
        // A burst of commands is heard out for 150 ms first: then it dies before, in and after the purge.
        std::thread::sleep(Duration::from_millis(wait_ms));
        site.kill();
        let status = ended(&site.peer, id);
        assert_eq!(status["status"], "successful", "{status}");
        assert_eq!(site.agent.status()["records"]["records"], json!(20 * (round + 1)), "{status}");
        assert_eq!(site.agent.status()["records"]["labels"], json!(20 * (round + 1)), "{status}");
    }
}

#[test]
fn what_silence_would_approve_and_what_heads_would_become_waits_for_the_thaw() {
    let own = "[cycle]\npolicy = \"value\"\n[rollout]\nmode = \"gate\"\napproval = \"ask-after:4s:approve\"\n";
    let Some(site) = Site::start_with("", own, |_| {}) else { return };
    let mut world = World::new(3);
    site.agent.live(&mut world, Law::New, 100);
    caught_up(&site);
    freeze(&site, 30);
    until("the heads are held", || (heads(&site)["frozen"] == true).then_some(()));
    let champion = site.agent.champion();
    // The heads are better than their champion by far, which would be worth a promotion.
    site.agent.live(&mut world, Law::New, 400);
    std::thread::sleep(Duration::from_secs(2));
    assert!(site.agent.reports("consolidated").is_empty(), "nothing new is tried: {:?}", site.agent.reports("gate"));
    thaw(&site, 31);
    until("the heads become a candidate", || {
        site.agent.live(&mut world, Law::New, 20);
        site.agent.reports("approval_required").pop()
    });
    freeze(&site, 32);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(site.agent.status()["rollout"]["phase"], "awaiting_approval", "silence is no answer meanwhile");
    assert_eq!(site.agent.champion(), champion);
    thaw(&site, 33);
    until("silence has approved it", || {
        site.agent.live(&mut world, Law::New, 20);
        site.agent.reports("promote").pop()
    });
}

#[test]
fn a_trial_that_an_operator_holds_is_promoted_or_ended_by_an_operator_over_the_fleet() {
    let own = "[cycle]\npolicy = \"static\"\n[rollout]\ndwell_rows = 500\ndwell_s = 0\nwatch_samples = 0\n";
    let Some(site) = Site::start_with("", own, |_| {}) else { return };
    let train = |seed| world::train(site.device.path(), &format!("opposite-{seed}"), seed, true).display().to_string();
    let slotted = |cmd: &str, digest: Value| {
        let args = json!({"slot": "main"});
        let args = if digest.is_null() { args } else { json!({"slot": "main", "digest": digest}) };
        ended(&site.peer, site.order(1, &json!({"cmd": cmd, "args": args})))
    };
    site.agent.live(&mut World::new(7), Law::Opposite, 300);
    let first = site.agent.champion();
    assert_eq!(site.device.ask(&["promote", &train(3)]).0, Some(0));
    let challenger = site.agent.status()["rollout"]["challenger"].clone();
    // While nobody holds it, the evidence decides.
    assert_eq!(slotted("model.promote", challenger.clone())["status"], "failed");
    assert_eq!(slotted("canary.hold", Value::Null)["status"], "successful");
    until("it is told as held", || {
        site.peer.last(&up("model/main")).filter(|model| model["trial"]["held"] == true).map(drop)
    });
    assert_eq!(slotted("model.promote", challenger.clone())["status"], "successful");
    assert_eq!((json!(site.agent.champion()), first != site.agent.champion()), (challenger, true));
}
