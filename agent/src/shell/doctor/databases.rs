//! Databases that were found damaged and set aside: told as long as somebody has not looked at them.
use std::fs;
use std::path::Path;

use super::{Finding, Level, Subject};

const CHECK: &str = "databases";
/// What a damaged file's new name holds, before its number.
const ASIDE: &str = ".damaged-";

pub(super) fn findings(subject: &Subject<'_>) -> Vec<Finding> {
    let state = &subject.places.state_dir;
    let control = aside(&subject.at(state));
    let records = aside(&subject.at(&state.join("records")));
    let told = |names: Vec<String>, folder: &Path, costs: &str| {
        let (count, first) = (names.len(), names.into_iter().min()?);
        let found = format!("{count} damaged files were set aside, the first as {}", folder.join(first).display());
        let next = "look at the disk with `dmesg`; they take room until you remove them, `sqlite3 FILE .recover` may read some rows";
        Some(Finding::new(CHECK, Level::Warning, found, costs).next(next))
    };
    let costs = "what the loop knew is lost: it began again with the factory model, or with the one it was given";
    let rows = "their records and labels are neither shown nor trained on";
    [told(control, state, costs), told(records, &state.join("records"), rows)].into_iter().flatten().collect()
}

/// Names of the databases of `folder` that were set aside, without the logs beside them.
fn aside(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.rsplit_once(ASIDE).is_some_and(|(_, number)| number.parse::<u32>().is_ok())).collect()
}
