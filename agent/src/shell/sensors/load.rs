//! Who uses the CPU, and who waits for what.
use super::tree::{Missing, Tree, miss, quoted};

/// Clock ticks since the start of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CpuTimes {
    total: u64,
    busy: u64,
    /// Of the agent, its children that have ended, and its trainer.
    own: u64,
    cores: u32,
}

/// Reads the CPU's and our own ticks.
pub(super) fn cpu_times(tree: &Tree, trainer: Option<u32>, missing: &mut Vec<Missing>) -> Option<CpuTimes> {
    let text = tree.named_text("proc/stat", missing);
    let Some(times) = text.as_deref().and_then(parse_stat) else {
        miss(missing, "CPU use", "proc/stat cannot be read");
        return None;
    };
    let process = |path: &str| tree.text(path).ok().and_then(|text| parse_process(&text));
    let Some([user, system, child_user, child_system]) = process("proc/self/stat") else {
        miss(missing, "CPU use", "proc/self/stat cannot be read");
        return None;
    };
    let child = trainer.and_then(|pid| process(&format!("proc/{pid}/stat")));
    let child = child.map_or(0, |[user, system, ..]| user.saturating_add(system));
    let own = [user, system, child_user, child_system, child].into_iter().fold(0_u64, u64::saturating_add);
    Some(CpuTimes { own, ..times })
}

fn parse_stat(text: &str) -> Option<CpuTimes> {
    let mut lines = text.lines();
    let ticks: Option<Vec<u64>> =
        lines.next()?.strip_prefix("cpu ")?.split_whitespace().take(8).map(|word| word.parse().ok()).collect();
    let ticks = ticks.filter(|ticks| ticks.len() >= 4)?;
    let total = ticks.iter().copied().fold(0_u64, u64::saturating_add);
    // Waiting for the disk is idling.
    let idle = ticks[3].saturating_add(ticks.get(4).copied().unwrap_or(0));
    let cores = lines.filter(|line| line.starts_with("cpu")).count();
    Some(CpuTimes { total, busy: total.saturating_sub(idle), own: 0, cores: u32::try_from(cores).ok()?.max(1) })
}

/// Fields 14 to 17 of `/proc/<pid>/stat`; the name before them may hold spaces and brackets.
fn parse_process(text: &str) -> Option<[u64; 4]> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11).map(|word| word.parse().ok());
    let mut next = || fields.next().flatten();
    Some([next()?, next()?, next()?, next()?])
}

/// Share of all CPU time that others took between two looks.
pub(super) fn others(before: CpuTimes, after: CpuTimes) -> Option<f64> {
    let total = after.total.checked_sub(before.total).filter(|ticks| *ticks > 0)?;
    let busy = after.busy.saturating_sub(before.busy);
    let own = after.own.saturating_sub(before.own);
    Some((busy.saturating_sub(own) as f64 / total as f64).min(1.0))
}

/// Runnable tasks per core over the last minute.
pub(super) fn per_core(tree: &Tree, times: Option<CpuTimes>, missing: &mut Vec<Missing>) -> Option<f64> {
    let text = tree.named_text("proc/loadavg", missing)?;
    let load = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    let Some(load) = load.filter(|load| load.is_finite() && *load >= 0.0) else {
        miss(missing, "proc/loadavg", &format!("`{}` has no load", quoted(&text)));
        return None;
    };
    times.map(|times| load / f64::from(times.cores))
}

/// Percent of the last ten seconds in which some task waited for `what` (`memory` or `io`).
pub(super) fn pressure(tree: &Tree, what: &str, missing: &mut Vec<Missing>) -> Option<f64> {
    let path = format!("proc/pressure/{what}");
    let Some(text) = tree.named_text(&path, missing) else {
        miss(missing, &format!("{what} pressure"), "the kernel has no pressure files (CONFIG_PSI, or psi=1)");
        return None;
    };
    let some = text.lines().find_map(|line| line.strip_prefix("some avg10=")?.split_whitespace().next()?.parse().ok());
    let some = some.filter(|percent: &f64| (0.0..=100.0).contains(percent));
    if some.is_none() {
        miss(missing, &path, &format!("`{}` has no avg10", quoted(&text)));
    }
    some
}
