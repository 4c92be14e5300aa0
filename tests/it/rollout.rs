//! From candidate to champion on a real agent: shadow, canary, promotion, restarts between, people, and a bad challenger.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hone_tests::agent::{Agent, Device};
use hone_tests::until;
use hone_tests::world::{self, Law, World};
use serde_json::{Value, json};

const INFER: &str = "/v2/models/main/infer";

/// A trial that a test can wait for: all samples come from one source, so the stages are all or nothing.
const BRISK: &str = r#"
[rollout]
stages = [100]
dwell_rows = 20
dwell_s = 0
watch_samples = 200
"#;

fn request() -> String {
    world::request([0.5; 3]).to_string()
}

fn phase(agent: &Agent) -> String {
    agent.status()["rollout"]["phase"].as_str().unwrap_or("none").to_owned()
}

/// Lives under `law` until `done`, and says what the story had come to if it never is.
fn live_until<T>(
    what: &str,
    agent: &Agent,
    world: &mut World,
    law: Law,
    mut done: impl FnMut(&Agent) -> Option<T>,
) -> T {
    let begun = Instant::now();
    loop {
        agent.live(world, law, 20);
        if let Some(found) = done(agent) {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_mins(2), "{what}: {}", agent.status()["rollout"]);
    }
}

fn promoted(from: &str) -> impl FnMut(&Agent) -> Option<String> + '_ {
    move |agent| Some(agent.champion()).filter(|champion| champion != from)
}

#[test]
fn three_drifts_lead_through_shadow_and_canary_to_three_champions_across_restarts() {
    let device = Device::new();
    device.set(BRISK);
    let base = world::train(device.path(), "base", 1, false);
    let mut agent = device.start(Some(&base));
    let mut world = World::new(5);
    let mut champions = vec![agent.champion()];
    agent.live(&mut world, Law::Old, 300);
    for (cycle, law) in [Law::New, Law::Old, Law::New].into_iter().enumerate() {
        let before = agent.champion();
        live_until("a trial", &agent, &mut world, law, |agent| (phase(agent) == "trial").then_some(()));
        assert_eq!(agent.champion(), before, "who is tried is not champion");
        let challenger = agent.status()["rollout"]["challenger"].clone();
        // An orderly restart, and a kill: the trial goes on with the same challenger.
        if cycle % 2 == 0 {
            assert!(agent.terminate().success());
        } else {
            agent.kill();
        }
        agent = device.start(None);
        assert_eq!(agent.champion(), before);
        let resumed = agent.status()["rollout"].clone();
        assert_eq!((&resumed["phase"], &resumed["challenger"]), (&json!("trial"), &challenger), "{resumed}");
        let champion = live_until("a promotion", &agent, &mut world, law, promoted(&before));
        // It serves, or lost its trial, on record, and whoever serves has won one.
        let by = |kind: &str| agent.reports(kind).iter().map(|told| told["challenger"].clone()).collect::<Vec<_>>();
        assert!(by("trial_won").contains(&json!(champion)), "{champion} won nothing");
        assert!(json!(champion) == challenger || by("trial_ended").contains(&challenger), "{challenger} is lost");
        agent.kill();
        agent = device.start(None);
        assert_eq!(agent.champion(), champion, "stored first, visible second");
        champions.push(champion);
        // It keeps its place while the former champion looks on.
        until("the new law is learnt", || (agent.live(&mut world, law, 50) >= 40).then_some(()));
        agent.live(&mut world, law, 300);
    }
    let of = |kind: &str| agent.reports(kind).len();
    assert!(of("trial_won") >= 3 && of("promote") >= 3 && of("drift") >= 3, "{champions:?}");
    for won in agent.reports("trial_won") {
        let standing = &won["standing"];
        assert!(standing["promote_e"].as_f64() >= standing["limit"].as_f64(), "promoted on evidence: {won}");
    }
    let (code, said, error) = device.ask(&["explain"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(said.contains("the gate: passed") && said.contains("approved by policy"), "{said}");
    assert!(said.contains("it won its trial") && said.contains("it serves now"), "{said}");
    let (_, tree, _) = device.ask(&["lineage"]);
    assert!(tree.contains("approved by policy") && tree.contains("trial won after"), "{tree}");
}

/// Lives under a law that the champion does not know until somebody is asked about a candidate.
fn asked(agent: &Agent, world: &mut World) -> String {
    let asks =
        |agent: &Agent| (phase(agent) == "awaiting_approval").then(|| agent.status()["rollout"]["candidate"].clone());
    live_until("somebody is asked", agent, world, Law::New, asks).as_str().expect("a digest").to_owned()
}

#[test]
fn a_person_approves_holds_promotes_and_rolls_back_within_a_second_and_all_is_on_record() {
    let device = Device::new();
    device.set("[rollout]\napproval = \"ask\"\n");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let mut world = World::new(7);
    for command in [&["approve"][..], &["reject"], &["promote"], &["canary", "hold"], &["canary", "abort"]] {
        assert_eq!(device.ask(command).0, Some(9), "{command:?}: there is nothing to answer");
    }
    agent.live(&mut world, Law::Old, 200);
    let (champion, candidate) = (agent.champion(), asked(&agent, &mut world));
    let question = &agent.reports("approval_required")[0];
    assert_eq!((&question["candidate"], &question["verdict"]["passed"]), (&json!(candidate), &json!(true)));
    assert_eq!(device.ask(&["retrain"]).0, Some(9), "one candidate at a time");
    let (code, _, error) = device.ask(&["approve", "--by", "anna"]);
    assert_eq!(code, Some(0), "{error}");
    agent.live(&mut world, Law::New, 60);
    assert_eq!(phase(&agent), "trial");
    assert_eq!(device.ask(&["canary", "hold", "--by", "bert"]).0, Some(0));
    assert_eq!(agent.status()["rollout"]["held"]["by"], "bert");
    assert_eq!(device.ask(&["canary", "resume"]).0, Some(0));

    // Both can be asked for by name, and what is no version is not.
    for digest in [&champion, &candidate] {
        let answer = agent.tcp("POST", &format!("/v2/models/main/versions/{digest}/infer"), &request());
        assert_eq!((answer.status, &answer.json()["model_version"]), (200, &json!(digest)), "{}", answer.text);
    }
    let unknown = format!("/v2/models/main/versions/{}/infer", "ab".repeat(32));
    assert_eq!(agent.tcp("POST", &unknown, &request()).status, 404);

    assert_eq!(device.ask(&["promote", "--by", "anna"]).0, Some(0));
    assert_eq!(agent.champion(), candidate);
    assert_eq!(agent.reports("trial_won")[0]["answer"]["by"], "anna");
    let begun = Instant::now();
    let (code, _, error) = device.ask(&["rollback"]);
    let took = begun.elapsed();
    assert!(code == Some(0) && took < Duration::from_secs(1), "{code:?} {error} {took:?}");
    assert_eq!(agent.tcp("POST", INFER, &request()).json()["model_version"], champion.as_str());
    assert_eq!(phase(&agent), "steady", "what was compared with it is void");
    let (_, said, _) = device.ask(&["explain", &candidate[..16]]);
    assert!(said.contains("approved by anna") && said.contains("it is rejected"), "{said}");
    let refused = agent.tcp("POST", &format!("/v2/models/main/versions/{candidate}/infer"), &request());
    assert_eq!(refused.status, 404, "a rejected model answers nobody: {}", refused.text);

    let second = asked(&agent, &mut world);
    assert_eq!(device.ask(&["reject", "--reason", "not today", "--by", "bert"]).0, Some(0));
    let ended = &agent.reports("trial_ended")[0];
    assert_eq!(
        (&ended["challenger"], &ended["reason"], &ended["answer"]["by"]),
        (&json!(second), &json!("not today"), &json!("bert"))
    );
    assert_eq!(agent.champion(), champion);
}

/// A rule of which the champion knows three quarters: the first sensor alone decides.
fn by_first(row: [f64; 3]) -> &'static str {
    if row[0] > 0.0 { "high" } else { "low" }
}

/// Trains a model of that rule.
fn trained_by_first(device: &Device) -> String {
    let mut world = World::new(3);
    let rows = (0..400).map(|_| world.row(Law::Old).0);
    let text: String = rows.map(|row| format!("{},{},{},{}\n", row[0], row[1], row[2], by_first(row))).collect();
    let place = |name: &str| device.path().join(name).display().to_string();
    std::fs::write(place("first.csv"), format!("a,b,c,state\n{text}")).expect("a temporary folder can be written");
    let train = ["train", "--label", "state", "--seed", "1", "--data", &place("first.csv"), "-o", &place("first")];
    assert_eq!(device.ask(&train).0, Some(0));
    place("first")
}

/// Sends rows that follow that rule, with their labels.
fn live_by_first(agent: &Agent, world: &mut World, count: usize) {
    let rows: Vec<_> = (0..count).map(|_| world.row(Law::Old).0).collect();
    let body: String = rows.iter().map(|row| world::sample(*row)).collect();
    let answers = agent.socket("POST", "/v1/samples", &body).lines();
    let label = |(answer, row): (&Value, &[f64; 3])| {
        format!("{}\n", json!({"record_id": answer["record_id"], "label": by_first(*row)}))
    };
    let labels: String = answers.iter().zip(&rows).map(label).collect();
    assert_eq!(agent.socket("POST", "/v1/labels", &labels).status, 200);
}

/// Sends rows of `law` and labels only what is asked for; returns how many labels that took.
fn answer_requests(agent: &Agent, world: &mut World, law: Law, known: &mut BTreeMap<String, &'static str>) -> usize {
    let rows: Vec<_> = (0..10).map(|_| world.row(law)).collect();
    let body: String = rows.iter().map(|(row, _)| world::sample(*row)).collect();
    let answers = agent.socket("POST", "/v1/samples", &body).lines();
    for (answer, (_, state)) in answers.iter().zip(&rows) {
        known.insert(answer["record_id"].as_str().expect("an id").to_owned(), state);
    }
    let open = agent.tcp("GET", "/v1/label-requests?limit=1000", "").json();
    let wanted = open["requests"].as_array().cloned().unwrap_or_default();
    let label = |request: &Value| {
        let state = known.get(request["record_id"].as_str()?)?;
        Some(format!("{}\n", json!({"record_id": request["record_id"], "label": state})))
    };
    let labels: String = wanted.iter().filter_map(label).collect();
    if !labels.is_empty() {
        assert_eq!(agent.socket("POST", "/v1/labels", &labels).status, 200);
    }
    labels.lines().count()
}

#[test]
fn a_bad_challenger_is_aborted_by_the_labels_that_are_asked_for_and_the_champion_keeps_serving() {
    let device = Device::new();
    // Nothing is trained here: the challenger is a model of another rule, which holds until it is tried.
    device.set("[cycle]\npolicy = \"static\"\n[rollout]\ndwell_rows = 500\ndwell_s = 0\n");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let other = trained_by_first(&device);
    let champion = agent.champion();
    let mut world = World::new(11);
    live_by_first(&agent, &mut world, 150);
    let (code, said, error) = device.ask(&["promote", &other]);
    assert!(code == Some(0) && said.contains("is being tried"), "{said}{error}");
    assert_eq!(phase(&agent), "trial");
    let challenger = agent.status()["rollout"]["challenger"].clone();
    // Judged while its law held, tried when it holds no more.
    let (mut known, mut labels) = (BTreeMap::new(), 0);
    let ended = until("the trial ends", || {
        labels += answer_requests(&agent, &mut world, Law::Old, &mut known);
        agent.reports("trial_ended").first().cloned()
    });
    assert_eq!((&ended["why"], &ended["challenger"]), (&json!("worse"), &challenger), "{ended}");
    assert!((1..=100).contains(&labels) && labels < known.len(), "{labels} labels of {} samples", known.len());
    assert_eq!(agent.champion(), champion);
    assert!(agent.live(&mut world, Law::Old, 50) >= 40, "the champion serves");
    assert!(agent.reports("promote").is_empty());
    let (_, said, _) = device.ask(&["explain", challenger.as_str().expect("a digest")]);
    assert!(said.contains("labels show that it is worse") && said.contains("it is rejected"), "{said}");
}
