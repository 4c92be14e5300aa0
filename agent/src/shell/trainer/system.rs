//! What only the system can do: count the heap, step back behind everyone else, hear a request to end. The one place that
//! calls it without a safe wrapper.
#![expect(unsafe_code, reason = "an allocator and three system calls for which the standard library has no safe form")]
use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{c_int, c_long};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
static ASKED_TO_END: AtomicBool = AtomicBool::new(false);

/// `SCHED_IDLE`, `IOPRIO_WHO_PROCESS` and the idle class of `ioprio_set`, of `linux/sched.h` and `linux/ioprio.h`.
const SCHED_IDLE: c_int = 5;
const IO_WHO_PROCESS: c_int = 1;
const IO_CLASS_IDLE: c_int = 3 << 13;
const SIGTERM: c_int = 15;

/// Numbers of `sched_setscheduler` and `ioprio_set`: musl's own `sched_setscheduler` does nothing, and no libc has the other.
#[cfg(target_arch = "x86_64")]
const CALLS: Option<(c_long, c_long)> = Some((144, 251));
#[cfg(target_arch = "aarch64")]
const CALLS: Option<(c_long, c_long)> = Some((119, 30));
#[cfg(target_arch = "arm")]
const CALLS: Option<(c_long, c_long)> = Some((156, 314));
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")))]
const CALLS: Option<(c_long, c_long)> = None;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
}

/// What the counted heap stands on.
#[cfg(not(target_env = "musl"))]
static BASE: System = System;
#[cfg(target_env = "musl")]
static BASE: super::blocks::Blocks<System> = super::blocks::Blocks::new(System);

/// Bytes that are kept for reuse and are resident all the same: they count against the limit.
#[cfg(target_env = "musl")]
fn make_room(live: usize) {
    if live.saturating_add(BASE.kept_bytes()) > LIMIT.load(Ordering::Relaxed) {
        BASE.give_back();
    }
}
#[cfg(not(target_env = "musl"))]
fn make_room(_: usize) {}

/// The system's allocator, counted; past the limit it refuses, which ends the process.
#[derive(Debug)]
pub struct CountedHeap;

/// Books `more` bytes; whether the limit allows them.
fn book(more: usize) -> bool {
    let live = LIVE.fetch_add(more, Ordering::Relaxed).wrapping_add(more);
    if live > LIMIT.load(Ordering::Relaxed) {
        LIVE.fetch_sub(more, Ordering::Relaxed);
        return false;
    }
    make_room(live);
    PEAK.fetch_max(live, Ordering::Relaxed);
    true
}

// SAFETY: every call is handed to the system's allocator unchanged, and a null is what a failed allocation returns; the
// counters beside it allocate nothing.
unsafe impl GlobalAlloc for CountedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !book(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps the contract of `alloc`, which is the same one.
        let block = unsafe { BASE.alloc(layout) };
        unbook_if_null(block, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !book(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as in `alloc`.
        let block = unsafe { BASE.alloc_zeroed(layout) };
        unbook_if_null(block, layout.size())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from the system's allocator with this layout, as all of ours do.
        unsafe { BASE.dealloc(block, layout) };
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let more = size.saturating_sub(layout.size());
        if !book(more) {
            return std::ptr::null_mut();
        }
        // SAFETY: as in `dealloc`, and the caller keeps the contract for `size`.
        let grown = unsafe { BASE.realloc(block, layout, size) };
        if !grown.is_null() {
            LIVE.fetch_sub(layout.size().saturating_sub(size), Ordering::Relaxed);
        }
        unbook_if_null(grown, more)
    }
}

fn unbook_if_null(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() {
        LIVE.fetch_sub(bytes, Ordering::Relaxed);
    }
    block
}

/// Bytes on the heap now, and the most there were; both 0 where [`CountedHeap`] is not the allocator.
#[must_use]
pub fn heap_bytes() -> (u64, u64) {
    (LIVE.load(Ordering::Relaxed) as u64, PEAK.load(Ordering::Relaxed) as u64)
}

/// From now on the heap refuses to grow past `bytes`; the process that tries is aborted.
pub fn limit_heap(bytes: u64) {
    LIMIT.store(usize::try_from(bytes).unwrap_or(usize::MAX), Ordering::Relaxed);
}

/// Lets this process run and read only when nobody else wants to; whether the scheduler and the disk agreed.
#[must_use]
pub fn step_back() -> (bool, bool) {
    let Some((scheduler, io)) = CALLS else {
        return (false, false);
    };
    let priority: c_int = 0;
    // SAFETY: `sched_setscheduler(this process, policy, &param)` reads one int behind the pointer, which lives until then.
    let scheduled = unsafe { syscall(scheduler, 0 as c_int, SCHED_IDLE, &raw const priority) } == 0;
    // SAFETY: `ioprio_set(which, who, priority)` takes three numbers and touches no memory.
    let queued = unsafe { syscall(io, IO_WHO_PROCESS, 0 as c_int, IO_CLASS_IDLE) } == 0;
    (scheduled, queued)
}

extern "C" fn remember(_: c_int) {
    // A handler may do little; storing an atomic is allowed.
    ASKED_TO_END.store(true, Ordering::Relaxed);
}

/// From now on SIGTERM does not end this process but is heard by [`asked_to_end`].
pub fn hear_end() {
    // SAFETY: `remember` only stores an atomic, which is async-signal-safe, and lives as long as the program.
    unsafe { signal(SIGTERM, remember) };
}

/// Whether SIGTERM has come.
#[must_use]
pub fn asked_to_end() -> bool {
    ASKED_TO_END.load(Ordering::Relaxed)
}
