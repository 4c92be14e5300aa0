//! `hone-fleet rollout` with real agents: the canary device first, then waves; pause, resume, emergency stop, and what stops by itself.
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use hone_tests::agent::{Agent, Device};
use hone_tests::broker::{Broker, Peer};
use hone_tests::fleet::{Console, named};
use hone_tests::until;
use hone_tests::world::{self, Law, World};
use serde_json::{Value, json};

/// Three devices of one group whose model has learned the opposite, and whoever steers them. Dropped in this order.
struct Fleet {
    agents: Vec<Option<Agent>>,
    devices: Vec<Device>,
    console: Console,
    peer: Peer,
    folder: tempfile::TempDir,
    _broker: Broker,
}

fn fleet() -> Option<Fleet> {
    let broker = Broker::start("")?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let _ = hone_tests::hone();
    let console = Console::new(folder.path(), &["--broker", &format!("mqtt://127.0.0.1:{}", broker.port)]);
    let trust = format!("[mqtt]\ntrust = [{{ public = \"{}\", roles = [\"operator\"] }}]\n", console.keygen("ada.key"));
    let devices: Vec<_> = ["press-1", "press-2", "press-3"].map(|name| named(name, broker.port, "")).into();
    let base = world::train(folder.path(), "flipped", 1, true);
    let start = |device: &Device| {
        fs::write(device.path().join("conf.d/zz.toml"), format!("{trust}\n[cycle]\npolicy = \"static\"\n"))
            .expect("a temporary folder");
        let agent = device.start(Some(&base));
        agent.live(&mut World::new(7), Law::Old, 300);
        Some(agent)
    };
    let agents = std::thread::scope(|scope| {
        let starting: Vec<_> = devices.iter().map(|device| scope.spawn(|| start(device))).collect();
        starting.into_iter().map(|agent| agent.join().expect("it starts")).collect()
    });
    let peer = Peer::new(broker.port);
    until("all are online", || {
        let devices = console.json(&["devices"])["devices"].clone();
        let online = devices.as_array()?.iter().filter(|device| device["presence"] == "online").count();
        (online == 3).then_some(())
    });
    Some(Fleet { agents, devices, console, peer, folder, _broker: broker })
}

/// A rollout that runs in a process of its own.
struct Runner(Child);

impl Runner {
    /// How it ended: its code, and what it printed.
    fn ended(self) -> (Option<i32>, Value) {
        let output = self.0.wait_with_output().expect("a child of ours");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }
}

impl Fleet {
    fn begin(&self, id: &str, bundle: &Path, more: &[&str]) -> Runner {
        let bundle = bundle.display().to_string();
        let words = ["rollout", "start", id, &bundle, "--key", "ada.key", "--canary", "press-2", "--group", "hall-3"];
        let mut process = self.console.process(&[&words[..], &["--win", "1", "--json"], more].concat());
        Runner(process.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts"))
    }

    /// How a rollout stands, once it stands as wanted.
    fn shown(&self, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = String::new();
        until(what, || {
            let (_, out, _) = self.console.ask(&["rollout", "show", id, "--json"]);
            if out != last {
                // Read only where the test fails.
                println!("{out}");
                last.clone_from(&out);
            }
            serde_json::from_str::<Value>(&out).ok().filter(&wanted)
        })
    }

    /// Whether a command stands at the broker for `device`.
    fn is_ordered(&self, device: &str) -> bool {
        let topic = format!("hone/v1/d/{device}/down/cmd/");
        let mut standing = std::collections::BTreeMap::new();
        for came in self.peer.came().into_iter().filter(|came| came.topic.starts_with(&topic)) {
            standing.insert(came.topic, !came.payload.is_null());
        }
        standing.into_values().any(|stands| stands)
    }

    fn champions(&self) -> Vec<String> {
        self.agents.iter().flatten().map(Agent::champion).collect()
    }
}

fn standing(shown: &Value, device: &str) -> String {
    shown["devices"][device]["standing"]["standing"].as_str().unwrap_or("none").to_owned()
}

fn digest(path: &Path) -> String {
    fleet_protocol::names::Digest::of(&fs::read(path).expect("a bundle")).to_string()
}

#[test]
fn waves_pause_resume_and_stop_by_word_and_stop_by_themselves_where_the_model_does_not_hold() {
    let Some(mut fleet) = fleet() else { return };
    let before = fleet.champions();
    let train = |seed| world::train(fleet.folder.path(), &format!("right-{seed}"), seed, false);
    let (first, second) = (train(3), train(5));

    // The canary device takes it, and goes back: nobody else ever hears of it.
    let runner = fleet.begin("regretted", &first, &["--prove", "1h"]);
    fleet.shown("regretted", "the canary device serves it", |shown| {
        shown["devices"]["press-2"]["standing"]["seen"] == true
    });
    assert_eq!(fleet.devices[1].ask(&["rollback"]).0, Some(0));
    let (code, shown) = runner.ended();
    assert_eq!((code, &shown["state"]["state"]), (Some(9), &json!("stopped")), "{shown}");
    assert!(shown["state"]["reason"].as_str().is_some_and(|why| why.contains("rolled it back")), "{shown}");
    assert_eq!([1, 2, 3].map(|n| standing(&shown, &format!("press-{n}"))), ["waiting", "rolled_back", "waiting"]);
    assert_eq!(fleet.champions(), before);

    // After a way back a device judges by what it has seen since: one that has seen nothing says nothing against the model.
    let runner = fleet.begin("hasty", &second, &[]);
    let shown = fleet.shown("hasty", "it waits for a person", |shown| shown["state"]["state"] == "paused");
    assert_eq!(standing(&shown, "press-2"), "absent", "{shown}");
    assert_eq!(fleet.console.ask(&["rollout", "stop", "hasty"]).0, Some(0));
    assert_eq!(runner.ended().0, Some(9));
    fleet.agents[1].as_ref().expect("it runs").live(&mut World::new(8), Law::Old, 300);

    // Paused while the canary device proves: that goes on to its end, and no wave begins until it is resumed.
    let runner = fleet.begin("autumn", &second, &["--prove", "3s"]);
    fleet.shown("autumn", "the canary device has it", |shown| standing(shown, "press-2") != "waiting");
    assert_eq!(fleet.console.json(&["rollout", "pause", "autumn"]), json!({"rollout": "autumn", "wish": "pause"}));
    let shown = fleet.shown("autumn", "the canary device won", |shown| standing(shown, "press-2") == "won");
    assert_eq!(shown["state"], json!({"state": "paused", "reason": "by a person"}));
    assert_eq!(fleet.console.ask(&["rollout", "show", "autumn"]).0, Some(75));
    // Longer than the runner's look: nothing has begun.
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(!fleet.is_ordered("press-1") && !fleet.is_ordered("press-3"));
    assert_eq!(fleet.console.json(&["rollout", "resume", "autumn"])["wish"], "run");
    let (code, shown) = runner.ended();
    assert_eq!((code, &shown["state"]["state"]), (Some(0), &json!("finished")), "{shown}");
    assert!(fleet.champions().iter().all(|champion| *champion == digest(&second)));

    // A device that is away does not let the wave win: the rollout waits for a person.
    fleet.agents[2] = None;
    let runner = fleet.begin("winter", &second, &["--prove", "0s", "--deadline", "2s"]);
    let shown = fleet.shown("winter", "too few won", |shown| shown["state"]["state"] == "paused");
    assert_eq!(shown["state"]["reason"], "the model won on 1 of 2 devices of wave 2 only");
    assert_eq!((standing(&shown, "press-1"), standing(&shown, "press-3")), ("won".to_owned(), "absent".to_owned()));
    assert_eq!(fleet.console.ask(&["rollout", "stop", "winter"]).0, Some(0));
    assert_eq!(runner.ended().0, Some(9));

    // The emergency stop takes back what waits at the broker: a device that comes back carries nothing out.
    let runner = fleet.begin("spring", &second, &["--prove", "0s"]);
    fleet.shown("spring", "it waits for a device that is away", |shown| {
        standing(shown, "press-3") == "installing" && standing(shown, "press-1") == "won"
    });
    until("its command is retained", || fleet.is_ordered("press-3").then_some(()));
    assert_eq!(fleet.console.ask(&["rollout", "stop", "spring"]).0, Some(0));
    let (code, shown) = runner.ended();
    assert_eq!((code, &shown["state"]["reason"]), (Some(9), &json!("by a person")), "{shown}");
    until("its command is taken back", || (!fleet.is_ordered("press-3")).then_some(()));
    let commands = |fleet: &Fleet| {
        let shown = fleet.console.json(&["show", "press-3"]);
        shown["view"]["commands"].as_object().map_or(0, serde_json::Map::len)
    };
    let known = commands(&fleet);
    fleet.agents[2] = Some(fleet.devices[2].start(None));
    until("it is back", || (fleet.console.json(&["show", "press-3"])["presence"] == "online").then_some(()));
    assert_eq!(commands(&fleet), known, "it never heard of it");
    // What has been stopped does not begin again, and another bundle does not take its name's place in secret.
    assert_eq!(fleet.console.ask(&["rollout", "run", "spring", &second.display().to_string()]).0, Some(9));
    let (code, _, error) = fleet.console.ask(&["rollout", "run", "spring", &first.display().to_string()]);
    assert!(code == Some(4) && error.contains(&digest(&first)), "{error}");
}
