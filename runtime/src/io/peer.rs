//! Who is at the other end of a Unix socket, and whether this process brought it into the world.
//! Must never let a doubt pass: a peer that vanished before it could be judged is refused.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;

/// Longest chain of parents that is followed; a deeper one is refused.
const DEPTH_MAX: usize = 1_024;

/// Why a connection is not served; the text is for the log and for the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRefusal {
    pub pid: i32,
    pub why: &'static str,
    /// The child of this process that it descends from, or is.
    pub child: Option<i32>,
}

/// Orphans of this process's children become its own children, so a module can't leave the family
/// by forking twice. To be called once, before the first instance is started.
pub fn adopt_orphans() -> std::io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Whether they do. The kernel of a real machine lets everybody; an emulator of programs may not know of it.
pub fn adopts_orphans() -> bool {
    rustix::process::child_subreaper().is_ok_and(|reaper| reaper.is_some())
}

/// Reaps children that have ended and are not `mine`; how many. The kernel names one at a time, so it ends at the first that
/// is: that one is reaped by who waits for it.
pub fn reap_orphans(mine: impl Fn(i32) -> bool) -> usize {
    let mut count = 0;
    while let Some(pid) = ended_child().filter(|pid| !mine(*pid)) {
        let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOHANG;
        let reaped = rustix::process::Pid::from_raw(pid)
            .map(|pid| rustix::process::waitid(rustix::process::WaitId::Pid(pid), options));
        if !matches!(reaped, Some(Ok(Some(_)))) {
            break;
        }
        count += 1;
    }
    count
}

/// One that has ended, and stays until it is reaped. Not rustix's `waitid`: what that returns does not tell the pid.
fn ended_child() -> Option<i32> {
    // SAFETY: any bytes are a valid siginfo, zeros among them.
    let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer is to a live local of the type that the call fills.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut found, options) };
    // SAFETY: after success the union holds what belongs to a child's end, or the zeros from above.
    let pid = unsafe { found.si_pid() };
    (result == 0 && pid > 0).then_some(pid)
}

/// Refuses the processes that descend from this one: instances must not act as an operator.
///
/// The kernel notes the pid at `connect`, so a descendant that hands its connection on stays one. Two peers
/// pass without a walk: this process itself, and pid 0, which is how the kernel names a process of an
/// outer pid namespace (the host of a container; it can't be a descendant).
pub fn check(stream: &impl AsRawFd) -> Result<i32, PeerRefusal> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let unknown = PeerRefusal { pid: -1, why: "its process is not known", child: None };
    let pid = pid_of(stream).ok_or(unknown)?;
    judge(pid, own, parent)?;
    Ok(pid)
}

fn judge(pid: i32, own: i32, parent: impl Fn(i32) -> Option<i32>) -> Result<(), PeerRefusal> {
    if pid == own || pid == 0 {
        return Ok(());
    }
    let refusal = |why, child| PeerRefusal { pid, why, child };
    let mut at = pid;
    for _ in 0..DEPTH_MAX {
        let above = parent(at).ok_or(refusal("its process is gone or can't be looked up", None))?;
        if above == own {
            return Err(refusal("modules have no access to the control socket", Some(at)));
        }
        if above <= 1 {
            return Ok(());
        }
        at = above;
    }
    Err(refusal("its line of parents does not end", None))
}

/// From /proc/PID/status, not stat: there the command name may hold any characters, also brackets.
fn parent(pid: i32) -> Option<i32> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let line = status.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"PPid:"))?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

/// Not rustix's `socket_peercred`: its `Pid` can't be 0, and 0 is what an outer pid namespace looks like.
fn pid_of(stream: &impl AsRawFd) -> Option<i32> {
    let mut credentials = libc::ucred { pid: -1, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, `length` is the size of the first, and any bytes are a valid ucred.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    (result == 0 && credentials.pid >= 0).then_some(credentials.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_and_the_unknown_are_refused() {
        // 10 is the runtime: 11 its child, 12 a grandchild; 20 a shell of somebody else; 31 lost its parent; 40 loops.
        let parent = |pid| match pid {
            12 => Some(11),
            11 => Some(10),
            10 => Some(1),
            20 => Some(1),
            21 => Some(20),
            31 => Some(30),
            40 => Some(40),
            _ => None,
        };
        let check = |pid| judge(pid, 10, parent).is_ok();
        assert_eq!([0, 10, 20, 21].map(check), [true; 4]);
        assert_eq!([11, 12, 31, 40, 99].map(check), [false; 5]);
        let child = |pid| judge(pid, 10, parent).unwrap_err().child;
        assert_eq!([11, 12, 31].map(child), [Some(11), Some(11), None]);
    }

    #[test]
    fn this_process_has_the_parent_that_the_kernel_says() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        assert_eq!(parent(own), rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()));
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(check(&a), Ok(own));
    }
}
