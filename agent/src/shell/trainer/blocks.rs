//! Keeps big blocks for reuse: musl's allocator maps and unmaps each one, which costs a training two to four times its CPU.
//!
//! ```text
//! alloc ≥ 16 KiB ─► round up to an eighth of an octave ─► list of that class ─► empty: ask the system
//! free  ≥ 16 KiB ─► up to 16 MiB are kept in the lists; beyond, the block goes back to the system
//! ```
//! The allocator of musl builds alone; glibc does as well with its thresholds raised. Measured for this project (burn, batch 16,
//! 12 steps): musl 0.58 CPU s, with these lists 0.32, glibc 0.31, for 12 % more resident memory.
#![expect(unsafe_code, reason = "an allocator; every block carries the reason beside it")]
use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Smaller blocks are the system's: it is good at them.
const SMALLEST: usize = 16 * 1024;
/// Larger blocks are used once per training, if at all.
const LARGEST: usize = 16 * 1024 * 1024;
/// Alignment of every kept block; what asks for more is the system's.
const ALIGN: usize = 64;
/// Bytes kept at most.
const KEPT_MAX: usize = 16 * 1024 * 1024;
/// Ten octaves in eighths, and their upper end.
const CLASSES: usize = 81;

/// The first word of a kept block.
struct Kept {
    next: *mut Kept,
}

/// Lists of kept blocks in front of another allocator.
#[derive(Debug)]
pub struct Blocks<A> {
    system: A,
    locked: AtomicBool,
    kept_bytes: AtomicUsize,
    lists: UnsafeCell<[*mut Kept; CLASSES]>,
}

// SAFETY: `lists` is touched between `lock` and the release of the lock only, and the blocks in it belong to nobody else.
unsafe impl<A: Sync> Sync for Blocks<A> {}

/// Size and list of a block that may be kept; none for one that is the system's alone.
fn class(layout: Layout) -> Option<(usize, Layout)> {
    let size = layout.size();
    if !(SMALLEST..=LARGEST).contains(&size) || layout.align() > ALIGN {
        return None;
    }
    let eighth = 1_usize << (size.ilog2() - 3);
    let rounded = size.next_multiple_of(eighth);
    let octave = rounded.ilog2();
    let index = (octave - SMALLEST.ilog2()) as usize * 8 + ((rounded >> (octave - 3)) & 7);
    Some((index, Layout::from_size_align(rounded, ALIGN).ok()?))
}

impl<A: GlobalAlloc> Blocks<A> {
    /// Empty lists in front of `system`.
    pub const fn new(system: A) -> Self {
        Self {
            system,
            locked: AtomicBool::new(false),
            kept_bytes: AtomicUsize::new(0),
            lists: UnsafeCell::new([null_mut(); CLASSES]),
        }
    }

    /// Bytes in the lists: resident, and nobody's.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes.load(Ordering::Relaxed)
    }

    /// Gives every kept block back to the system.
    pub fn give_back(&self) {
        let mut index = 0;
        for octave in SMALLEST.ilog2()..=LARGEST.ilog2() {
            for eighth in 8..16 {
                let size = eighth << (octave - 3);
                if index >= CLASSES {
                    return;
                }
                while let Some(block) = self.pop(index, size) {
                    let Ok(layout) = Layout::from_size_align(size, ALIGN) else { return };
                    // SAFETY: blocks of a class come from the system with exactly this layout, see `alloc`.
                    unsafe { self.system.dealloc(block.as_ptr(), layout) };
                }
                index += 1;
            }
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut [*mut Kept; CLASSES]) -> T) -> T {
        while self.locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            spin_loop();
        }
        // SAFETY: the lock is held, so nobody else refers to the lists; `work` neither allocates nor panics.
        let result = work(unsafe { &mut *self.lists.get() });
        self.locked.store(false, Ordering::Release);
        result
    }

    fn pop(&self, index: usize, size: usize) -> Option<NonNull<u8>> {
        let block = self.with(|lists| {
            let block = NonNull::new(lists[index])?;
            // SAFETY: a block in a list holds a `Kept`, written by `push`, and is nobody else's.
            lists[index] = unsafe { block.as_ref() }.next;
            Some(block.cast())
        })?;
        self.kept_bytes.fetch_sub(size, Ordering::Relaxed);
        Some(block)
    }

    /// Keeps a block; false if enough is kept.
    fn push(&self, index: usize, size: usize, block: *mut u8) -> bool {
        if self.kept_bytes.fetch_add(size, Ordering::Relaxed) + size > KEPT_MAX {
            self.kept_bytes.fetch_sub(size, Ordering::Relaxed);
            return false;
        }
        self.with(|lists| {
            #[expect(clippy::cast_ptr_alignment, reason = "every kept block is aligned to 64, see `class`")]
            let kept = block.cast::<Kept>();
            // SAFETY: the block is free, at least 16 KiB long and aligned to 64, so it has room for a `Kept`.
            unsafe { kept.write(Kept { next: lists[index] }) };
            lists[index] = kept;
        });
        true
    }
}

// SAFETY: a block that is handed out comes from the system, is at least as long and as aligned as asked, and is in no list.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Blocks<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((index, whole)) = class(layout) else {
            // SAFETY: the caller's contract is the system's.
            return unsafe { self.system.alloc(layout) };
        };
        // SAFETY: `whole` is not empty.
        self.pop(index, whole.size()).map_or_else(|| unsafe { self.system.alloc(whole) }, NonNull::as_ptr)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some((index, whole)) = class(layout) else {
            // SAFETY: as in `alloc`.
            return unsafe { self.system.alloc_zeroed(layout) };
        };
        match self.pop(index, whole.size()) {
            Some(block) => {
                // SAFETY: the block is ours and `whole.size()` bytes long.
                unsafe { block.as_ptr().write_bytes(0, whole.size()) };
                block.as_ptr()
            }
            // SAFETY: `whole` is not empty.
            None => unsafe { self.system.alloc_zeroed(whole) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class(layout) {
            Some((index, whole)) => {
                if !self.push(index, whole.size(), block) {
                    // SAFETY: it came from the system with this layout.
                    unsafe { self.system.dealloc(block, whole) };
                }
            }
            // SAFETY: the caller's contract is the system's.
            None => unsafe { self.system.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return null_mut() };
        match (class(layout), class(wanted)) {
            // SAFETY: the caller's contract is the system's.
            (None, None) => unsafe { self.system.realloc(block, layout, size) },
            (Some((old, _)), Some((new, _))) if old == new => block,
            _ => {
                // SAFETY: as for `alloc`; the two blocks are different ones, and the shorter length fits both.
                unsafe {
                    let moved = self.alloc(wanted);
                    if !moved.is_null() {
                        moved.copy_from_nonoverlapping(block, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    #[test]
    fn a_class_is_at_most_an_eighth_larger_and_has_one_size() {
        let mut sizes = [0; CLASSES];
        for size in (SMALLEST..=LARGEST).step_by(509).chain([LARGEST]) {
            let (index, whole) = class(layout(size)).expect("a class");
            assert!(whole.size() >= size && whole.size() <= size + size / 8, "{size}: {}", whole.size());
            assert!(sizes[index] == 0 || sizes[index] == whole.size(), "{size} in class {index}");
            sizes[index] = whole.size();
        }
        for other in [layout(SMALLEST - 1), layout(LARGEST + 1), Layout::from_size_align(SMALLEST, 128).unwrap()] {
            assert!(class(other).is_none());
        }
    }

    #[test]
    fn a_freed_block_is_handed_out_again_zeroed_if_asked_and_never_more_than_the_limit_is_kept() {
        let blocks = Blocks::new(System);
        // SAFETY: every block is used within its layout and freed once, with it.
        unsafe {
            let first = blocks.alloc(layout(20_000));
            first.write_bytes(7, 20_000);
            blocks.dealloc(first, layout(20_000));
            assert_eq!(blocks.kept_bytes(), 20_480);
            let again = blocks.alloc_zeroed(layout(20_100));
            assert_eq!((again, blocks.kept_bytes()), (first, 0));
            assert!((0..20_100).all(|at| *again.add(at) == 0));
            let grown = blocks.realloc(again, layout(20_100), 20_480);
            assert_eq!(grown, again, "the same class");
            grown.write(9);
            let moved = blocks.realloc(grown, layout(20_480), 100_000);
            assert_eq!(*moved, 9);
            let small = blocks.realloc(moved, layout(100_000), 100);
            assert_eq!(*small, 9);
            blocks.dealloc(small, layout(100));
            let many: Vec<_> = (0..30).map(|_| blocks.alloc(layout(1 << 20))).collect();
            many.into_iter().for_each(|block| blocks.dealloc(block, layout(1 << 20)));
            assert!((KEPT_MAX - (1 << 20)..=KEPT_MAX).contains(&blocks.kept_bytes()), "{}", blocks.kept_bytes());
            blocks.give_back();
            assert_eq!(blocks.kept_bytes(), 0);
        }
    }

    #[test]
    fn threads_that_share_the_lists_never_share_a_block() {
        let blocks = Blocks::new(System);
        std::thread::scope(|scope| {
            for mark in 1..=4_u8 {
                let blocks = &blocks;
                scope.spawn(move || {
                    for round in 0..2_000_usize {
                        let size = SMALLEST + (round * 7_919) % 200_000;
                        // SAFETY: as above.
                        unsafe {
                            let block = blocks.alloc(layout(size));
                            block.write_bytes(mark, size);
                            assert!((0..size).step_by(1_021).all(|at| *block.add(at) == mark));
                            blocks.dealloc(block, layout(size));
                        }
                    }
                });
            }
        });
        blocks.give_back();
        assert_eq!(blocks.kept_bytes(), 0);
    }
}
