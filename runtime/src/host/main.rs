//! The life of a module host: order, confinement, hello, image, callbacks. It ends with its link.
//! Must never open the image before it is confined, nor say anything before both hellos.

use super::{confine, crash, descriptors, open};
use crate::io::order::{self, Order};
use crate::io::process::tracer_of;
use crate::model::instance::HostExit;
use rustix::event::{PollFd, PollFlags};
use rustix::process::PTracer;
use skerry_abi::wire::frame::{FRAME_BYTES_MAX, FailureKind, FromHost, LINK_VERSION, ToHost};
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
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

fn live(mut link: UnixStream) -> Result<HostExit, HostExit> {
    let (order, image, status) = receive(&link)?;
    name_this_process(&order);
    let page = crash::map_page(status.as_fd()).map_err(|_| HostExit::NoOrder)?;
    crash::install(page).map_err(|_| HostExit::NoOrder)?;
    let confined = confine::confine(&order, image.as_fd());
    greet(&mut link, confined.as_deref().unwrap_or("not isolated: it failed"))?;
    if let Err(text) = confined {
        return Err(last_words(&mut link, FailureKind::Confinement, &text, HostExit::Confinement));
    }
    watch(&link)?;
    if order.wait_debugger {
        wait_for_debugger();
    }
    let opened = match open::open(image) {
        Ok(opened) => opened,
        Err(text) => return Err(last_words(&mut link, FailureKind::Image, &text, HostExit::Image)),
    };
    crash::note_image(page, opened.inside);
    Ok(HostExit::Done)
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

/// The hellos: the runtime's first. A version that differs is told, and ends the link.
fn greet(link: &mut UnixStream, isolation: &str) -> Result<(), HostExit> {
    let frame = read_frame(link).map_err(|_| HostExit::NoHello)?;
    let Ok(ToHost::Hello { link_version, .. }) = ToHost::decode(&frame) else { return Err(HostExit::NoHello) };
    let hello = FromHost::Hello { link_version: LINK_VERSION, sdk_version: env!("CARGO_PKG_VERSION"), isolation };
    say(link, &hello).map_err(|_| HostExit::LinkClosed)?;
    if link_version != LINK_VERSION {
        return Err(HostExit::NoHello);
    }
    link.set_read_timeout(None).map_err(|_| HostExit::LinkClosed)
}

/// One frame and not a byte more: what follows is the pump's.
fn read_frame(link: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    link.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length == 0 || length > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    link.read_exact(&mut frame)?;
    Ok(frame)
}

fn say(link: &mut UnixStream, frame: &FromHost<'_>) -> io::Result<()> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    link.write_all(&bytes)
}

fn last_words(link: &mut UnixStream, kind: FailureKind, text: &str, exit: HostExit) -> HostExit {
    let _ = say(link, &FromHost::Failed { kind, text });
    exit
}

/// The end of the link ends the process, whatever a callback is doing. A thread of its own sees it.
fn watch(link: &UnixStream) -> Result<(), HostExit> {
    let link = link.try_clone().map_err(|_| HostExit::LinkClosed)?;
    let (ready, is_ready) = mpsc::sync_channel(1);
    let watcher = thread::Builder::new().name("link".into()).stack_size(WATCHER_STACK_BYTES);
    let started = watcher.spawn(move || {
        let _ = ready.send(());
        loop {
            let mut fds = [PollFd::new(&link, PollFlags::RDHUP)];
            if rustix::event::poll(&mut fds, None).is_ok()
                && fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
            {
                descriptors::leave(HostExit::LinkClosed.code());
            }
        }
    });
    // A thread that begins takes the loader's lock. An initialiser of the image that hangs would keep it for ever.
    let running = started.is_ok() && is_ready.recv().is_ok();
    if running { Ok(()) } else { Err(HostExit::Confinement) }
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
/// It polls one descriptor.
const WATCHER_STACK_BYTES: usize = 64 * 1024;
/// What the kernel keeps of a thread's name.
const COMM_BYTES_MAX: usize = 15;
