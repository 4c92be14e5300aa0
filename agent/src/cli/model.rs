//! `hone model`: what is inside a bundle, and who answers for it.
mod signing;

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use trainer_core::schema::{FeatureKind, Task};

use super::Global;
use super::input::read_bundle;
use super::train::describe;

/// Arguments of `hone model`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone model inspect model.safetensors")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check a bundle completely and say what it is
    #[command(after_help = "Example: hone model inspect model.safetensors --json | jq .digest")]
    Inspect {
        /// Bundle
        file: PathBuf,
    },
    /// Sign a bundle: writes FILE.dsse beside it
    Sign(signing::SignArgs),
    /// Check a bundle and the signature beside it
    Verify(signing::VerifyArgs),
    /// Hand a bundle and the signature beside it to the agent on this device
    Install(signing::InstallArgs),
}

/// Inspects.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let file = match &args.command {
        Command::Inspect { file } => file,
        Command::Sign(args) => return signing::sign(args, global),
        Command::Verify(args) => return signing::verify(args, global),
        Command::Install(args) => return signing::install(args, global),
    };
    let stored = read_bundle(file)?;
    let (model, manifest) = (&stored.model, &stored.model.manifest);
    let parameters: usize = model.network.layers.iter().map(parameters).sum();
    if global.json {
        let text = json!({
            "file": file, "digest": stored.digest, "bytes": stored.bytes.len(), "parameters": parameters,
            "embedding_width": model.factory.width, "head": model.head.is_some(), "factory_rows": model.factory.rows,
            "anchors": model.anchors.len(), "signature": "unsigned", "manifest": manifest,
        });
        println!("{text}");
        return Ok(());
    }
    println!("{}  {} bytes, unsigned", file.display(), stored.bytes.len());
    println!("digest      {}", stored.digest);
    if let Some(parent) = manifest.parent {
        println!("parent      {parent}");
    }
    match &manifest.schema.task {
        Task::Classification { classes } if model.detects() => println!(
            "task        anomaly: `{}` is normal, `{}` is not, from a reconstruction error of {:.4} on",
            classes[0],
            classes[1],
            manifest.threshold.unwrap_or_default()
        ),
        Task::Classification { classes } => println!("task        classification: {}", classes.join(", ")),
        Task::Regression { targets } => println!("task        regression: {}", targets.join(", ")),
    }
    println!("features    {}", manifest.schema.features.len());
    for feature in manifest.schema.features.iter().take(12) {
        let kind = match &feature.kind {
            FeatureKind::Number => "number".to_owned(),
            FeatureKind::Category { values } => format!("one of {}", values.join(", ")),
        };
        let unit = feature.unit.as_ref().map(|unit| format!(" [{unit}]")).unwrap_or_default();
        println!("            {}{unit}: {kind}", feature.name);
    }
    if manifest.schema.features.len() > 12 {
        println!("            … and {} more (--json lists them)", manifest.schema.features.len() - 12);
    }
    println!(
        "network     {} layers, cut after {}, {parameters} parameters",
        manifest.spec.layers.len() + 1,
        manifest.spec.cut
    );
    let head = if model.head.is_some() { "a ridge head answers" } else { "the network answers" };
    println!(
        "head        {head}; {} features for heads, factory sums over {} rows",
        model.factory.width, model.factory.rows
    );
    let provenance = &manifest.provenance;
    println!(
        "training    {:?} on {} rows, seed {}, hone {}",
        provenance.strategy, provenance.rows, provenance.seed, provenance.version
    );
    println!("held out    {}", describe(manifest.metrics.as_ref()));
    println!("checked     container, checksum, shapes, finite numbers, golden answers: all right");
    Ok(())
}

fn parameters(layer: &trainer_core::network::Weights) -> usize {
    use trainer_core::network::Weights;
    match layer {
        Weights::Linear { weight, bias } => weight.len() + bias.len(),
        Weights::Norm { gamma, beta, .. } => gamma.len() + beta.len(),
        Weights::Plain(_) => 0,
    }
}

/// What `hone vet-worker` does.
pub(super) fn vet_worker() -> Result<()> {
    Ok(crate::shell::models::vetting::serve(std::io::stdin(), std::io::stdout().lock())?)
}
