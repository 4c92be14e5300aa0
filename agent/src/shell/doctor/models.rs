//! The model store: every file is read, hashed and opened as the agent would; nothing is moved or mended.
use std::fs;
use std::io::ErrorKind;

use trainer_core::bundle;
use trainer_core::digest::Digest;

use super::{Finding, Level, Subject};

const CHECK: &str = "models";
/// Files that are read; a store has a handful.
const FILES_MAX: usize = 200;

pub(super) fn findings(subject: &Subject<'_>) -> Vec<Finding> {
    let folder = subject.at(&subject.places.state_dir).join("models");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return vec![none()],
        Err(error) => {
            return vec![
                Finding::new(
                    CHECK,
                    Level::Warning,
                    format!("{}: {error}", folder.display()),
                    "damage would be found only when a model is loaded",
                )
                .next("run `hone doctor` as root"),
            ];
        }
    };
    let (mut good, mut found) = (0_usize, Vec::new());
    for entry in entries.flatten().take(FILES_MAX) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.contains(".damaged-") {
            found.push(
                Finding::new(
                    CHECK,
                    Level::Warning,
                    format!("{name} was set aside"),
                    "that model can no longer be fallen back to",
                )
                .next("remove it once you have looked at it, and at the disk"),
            );
        }
        let Some(stem) = name.strip_suffix(".safetensors") else { continue };
        let damage = match fs::read(entry.path()) {
            Err(error) => Some(error.to_string()),
            Ok(bytes) if Digest::of(&bytes).to_string() != stem => Some("its bytes have another digest".to_owned()),
            Ok(bytes) => bundle::read(&bytes).err().map(|error| error.to_string()),
        };
        match damage {
            None => good += 1,
            Some(reason) => found.push(
                Finding::new(
                    CHECK,
                    Level::Bad,
                    format!("{name} is damaged: {reason}"),
                    "it is set aside when it is loaded; an older model serves then",
                )
                .next("offer it again with `hone promote FILE`, and look at the disk with `dmesg`"),
            ),
        }
    }
    match good {
        0 if found.is_empty() => found.push(none()),
        1 => found.push(
            Finding::new(CHECK, Level::Note, "one model, whole", "there is none to fall back to yet")
                .next("the first promotion brings one"),
        ),
        good => found.push(Finding::good(CHECK, format!("{good} models, whole"))),
    }
    found
}

fn none() -> Finding {
    Finding::new(CHECK, Level::Note, "no model yet", "samples are recorded, every inference is answered 503 no_model")
        .next("`hone train` on a workstation, then `hone promote model.safetensors`")
}
