//! The disk under the state directory: room, rights, kind and wear.
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statfs, statvfs};

use super::{Finding, Level, Subject};
use crate::decide::time::Uptime;
use crate::shell::sensors::Sensors;

/// `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS: u64 = 0x0102_1994;
/// Below so much the agent cannot do its work for long.
const LEAST_BYTES: u64 = 64 << 20;
/// Entries of the state directory that are counted.
const ENTRIES_MAX: usize = 100_000;

pub(super) fn findings(subject: &Subject<'_>) -> Vec<Finding> {
    let mut found = vec![room(subject), kind(subject)];
    found.push(wear(subject.root));
    found
}

/// The folder itself, or the nearest one above it that is there.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn room(subject: &Subject<'_>) -> Finding {
    let state = subject.at(&subject.places.state_dir);
    let shown = subject.places.state_dir.display();
    let stat = match statvfs(nearest(&state)) {
        Ok(stat) => stat,
        Err(error) => {
            return Finding::new("disk", Level::Bad, format!("{shown}: {error}"), "nothing can be kept")
                .next("make the folder, or set `agent.state_dir`");
        }
    };
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Finding::new(
            "disk",
            Level::Bad,
            format!("{shown} is mounted read-only"),
            "no records, no labels, no retrains",
        )
        .next("remount it, or look at `dmesg`: a card that fails is mounted read-only");
    }
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let config = subject.config;
    let planned = config.records.keep_bytes + config.snapshots.keep_bytes + config.mqtt.outbox_bytes_max + LEAST_BYTES;
    let more = planned.saturating_sub(used(&state, &mut 0));
    let found = format!("{shown}: {} MB free, {} MB more will be used by the settings", free >> 20, more >> 20);
    if free < LEAST_BYTES {
        return Finding::new("disk", Level::Bad, found, "recording degrades, then stops; serving goes on")
            .next("free some space");
    }
    if free < more {
        return Finding::new("disk", Level::Warning, found, "the disk fills before retention begins")
            .next("lower `records.keep_bytes`, or free space");
    }
    Finding::good("disk", found)
}

fn used(folder: &Path, seen: &mut usize) -> u64 {
    let mut total = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        *seen += 1;
        if *seen > ENTRIES_MAX {
            break;
        }
        let Ok(data) = entry.metadata() else { continue };
        total += if data.is_dir() { used(&entry.path(), seen) } else { data.len() };
    }
    total
}

fn kind(subject: &Subject<'_>) -> Finding {
    let state = subject.at(&subject.places.state_dir);
    #[expect(
        clippy::cast_sign_loss,
        reason = "the kernel's magic number is a bit pattern; its type differs by architecture"
    )]
    let in_memory = statfs(nearest(&state)).is_ok_and(|stat| stat.f_type as u64 == TMPFS);
    if in_memory {
        return Finding::new(
            "storage",
            Level::Warning,
            "the state directory is in memory (tmpfs)",
            "models, records and drift state are gone after a restart of the machine",
        )
        .next("set `agent.state_dir` to a folder on the disk");
    }
    Finding::good("storage", "on a disk")
}

fn wear(root: &Path) -> Finding {
    let look = Sensors::at(root).look(None, Uptime::default());
    let Some(worst) = look.wear.iter().max_by_key(|wear| wear.used_percent) else {
        let costs = "the end of a card's life comes unseen; bytes written are counted all the same (`hone energy`)";
        return Finding::new("wear", Level::Note, "no flash device tells its wear", costs)
            .next("eMMC 5.0 tells it, SD cards do not");
    };
    let found = format!("{} has used {} % of its life", worst.name, worst.used_percent);
    match worst.used_percent {
        0..80 => Finding::good("wear", found),
        80..=100 => Finding::new("wear", Level::Warning, found, "it will fail within months at the pace so far")
            .next("plan its exchange; lower `budget.flash_bytes_per_day`"),
        _ => Finding::new("wear", Level::Bad, found, "it may turn read-only any day").next("exchange it"),
    }
}
