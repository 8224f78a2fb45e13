//! The life of a module host: order, confinement, image, callbacks. It ends with its link. Hellos and all other
//! frames are the pump's. Must never open the image before this process is confined.

use super::{confine, crash, descriptors, open};
use crate::io::order::{self, Order};
use crate::io::process::tracer_of;
use crate::model::instance::HostExit;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::PTracer;
use skerry_abi::pump;
use skerry_abi::wire::frame::FailureKind;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// What `skerry module-host` does. Standard input is the link.
pub fn main() -> ExitCode {
    descriptors::close_inherited();
    let exit = match descriptors::take_link() {
        Ok(link) => live(link).unwrap_or_else(|exit| exit),
        Err(_) => {
            eprintln!("skerry: module-host is for the runtime's own use: it needs a link on standard input");
            HostExit::NoLink
        }
    };
    ExitCode::from(exit.code())
}

fn live(link: UnixStream) -> Result<HostExit, HostExit> {
    let (order, image, status) = receive(&link)?;
    name_this_process(&order);
    let page = crash::map_page(status.as_fd()).map_err(|_| HostExit::NoOrder)?;
    crash::install(page).map_err(|_| HostExit::NoOrder)?;
    let confined = confine::confine(&order, image.as_fd());
    let isolation = confined.clone().unwrap_or_else(|_| "not isolated: confinement failed".to_owned());
    let watched = link.try_clone().map_err(|_| HostExit::Link)?;
    let options = pump::Options { link, status: page, isolation, log_level: order.log_level, exit: Some(leave) };
    let code = pump::run(options, |_| {
        confined.map_err(|text| (FailureKind::Confinement, text))?;
        // The first two frames are there; from now on the runtime may be silent for as long as it likes.
        let unlimited = watched.set_read_timeout(None);
        unlimited.map_err(|error| (FailureKind::Confinement, error.to_string()))?;
        let _guard = Guard::start(watched).map_err(|error| (FailureKind::Confinement, error.to_string()))?;
        if order.wait_debugger {
            wait_for_debugger();
        }
        let opened = open::open(image).map_err(|text| (FailureKind::Image, text))?;
        crash::note_image(page, opened.inside);
        Ok(opened.root)
    });
    Ok(HostExit::from_code(code).unwrap_or(HostExit::Failed))
}

fn leave(code: i32) -> ! {
    descriptors::leave(u8::try_from(code).unwrap_or(HostExit::Failed.code()))
}

fn receive(link: &UnixStream) -> Result<(Order, OwnedFd, OwnedFd), HostExit> {
    // The runtime sends the order before it does anything else; a host without one must not linger.
    let limited = link.set_read_timeout(Some(GREETING_TIMEOUT));
    limited.and_then(|()| order::receive(link)).map_err(|error| {
        eprintln!("skerry: {error}");
        HostExit::NoOrder
    })
}

/// What `top` and a debugger show; without it every host is called `exe`.
fn name_this_process(order: &Order) {
    let name: String = order.module.chars().filter(char::is_ascii).take(COMM_BYTES_MAX).collect();
    if let Ok(name) = CString::new(name) {
        let _ = rustix::thread::set_name(&name);
    }
}

/// Ends the process with its link while the image is being opened: an initialiser that hangs holds the loader's lock,
/// and with that every thread that begins or ends. After that the pump sees to it.
struct Guard {
    opened: Arc<AtomicBool>,
}

impl Guard {
    fn start(link: UnixStream) -> io::Result<Guard> {
        let opened = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::sync_channel(1);
        let done = opened.clone();
        thread::Builder::new().name("link".into()).stack_size(GUARD_STACK_BYTES).spawn(move || {
            let _ = ready.send(());
            while !done.load(Ordering::Acquire) {
                let mut fds = [PollFd::new(&link, PollFlags::RDHUP)];
                if rustix::event::poll(&mut fds, Some(&GUARD_LOOK)).is_ok_and(|count| count > 0) {
                    descriptors::leave(HostExit::Link.code());
                }
            }
        })?;
        // Not before it runs: its own beginning takes that lock.
        is_ready.recv().map_err(io::Error::other)?;
        Ok(Guard { opened })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.opened.store(true, Ordering::Release);
    }
}

fn wait_for_debugger() {
    // Where Yama lets only parents trace: this process asked for a debugger, so any of its user's may come.
    let _ = rustix::process::set_ptracer(PTracer::Any);
    let pid = std::process::id();
    eprintln!("skerry: process {pid} waits for a debugger: gdb -p {pid}");
    while tracer_of(pid as i32).is_none() {
        thread::sleep(DEBUGGER_POLL);
    }
}

/// For the order and the hello. Both are sent before the runtime waits for anything.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);
/// A person attaches a debugger; a tenth of a second is at once.
const DEBUGGER_POLL: Duration = Duration::from_millis(100);
/// How long the guard outlives its use at most.
const GUARD_LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// It polls one descriptor.
const GUARD_STACK_BYTES: usize = 64 * 1024;
/// What the kernel keeps of a thread's name.
const COMM_BYTES_MAX: usize = 15;
