//! What the agent keeps resident: one arena for its heap, and of its files what serving uses.
#![expect(unsafe_code, reason = "settings of malloc and advice to the kernel have no safe form")]
use std::ffi::{c_int, c_void};
use std::fs;
use std::ptr::with_exposed_provenance_mut;

#[cfg(target_env = "gnu")]
const M_TRIM_THRESHOLD: c_int = -1;
#[cfg(target_env = "gnu")]
const M_MMAP_THRESHOLD: c_int = -3;
#[cfg(target_env = "gnu")]
const M_ARENA_MAX: c_int = -8;
/// Of `linux/mman.h`.
const MADV_DONTNEED: c_int = 4;

unsafe extern "C" {
    #[cfg(target_env = "gnu")]
    fn mallopt(parameter: c_int, value: c_int) -> c_int;
    #[cfg(target_env = "gnu")]
    fn malloc_trim(pad: usize) -> c_int;
    fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
}

/// Makes glibc give back what is freed instead of keeping it for threads that come and go: one arena, and blocks of 256 KiB and more
/// are maps of their own whatever was freed before. Before the first thread; other C libraries do so anyway.
pub fn keep_heap_small() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 256 << 10), (M_TRIM_THRESHOLD, 256 << 10)] {
        // SAFETY: `mallopt` takes two numbers and changes settings of its own.
        unsafe { mallopt(parameter, value) };
    }
}

/// Gives back what only the start needed: freed heap, and pages of code and constants. The kernel maps 64 KiB around each place where code
/// runs for the first time, so that a start, which runs a little of everything, maps nearly all of it; what serves is mapped again as
/// it is used, from the page cache.
pub fn let_go_of_the_start() {
    // SAFETY: `malloc_trim` gives free memory back, and takes its own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        malloc_trim(0)
    };
    let _ = let_go_of_files();
}

/// Returns the bytes of files that may go.
fn let_go_of_files() -> usize {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    unchanged(&maps).into_iter().map(|(begin, end)| if forget(begin, end) { end - begin } else { 0 }).sum()
}

/// Begin and end of each map of a file that nobody may write to and of which no page differs from the file. What was relocated and then
/// locked has pages of its own.
fn unchanged(maps: &str) -> Vec<(usize, usize)> {
    let (mut found, mut candidate) = (Vec::new(), None);
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        match fields.next() {
            Some("Anonymous:") if fields.next() == Some("0") => found.extend(candidate.take()),
            Some("Anonymous:") => candidate = None,
            Some(range) if !range.ends_with(':') => candidate = of_a_file(range, fields),
            _ => {}
        }
    }
    found
}

fn of_a_file<'a>(range: &str, mut fields: impl Iterator<Item = &'a str>) -> Option<(usize, usize)> {
    let (rights, inode) = (fields.next()?, fields.nth(2)?);
    let (begin, end) = range.split_once('-')?;
    let parse = |address| usize::from_str_radix(address, 16).ok();
    let fixed = matches!(rights, "r-xp" | "r--p") && inode != "0";
    if fixed { Some((parse(begin)?, parse(end)?)) } else { None }
}

fn forget(begin: usize, end: usize) -> bool {
    // SAFETY: the range is a private map of a file that nobody may write to, and no page of it differs from the file: all of them
    // come back from there, also in the middle of this very function.
    unsafe { madvise(with_exposed_provenance_mut(begin), end - begin, MADV_DONTNEED) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_maps_that_are_as_their_file_is_are_let_go() {
        let map = |rights: &str, inode: &str, own_kb: &str| {
            let size = "Size:  16 kB\nRss:  16 kB\n";
            format!(
                "7f00-8f00 {rights} 0002c000 fe:00 {inode}   /usr/bin/hone\n{size}Anonymous:   {own_kb} kB\nVmFlags: rd mr\n"
            )
        };
        let whole = vec![(0x7f00, 0x8f00)];
        assert_eq!(unchanged(&map("r-xp", "262", "0")), whole);
        assert_eq!(unchanged(&map("r--p", "262", "0")), whole);
        assert_eq!(unchanged(&map("r--p", "262", "4")), [], "it was relocated, which the file does not know");
        assert_eq!(unchanged(&map("r-xp", "262", "4")), [], "a debugger has set a breakpoint");
        for rights in ["rw-p", "rwxp", "rw-s", "r--s", "---p"] {
            assert_eq!(unchanged(&map(rights, "262", "0")), [], "{rights}");
        }
        assert_eq!(unchanged(&map("r-xp", "0", "0")), [], "the kernel's own page");
        let two = map("rw-p", "262", "0") + &map("r-xp", "262", "0");
        assert_eq!((unchanged(&two), unchanged("nonsense\n\n")), (whole, vec![]));
    }

    #[test]
    fn everything_still_runs_after_the_start_was_let_go() {
        let_go_of_the_start();
        assert!(let_go_of_files() > 1 << 20);
        let sorted: std::collections::BTreeSet<String> = (0..1_000).map(|number| format!("{number:x}")).collect();
        assert_eq!(sorted.len(), 1_000);
    }
}
