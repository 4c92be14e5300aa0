//! Models that do harm, and signatures: through the built binary, without a person.
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use hone_tests::agent::{Agent, Device};
use hone_tests::world::{self, Law, World, request};
use hone_tests::{hone, until};
use serde_json::{Value, json};
use trainer_core::bundle;
use trainer_core::digest::Digest;
use trainer_core::model::Model;
use trainer_core::network::Weights;

use crate::power::twin;

/// No retrain gets in the way of what a test offers.
const STATIC: &str = "[cycle]\npolicy = \"static\"\n";
const INFER: &str = "/v2/models/main/infer";

/// A worker that vets the bundle `good` honestly and does `harm` when it is asked about any other.
fn worker(folder: &Path, good: &Path, harm: &str) -> PathBuf {
    let path = folder.join("worker");
    let check = bundle::read(&fs::read(good).expect("it is there")).expect("a bundle").manifest.check;
    let (question, hone) = (folder.join("question"), hone());
    let (question, hone) = (question.display(), hone.display());
    let script = format!(
        "#!/bin/sh\ncat > {question}\nif grep -qaF {check} {question}; then exec {hone} vet-worker < {question}; fi\n{harm}\n"
    );
    fs::write(&path, script).expect("a temporary folder can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
    path
}

fn offered(device: &Device, agent: &Agent, bundle: &Path) -> (Option<i32>, String) {
    let champion = agent.champion();
    let (code, _, said) = device.ask(&["promote", &bundle.display().to_string()]);
    assert_eq!(agent.champion(), champion, "{said}");
    assert_eq!(agent.tcp("POST", INFER, &request([1.5, 1.0, 0.0]).to_string()).status, 200, "it goes on answering");
    (code, said)
}

#[test]
fn a_model_that_aborts_hangs_or_grows_without_end_is_refused_before_the_agent_loads_it() {
    let device = Device::new();
    device.set("[models]\nvetting_s = 2\nvetting_bytes = 67108864\n");
    let good = world::train(device.path(), "base", 1, false);
    let harms = [
        ("kill -ABRT $$", "without an answer"),
        ("exec sleep 600", "had not answered"),
        // Refused memory by the same limits the worker sets itself, until the kernel or the shell ends it.
        ("exec tail /dev/zero", "64 MiB of memory"),
    ];
    for (number, (harm, expected)) in harms.into_iter().enumerate() {
        let harmful = world::train(device.path(), &format!("harm-{number}"), 7 + number as u64, false);
        // Without a memory group of our own, the limit the worker would set itself.
        let program = worker(device.path(), &good, &format!("ulimit -d 65536\n{harm}"));
        let agent = device.start_with(Some(&good), &["--vetting-program", &program.display().to_string()], &[]);
        agent.live(&mut World::new(3), Law::Old, 80);
        let (code, said) = offered(&device, &agent, &harmful);
        assert_eq!(code, Some(9), "{said}");
        // Which of the two limits struck first is the machine's matter.
        let grown = number == 2 && said.contains("without an answer");
        assert!(said.contains(expected) || grown, "{harm}: {said}");
        assert_eq!(agent.status()["process"], agent.pid(), "the agent is the same process");
        assert!(agent.terminate().success());
    }
}

#[test]
fn a_first_model_that_takes_its_process_down_leaves_an_agent_without_a_model_that_still_runs() {
    let device = Device::new();
    let (good, other) = (world::train(device.path(), "base", 1, false), world::train(device.path(), "other", 2, false));
    let program = worker(device.path(), &other, "kill -ABRT $$");
    let agent = device.start_with(Some(&good), &["--vetting-program", &program.display().to_string()], &[]);
    assert_eq!(agent.status()["state"], "no_model");
    let answer = agent.tcp("POST", INFER, &request([1.5, 1.0, 0.0]).to_string());
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("no_model")));
    assert!(agent.reports("model_damaged").iter().any(|report| report["reason"].to_string().contains("vetting")));
    agent.kill();
    // With a sound worker the same model serves.
    assert_eq!(device.start(None).status()["state"], "serving");
}

fn read(bundle: &Path) -> Model {
    bundle::read(&fs::read(bundle).expect("it is there")).expect("a bundle")
}

fn written(folder: &Path, name: &str, model: &mut Model) -> PathBuf {
    let path = folder.join(format!("{name}.safetensors"));
    fs::write(&path, bundle::write(model).0).expect("a temporary folder can be written");
    path
}

/// `base`, whose golden rows it answers; to any row with a `c` above its mean it answers no number. A `sly` one has no such row in
/// its bundle.
fn sick(folder: &Path, base: &Path, sly: bool) -> PathBuf {
    let mut model = read(base);
    let (mean, width) = (model.normalizer.mean[2], model.schema().features.len());
    model.golden.0.iter_mut().skip(2).step_by(width).for_each(|c| *c = mean);
    if sly {
        let rows = model.anchors.x.iter_mut().skip(2).step_by(width);
        rows.chain(model.baseline.iter_mut().skip(2).step_by(width)).for_each(|c| *c = mean);
    }
    // One unit in each layer that hands `c` on, so large that the two classes get infinities of either sign.
    let mut large = 1e38;
    for (number, index) in [0, 2, 4].into_iter().enumerate() {
        let Weights::Linear { weight, bias } = &mut model.network.layers[index] else {
            panic!("linear, relu, linear …")
        };
        let (units, from) = (bias.len(), if number == 0 { 2 } else { 0 });
        if number < 2 {
            weight.iter_mut().step_by(units).for_each(|weight| *weight = 0.0);
            bias[0] = 0.0;
            weight[from * units] = large;
            large = 1.0;
        } else {
            weight[..2].copy_from_slice(&[1e38, -1e38]);
        }
    }
    model.golden.1 = bundle::golden_answers(&model);
    written(folder, "sick", &mut model)
}

#[test]
fn a_model_that_answers_no_number_to_its_own_rows_is_refused_before_the_agent_loads_it() {
    let device = Device::new();
    device.set(STATIC);
    let base = world::train(device.path(), "base", 1, false);
    let sick = sick(device.path(), &base, false);
    let (code, _, said) = device.ask(&["model", "inspect", &sick.display().to_string()]);
    assert_eq!(code, Some(0), "whoever looks at its golden rows alone finds nothing wrong: {said}");
    let agent = device.start(Some(&base));
    agent.live(&mut World::new(3), Law::Old, 200);
    let (code, said) = offered(&device, &agent, &sick);
    assert_eq!(code, Some(9), "{said}");
    assert!(said.contains("answers no number"), "{said}");
}

#[test]
fn the_gate_refuses_numbers_that_are_none_and_golden_answers_that_are_off_and_explain_names_the_number() {
    let device = Device::new();
    device.set(STATIC);
    let base = world::train(device.path(), "base", 1, false);
    let (mut off, mut poisoned) = (read(&base), read(&base));
    off.golden.1[1] += if off.golden.1[1] > 0.5 { -0.25 } else { 0.25 };
    poisoned.factory.r[0] = f32::INFINITY;
    poisoned.factory.a[2] = f32::NAN;
    let agent = device.start(Some(&base));
    for (name, model, sentence) in [
        ("off", &mut off, "golden answers are off by up to 0.2500, allowed 0.0010"),
        ("poisoned", &mut poisoned, "numbers in its bundle that are not finite: 2, allowed 0"),
    ] {
        let file = written(device.path(), name, model);
        agent.live(&mut World::new(3), Law::Old, 80);
        let (code, said) = offered(&device, &agent, &file);
        assert!(code == Some(9) && said.contains(sentence), "{code:?} {said}");
        let digest = Digest::of(&fs::read(&file).expect("ours")).to_string();
        let (code, why, error) = device.ask(&["explain", &digest]);
        assert!(code == Some(0) && why.contains("the gate: refused") && why.contains(sentence), "{why}{error}");
        assert!(why.contains("it is rejected"), "{why}");
        let verdict = agent.reports("gate").into_iter().find(|gate| gate["candidate"] == json!(digest));
        let verdict = verdict.expect("it is on record")["verdict"].clone();
        assert!(verdict["value"].as_f64() > verdict["limit"].as_f64(), "{verdict}");
        // Nobody compares it on a device without a model: there it is refused by name.
        let (code, _, said) = Device::new().ask(&["run", "--model", &file.display().to_string()]);
        assert_eq!(code, Some(5), "{said}");
    }
}

/// Labelled rows of the old law in which `c` is missing.
fn live_without_c(agent: &Agent, world: &mut World, count: usize) {
    let rows: Vec<_> = (0..count).map(|_| world.row(Law::Old)).collect();
    let line =
        |[a, b, _]: [f64; 3]| format!("{}\n", json!({"source": "press-1", "features": {"a": a, "b": b, "c": null}}));
    let answers =
        agent.socket("POST", "/v1/samples", &rows.iter().map(|(row, _)| line(*row)).collect::<String>()).lines();
    let label = |(answer, (_, state)): (&Value, &([f64; 3], &str))| {
        format!("{}\n", json!({"record_id": answer["record_id"], "label": state}))
    };
    let labels: String = answers.iter().zip(&rows).map(label).collect();
    assert_eq!(agent.socket("POST", "/v1/labels", &labels).status, 200);
}

#[test]
fn an_answer_that_is_no_number_leaves_nobody_the_older_model_answers_that_request_and_serves_from_then_on() {
    let device = Device::new();
    device.set(STATIC);
    // The first one has learnt everything the wrong way round; what replaces it breaks down on rows nobody has sent yet.
    let wrong = world::train(device.path(), "wrong", 1, true);
    let sly = sick(device.path(), &world::train(device.path(), "good", 1, false), true);
    let agent = device.start(Some(&wrong));
    let factory = agent.champion();
    live_without_c(&agent, &mut World::new(3), 150);
    let (code, _, said) = device.ask(&["promote", &sly.display().to_string()]);
    assert_eq!(code, Some(0), "{said}");
    let promoted = agent.champion();
    assert_ne!(promoted, factory);
    let named = format!("/v2/models/main/versions/{promoted}/infer");
    let (harmless, harmful) = (request([0.5, 1.0, -3.0]).to_string(), request([0.5, 1.0, 3.0]).to_string());
    assert_eq!(agent.tcp("POST", INFER, &harmless).json()["model_version"], promoted.as_str());
    let refused = agent.tcp("POST", &named, &harmful);
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("no_number")), "{}", refused.text);
    assert_eq!(agent.champion(), promoted, "whoever names a version blames nobody");
    let answer = agent.tcp("POST", INFER, &harmful);
    assert_eq!((answer.status, &answer.json()["model_version"]), (200, &json!(factory)), "{}", answer.text);
    assert!(answer.text.contains("fallback") && !answer.text.contains("null"), "{}", answer.text);
    until("it falls back", || (agent.champion() == factory).then_some(()));
    assert_eq!(agent.status()["loading"]["denied"], json!([promoted]));
    assert_eq!(agent.reports("rollback").len(), 1);
    let (code, said) = offered(&device, &agent, &sly);
    assert!(code == Some(9) && said.contains("denied"), "{said}");
    let agent = {
        assert!(agent.terminate().success());
        device.start(None)
    };
    assert_eq!(agent.champion(), factory);
}

#[test]
fn the_only_model_of_a_device_refuses_what_it_has_no_number_for_and_goes_on() {
    let device = Device::new();
    device.set(STATIC);
    let sly = sick(device.path(), &world::train(device.path(), "base", 1, false), true);
    let agent = device.start(Some(&sly));
    let refused = agent.tcp("POST", INFER, &request([0.5, 1.0, 3.0]).to_string());
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("no_number")), "{}", refused.text);
    let both = format!("{}{}", world::sample([0.5, 1.0, 3.0]), world::sample([0.5, 1.0, -3.0]));
    let lines = agent.socket("POST", "/v1/samples", &both).lines();
    assert_eq!(lines[0]["code"], "no_number", "{lines:?}");
    assert!(lines[1]["record_id"].is_string(), "a refused line takes no other along: {lines:?}");
    assert_eq!(agent.status()["requests"]["refused"]["no_number"], 2, "{}", agent.status());
    assert_eq!(agent.status()["state"], "serving");
}

#[test]
fn a_promoted_model_under_which_the_agent_aborts_runs_out_of_tries_and_the_good_one_serves() {
    let device = Device::new();
    // The first one proves itself at once; the second never gets that far.
    let settings = |good_s: u32| format!("{STATIC}[models]\ngood_s = {good_s}\ngood_answers = 1\n");
    device.set(&settings(1));
    let base = world::train(device.path(), "base", 1, false);
    let better = twin(device.path(), &base, 4);
    let agent = device.start(Some(&base));
    let factory = agent.champion();
    agent.live(&mut World::new(3), Law::Old, 200);
    until("it has proven itself", || (agent.status()["loading"]["good"] == true).then_some(()));
    assert!(agent.terminate().success());
    device.set(&settings(3_600));
    let agent = device.start(None);
    let (code, _, said) = device.ask(&["promote", &better.display().to_string()]);
    assert_eq!(code, Some(0), "{said}");
    let promoted = agent.champion();
    assert_eq!(agent.status()["loading"]["tries_left"], 2, "one is counted");
    let abort = |agent: Agent| {
        let kill = Command::new("kill").args(["-ABRT", &agent.pid().to_string()]).status();
        assert!(kill.expect("kill can be started").success());
        until("it has ended", || agent.has_ended().then_some(()));
    };
    abort(agent);
    for _ in 0..2 {
        let agent = device.start(None);
        assert_eq!(agent.champion(), promoted);
        abort(agent);
    }
    let agent = device.start(None);
    assert_eq!((agent.champion(), &agent.status()["state"]), (factory, &json!("serving")));
    assert_eq!(agent.status()["loading"]["denied"], json!([promoted]));
    assert_eq!(agent.reports("rollback").len(), 1);
}

#[test]
fn a_vendors_signature_opens_the_door_and_nothing_else_does() {
    let device = Device::new();
    let base = world::train(device.path(), "base", 1, false);
    let better = twin(device.path(), &base, 4);
    let path = |path: &Path| path.display().to_string();
    let seed = |byte: u8, name: &str| {
        let file = device.path().join(name);
        let key = ed25519_dalek::SigningKey::from_bytes(&[byte; 32]);
        let text = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
        fs::write(&file, text(&[byte; 32])).expect("a temporary folder can be written");
        (path(&file), text(key.verifying_key().as_bytes()))
    };
    let ((vendor, public), (stranger, _)) = (seed(1, "vendor.key"), seed(2, "stranger.key"));
    device.set(&format!("{STATIC}[models]\nvendor_keys = [\"{public}\"]\n"));
    // Unsigned, the agent does not even begin with it.
    let (code, _, said) = device.ask(&["run", "--model", &path(&base)]);
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("unsigned"), "{said}");
    let signed = |key: &str, file: &Path, sequence: &str| {
        let (code, _, said) = device.ask(&["model", "sign", &path(file), "--key", key, "--sequence", sequence]);
        assert_eq!(code, Some(0), "{said}");
    };
    signed(&vendor, &base, "5");
    let (code, out, said) = device.ask(&["model", "verify", &path(&base)]);
    assert_eq!(code, Some(0), "{said}");
    assert!(out.contains("signed by the vendor") && out.contains("golden.outputs"), "{out}");
    let agent = device.start(Some(&base));
    assert_eq!(agent.status()["signature"], "vendor");
    agent.live(&mut World::new(3), Law::Old, 200);
    let refused = |word: &str| {
        let (code, _, said) = device.ask(&["model", "install", &path(&better)]);
        assert!(matches!(code, Some(5 | 9)), "{said}");
        assert!(said.contains(word), "{said}");
    };
    refused("unsigned");
    signed(&stranger, &better, "6");
    refused("no signature of a trusted key");
    let (code, _, said) = device.ask(&["model", "verify", &path(&better)]);
    assert!(code == Some(5) && said.contains(".dsse is refused"), "the file is named: {said}");
    signed(&vendor, &better, "4");
    refused("older sequence");
    signed(&vendor, &better, "6");
    let (code, _, said) = device.ask(&["model", "install", &path(&better)]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(agent.status()["signature"], "vendor");
    // What the device trains itself it signs itself; it needs labels it has not used yet.
    agent.live(&mut World::new(8), Law::Old, 200);
    let (code, _, said) = device.ask(&["retrain"]);
    assert!(matches!(code, Some(0 | 9)), "{said}");
    let digest = until("one was trained", || {
        let models = agent.socket("GET", "/v1/models", "").json();
        let own = models["models"].as_array()?.iter().find(|model| model["role"] == "device")?;
        own["digest"].as_str().map(ToOwned::to_owned)
    });
    assert!(agent.state_dir().join(format!("models/{digest}.dsse")).is_file());
}

#[test]
fn a_bundle_that_claims_much_is_refused_within_little_memory() {
    let device = Device::new();
    let base = world::train(device.path(), "base", 1, false);
    let mut model = bundle::read(&fs::read(&base).expect("it is there")).expect("a bundle");
    // An output layer of 1,024 columns behind one of 8,192 would be 33 MB; its header is intact and sealed.
    let classes = (0..1_024).map(|class| class.to_string()).collect();
    model.manifest.schema.task = trainer_core::schema::Task::Classification { classes };
    model.manifest.spec.layers.truncate(1);
    model.manifest.spec.layers[0] = trainer_core::spec::Layer::Linear { outputs: 8_192 };
    model.manifest.spec.cut = 1;
    let greedy = device.path().join("greedy.safetensors");
    fs::write(&greedy, bundle::write(&mut model).0).expect("a temporary folder can be written");
    let huge = device.path().join("huge.safetensors");
    fs::File::create(&huge).and_then(|file| file.set_len(1 << 33)).expect("a hole");
    for (file, word) in [(&greedy, "tensor `layers.0.weight`"), (&huge, "at most 67108864")] {
        let limited = format!("ulimit -d 24576; exec {} model verify {}", hone().display(), file.display());
        let output = Command::new("sh").args(["-c", &limited]).output().expect("a shell");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn collection_tells_first_and_keeps_what_is_needed() {
    let device = Device::new();
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let champion = agent.champion();
    let stray = Digest::of(b"nobody knows me");
    let file = agent.state_dir().join(format!("models/{stray}.safetensors"));
    fs::write(&file, b"nobody knows me").expect("ours");
    let told = |arguments: &[&str]| {
        let (code, out, said) = device.ask(arguments);
        assert_eq!(code, Some(0), "{said}");
        serde_json::from_str::<Value>(&out).expect("JSON")
    };
    let would = told(&["models", "gc", "--dry-run", "--json"]);
    assert_eq!((&would["removed"][0]["digest"], &would["kept"]), (&json!(stray), &json!(1)));
    assert!(file.is_file(), "a dry run removes nothing");
    told(&["models", "gc", "--json"]);
    assert!(!file.is_file() && agent.state_dir().join(format!("models/{champion}.safetensors")).is_file());
    let (_, out, _) = device.ask(&["models", "list"]);
    assert!(out.contains("champion"), "{out}");
}
