//! The running agent's picture of drift: features against their baseline, findings, segments, losses, trigger.
//!
//! Only what the agent tells is shown: a key that it does not send takes no room.
use anyhow::Result;
use serde_json::Value;

use super::super::Global;
use super::super::ask::{list, table_text, text};
use super::super::follow::{FollowArgs, show};
use super::compare::probability;

/// Findings shown, the newest.
const FINDINGS_SHOWN: usize = 10;

/// Asks and prints.
pub fn run(follow: &FollowArgs, global: &Global) -> Result<()> {
    show("/v1/drift", follow, global, picture)
}

/// The answer of the agent as text.
fn picture(drift: &Value) -> String {
    if drift["state"] == "no_model" {
        return "no model yet, so nothing to measure against: start with `hone run --model FILE`\n".to_owned();
    }
    [features(drift), limits(drift), segments(drift), findings(drift), last_lines(drift)].concat()
}

fn limits(drift: &Value) -> String {
    let known = [("psi_threshold", "psi counts as drift above"), ("share_threshold", "on at least a share of")];
    let parts = known.iter().filter(|(key, _)| !drift[key].is_null());
    let parts: Vec<_> = parts.map(|(key, words)| format!("{words} {}", number(&drift[key], 2))).collect();
    if parts.is_empty() { String::new() } else { format!("\n{} of the features\n", parts.join(", ")) }
}

fn last_lines(drift: &Value) -> String {
    let loss = match &drift["loss"] {
        Value::Null => "no labels yet".to_owned(),
        loss => format!("{} over the last {} labels", text(&loss["mean"]), text(&loss["labels"])),
    };
    let accuracy = drift["estimate"]["accuracy"].as_f64();
    let estimate = accuracy.map(|accuracy| format!("estimate: accuracy {accuracy:.3} without labels\n"));
    let joint = drift["joint"]["statistic"].as_f64();
    let joint =
        joint.map(|statistic| format!("joint: {statistic:.3} of {}\n", number(&drift["joint"]["threshold"], 3)));
    format!(
        "\nloss: {loss}\n{}{}trigger: {} (policy {})\n",
        estimate.unwrap_or_default(),
        joint.unwrap_or_default(),
        text(&drift["trigger"]["state"]),
        text(&drift["policy"])
    )
}

/// How one fact of a feature is shown.
struct Fact {
    head: &'static str,
    pointer: &'static str,
    show: fn(&Value) -> String,
    /// Shown if no feature has it, too.
    always: bool,
}

const FACTS: [Fact; 12] = [
    Fact { head: "PSI", pointer: "/psi/value", show: three, always: true },
    Fact { head: "NO DRIFT", pointer: "/psi/expected", show: three, always: true },
    Fact { head: "P", pointer: "/psi/p", show: p_value, always: true },
    Fact { head: "JS", pointer: "/js", show: three, always: false },
    Fact { head: "KS", pointer: "/ks", show: three, always: false },
    Fact { head: "ROWS", pointer: "/rows", show: text, always: true },
    Fact { head: "MISSING", pointer: "/missing", show: text, always: true },
    Fact { head: "OUT OF RANGE", pointer: "/out_of_range", show: text, always: true },
    Fact { head: "CORRELATION", pointer: "/correlation", show: three, always: false },
    Fact { head: "BLOCK ROWS", pointer: "/block_rows", show: text, always: false },
    Fact { head: "SEASON", pointer: "/season", show: season, always: false },
    Fact { head: "MEAN", pointer: "/mean", show: three, always: false },
];

/// Features by PSI, largest first; those without one last, in their own order.
fn features(drift: &Value) -> String {
    let mut features: Vec<&Value> = list(drift, "features").iter().collect();
    let psi = |feature: &Value| feature["psi"]["value"].as_f64().unwrap_or(-1.0);
    features.sort_by(|a, b| psi(b).total_cmp(&psi(a)));
    let known = |fact: &&Fact| {
        fact.always
            || features.iter().any(|feature| feature.pointer(fact.pointer).is_some_and(|value| !value.is_null()))
    };
    let facts: Vec<&Fact> = FACTS.iter().filter(known).collect();
    let limit = drift["psi_threshold"].as_f64().unwrap_or(f64::INFINITY);
    let rows: Vec<Vec<String>> = features
        .iter()
        .map(|feature| {
            let above = feature["drifted"] == true || psi(feature) > limit;
            let head = [if above { "!" } else { "" }.to_owned(), text(&feature["name"])];
            let cells = facts.iter().map(|fact| (fact.show)(feature.pointer(fact.pointer).unwrap_or(&Value::Null)));
            head.into_iter().chain(cells).collect()
        })
        .collect();
    let head: Vec<&str> = ["", "FEATURE"].into_iter().chain(facts.iter().map(|fact| fact.head)).collect();
    let waiting = features.iter().filter(|feature| feature["psi"].is_null()).count();
    let remark = match waiting {
        0 => String::new(),
        _ => format!("{waiting} of {} features have too few rows since the last baseline for a psi\n", features.len()),
    };
    table_text(&head, &rows) + &remark
}

fn segments(drift: &Value) -> String {
    let segments = list(drift, "segments");
    if segments.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = segments
        .iter()
        .map(|segment| vec![text(&segment["name"]), text(&segment["labels"]), three(&segment["loss"])])
        .collect();
    format!("\n{}", table_text(&["SEGMENT", "LABELS", "LOSS"], &rows))
}

fn findings(drift: &Value) -> String {
    let findings = list(drift, "findings");
    if findings.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = findings
        .iter()
        .take(FINDINGS_SHOWN)
        .map(|finding| {
            let measure = &finding["measure"];
            let of = match &measure["name"] {
                Value::Null => text(&measure["of"]),
                name => format!("{} {}", text(&measure["of"]), text(name)),
            };
            vec![
                text(&finding["grade"]),
                text(&finding["watcher"]),
                of.replace('_', " "),
                three(&finding["statistic"]),
                three(&finding["threshold"]),
                since(finding),
            ]
        })
        .collect();
    let more = findings.len().saturating_sub(FINDINGS_SHOWN);
    let more = if more > 0 { format!("and {more} more: --json lists them\n") } else { String::new() };
    format!("\n{}{more}", table_text(&["FINDING", "BY", "MEASURE", "STATISTIC", "LIMIT", "SINCE"], &rows))
}

/// `sample 812` or `label 97`, and the time if it is known.
fn since(finding: &Value) -> String {
    let row = match &finding["since"] {
        Value::Object(since) => since.iter().map(|(what, number)| format!("{what} {}", text(number))).collect(),
        other => text(other),
    };
    match &finding["since_at"] {
        Value::Null => row,
        at => format!("{row}, {}", text(at)),
    }
}

fn season(value: &Value) -> String {
    match value {
        Value::Bool(true) => "daily".to_owned(),
        Value::Bool(false) => "none".to_owned(),
        Value::Number(_) => three(value),
        other => text(other),
    }
}

fn three(value: &Value) -> String {
    number(value, 3)
}

fn p_value(value: &Value) -> String {
    probability(value.as_f64())
}

fn number(value: &Value, digits: usize) -> String {
    value.as_f64().map_or_else(|| text(value), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn features_come_by_psi_and_what_the_agent_does_not_tell_takes_no_room() {
        let drift = json!({
            "state": "watching", "policy": "value", "psi_threshold": 0.25, "share_threshold": 0.5,
            "features": [
                {"name": "a", "psi": {"value": 0.02, "expected": 0.05, "p": 0.7}, "rows": 200, "missing": 1, "out_of_range": 0},
                {"name": "new", "psi": null, "rows": 12, "missing": 0, "out_of_range": 0},
                {"name": "b", "psi": {"value": 1.5, "expected": 0.05, "p": 1e-30}, "drifted": true, "rows": 200, "missing": 0, "out_of_range": 3},
            ],
            "loss": null, "trigger": {"state": "quiet"},
        });
        expect![[r"
               FEATURE  PSI    NO DRIFT  P      ROWS  MISSING  OUT OF RANGE
            !  b        1.500  0.050     <1e-9  200   0        3
               a        0.020  0.050     0.700  200   1        0
               new      -      -         -      12    0        0
            1 of 3 features have too few rows since the last baseline for a psi

            psi counts as drift above 0.25, on at least a share of 0.50 of the features

            loss: no labels yet
            trigger: quiet (policy value)
        "]]
        .assert_eq(&picture(&drift));
    }

    #[test]
    fn everything_the_agent_may_tell_is_shown_and_a_strange_answer_is_no_panic() {
        let drift = json!({
            "state": "watching", "policy": "value",
            "features": [{"name": "a", "psi": {"value": 0.3, "expected": 0.05, "p": 1e-4}, "js": 0.1, "ks": 0.2, "rows": 500,
                "missing": 0, "out_of_range": 0, "correlation": 0.71, "block_rows": 6, "season": true}],
            "segments": [{"name": "line A", "labels": 40, "loss": 0.125}],
            "findings": [{"watcher": "psi", "measure": {"of": "feature", "name": "a"}, "grade": "alarm", "statistic": 0.3,
                "threshold": 0.25, "since": {"sample": 812}, "since_at": "2026-11-21T00:40:00.500Z", "picture": {}}],
            "joint": {"statistic": 0.4, "threshold": 1.1}, "estimate": {"accuracy": 0.91},
            "loss": {"mean": 0.1, "labels": 300}, "trigger": {"state": "episode"},
        });
        expect![[r#"
              FEATURE  PSI    NO DRIFT  P     JS     KS     ROWS  MISSING  OUT OF RANGE  CORRELATION  BLOCK ROWS  SEASON
              a        0.300  0.050     1e-4  0.100  0.200  500   0        0             0.710        6           daily

            SEGMENT  LABELS  LOSS
            line A   40      0.125

            FINDING  BY   MEASURE    STATISTIC  LIMIT  SINCE
            alarm    psi  feature a  0.300      0.250  sample 812, 2026-11-21T00:40:00.500Z

            loss: 0.1000 over the last 300 labels
            estimate: accuracy 0.910 without labels
            joint: 0.400 of 1.100
            trigger: episode (policy value)
        "#]]
        .assert_eq(&picture(&drift));
        for strange in [json!(null), json!([]), json!({"features": 3, "findings": [null, 1], "segments": [{}]})] {
            assert!(picture(&strange).contains("trigger"), "{strange}");
        }
    }
}
