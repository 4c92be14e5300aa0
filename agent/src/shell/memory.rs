//! What the agent keeps resident: one arena for its heap, and of its code what serving uses.
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

/// Gives back what only the start needed: freed heap, and the pages of code. The kernel maps 64 KiB around each place where code runs
/// for the first time, so that a start, which runs a little of everything, maps nearly all of it; what serves is mapped again as it
/// is used, from the page cache. Returns the bytes of code that may go.
pub fn let_go_of_the_start() -> usize {
    // SAFETY: `malloc_trim` gives free memory back, and takes its own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        malloc_trim(0)
    };
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(code).map(|(begin, end)| if forget(begin, end) { end - begin } else { 0 }).sum()
}

/// Begin and end of a map that holds the code of a file; such a map is never written to.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights, inode) = (fields.next()?, fields.next()?, fields.nth(2)?);
    let (begin, end) = range.split_once('-')?;
    let parse = |address| usize::from_str_radix(address, 16).ok();
    if rights == "r-xp" && inode != "0" { Some((parse(begin)?, parse(end)?)) } else { None }
}

fn forget(begin: usize, end: usize) -> bool {
    // SAFETY: the range is a private map of a file that is read and executed, never written: its pages hold what the file holds and
    // come back from there, also in the middle of this very function.
    unsafe { madvise(with_exposed_provenance_mut(begin), end - begin, MADV_DONTNEED) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_maps_with_the_code_of_a_file_are_let_go() {
        let line = |rights: &str, inode: &str| format!("7f00-8f00 {rights} 0002c000 fe:00 {inode}   /usr/bin/hone");
        assert_eq!(code(&line("r-xp", "262")), Some((0x7f00, 0x8f00)));
        assert_eq!(code(&line("r--p", "262")), None, "read-only data was relocated, which the file does not know");
        assert_eq!(code(&line("rw-p", "262")), None);
        assert_eq!(code(&line("rwxp", "262")), None);
        assert_eq!(code(&line("r-xp", "0")), None, "the kernel's own page");
        assert_eq!(code("nonsense"), None);
    }

    #[test]
    fn everything_still_runs_after_the_start_was_let_go() {
        assert!(let_go_of_the_start() > 1 << 20);
        let sorted: std::collections::BTreeSet<String> = (0..1_000).map(|number| format!("{number:x}")).collect();
        assert_eq!(sorted.len(), 1_000);
    }
}
