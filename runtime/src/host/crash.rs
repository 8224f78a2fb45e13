//! Leaves a note in the status page when this process crashes: which signal, and where. Then the signal does what it
//! does by default. `note` must do nothing but store words and raise: everything else may be what crashed.
#![allow(unsafe_code)] // Signal handlers, and the page that they write to.

use skerry_abi::pump::Status;
use skerry_abi::pump::status::{STATUS_BYTES, STATUS_MAGIC};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicPtr, Ordering};

/// Maps the status page for as long as the process lives, and marks it as live.
pub fn map_page(status: BorrowedFd<'_>) -> io::Result<&'static Status> {
    // SAFETY: a new shared mapping of a memory file that is sealed against getting shorter; nothing else uses the range.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            STATUS_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            status.as_raw_fd(),
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: page-aligned, long enough, never unmapped, and written by atomics only in this process.
    let page: &'static Status = unsafe { &*start.cast::<Status>() };
    page.magic.store(STATUS_MAGIC, Ordering::Release);
    Ok(page)
}

/// From now on a crash is noted in `page`. Replaces the handlers of Rust's own runtime, which only print that a
/// stack overflowed; its alternate stacks stay in use.
pub fn install(page: &'static Status) -> io::Result<()> {
    PAGE.store(std::ptr::from_ref(page).cast_mut(), Ordering::Release);
    for signal in SIGNALS {
        // SAFETY: the all-zero sigaction is a valid one; every field that matters is set below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = note as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
        // SAFETY: `note` has the signature that SA_SIGINFO asks for, and is async-signal-safe.
        if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Where the image lies in memory, so that a program counter can be told as a place in it.
pub fn note_image(page: &Status, inside: *const libc::c_void) {
    if let Some((base, end)) = extent_of(inside as usize as u64) {
        page.image_base.store(base, Ordering::Relaxed);
        page.image_end.store(end, Ordering::Release);
    }
}

extern "C" fn note(signal: libc::c_int, _: *mut libc::siginfo_t, state: *mut libc::c_void) {
    let page = PAGE.load(Ordering::Acquire);
    // SAFETY: null until `install`, then a page that is never unmapped.
    if let Some(page) = unsafe { page.as_ref() } {
        // The first crash counts; threads that fall after it only follow.
        let first = page.crash_signal.compare_exchange(0, signal as u64, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if first {
            // SAFETY: the kernel gives a function with SA_SIGINFO a valid `ucontext_t`.
            page.crash_pc.store(unsafe { program_counter(state.cast()) }, Ordering::Release);
        }
    }
    // The handler is reset and the signal blocked until it returns: this one is then delivered for good, also when the
    // signal came from outside and no instruction would fault again.
    // SAFETY: raise is async-signal-safe.
    unsafe { libc::raise(signal) };
}

/// # Safety
/// `state` is what the kernel gave to `note`.
unsafe fn program_counter(state: *const libc::ucontext_t) -> u64 {
    // SAFETY: by the caller.
    let machine = unsafe { &(*state).uc_mcontext };
    #[cfg(target_arch = "x86_64")]
    return machine.gregs[libc::REG_RIP as usize] as u64;
    #[cfg(target_arch = "aarch64")]
    return machine.pc;
    #[cfg(target_arch = "arm")]
    return u64::from(machine.arm_pc);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")))]
    {
        let _ = machine;
        0
    }
}

/// First and one past the last address of the loaded object that holds `inside`.
fn extent_of(inside: u64) -> Option<(u64, u64)> {
    let mut search = Search { inside, found: None };
    // SAFETY: `visit` is called during this call only, with the pointer that it is given here.
    unsafe { libc::dl_iterate_phdr(Some(visit), std::ptr::from_mut(&mut search).cast()) };
    search.found
}

struct Search {
    inside: u64,
    found: Option<(u64, u64)>,
}

#[allow(clippy::useless_conversion)] // The fields are 32 bits wide on 32-bit machines.
unsafe extern "C" fn visit(object: *mut libc::dl_phdr_info, _: libc::size_t, search: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the loader gives a valid description, and `extent_of` its own `Search`.
    let (object, search) = unsafe { (&*object, &mut *search.cast::<Search>()) };
    // SAFETY: the loader's table of `dlpi_phnum` program headers.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
    let base = u64::from(object.dlpi_addr);
    let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let end = loaded.map(|h| base + u64::from(h.p_vaddr) + u64::from(h.p_memsz)).max().unwrap_or(base);
    if (base..end).contains(&search.inside) {
        search.found = Some((base, end));
        return 1;
    }
    0
}

static PAGE: AtomicPtr<Status> = AtomicPtr::new(std::ptr::null_mut());
/// What a crash looks like to a process.
const SIGNALS: [libc::c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGILL, libc::SIGFPE];
