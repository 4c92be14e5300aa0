//! What the agent may take at most: its cgroup (v2, v1 or both), the address-space limit, and what the machine has left.
use super::tree::{Missing, Tree, miss};
use crate::decide::budget::Memory;

const CGROUPS: &str = "sys/fs/cgroup";
/// Levels of groups that are looked at, from the own one upwards.
const LEVELS_MAX: usize = 16;
/// From here on v1 means "no limit".
const UNLIMITED: u64 = 1 << 60;

/// Files of one hierarchy of groups.
struct Hierarchy {
    /// Where it is mounted.
    mount: String,
    /// The own group in it.
    group: String,
    v2: bool,
}

/// Memory that is left by each limit.
pub(super) fn memory(tree: &Tree, missing: &mut Vec<Missing>) -> Memory {
    let available_bytes = tree.named_text("proc/meminfo", missing).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        kilobytes.checked_mul(1_024)
    });
    if available_bytes.is_none() {
        miss(missing, "available memory", "proc/meminfo has no MemAvailable");
    }
    let cgroup_free_bytes = hierarchies(tree, "memory")
        .iter()
        .flat_map(|place| groups(place).filter_map(|path| free(tree, &path, place.v2)))
        .min();
    let limits = tree.named_text("proc/self/limits", missing);
    let address_bytes = limits.and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("Max address space"))?;
        line.split_whitespace().next()?.parse().ok()
    });
    Memory { available_bytes, cgroup_free_bytes, address_bytes }
}

/// Limit less use of one group; what the kernel would drop from its cache on demand is not in use.
fn free(tree: &Tree, path: &str, v2: bool) -> Option<u64> {
    let read = |file: &str| tree.text(&format!("{path}/{file}")).ok()?.parse::<u64>().ok();
    let (limit, used) = if v2 {
        let limits = [read("memory.max"), read("memory.high")];
        (limits.into_iter().flatten().min()?, read("memory.current")?)
    } else {
        (read("memory.limit_in_bytes").filter(|limit| *limit < UNLIMITED)?, read("memory.usage_in_bytes")?)
    };
    let cached = tree.text(&format!("{path}/memory.stat")).ok().and_then(|text| {
        let key = if v2 { "inactive_file " } else { "total_inactive_file " };
        text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
    });
    Some(limit.saturating_sub(used.saturating_sub(cached.unwrap_or(0))))
}

/// Cores' worth of CPU time that the own group, or one above it, may take.
pub(super) fn cpu_quota(tree: &Tree) -> Option<f64> {
    let quota = |path: &str, v2: bool| {
        let (quota, period) = if v2 {
            let text = tree.text(&format!("{path}/cpu.max")).ok()?;
            let (quota, period) = text.split_once(' ')?;
            (quota.parse::<u64>().ok()?, period.trim().parse::<u64>().ok()?)
        } else {
            let read = |file: &str| u64::try_from(tree.number(&format!("{path}/{file}")).ok()?).ok();
            (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?)
        };
        (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
    };
    let places = hierarchies(tree, "cpu");
    let quotas = places.iter().flat_map(|place| groups(place).filter_map(|path| quota(&path, place.v2)));
    quotas.min_by(f64::total_cmp)
}

/// Where the own group stands: v1 by its controller, v2 by its line `0::`. Hybrid machines have both, one of them empty.
fn hierarchies(tree: &Tree, controller: &str) -> Vec<Hierarchy> {
    let Ok(text) = tree.text("proc/self/cgroup") else { return Vec::new() };
    let mut found = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else { continue };
        // A group outside of what is mounted here begins with `/..`: only the mount itself can be seen.
        let group = if group.split('/').any(|part| part == "..") { "/" } else { group };
        let group = group.trim_end_matches('/').to_owned();
        if controllers.is_empty() {
            for mount in [CGROUPS.to_owned(), format!("{CGROUPS}/unified")] {
                found.push(Hierarchy { mount, group: group.clone(), v2: true });
            }
        } else if controllers.split(',').any(|name| name == controller) {
            for mount in [format!("{CGROUPS}/{controller}"), format!("{CGROUPS}/{controllers}")] {
                found.push(Hierarchy { mount, group: group.clone(), v2: false });
            }
        }
    }
    found
}

/// The own group and those above it, up to the mount.
fn groups(place: &Hierarchy) -> impl Iterator<Item = String> + '_ {
    let above = std::iter::successors(Some(place.group.as_str()), |group| Some(group.rsplit_once('/')?.0));
    above.take(LEVELS_MAX).map(|group| format!("{}{group}", place.mount))
}
