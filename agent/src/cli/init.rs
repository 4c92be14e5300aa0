//! `hone init`: a commented `hone.toml` with every setting and its default.
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;

use super::Global;
use super::exit::{Exit, Fail, unwritable};
use crate::config::SHIPPED;

/// Arguments of `hone init`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: hone init --output hone.toml && hone run --config hone.toml --model model.safetensors"
)]
pub struct Args {
    /// File to write; a file that is there is left alone [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Writes the file or prints it.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let Some(path) = &args.output else {
        // A closed pipe (`hone init | head`) is no failure.
        let _ = std::io::stdout().write_all(SHIPPED.as_bytes());
        return Ok(());
    };
    let mut file = match std::fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Fail::new(Exit::Refused, format!("cannot write {}", path.display()))
                .because(error)
                .hint("remove it, or name another file with --output")
                .into());
        }
        opened => opened.map_err(|error| unwritable(path, "--output", error))?,
    };
    if let Err(error) = file.write_all(SHIPPED.as_bytes()).and_then(|()| file.sync_all()) {
        // Half a configuration would be read as a whole one.
        let _ = std::fs::remove_file(path);
        return Err(unwritable(path, "--output", error).into());
    }
    if global.json {
        println!("{}", serde_json::json!({"file": path}));
    } else {
        println!(
            "wrote {}: delete what you do not change, then `hone run --config {}`",
            path.display(),
            path.display()
        );
    }
    Ok(())
}
