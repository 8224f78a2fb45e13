//! The raw beginnings and the raw end of a module host: which descriptors it has, and leaving at once.
//! Must be used before anything else in this process opens a file.
#![allow(unsafe_code)] // Descriptors by number, and _exit.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Closes everything above standard error: whatever the runtime may have leaked.
pub fn close_inherited() {
    // By number: libc has a function for it only since glibc 2.34.
    // SAFETY: called first of all, when nothing in this process owns a descriptor above 2.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    if closed == 0 {
        return;
    }
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")
        .map(|entries| entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // SAFETY: as above; the folder's own descriptor is closed already, and closing it again only fails.
        unsafe { libc::close(fd) };
    }
}

/// Moves the link off standard input, which a module may read and finds empty. An error: there is no link.
pub fn take_link() -> io::Result<UnixStream> {
    let link: OwnedFd = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    rustix::net::sockopt::socket_type(&link)?;
    let nothing = File::open("/dev/null")?;
    // SAFETY: descriptor 0 is standard input here; nobody reads it yet.
    if unsafe { libc::dup2(nothing.as_raw_fd(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(UnixStream::from(link))
}

/// Ends the process without a last word of the module's threads or destructors, which may hang.
pub fn leave(code: u8) -> ! {
    // SAFETY: async-signal-safe, and nothing has to be cleaned up in a process whose runtime is gone.
    unsafe { libc::_exit(i32::from(code)) }
}
