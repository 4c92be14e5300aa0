//! A clock that lies, through the built binary: nothing is lost or put out of order for it.
use std::fs;
use std::path::Path;

use hone_tests::agent::{Agent, Device};
use hone_tests::until;
use hone_tests::world::{self, Law, World};
use serde_json::json;

fn faketime() -> Option<&'static str> {
    let found = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|arch| format!("/usr/lib/{arch}/faketime/libfaketime.so.1"))
        .into_iter()
        .find(|path| Path::new(path).exists());
    if found.is_none() {
        eprintln!("SKIPPED: libfaketime is not installed (apt-get install libfaketime)");
    }
    found.map(|path| &*path.leak())
}

#[test]
fn a_clock_that_wakes_in_1970_and_jumps_loses_no_record_keeps_the_order_and_promotes_nothing() {
    let Some(library) = faketime() else { return };
    let device = Device::new();
    let model = world::train(device.path(), "base", 1, false);
    let offset = device.path().join("offset");
    // Seconds from the machine's own time; written whole at once, as the agent reads it at every look at the clock.
    let set = |seconds: i64| {
        let unfinished = offset.with_extension("unfinished");
        fs::write(&unfinished, format!("{seconds:+}")).and_then(|()| fs::rename(&unfinished, &offset)).unwrap();
    };
    let now =
        i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).unwrap();
    set(100 - now);
    let environment = [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let agent = device.start_with(Some(&model), &[], &environment);
    let champion = agent.champion();
    let mut world = World::new(11);
    let told = |agent: &Agent, count: usize| {
        until("the jump is told", || (agent.reports("clock_jump").len() >= count).then_some(()));
    };
    assert_eq!(agent.status()["storage"]["clock"]["trust"], "unsynced");
    assert!(agent.status()["storage"]["clock"]["now"].as_str().unwrap().starts_with("1970"));
    until("the clock is looked at", || agent.status()["storage"]["clock"]["standing"].is_string().then_some(()));
    let mut right = agent.live(&mut world, Law::Old, 100);
    for (jumps, seconds) in [(1, 0), (2, 315_000_000), (3, 0)] {
        set(seconds);
        told(&agent, jumps);
        right += agent.live(&mut world, Law::Old, 100);
    }
    let status = agent.status();
    assert_eq!((&status["records"]["records"], &status["labels"]), (&json!(400), &json!(400)));
    assert!(right > 360, "{right} of 400");
    agent.kill();
    // The battery is empty: 1970 again.
    set(200 - now);
    let agent = device.start_with(None, &[], &environment);
    assert_eq!(agent.status()["storage"]["clock"]["trust"], "unsynced");
    let _ = agent.live(&mut world, Law::Old, 100);
    let status = agent.status();
    assert_eq!((&status["records"]["records"], &status["labels"]), (&json!(500), &json!(500)));
    let records = agent.socket("GET", "/v1/records?limit=500", "").json()["records"].as_array().cloned().unwrap();
    let numbers: Vec<_> = records.iter().map(|record| record["seq"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (1..=500).rev().collect::<Vec<_>>(), "the order is that of arrival");
    let year = |number: usize| records[500 - number]["arrived_at"].as_str().unwrap()[..4].parse::<i32>().unwrap();
    assert_eq!((year(50), year(450)), (1970, 1970));
    assert!(year(250) > year(150) + 8 && year(350) == year(150), "{} {} {}", year(150), year(250), year(350));
    assert_eq!(agent.champion(), champion);
    assert!(agent.reports("promote").is_empty() && agent.reports("rollback").is_empty());
    assert!(agent.terminate().success());
}
