//! `hone-fleet show`: everything one device says of itself.
use anyhow::Result;
use fleet_protocol::names::DeviceId;
use fleet_protocol::report::DriftState;
use fleet_protocol::topics::ROOT;
use serde_json::json;

use crate::Global;
use crate::devices::{ago, picture, unknown};
use crate::exit::Exit;
use crate::orders::now;

/// Arguments of `hone-fleet show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone-fleet show press-07\n\n\
    JSON keys: device, presence, view (state, birth, model, drift, reported, metrics, commands: each as the device retains it).")]
pub(crate) struct Args {
    /// The device
    device: DeviceId,
}

/// Shows the device.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Exit> {
    let mut picture = picture(global, vec![format!("{ROOT}/d/{}/up/#", args.device)])?;
    let Some(view) = picture.devices.remove(&args.device) else {
        return Err(unknown(&args.device).into());
    };
    if global.json {
        println!("{}", json!({"device": args.device, "presence": view.presence(), "view": view}));
        return Ok(Exit::Ok);
    }
    let since = view.state.as_ref().map_or_else(String::new, |state| format!(" for {}", ago(now().0 - state.ts.0)));
    println!("{:<10}{}, {}{since}", "device", args.device, view.presence());
    if let Some(birth) = &view.birth {
        println!("{:<10}hone {} on {}; carries out {}", "agent", birth.agent, birth.arch, birth.commands.join(", "));
        let keys: Vec<_> = birth.key_ids.iter().map(ToString::to_string).collect();
        println!("{:<10}{}", "trusts", if keys.is_empty() { "nobody".to_owned() } else { keys.join(", ") });
    }
    println!("{:<10}{}, {}", "champion", view.champion(), view.phase());
    if let Some(model) = &view.model {
        if let Some(challenger) = &model.challenger {
            let answer = format!("`hone-fleet approve {}` or `reject` answers", args.device);
            println!("{:<10}{}, made by {:?}; {answer}", "candidate", challenger.digest, challenger.origin);
        }
        if let Some(trial) = &model.trial {
            let (promote, abort, limit) = (trial.promote_e, trial.abort_e, trial.limit);
            println!(
                "{:<10}{} samples, {} labelled; evidence {promote:.2} that it is not worse, {abort:.2} that it is, {limit:.0} decides{}",
                "trial",
                trial.pairs,
                trial.labelled,
                if trial.held { "; held" } else { "" }
            );
        }
        if let Some(until) = model.frozen_until {
            println!("{:<10}for {} more", "frozen", ago(until.0 - now().0));
        }
    }
    for (name, measure) in view.drift.iter().flat_map(|drift| &drift.measures) {
        let word = match measure.state {
            DriftState::Ok => "ok",
            DriftState::Warn => "warn",
            DriftState::Drift => "DRIFT",
        };
        let (stat, value, threshold) = (&measure.stat, measure.value, measure.threshold);
        println!("{:<10}{name:<24} {stat} {value:.3} of {threshold:.3}, {} rows, {word}", "drift", measure.window);
    }
    for (id, status) in &view.commands {
        let whole = serde_json::to_value(status).unwrap_or_default();
        let word = |key: &str| whole[key].as_str().unwrap_or_default().to_owned();
        let why = [word("reason_code"), word("reason")].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>();
        println!("{:<10}{id} {} {} {}", "command", status.cmd, word("status"), why.join(": "));
    }
    Ok(Exit::Ok)
}
