//! `hone label`: tells the agent what was true.
use anyhow::Result;
use serde_json::{Value, json};

use super::Global;
use super::ask::{agent, fail, text};
use super::exit::{Exit, Fail};

/// Arguments of `hone label`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone label 01JD6Y9K3V0000000000000000 overload\n\
    Several targets are given as a list: hone label 01JD6Y9K3V0000000000000000 1.5,2.0")]
pub struct Args {
    /// The id that the answer carried (`hone records`)
    #[arg(value_name = "RECORD_ID")]
    record_id: String,
    /// The class, or the value of each target
    #[arg(value_name = "LABEL", allow_hyphen_values = true)]
    label: String,
    /// Who says so. A record has one truth: the first stays, and another one is answered `conflict`
    #[arg(long, default_value = "operator")]
    source: String,
}

/// Sends one label.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let client = agent(global)?;
    let send = |label: &Value| {
        let line = json!({"record_id": args.record_id, "label": label, "source": args.source});
        client.post("/v1/labels", line.to_string().into_bytes())
    };
    // A class may look like a number, and only the agent knows the task: text is tried first, numbers if it asks for them.
    let answer = send(&json!(args.label)).or_else(|error| match (&error, numbers(&args.label)) {
        (crate::shell::client::ClientError::Refused { code, .. }, Some(numbers)) if code == "wrong_type" => {
            send(&numbers)
        }
        _ => Err(error),
    });
    let answer = answer.map_err(fail)?;
    if global.json {
        println!("{answer}");
    }
    match answer["outcome"].as_str() {
        Some(outcome @ ("stored" | "duplicate")) => {
            if !global.json {
                println!("{}", if outcome == "stored" { "stored" } else { "known already: the same was said before" });
            }
            Ok(())
        }
        Some("conflict") => {
            Err(Fail::new(Exit::Refused, format!("`{}` was said before and is kept", text(&answer["kept"])))
                .hint("a record has one truth, the first one; label a newer record")
                .into())
        }
        Some("unknown") => {
            Err(Fail::new(Exit::Refused, text(&answer["error"])).hint("`hone records` lists the newest").into())
        }
        _ => Err(Fail::new(Exit::Disk, text(&answer["error"]))
            .hint("send it again once the disk takes records: `hone status`")
            .into()),
    }
}

/// `1.5` or `1.5,2.0` as JSON.
fn numbers(text: &str) -> Option<Value> {
    let numbers = text.split(',').map(|part| part.trim().parse::<f64>().ok().filter(|number| number.is_finite()));
    let numbers: Vec<_> = numbers.collect::<Option<_>>()?;
    Some(if let [one] = numbers.as_slice() { json!(one) } else { json!(numbers) })
}
