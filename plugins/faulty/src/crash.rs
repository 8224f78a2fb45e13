//! The faults that safe code can't have: an access to an address that is not there, and another's descriptor.
#![allow(unsafe_code)]

use std::{fs, os::fd::BorrowedFd};

/// An address in the first page, which no process has.
const NOWHERE: usize = 16;

pub fn segfault() -> ! {
    // SAFETY: none. That is the point: the process ends here.
    unsafe { std::ptr::without_provenance_mut::<u8>(NOWHERE).write_volatile(1) };
    std::process::abort()
}

/// Writes to every socket of this process: one of them is the link. How many there were.
pub fn write_to_sockets(rubbish: &[u8]) -> usize {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let sockets = open.filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    });
    let numbers: Vec<i32> = sockets.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers
        .into_iter()
        .filter(|number| {
            // SAFETY: it was open a moment ago; if it is not any more, the write fails.
            let socket = unsafe { BorrowedFd::borrow_raw(*number) };
            rustix::io::write(socket, rubbish).is_ok()
        })
        .count()
}
