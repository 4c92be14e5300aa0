//! `hone snapshot`: what retrains learned from: listed, shown, exported as CSV, checked against their names.
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};
use trainer_core::snapshot::Snapshot;

use super::Global;
use super::ask::{places, table};
use super::exit::{Exit, Fail, unwritable};
use super::reproduce::fail;
use crate::shell::trainer::runs::{Kept, Shelf};

/// Arguments of `hone snapshot`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone snapshot list")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the snapshots that are kept
    #[command(after_help = "Example: hone snapshot list --json | jq '.snapshots[].rows'")]
    List,
    /// Show what one snapshot trains, and how
    #[command(after_help = "Example: hone snapshot show 7")]
    Show {
        /// Number of a run, or the first digits of a snapshot
        name: String,
    },
    /// Write its rows as CSV: features in the model's order, then truths
    #[command(after_help = "Example: hone snapshot export 7 -o rows.csv")]
    Export {
        /// Number of a run, or the first digits of a snapshot
        name: String,
        /// File to write; standard output if none is named
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Read snapshots whole and compare their bytes with their names
    #[command(after_help = "Example: hone snapshot verify")]
    Verify {
        /// Number of a run, or the first digits of a snapshot; all if none is named
        name: Option<String>,
    },
}

/// Does what is asked.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let shelf = Shelf::of(&places(global)?.1);
    match &args.command {
        Command::List => list(&shelf, global),
        Command::Show { name } => show(&shelf.find(name).map_err(fail)?, global),
        Command::Export { name, output } => export(&shelf, name, output.as_deref()),
        Command::Verify { name } => verify(&shelf, name.as_deref(), global),
    }
}

/// Facts about one snapshot.
fn facts(kept: &Kept) -> Value {
    let record = kept.record.as_ref();
    let mut facts = json!({
        "digest": kept.digest, "bytes": kept.bytes, "run": record.and_then(|record| record.run),
        "candidate": record.map(|record| record.candidate),
    });
    match &kept.outline {
        Ok(outline) => {
            facts["strategy"] = json!(outline.strategy);
            facts["parent"] = json!(outline.parent);
            facts["rows"] = json!(outline.rows);
            facts["features"] = json!(outline.features);
            facts["seed"] = json!(outline.seed);
        }
        Err(reason) => facts["unreadable"] = json!(reason),
    }
    facts
}

fn list(shelf: &Shelf, global: &Global) -> Result<()> {
    let all: Vec<Value> = shelf.list().map_err(fail)?.iter().map(facts).collect();
    if global.json {
        println!("{}", json!({"snapshots": all}));
        return Ok(());
    }
    let cell = |value: &Value| super::ask::text(value);
    let rows: Vec<_> = all
        .iter()
        .map(|facts| {
            let rows = if facts["unreadable"].is_null() { cell(&facts["rows"]) } else { "unreadable".to_owned() };
            vec![
                super::ask::short(&facts["digest"]),
                cell(&facts["run"]),
                cell(&facts["strategy"]),
                rows,
                cell(&facts["bytes"]),
                super::ask::short(&facts["candidate"]),
            ]
        })
        .collect();
    table(&["SNAPSHOT", "RUN", "STRATEGY", "ROWS", "BYTES", "CANDIDATE"], &rows);
    Ok(())
}

fn show(kept: &Kept, global: &Global) -> Result<()> {
    let mut facts = facts(kept);
    if let Ok(outline) = &kept.outline {
        facts["settings"] = serde_json::to_value(&outline.settings)?;
    }
    facts["record"] = json!(kept.record);
    if global.json {
        println!("{facts}");
    } else {
        println!("{facts:#}");
    }
    Ok(())
}

fn export(shelf: &Shelf, name: &str, output: Option<&Path>) -> Result<()> {
    let kept = shelf.find(name).map_err(fail)?;
    let (snapshot, found) = shelf.read(&kept.digest).map_err(fail)?;
    if found != kept.digest {
        return Err(damaged(&[kept.digest.short()]).into());
    }
    match output {
        Some(path) => {
            let file = File::create(path).map_err(|error| unwritable(path, "-o", error))?;
            write_rows(&snapshot, BufWriter::new(file)).map_err(|error| unwritable(path, "-o", error))?;
        }
        None => match write_rows(&snapshot, BufWriter::new(io::stdout().lock())) {
            // A reader that has seen enough, as `head` does, is no error.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        },
    }
    Ok(())
}

/// CSV with a head; a missing value is an empty cell.
fn write_rows(snapshot: &Snapshot, mut into: impl Write) -> io::Result<()> {
    let rows = &snapshot.rows;
    let names = (0..rows.features).map(|index| format!("x{index}"));
    let names: Vec<String> = names.chain((0..rows.truths).map(|index| format!("y{index}"))).collect();
    writeln!(into, "{}", names.join(","))?;
    for row in 0..rows.len() {
        let numbers = rows.x(row).iter().chain(rows.y(row));
        let cells: Vec<String> = numbers.map(|x| if x.is_nan() { String::new() } else { x.to_string() }).collect();
        writeln!(into, "{}", cells.join(","))?;
    }
    into.flush()
}

fn verify(shelf: &Shelf, name: Option<&str>, global: &Global) -> Result<()> {
    let chosen = match name {
        Some(name) => vec![shelf.find(name).map_err(fail)?],
        None => shelf.list().map_err(fail)?,
    };
    let checked = chosen.iter().map(|kept| (kept.digest, shelf.verify(&kept.digest).unwrap_or(false)));
    let checked: Vec<_> = checked.collect();
    if global.json {
        let all: Vec<Value> = checked.iter().map(|(digest, whole)| json!({"digest": digest, "whole": whole})).collect();
        println!("{}", json!({"snapshots": all}));
    } else {
        for (digest, whole) in &checked {
            println!("{}  {}", digest.short(), if *whole { "whole" } else { "damaged" });
        }
    }
    let broken: Vec<String> = checked.iter().filter(|(_, whole)| !whole).map(|(digest, _)| digest.short()).collect();
    if broken.is_empty() { Ok(()) } else { Err(damaged(&broken).into()) }
}

fn damaged(names: &[String]) -> Fail {
    Fail::new(Exit::Input, format!("damaged: {}", names.join(", ")))
        .hint("the disk lost bytes; what these runs made is still whole if `hone model inspect` reads it")
}
