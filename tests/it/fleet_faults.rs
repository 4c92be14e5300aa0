//! Everything that can die dies: the broker with its memory, the wire, the agent. Nothing is lost, doubled in effect or overtaken.
use std::time::{Duration, Instant};

use hone_agent::shell::store::StateDir;
use hone_tests::agent::{Agent, Device};
use hone_tests::broker::{Broker, Peer, Wire};
use hone_tests::fleet::{joined, online, recorded, report, stored};
use hone_tests::until;
use hone_tests::world::{self, Law, World};
use serde_json::json;

fn faults(count: u32, seed: u64) {
    let Some(mut broker) = Broker::start("") else { return };
    let wire = Wire::to(broker.port);
    let peer = Peer::new(broker.port);
    let device = joined(wire.port, "");
    let mut agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let mut world = World::new(7);
    agent.live(&mut world, Law::Old, 500);
    let mut chance = seed;
    for fault in 0..count {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Now and then before the last fault is healed.
        if chance >> 62 != 0 {
            until("the link is up", || (agent.status()["link"]["state"] == "online").then_some(()));
        }
        for _ in 0..(chance >> 40) % 12 {
            report(&agent);
        }
        let kind = (chance >> 33) % 4;
        match kind {
            0 => {
                let subscriptions = peer.subscriptions();
                broker.kill();
                report(&agent);
                // The recorder is there first: a broker without memory keeps nothing for a late reader.
                wire.cut();
                broker.restart();
                peer.subscribed(subscriptions + 1);
                wire.mend();
            }
            1 => {
                wire.cut();
                report(&agent);
                wire.mend();
            }
            2 => {
                wire.swallow();
                report(&agent);
                wire.mend();
            }
            _ => {
                agent.kill();
                agent = device.start(None);
            }
        }
        if fault % 50 == 49 && fault + 1 < count {
            agent = nothing_is_lost(&device, agent, &peer, fault + 1);
        }
        eprintln!("fault {fault}: {}", ["broker", "wire", "silence", "agent"][usize::try_from(kind).expect("0 to 3")]);
    }
    report(&agent);
    let _ = nothing_is_lost(&device, agent, &peer, count);
}

/// Everything that is stored has come, each once in effect and in order; afterwards nothing waits. Returns the next agent.
fn nothing_is_lost(device: &Device, agent: Agent, peer: &Peer, faults: u32) -> Agent {
    assert!(agent.terminate().success());
    // From the disk: the local answers show the newest thousand only.
    let all = {
        let state = StateDir::open(&device.state_dir()).expect("a state");
        let reports = state.control.reports_after(0, 100_000).expect("reports");
        reports.into_iter().map(|stored| stored.report.id.to_string()).collect::<Vec<_>>()
    };
    let agent = device.start(None);
    until("every event has come", || (recorded(peer).len() >= all.len()).then_some(()));
    assert_eq!(recorded(peer)[..all.len()], all, "each once in effect, and in order");
    eprintln!("{faults} faults, {} events, {} messages: none lost, none overtaken", all.len(), peer.came().len());
    let waiting = until("the outbox is empty", || {
        let link = agent.status()["link"].clone();
        (link["waiting_reports"] == 0).then_some(link)
    });
    assert_eq!((&waiting["parked_reports"], waiting.get("alarm")), (&json!(0), None));
    agent
}

#[test]
fn whatever_dies_fifty_times_every_event_arrives_once_in_effect_and_in_order() {
    faults(50, 2);
}

#[test]
#[ignore = "long: 1,000 faults; run by .ci/nightly"]
fn a_thousand_faults_lose_nothing() {
    faults(1_000, 3);
}

/// A device behind a wire, with the shortest keep-alive there is.
fn wired() -> Option<(Broker, Wire, Peer, Device, Agent)> {
    let broker = Broker::start("")?;
    let (wire, peer) = (Wire::to(broker.port), Peer::new(broker.port));
    let device = joined(wire.port, "keep_alive_s = 15\n");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    agent.live(&mut World::new(7), Law::Old, 500);
    until("the link is up", || online(&peer));
    Some((broker, wire, peer, device, agent))
}

/// A network that swallows everything and says nothing, for so long.
fn silence(cut: Duration) {
    let Some((_broker, wire, peer, _device, agent)) = wired() else { return };
    wire.swallow();
    let begun = Instant::now();
    report(&agent);
    until("the agent notices", || (agent.status()["link"]["state"] != "online").then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(17), "two signs of life, 7 s apart: {:?}", begun.elapsed());
    while begun.elapsed() < cut {
        report(&agent);
        std::thread::sleep(Duration::from_millis(500));
    }
    wire.mend();
    let all = stored(&agent);
    until("every event has come", || (recorded(&peer).len() >= all.len()).then_some(()));
    assert_eq!(recorded(&peer), all);
    until("the outbox is empty", || (agent.status()["link"]["waiting_reports"] == 0).then_some(()));
}

#[test]
fn a_network_that_swallows_everything_is_noticed_and_nothing_is_lost() {
    silence(Duration::from_secs(20));
}

#[test]
#[ignore = "long: the network is away for four minutes; run by .ci/nightly"]
fn a_network_that_is_away_for_minutes_costs_nothing() {
    silence(Duration::from_mins(4));
}

#[test]
fn a_broker_that_loses_everything_while_frozen_gets_it_all_again() {
    let Some((mut broker, wire, peer, _device, agent)) = wired() else { return };
    broker.signal("STOP");
    (0..100).for_each(|_| report(&agent));
    let subscriptions = peer.subscriptions();
    wire.cut();
    broker.kill();
    broker.restart();
    peer.subscribed(subscriptions + 1);
    wire.mend();
    let all = stored(&agent);
    assert!(all.len() > 100);
    until("every event has come", || (recorded(&peer).len() >= all.len()).then_some(()));
    assert_eq!(recorded(&peer), all);
    until("the outbox is empty", || (agent.status()["link"]["waiting_reports"] == 0).then_some(()));
}
