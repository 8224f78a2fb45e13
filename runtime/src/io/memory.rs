//! The allocator of a static build. musl's own costs a seventh of the hop; dlmalloc keeps what it once had, so what is large (an image that
//! is looked at) still comes from musl, which maps it and gives it back. Must never free by another than it came from.
#![allow(unsafe_code)] // An allocator is unsafe to call.

use dlmalloc::GlobalDlmalloc;
use std::alloc::{GlobalAlloc, Layout, System};

pub struct Allocator;

/// From here on memory is mapped for itself, bytes. Above a block of the store (256 KiB), which comes and goes all the time.
const LARGE: usize = 512 * 1024;

// SAFETY: each block is freed and resized by the allocator that its size says, and the size is part of the layout that the caller must
// give back unchanged. Both allocators keep the contract themselves.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, handed on.
        unsafe { if layout.size() < LARGE { GlobalDlmalloc.alloc(layout) } else { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { if layout.size() < LARGE { GlobalDlmalloc.alloc_zeroed(layout) } else { System.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: it came from the one that its size says.
        unsafe {
            if layout.size() < LARGE { GlobalDlmalloc.dealloc(block, layout) } else { System.dealloc(block, layout) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: within one allocator its own; across, a new block takes the bytes that both have, and the old one is freed only then.
        unsafe {
            match (layout.size() < LARGE, size < LARGE) {
                (true, true) => GlobalDlmalloc.realloc(block, layout, size),
                (false, false) => System.realloc(block, layout, size),
                _ => {
                    let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                    if !new.is_null() {
                        new.copy_from_nonoverlapping(block, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                    new
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_grows_and_shrinks_across_the_limit_keeps_its_bytes() {
        let layout = |size| Layout::from_size_align(size, 16).unwrap();
        // SAFETY: never asked of more bytes than were written.
        let pattern = |block: *mut u8, bytes: usize| (0..bytes).all(|at| unsafe { *block.add(at) } == at as u8);
        // SAFETY: every block is used within its size, resized with the layout that it has, and freed once.
        unsafe {
            let mut block = Allocator.alloc(layout(1_000));
            (0..1_000).for_each(|at| *block.add(at) = at as u8);
            let mut size = 1_000;
            for next in [LARGE - 1, LARGE, LARGE * 3, LARGE, LARGE - 1, 1_000] {
                block = Allocator.realloc(block, layout(size), next);
                size = next;
                assert!(!block.is_null() && pattern(block, 1_000), "at {next}");
            }
            Allocator.dealloc(block, layout(size));
            let zeroed = Allocator.alloc_zeroed(layout(LARGE));
            assert!((0..LARGE).all(|at| *zeroed.add(at) == 0));
            Allocator.dealloc(zeroed, layout(LARGE));
        }
    }
}
