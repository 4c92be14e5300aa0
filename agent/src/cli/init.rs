//! `hone init`: a commented `hone.toml` with every setting; a few of them asked for on a terminal, or given as options.
mod answers;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Global;
use super::exit::{Exit, Fail, unwritable};
use crate::config::{Config, SHIPPED};
use crate::shell::files::write_durable;
use answers::{Answers, interview, written};

/// Arguments of `hone init`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples: hone init --output hone.toml\n          hone init --broker mqtts://broker:8883 --device press-7 --hours 22:00-05:00 -o \
    /etc/hone/hone.toml\n\nOn a terminal, without any of these options, it asks; an empty answer keeps the default. Piped, or with --defaults, it \
    asks nothing."
)]
pub struct Args {
    /// File to write; one that is there is left alone, but for the packaged one that nobody has touched [default: standard
    /// output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Ask nothing, keep every default
    #[arg(long)]
    defaults: bool,
    #[command(flatten)]
    answers: Answers,
}

/// Writes the file or prints it.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    // Before anything is asked.
    let place = args.output.as_deref().map(Place::of).transpose()?;
    let ask = !args.defaults
        && !global.json
        && args.answers.is_empty()
        && io::stdin().is_terminal()
        && io::stderr().is_terminal();
    let answers = if ask {
        interview(&mut io::stdin().lock(), &mut io::stderr().lock(), host().as_deref()).map_err(|error| {
            Fail::new(Exit::Input, "no answer can be read").because(error).hint("`--defaults` asks nothing")
        })?
    } else {
        args.answers.clone()
    };
    let text = written(SHIPPED, &answers);
    // What is refused at the start of the agent is refused here, where somebody reads it.
    Config::parse([("the answers", text.as_str())]).map_err(|error| {
        Fail::new(Exit::Config, error).hint("nothing was written; give other answers, or leave this one empty")
    })?;
    let Some(place) = place else {
        // A closed pipe (`hone init | head`) is no failure.
        let _ = io::stdout().write_all(text.as_bytes());
        return Ok(());
    };
    place.write(&text)?;
    say(place.path(), global);
    Ok(())
}

/// Where the file goes.
enum Place<'a> {
    /// Nothing is there.
    Free(&'a Path),
    /// What the package brought and nobody has touched; it may be replaced.
    Untouched(&'a Path),
}

impl<'a> Place<'a> {
    fn of(path: &'a Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::Free(path));
        }
        if std::fs::read(path).is_ok_and(|there| there == SHIPPED.as_bytes()) {
            return Ok(Self::Untouched(path));
        }
        Err(taken(path, io::ErrorKind::AlreadyExists.into()).into())
    }

    fn path(&self) -> &Path {
        match self {
            Self::Free(path) | Self::Untouched(path) => path,
        }
    }

    fn write(&self, text: &str) -> Result<()> {
        let path = self.path();
        if let Self::Untouched(_) = self {
            // Whole or as it was, and readable by the same people.
            let rights = std::fs::metadata(path).map(|there| there.permissions());
            let replaced = write_durable(path, text.as_bytes())
                .and(rights)
                .and_then(|rights| std::fs::set_permissions(path, rights));
            return Ok(replaced.map_err(|error| unwritable(path, "--output", error))?);
        }
        let mut file = match std::fs::OpenOptions::new().write(true).create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(taken(path, error).into()),
            opened => opened.map_err(|error| unwritable(path, "--output", error))?,
        };
        if let Err(error) = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()) {
            // Half a configuration would be read as a whole one.
            let _ = std::fs::remove_file(path);
            return Err(unwritable(path, "--output", error).into());
        }
        Ok(())
    }
}

fn taken(path: &Path, error: io::Error) -> Fail {
    Fail::new(Exit::Refused, format!("cannot write {}", path.display()))
        .because(error)
        .hint("edit it, remove it, or name another file with --output")
}

/// The machine's name, as a device may be called.
fn host() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_lowercase();
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(64).collect();
    (!name.is_empty() && name != "localhost").then_some(name)
}

fn say(path: &Path, global: &Global) {
    if global.json {
        println!("{}", serde_json::json!({"file": path}));
    } else {
        println!(
            "wrote {}: delete what you do not change, then `hone doctor --config {0}` and `hone run --config {0}`",
            path.display(),
        );
    }
}
