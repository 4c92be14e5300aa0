//! `hone backtest`: the replay of a labelled stream, equal in every run, and honest about what it can know when.
use std::fmt::Write as _;

use serde_json::Value;

use hone_tests::bench::{Bench, Chance, flow, lines, press};

/// Rows of the stream, the first of them trained on, and where its rule turns round.
const ROWS: usize = 1_200;
const FIRST: usize = 300;
const CHANGE: usize = 700;

fn bench() -> Bench {
    let bench = Bench::new();
    bench.write("press.csv", press(ROWS, CHANGE));
    bench
}

/// Arguments of a replay of `press.csv` or `flow.csv`.
fn replay<'a>(file: &'a str, policies: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    let label = if file == "flow.csv" { "flow" } else { "state" };
    let mut arguments = vec!["backtest", "--data", file, "--label", label, "--first-rows", "300", "--no-measured"];
    arguments.extend(policies.iter().flat_map(|policy| ["--policy", policy]));
    arguments.extend(more);
    arguments
}

/// The named policy's result.
fn of<'a>(facts: &'a Value, policy: &str) -> &'a Value {
    let all = facts["policies"].as_array().expect("a list of policies");
    let found = all.iter().find(|summary| summary["policy"] == policy);
    found.unwrap_or_else(|| panic!("no {policy} in {facts}"))
}

fn number(summary: &Value, key: &str) -> f64 {
    summary[key].as_f64().unwrap_or_else(|| panic!("no {key} in {summary}"))
}

/// How many answers were right; the accuracy is this number over `n`.
fn right(summary: &Value) -> f64 {
    (number(summary, "accuracy") * number(summary, "n")).round()
}

#[test]
fn equal_runs_print_equal_bytes_in_a_child_and_in_this_process() {
    let bench = bench();
    let policies = ["fixed:300", "trigger:any", "value", "continual"];
    let run = |more: &[&str]| bench.does(&replay("press.csv", &policies, &[&["--json"], more].concat()));
    let first = run(&[]);
    assert_eq!(run(&[]), first, "the same run twice");
    assert_eq!(run(&["--in-process"]), first, "in a child and here");
    assert_ne!(run(&["--seed", "1"]), first, "another seed is another network");
    let table = |more: &[&str]| bench.does(&replay("press.csv", &policies, more));
    assert_eq!(table(&[]), table(&["--in-process"]), "the table too");
}

#[test]
fn each_policy_is_answered_with_its_figures_and_events_in_the_order_asked() {
    let bench = bench();
    let facts = bench.facts(&replay("press.csv", &["trigger:any", "static", "continual"], &[]));
    assert_eq!(facts["data"], "press.csv");
    assert_eq!((&facts["rows"], &facts["first_rows"]), (&ROWS.into(), &FIRST.into()));
    assert_eq!(facts["label_delay"], 0);
    let all = facts["policies"].as_array().expect("a list");
    let names: Vec<_> = all.iter().map(|summary| summary["policy"].as_str()).collect();
    assert_eq!(names, [Some("trigger:any"), Some("static"), Some("continual")]);
    for summary in all {
        assert_eq!(summary["n"], ROWS - FIRST);
        for key in ["accuracy", "f1_macro"] {
            assert!((0.0..=1.0).contains(&number(summary, key)), "{key} of {summary}");
        }
        assert!(number(summary, "log_loss") > 0.0 && number(summary, "joules_modelled") >= 0.0);
        let counts = ["retrains", "promotions", "rollbacks", "work_mac"];
        assert!(counts.iter().all(|key| summary[key].is_u64()), "{summary}");
        assert!(summary["measured"].is_null(), "--no-measured leaves times out");
        let events = summary["events"].as_array().expect("a list");
        let rows: Vec<u64> = events.iter().map(|event| event["row"].as_u64().expect("a row")).collect();
        assert!(rows.is_sorted() && rows.iter().all(|row| (FIRST as u64..ROWS as u64).contains(row)), "{rows:?}");
        let kinds = |kind: &str| events.iter().filter(|event| event["kind"] == kind).count();
        assert_eq!(summary["retrains"], kinds("retrain"));
        assert_eq!(summary["promotions"], kinds("promote"));
        assert_eq!(summary["rollbacks"], kinds("rollback"));
    }
    let fixed = of(&facts, "static");
    assert_eq!((&fixed["retrains"], &fixed["work_mac"]), (&0.into(), &0.into()), "static never trains");
    let measured = replay("press.csv", &["trigger:any"], &[]);
    let measured: Vec<_> = measured.into_iter().filter(|argument| *argument != "--no-measured").collect();
    let measured = bench.facts(&measured);
    assert!(number(&of(&measured, "trigger:any")["measured"], "train_cpu_s") > 0.0, "{measured}");
}

#[test]
fn without_a_policy_asked_for_all_are_compared() {
    let bench = bench();
    let table = bench.does(&replay("press.csv", &[], &["--in-process"]));
    for policy in ["static", "fixed:200", "trigger:adwin", "trigger:psi", "trigger:any", "value", "continual"] {
        assert!(table.lines().any(|line| line.starts_with(policy)), "no {policy} in\n{table}");
    }
    assert!(table.contains("modelled from multiply-adds, not measured"), "{table}");
}

#[test]
fn policies_that_learn_beat_the_one_that_does_not_where_the_rule_turns_round() {
    let bench = bench();
    let facts = bench.facts(&replay("press.csv", &["static", "trigger:any", "continual"], &[]));
    let accuracy = |policy| number(of(&facts, policy), "accuracy");
    println!(
        "static {:.4}, trigger:any {:.4}, continual {:.4}",
        accuracy("static"),
        accuracy("trigger:any"),
        accuracy("continual")
    );
    assert!(accuracy("static") < 0.6, "400 right of 900, the rest reversed");
    assert!(accuracy("trigger:any") > accuracy("static") + 0.2);
    assert!(accuracy("continual") > accuracy("static") + 0.2);
    assert!(of(&facts, "trigger:any")["promotions"].as_u64() >= Some(1));
}

#[test]
fn a_label_that_comes_after_the_end_teaches_nobody_anything() {
    let bench = bench();
    let policies = ["static", "fixed:200", "trigger:any", "trigger:adwin", "value", "continual"];
    let facts = bench.facts(&replay("press.csv", &policies, &["--label-delay", "1200"]));
    let untaught = number(of(&facts, "static"), "accuracy");
    for policy in policies {
        let summary = of(&facts, policy);
        assert_eq!((&summary["retrains"], &summary["promotions"]), (&0.into(), &0.into()), "{policy}");
        let accuracy = number(summary, "accuracy");
        if matches!(policy, "continual" | "value") {
            // Before its first label the mixture holds the champion and the factory's linear heads in equal parts.
            assert!((accuracy - untaught).abs() < 0.02, "{accuracy} against {untaught}");
        } else {
            assert!(accuracy.to_bits() == untaught.to_bits(), "{policy}: {accuracy} against {untaught}");
        }
    }
}

#[test]
fn no_policy_knows_a_label_before_its_delay_is_over() {
    const DELAY: usize = 150;
    let bench = bench();
    let whole = press(ROWS, CHANGE);
    let lines: Vec<&str> = whole.lines().collect();
    let known = lines.len() - DELAY;
    let other = |line: &&str| match line.strip_suffix(",on") {
        Some(features) => format!("{features},off"),
        None => line.strip_suffix(",off").map(|features| format!("{features},on")).expect("two classes"),
    };
    // The labels of the newest rows are never known: turned round, the answers to these rows stay what they were.
    let turned: Vec<String> = lines[known..].iter().map(other).collect();
    bench.write("turned.csv", [lines[..known].join("\n"), turned.join("\n")].join("\n"));
    bench.write("cut.csv", lines[..known].join("\n"));
    let policies = ["static", "fixed:200", "trigger:any", "value", "continual"];
    let [press, turned, cut] = ["press.csv", "turned.csv", "cut.csv"]
        .map(|file| bench.facts(&replay(file, &policies, &["--label-delay", "150"])));
    for policy in policies {
        let sum = right(of(&press, policy)) + right(of(&turned, policy));
        let expected = 2.0 * right(of(&cut, policy)) + DELAY as f64;
        assert!(
            (sum - expected).abs() < 0.5,
            "{policy} was right {sum} times instead of {expected}: it knew labels early"
        );
    }
    assert!(of(&press, "trigger:any")["promotions"].as_u64() >= Some(1), "somebody has learned, or this shows nothing");
}

#[test]
fn each_known_change_is_answered_with_the_rows_until_it_was_noticed() {
    let bench = bench();
    let arguments = replay("press.csv", &["trigger:any", "continual"], &["--change-at", "1100,700"]);
    let facts = bench.facts(&arguments);
    let summary = of(&facts, "trigger:any");
    let delays = summary["detection_rows"].as_array().expect("a list");
    assert_eq!(delays.len(), 2, "one for each change, in the order of rows");
    let noticed = delays[0].as_u64().expect("the first change is seen");
    assert!(noticed < 60, "{noticed} rows until a full reversal was noticed");
    let mut events = summary["events"].as_array().into_iter().flatten();
    let first = events.find(|event| event["kind"] == "drift" && event["row"].as_u64() >= Some(CHANGE as u64));
    assert_eq!(first.map(|event| &event["row"]), Some(&(CHANGE as u64 + noticed).into()), "{summary}");
    let table = bench.does(&arguments);
    let below = table.split("rows from a change to the first alarm").nth(1).expect("a second table");
    let line = below.lines().find(|line| line.starts_with("trigger:any")).expect("a line for each policy");
    assert_eq!(line.split_whitespace().nth(1), Some(noticed.to_string().as_str()), "{table}");
}

#[test]
fn the_drawing_is_a_whole_svg_with_a_line_for_each_policy() {
    let bench = bench();
    let more = ["--change-at", "700", "--svg", "press.svg", "--html", "press.html"];
    bench.does(&replay("press.csv", &["static", "trigger:any"], &more));
    let svg = String::from_utf8(bench.read("press.svg")).expect("UTF-8");
    assert!(svg.trim_start().starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg:.200}");
    assert_well_formed(&svg);
    for part in ["static", "trigger:any", "change at 700", "xmlns=\"http://www.w3.org/2000/svg\""] {
        assert!(svg.contains(part), "`{part}` is missing");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "a coordinate is not a number");
    let html = String::from_utf8(bench.read("press.html")).expect("UTF-8");
    assert!(html.contains("<svg") && html.trim_end().ends_with("</html>"), "{html:.200}");
    let folder: Vec<_> = ["press.svg", "press.html"].map(|name| bench.read(name)).into();
    bench.does(&replay("press.csv", &["static", "trigger:any"], &more));
    assert!(["press.svg", "press.html"].map(|name| bench.read(name)).as_slice() == folder, "drawn again, equal bytes");
}

/// Every opened element is closed in order, and no bare `&` or `<` stands in a text.
fn assert_well_formed(text: &str) {
    let mut open = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        for escape in rest[..at].split('&').skip(1) {
            assert!(
                ["amp;", "lt;", "gt;", "quot;", "apos;", "#"].iter().any(|known| escape.starts_with(known)),
                "&{escape:.20}"
            );
        }
        let end = at + rest[at..].find('>').expect("every tag ends");
        let tag = &rest[at + 1..end];
        let name = |tag: &str| tag.split_whitespace().next().unwrap_or_default().to_owned();
        assert!(tag.matches('"').count().is_multiple_of(2) && !tag.contains('<'), "<{tag}>");
        match tag.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(name(closed)), "</{closed}>"),
            None if tag.ends_with('/') || tag.starts_with(['?', '!']) => {}
            None => open.push(name(tag)),
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?} is never closed");
}

/// A stream with a category, missing values, times, segments and a note that nobody reads.
fn untidy() -> String {
    let mut chance = Chance(3);
    let mut text = String::from("at,line,mode,temp,load,note,state\n");
    for row in 0..900 {
        let [temp, load, which] = [(); 3].map(|()| chance.draw());
        let mode = match which {
            ..0.33 => "eco",
            ..0.67 => "full",
            _ => "idle",
        };
        let hot = if mode == "eco" { temp + load > 1.0 } else { load > temp };
        let state = match (hot != (row >= 600), row % 97) {
            (_, 0) => "",
            (true, _) => "hot",
            (false, _) => "cold",
        };
        let temp = if row % 11 == 3 { "NA".to_owned() } else { format!("{temp:.4}") };
        let mode = if row % 29 == 7 { "" } else { mode };
        writeln!(text, "{},{},{mode},{temp},{load:.4},\"a, b\",{state}", 1_767_225_600 + row * 60, row % 2)
            .expect("writing to a text");
    }
    text
}

#[test]
fn categories_missing_values_times_and_segments_are_replayed() {
    let bench = Bench::new();
    bench.write("untidy.csv", untidy());
    let more = ["--time", "at", "--segment", "line", "--ignore", "note"];
    let facts = bench.facts(&replay("untidy.csv", &["static", "trigger:any", "continual"], &more));
    assert_eq!(facts["rows"], 890, "ten of 900 rows have no label");
    let accuracy = |policy| number(of(&facts, policy), "accuracy");
    assert!(accuracy("static") < 0.65, "{}", accuracy("static"));
    assert!(accuracy("trigger:any") > accuracy("static"), "{}", accuracy("trigger:any"));
    assert!(accuracy("continual") > accuracy("static") + 0.1, "{}", accuracy("continual"));
    let whole = bench.facts(&replay("untidy.csv", &["static"], &[&more[..], &["--drop-incomplete"]].concat()));
    assert!(whole["rows"].as_u64() < Some(800), "rows with a gap are left out: {}", whole["rows"]);
}

#[test]
fn numbers_to_predict_are_replayed_with_their_own_measures() {
    let bench = Bench::new();
    bench.write("flow.csv", flow(900, 500));
    let policies = ["static", "trigger:any", "continual"];
    let facts = bench.facts(&replay("flow.csv", &policies, &[]));
    for policy in policies {
        let summary = of(&facts, policy);
        assert!(summary["accuracy"].is_null() && summary["f1_macro"].is_null(), "{summary}");
        let (rmse, mae) = (number(summary, "rmse"), number(summary, "mae"));
        assert!(0.0 < mae && mae <= rmse && number(summary, "r2") < 1.0, "{summary}");
    }
    let rmse = |policy| number(of(&facts, policy), "rmse");
    println!(
        "RMSE: static {:.3}, trigger:any {:.3}, continual {:.3}",
        rmse("static"),
        rmse("trigger:any"),
        rmse("continual")
    );
    assert!(rmse("trigger:any") < 0.9 * rmse("static"));
    assert!(rmse("continual") < 0.5 * rmse("static"));
    let table = bench.does(&replay("flow.csv", &["static"], &[]));
    assert!(table.contains("RMSE") && !table.contains("accuracy"), "{table}");
}

#[test]
fn a_model_of_ones_own_is_replayed_over_every_row_and_refuses_another_schema() {
    let bench = bench();
    bench.write("flow.csv", flow(900, 500));
    bench.does(&["train", "--data", "press.csv", "--label", "state", "-o", "press.safetensors"]);
    let with = |data: &'static str, label: &'static str| {
        [
            "backtest",
            "--model",
            "press.safetensors",
            "--data",
            data,
            "--label",
            label,
            "--policy",
            "static",
            "--no-measured",
        ]
    };
    let facts = bench.facts(&with("press.csv", "state"));
    assert_eq!((&of(&facts, "static")["n"], &facts["first_rows"]), (&ROWS.into(), &0.into()));
    bench.refuses(
        &with("flow.csv", "flow"),
        4,
        &["flow.csv:1", "no column `temp` for a feature of the model", "valve, pressure, flow"],
    );
    bench.write("other.csv", press(400, 200).replace(",on\n", ",broken\n"));
    let says = ["other.csv:", "does not know the class `broken`", "its classes are off, on", "hone train"];
    bench.refuses(&with("other.csv", "state"), 4, &says);
    let regression = [&with("press.csv", "state")[..], &["--task", "regression"]].concat();
    bench.refuses(&regression, 4, &["press.csv", "the model is for classification", "leave --task away"]);
    let both = [&with("press.csv", "state")[..], &["--first-rows", "300"]].concat();
    bench.refuses(&both, 2, &["--first-rows", "--help"]);
    let neither = ["backtest", "--data", "press.csv", "--label", "state"];
    bench.refuses(&neither, 2, &["--model", "--help"]);
}

#[test]
fn a_policy_may_be_asked_for_twice_and_answers_the_same() {
    let bench = bench();
    let printed = bench.does(&replay("press.csv", &["trigger:any", "trigger:psi", "trigger:any"], &["--json"]));
    let facts = lines(&printed).pop().expect("a line");
    let all = facts["policies"].as_array().expect("a list");
    assert_eq!(all.len(), 3, "each as often as it was asked for");
    assert!(all[0] == all[2] && all[0] != all[1], "the same, and nothing else");
}

#[test]
fn under_prices_a_backtest_says_what_a_week_costs_and_which_policy_wins_and_without_them_how_to_set_them() {
    let bench = bench();
    let policies = ["static", "fixed:300", "continual"];
    let table = |more: &[&str]| bench.does(&replay("press.csv", &policies, more));
    assert!(table(&[]).contains("--rate"), "{}", table(&[]));
    let unpriced = table(&["--rate", "900"]);
    assert!(unpriced.contains("retrains per week") && unpriced.contains("price_per_error"), "{unpriced}");
    bench.write(
        "prices.toml",
        "[value]\ncurrency = \"CHF\"\nprice_per_error = 2.0\nprice_per_kwh = 0.3\nprice_per_retrain = 1.5\n",
    );
    let priced = ["--rate", "450", "--config", "prices.toml"];
    let facts = bench.facts(&replay("press.csv", &policies, &priced));
    // 900 rows stream at 450 a week: two weeks.
    let (still, fixed) = (of(&facts, "static"), of(&facts, "fixed:300"));
    let weekly = |key: &str| fixed["weekly"][key].as_f64().expect(key);
    assert!((weekly("retrains") - number(fixed, "retrains") / 2.0).abs() < 1e-9, "{fixed}");
    let energy = number(fixed, "joules_modelled") / 3.6e6 * 0.3;
    assert!((weekly("cost") - f64::midpoint(number(fixed, "retrains") * 1.5, energy)).abs() < 1e-9, "{fixed}");
    assert!((weekly("value") - number(fixed, "errors_avoided")).abs() < 1e-9, "two each, over two weeks: {fixed}");
    assert_eq!(still["weekly"]["net"], 0.0);
    assert_eq!(
        (&facts["value"]["winner"], &facts["value"]["prices"]["currency"]),
        (&"continual".into(), &"CHF".into())
    );
    assert!(number(fixed, "bytes_written") > 0.0);
    let said = table(&priced);
    assert!(said.contains("continual wins") && said.contains("CHF per week more"), "{said}");
}
