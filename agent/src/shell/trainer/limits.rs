//! The kernel's own limits for the trainer: a memory cgroup, version 2 or 1, where one may be made, and an rlimit.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Address space of stacks, allocator reserve and libraries' data beyond what the heap counts.
const BESIDE_HEAP_BYTES: u64 = 16 * 1024 * 1024;

/// What a training may take; an absent limit is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Share of one core, above 0 up to 1.
    pub cpu_share: Option<f64>,
    /// Seconds after which it makes no more gradient steps and finishes with what there is.
    pub deadline_s: Option<f64>,
}

/// Who enforces the memory limit beside the counting allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Control group, version 2.
    V2,
    /// Control group, version 1.
    V1,
}

/// A control group of one trainer; removed when it is dropped.
#[derive(Debug)]
pub struct Group {
    folder: PathBuf,
    kind: Kind,
}

impl Group {
    /// Makes a group for `pid` with at most `memory_bytes`, below the group this process is in; none where the system has no
    /// memory groups or does not let us. `root` is `/` but in tests.
    #[must_use]
    pub fn make(root: &Path, pid: u32, memory_bytes: u64) -> Option<Self> {
        let own = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
        let (kind, parent) = parent_group(root, &own)?;
        let folder = parent.join(format!("hone-trainer-{pid}"));
        fs::create_dir(&folder).ok()?;
        // From here on the folder goes away again if a step fails.
        let group = Self { folder, kind };
        group.set(pid, memory_bytes).ok()?;
        Some(group)
    }

    fn set(&self, pid: u32, bytes: u64) -> io::Result<()> {
        let write = |name: &str, value: u64| fs::write(self.folder.join(name), value.to_string());
        match self.kind {
            Kind::V2 => {
                write("memory.max", bytes)?;
                // Where there is no swap there is nothing to limit; half a training on a memory card would be worse than none.
                let _ = write("memory.swap.max", 0);
                let _ = write("memory.oom.group", 1);
                write("cgroup.procs", u64::from(pid))
            }
            Kind::V1 => {
                write("memory.limit_in_bytes", bytes)?;
                let _ = write("memory.memsw.limit_in_bytes", bytes);
                write("cgroup.procs", u64::from(pid))
            }
        }
    }

    /// Which version it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the kernel has killed a process of this group for its memory.
    #[must_use]
    pub fn has_killed(&self) -> bool {
        let name = if self.kind == Kind::V2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The group that a trainer's own may be made in: our own one if it hands memory on, else the one above if that was delegated
/// to us, which shows by our being in a subgroup that is no unit.
fn parent_group(root: &Path, own: &str) -> Option<(Kind, PathBuf)> {
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        if controllers.split(',').any(|controller| controller == "memory") {
            let folder = root.join("sys/fs/cgroup/memory").join(path);
            return folder.join("memory.limit_in_bytes").is_file().then_some((Kind::V1, folder));
        }
        if controllers.is_empty() {
            let own = root.join("sys/fs/cgroup").join(path);
            let is_unit = [".service", ".scope", ".slice"].iter().any(|ending| path.ends_with(ending));
            let above = own.parent().filter(|_| !is_unit && !path.is_empty());
            let hands_on = |folder: &Path| {
                let text = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
                text.split_whitespace().any(|controller| controller == "memory")
            };
            let found = std::iter::once(own.as_path()).chain(above).find(|folder| hands_on(folder));
            if let Some(folder) = found {
                return Some((Kind::V2, folder.to_owned()));
            }
        }
    }
    None
}

/// Limits the data segment of this process, the last line behind the counting allocator; not an error where it is refused.
pub fn limit_data(heap_bytes: u64) {
    let maximum = getrlimit(Resource::Data).maximum;
    let _ = setrlimit(Resource::Data, Rlimit { current: Some(heap_bytes + BESIDE_HEAP_BYTES), maximum });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(own: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files.iter().chain([&("proc/self/cgroup", own)]) {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn read(root: &Path, name: &str) -> String {
        fs::read_to_string(root.join("sys/fs/cgroup").join(name)).unwrap_or_default()
    }

    #[test]
    fn a_delegated_group_of_version_two_gets_a_child_with_the_limit_and_the_process() {
        let files = [("sys/fs/cgroup/a.slice/hone.service/cgroup.subtree_control", "cpu memory\n")];
        let folder = tree("0::/a.slice/hone.service/agent\n", &files);
        fs::create_dir_all(folder.path().join("sys/fs/cgroup/a.slice/hone.service/agent")).unwrap();
        let group = Group::make(folder.path(), 42, 1_000).expect("a group");
        let at = "a.slice/hone.service/hone-trainer-42";
        assert_eq!(group.kind(), Kind::V2);
        assert_eq!(read(folder.path(), &format!("{at}/memory.max")), "1000");
        assert_eq!(read(folder.path(), &format!("{at}/cgroup.procs")), "42");
        assert!(!group.has_killed());
        let events = folder.path().join("sys/fs/cgroup").join(at).join("memory.events");
        fs::write(events, "oom 1\noom_kill 1\n").unwrap();
        assert!(group.has_killed());
    }

    #[test]
    fn version_one_beside_an_empty_version_two_is_found() {
        let files = [("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "9223372036854771712")];
        let folder = tree("4:memory:/box\n0::/\n", &files);
        let group = Group::make(folder.path(), 7, 2_000).expect("a group");
        assert_eq!(group.kind(), Kind::V1);
        assert_eq!(read(folder.path(), "memory/box/hone-trainer-7/memory.limit_in_bytes"), "2000");
    }

    #[test]
    fn a_group_that_is_not_ours_to_divide_is_left_alone() {
        let files = [("sys/fs/cgroup/system.slice/cgroup.subtree_control", "memory\n")];
        let folder = tree("0::/system.slice/hone.service\n", &files);
        fs::create_dir_all(folder.path().join("sys/fs/cgroup/system.slice/hone.service")).unwrap();
        assert!(Group::make(folder.path(), 42, 1_000).is_none(), "the slice belongs to systemd");
        assert!(Group::make(&folder.path().join("nowhere"), 42, 1_000).is_none());
    }
}
