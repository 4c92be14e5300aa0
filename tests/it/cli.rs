//! The command line without a running agent: what it prints, what it refuses, and what it leaves behind.
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use hone_tests::bench::{Bench, Ended, flow, lines, press};
use hone_tests::hone;
use serde_json::Value;

/// Every command a person may type.
const COMMANDS: [&str; 38] = [
    "demo",
    "doctor",
    "run",
    "init",
    "join",
    "status",
    "drift",
    "drift scan",
    "drift compare",
    "drift calibrate",
    "models",
    "records",
    "label",
    "retrain",
    "promote",
    "approve",
    "reject",
    "canary",
    "explain",
    "replay",
    "backup",
    "restore",
    "models gc",
    "energy",
    "lineage",
    "reproduce",
    "snapshot",
    "rebaseline",
    "purge",
    "rollback",
    "train",
    "model",
    "model inspect",
    "model sign",
    "model verify",
    "model install",
    "backtest",
    "completions",
];

const TRAIN: [&str; 5] = ["train", "--data", "press.csv", "--label", "state"];

#[test]
fn the_same_rows_and_seed_give_the_same_bundle_in_a_child_and_in_this_process() {
    let bench = Bench::with_press();
    let train = |file: &str, more: &[&str]| {
        let facts = bench.facts(&[&TRAIN[..], &["-o", file], more].concat());
        facts["digest"].as_str().expect("a digest").to_owned()
    };
    let first = train("first", &[]);
    assert_eq!(train("again", &[]), first);
    assert_eq!(train("here", &["--in-process"]), first);
    assert_ne!(train("other", &["--seed", "1"]), first);
    assert!(bench.read("again") == bench.read("first"), "the digest is of these bytes");
    assert!(bench.read("here") == bench.read("first"), "a child changes nothing");
    assert!(bench.read("other") != bench.read("first"));
    let inspected = bench.facts(&["model", "inspect", "first"]);
    assert_eq!(inspected["digest"], first.as_str());
    assert_eq!(inspected["bytes"], bench.read("first").len());
    assert_eq!(inspected["signature"], "unsigned");
    let manifest = &inspected["manifest"];
    assert_eq!(manifest["schema"]["classes"], serde_json::json!(["off", "on"]), "{manifest}");
    assert_eq!(manifest["schema"]["features"][1]["name"], "load");
    let read = bench.does(&["model", "inspect", "first"]);
    for part in [first.as_str(), "off, on", "temp: number", "300 rows", "seed 0", "unsigned"] {
        assert!(read.contains(part), "`{part}` is missing in:\n{read}");
    }
}

#[test]
fn a_table_that_cannot_be_used_is_refused_with_its_line_and_what_to_do() {
    let bench = Bench::with_press();
    let refuses = |file: &str, says: &[&str]| {
        let told = [&[file], says].concat();
        bench.refuses(&["train", "--data", file, "--label", "state", "-o", "model"], 4, &told);
        bench.refuses(&["demo", "--fast", "--data", file, "--label", "state"], 4, &told);
        let backtest = ["backtest", "--first-rows", "100", "--data", file, "--label", "state"];
        bench.refuses(&backtest, 4, &told);
    };
    bench.write("ragged.csv", "temp,load,state\n1,2,on\n1,2\n");
    refuses("ragged.csv", &["ragged.csv:3", "2 values and the header 3", "mend or remove"]);
    let mut text = press(300, 200);
    text.insert_str(text.find('\n').expect("a header") + 1, "hot,0.1,0.2,on\n");
    bench.write("text.csv", &text);
    refuses("text.csv", &["text.csv:2", "`hot` in column `temp`", "--ignore temp"]);
    bench.write("infinite.csv", text.replacen("hot", "inf", 1));
    refuses("infinite.csv", &["infinite.csv:2", "`inf` in column `temp`", "correct it"]);
    bench.write("empty.csv", "");
    refuses("empty.csv", &["is empty", "a header line and rows"]);
    bench.write("header.csv", "temp,load,state\n");
    refuses("header.csv", &["no row follows", "add rows"]);
    bench.write("binary.csv", [b"temp,state\n".as_slice(), &[0xff, 0xfe, 0, 1], b",on\n"].concat());
    refuses("binary.csv", &["binary.csv:2", "not UTF-8"]);
    refuses("nowhere.csv", &["no such file", "check the path"]);
    refuses(".", &["cannot be read", "that it is a file"]);
}

#[test]
fn a_column_that_is_not_there_is_answered_with_the_nearest_one() {
    let bench = Bench::with_press();
    let says = ["press.csv:1", "no column `stat` for --label", "did you mean `state`?", "temp, load, noise, state"];
    bench.refuses(&["train", "--data", "press.csv", "--label", "stat", "-o", "model"], 4, &says);
    let train = |option: &'static str| [&TRAIN[..], &[option, "laod", "-o", "model"]].concat();
    bench.refuses(&train("--ignore"), 4, &["press.csv:1", "`laod` for --ignore", "did you mean `load`?"]);
    bench.refuses(&train("--features"), 4, &["press.csv:1", "`laod` for --features", "did you mean `load`?"]);
}

#[test]
fn too_few_rows_are_answered_with_the_number_that_is_missing() {
    let bench = Bench::with_press();
    bench.write("short.csv", press(7, 7));
    let says = ["cannot train on short.csv", "13 more labelled rows"];
    bench.refuses(&["train", "--data", "short.csv", "--label", "state", "-o", "model"], 4, &says);
    let backtest = |rows: &'static str| ["backtest", "--data", "press.csv", "--label", "state", "--first-rows", rows];
    let beyond = ["--first-rows 301", "press.csv has 300 usable rows", "name fewer rows"];
    bench.refuses(&backtest("301"), 4, &beyond);
    bench.refuses(&backtest("300"), 4, &["leaves nothing to stream", "name fewer rows"]);
    bench.refuses(&backtest("5"), 4, &["first 5 rows", "15 more labelled rows", "--first-rows"]);
}

#[test]
fn a_damaged_bundle_is_refused_wherever_the_damage_is() {
    let bench = Bench::with_press();
    bench.does(&[&TRAIN[..], &["-o", "good"]].concat());
    let good = bench.read("good");
    let refuses = |what: &str, bytes: &[u8]| {
        bench.write("bad", bytes);
        let ended = bench.hone(&["model", "inspect", "bad"]);
        assert_eq!(ended.code, Some(5), "{what}: {ended:?}");
        for part in ["bad is refused", "because: ", "hint: ", "hone train"] {
            assert!(ended.err.contains(part), "{what}: `{part}` is missing in: {}", ended.err);
        }
    };
    let mut places: Vec<usize> = (0..good.len()).step_by(good.len() / 60).collect();
    places.extend([1, 2, 3, 4, 5, 6, 7, 8, good.len() - 1]);
    for place in places {
        let mut bytes = good.clone();
        bytes[place] ^= 1 << (place % 8);
        refuses(&format!("a bit of byte {place} flipped"), &bytes);
    }
    for length in [0, 1, 7, 8, 9, 100, good.len() / 2, good.len() - 1] {
        refuses(&format!("cut after {length} bytes"), &good[..length]);
    }
    refuses("longer by a byte", &[&good[..], b"\0"].concat());
    refuses("a table", &bench.read("press.csv"));
    bench.refuses(&["model", "inspect", "nowhere"], 5, &["cannot read nowhere", "hint: make a bundle"]);
    let replay = ["backtest", "--model", "bad", "--data", "press.csv", "--label", "state"];
    bench.refuses(&replay, 5, &["bad is refused", "hint: "]);
}

#[test]
fn a_bad_configuration_is_refused_with_its_line_and_the_nearest_key() {
    let bench = Bench::with_press();
    let refuses = |text: &str, says: &[&str]| {
        bench.write("hone.toml", text);
        let hint = ["hone init"];
        for command in ["run", "status", "records"] {
            let arguments = [command, "--config", "hone.toml", "--state-dir", "state"];
            bench.refuses(&arguments, 3, &[says, &hint].concat());
        }
        let train = [&TRAIN[..], &["-o", "model", "--config", "hone.toml"]].concat();
        bench.refuses(&train, 3, &[says, &hint].concat());
    };
    refuses(
        "# mine\n[agent]\nlistn = \"off\"\n",
        &["hone.toml:3", "unknown key `agent.listn`", "did you mean `agent.listen`?"],
    );
    refuses("[cycle.watch]\nrun_length_row = 3\n", &["hone.toml:2", "did you mean `cycle.watch.run_length_rows`?"]);
    refuses("[agent]\ncommit_s = 0\n", &["`agent.commit_s` is 0", "1 to 3600"]);
    refuses("[agent\n", &["hone.toml:1", "expected `]`"]);
    let missing = ["run", "--config", "nowhere.toml", "--state-dir", "state"];
    bench.refuses(&missing, 3, &["cannot read nowhere.toml", "hone init"]);
}

#[test]
fn an_output_that_cannot_be_written_ends_as_a_disk_failure_and_leaves_nothing() {
    let bench = Bench::with_press();
    let says = ["cannot write nowhere/out", "because: ", "make its folder first"];
    bench.refuses(&[&TRAIN[..], &["-o", "nowhere/out"]].concat(), 7, &[&says[..], &["--output"]].concat());
    bench.refuses(&["init", "--output", "nowhere/out"], 7, &[&says[..], &["--output"]].concat());
    let replay = ["backtest", "--data", "press.csv", "--label", "state", "--first-rows", "100", "--policy", "static"];
    for option in ["--svg", "--html"] {
        let arguments = [&replay[..], &[option, "nowhere/out"]].concat();
        bench.refuses(&arguments, 7, &[&says[..], &[option]].concat());
        let printed = bench.hone(&arguments).out;
        assert!(printed.contains("static"), "the figures are lost with the drawing: {printed}");
    }
    bench.write("hone.toml", "# mine\n");
    bench.refuses(&["init", "--output", "hone.toml"], 9, &["cannot write hone.toml", "remove it"]);
    assert_eq!(bench.read("hone.toml"), b"# mine\n", "a file that is there is left alone");
    // The packaged one is nobody's until it is edited: the first step that the manual names must work.
    fs::remove_file(bench.path("hone.toml")).expect("a file of ours");
    bench.does(&["init", "--output", "hone.toml"]);
    bench.does(&["init", "--keep-mb", "100", "--output", "hone.toml"]);
    let text = String::from_utf8(bench.read("hone.toml")).expect("text");
    assert!(text.contains("keep_bytes = 104857600"), "{text}");
    assert_eq!(fs::metadata(bench.path("hone.toml")).expect("a file").permissions().mode() & 0o777, 0o644);
    bench.refuses(&["init", "--output", "hone.toml"], 9, &["cannot write hone.toml", "edit it"]);
}

#[test]
fn a_full_or_read_only_disk_is_named_and_no_half_of_a_file_stays() {
    let bench = Bench::with_press();
    fs::create_dir(bench.path("disk")).expect("a temporary folder can be written");
    // A small disk of its own, in a mount namespace that ends with the command.
    let on_disk = |options: &str, arguments: &[&str]| {
        let script = "mount -t tmpfs -o \"$1\" small disk || exit 99; shift; \"$@\"; code=$?; ls -A disk; exit $code";
        let mut command = bench.command(Path::new("unshare"));
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", options]);
        command.arg(hone()).args(arguments);
        command.output().ok().map(Ended::new)
    };
    let probe = on_disk("size=16k", &["--version"]);
    if probe.is_none_or(|probe| probe.code != Some(0)) {
        println!("skipped: this machine lets nobody but root mount a small disk in a namespace of its own");
        return;
    }
    let train = [&TRAIN[..], &["-o", "disk/out"]].concat();
    let init = ["init", "--output", "disk/out"];
    for arguments in [&train[..], &init] {
        for (options, says) in [
            ("size=4k", ["No space left", "free some space"]),
            ("ro", ["Read-only file system", "a folder you may write to"]),
        ] {
            let ended = on_disk(options, arguments).expect("it could be started before");
            ended.refused(7, &[&["cannot write disk/out"], &says[..]].concat());
            assert_eq!(ended.out, "", "{options}: left on the disk after {arguments:?}");
        }
    }
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused_with_what_would() {
    let bench = Bench::with_press();
    let replay = ["backtest", "--data", "press.csv", "--label", "state", "--first-rows", "100", "--policy"];
    for policy in ["sometimes", "trigger:luck", "trigger:", "fixed:0", "fixed:many", "fixed"] {
        let says = [policy, "is not a policy", "trigger:any", "continual", "--help"];
        bench.refuses(&[&replay[..], &[policy]].concat(), 2, &says);
    }
    bench.refuses(&["trian"], 2, &["trian", "train", "--help"]);
    bench.refuses(&["train", "--label", "state"], 2, &["--data", "--help"]);
    bench.refuses(&[&TRAIN[..], &["--seed", "x"]].concat(), 2, &["--seed", "--help"]);
}

#[test]
fn without_an_agent_each_question_says_so_and_how_to_start_one() {
    let bench = Bench::new();
    fs::create_dir(bench.path("empty")).expect("a temporary folder can be written");
    for command in ["status", "drift", "models", "records", "retrain", "rebaseline", "rollback"] {
        for json in [&[][..], &["--json"]] {
            let arguments = [&[command, "--state-dir", "empty"], json].concat();
            bench.refuses(&arguments, 8, &["no agent answers on empty", "hint: start it with `hone run`"]);
        }
    }
    for command in ["status", "drift"] {
        bench.refuses(&[command, "--watch", "--state-dir", "empty"], 8, &["no agent answers on empty"]);
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    let bench = Bench::new();
    for command in COMMANDS {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = bench.does(&words);
        assert!(help.contains("Usage: hone "), "{help}");
        let example = help.find("Example").map(|at| &help[at..]);
        let shown = example.is_some_and(|example| example.contains(&format!("hone {command}")));
        assert!(shown, "`hone {command} --help` has no example of it:\n{help}");
    }
    let help = bench.does(&["--help"]);
    assert!(help.contains("Exit codes: 0 ok"), "{help}");
    let listed: BTreeSet<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let known: BTreeSet<&str> = COMMANDS.into_iter().filter(|name| !name.contains(' ')).chain(["help"]).collect();
    assert_eq!(listed, known, "a command is missing here or there");
}

#[test]
fn completions_are_printed_for_each_shell_and_leave_the_inner_command_out() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = bench.does(&["completions", shell]);
        assert!(script.contains("backtest") && script.contains("first-rows"), "{shell}");
    }
    bench.refuses(&["completions", "cmd"], 2, &["cmd", "bash"]);
}

#[test]
fn what_is_asked_for_as_json_is_one_json_value_a_line() {
    let bench = Bench::with_press();
    let trained = bench.facts(&[&TRAIN[..], &["-o", "model"]].concat());
    assert_eq!((&trained["rows"], &trained["unlabelled"]), (&300.into(), &0.into()), "{trained}");
    assert_eq!(trained["bytes"], bench.read("model").len());
    assert!(trained["holdout"]["classification"]["accuracy"].is_f64(), "{trained}");
    assert_eq!(bench.facts(&["init", "--output", "hone.toml"])["file"], "hone.toml");
    let replay = ["backtest", "--model", "model", "--data", "press.csv", "--label", "state", "--policy", "static"];
    assert_eq!(bench.facts(&replay)["policies"][0]["policy"], "static");
}

#[test]
fn the_file_that_init_writes_is_the_one_it_prints_and_is_accepted() {
    let bench = Bench::new();
    bench.does(&["init", "--output", "hone.toml"]);
    assert_eq!(bench.does(&["init"]).as_bytes(), bench.read("hone.toml"));
    // Accepted: the command fails only because nobody answers.
    let status = ["status", "--config", "hone.toml", "--state-dir", "state"];
    bench.refuses(&status, 8, &["no agent answers"]);
}

/// Runs `hone demo --fast --json`; its summary, after a look at what it left behind.
fn demo(more: &[&str], bench: &Bench) -> Value {
    fs::create_dir(bench.path("tmp")).expect("a temporary folder can be written");
    let mut command = bench.command(hone());
    command.args(["demo", "--fast", "--json"]).args(more).env("TMPDIR", bench.path("tmp"));
    let ended = Ended::new(command.output().expect("hone can be started"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let left = fs::read_dir(bench.path("tmp")).expect("a folder of ours").count();
    assert_eq!(left, 0, "the demonstration left something in its temporary folder");
    let mut account = lines(&ended.out);
    let summary = account.pop().expect("a summary");
    let events =
        account.iter().filter(|line| line["row"].is_u64() && line["event"].is_string() && line["text"].is_string());
    assert_eq!(events.count(), account.len(), "each line before the summary is an event");
    for event in ["drift", "retrain", "gate", "promote"] {
        assert!(account.iter().any(|line| line["event"] == event), "no {event} in {}", ended.out);
    }
    assert_eq!(summary["poisoned"], "refused", "{summary}");
    assert!(summary["verdict"].as_str().is_some_and(|verdict| verdict.starts_with("refused: ")), "{summary}");
    assert_eq!(summary["refused_samples"], 0, "{summary}");
    assert!(summary["promotions"].as_u64() >= Some(1), "{summary}");
    assert!(summary["retrains"].as_u64() >= summary["promotions"].as_u64(), "{summary}");
    summary
}

fn figure(summary: &Value, name: &str) -> f64 {
    summary[name].as_f64().unwrap_or_else(|| panic!("no {name} in {summary}"))
}

#[test]
fn the_demonstration_ends_better_with_hone_refuses_the_bad_candidate_and_cleans_up() {
    let summary = demo(&[], &Bench::new());
    println!("demo: {summary}");
    assert_eq!(summary["measure"], "accuracy");
    assert!(figure(&summary, "with_hone") > figure(&summary, "without_hone") + 0.1, "{summary}");
}

#[test]
fn the_demonstration_runs_on_a_file_of_ones_own() {
    let bench = Bench::new();
    bench.write("press.csv", press(1_200, 700));
    let summary = demo(&["--data", "press.csv", "--label", "state"], &bench);
    assert!(figure(&summary, "with_hone") > figure(&summary, "without_hone") + 0.1, "{summary}");
    let bench = Bench::new();
    bench.write("flow.csv", flow(1_200, 700));
    let summary = demo(&["--data", "flow.csv", "--label", "flow"], &bench);
    assert!(summary["measure"].as_str().is_some_and(|measure| measure.contains("RMSE")), "{summary}");
    assert!(figure(&summary, "with_hone") < 0.8 * figure(&summary, "without_hone"), "{summary}");
}

#[test]
fn a_file_too_short_for_a_demonstration_is_refused_before_anything_starts() {
    let bench = Bench::new();
    bench.write("short.csv", press(100, 50));
    let says = ["short.csv: 100 labelled rows are too few", "160 or more"];
    bench.refuses(&["demo", "--fast", "--data", "short.csv", "--label", "state"], 4, &says);
}
