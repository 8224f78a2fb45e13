//! The host's side of a module: everything between the link and the callbacks. The runtime's module host runs it,
//! and so does `Harness`. Threads and blocking calls only; must never need an executor, or open a library itself.

mod answers;
mod clock;
mod credit;
mod host;
mod link;
mod refusals;
mod state;
pub mod status;
mod wait;
mod watch;
mod work;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
};

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RErr, ROk},
};

use crate::{
    raw::{Host_TO, RootRef},
    wire::frame::{FailureKind, FromHost, LINK_VERSION, ToHost, split},
};

pub use status::Status;

/// The instance was stopped and said so.
pub const EXIT_STOPPED: i32 = 0;
/// The instance did not start, or failed: the link's last frame says why.
pub const EXIT_FAILED: i32 = 70;
/// The link ended or broke.
pub const EXIT_LINK: i32 = 71;

/// What a host brings along.
pub struct Options {
    /// The instance's end of the link.
    pub link: UnixStream,
    /// The page that it shares with the runtime.
    pub status: &'static Status,
    /// How the process is confined, for the runtime's `status`.
    pub isolation: String,
    /// The most talkative level that goes to the runtime: 1 error to 5 trace.
    pub log_level: u8,
    /// Ends the process at once, from any thread. `None` in a test, whose process goes on: `run` returns instead.
    pub exit: Option<fn(i32) -> !>,
}

/// Who the instance is and what it starts with: the first two frames of the link.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Id of the device.
    pub device: String,
    /// Id of the module.
    pub module: String,
    /// Counts the starts of the module.
    pub generation: u64,
    /// Folder of the instance's own.
    pub state_dir: String,
    /// The desired section and its version.
    pub desired: String,
    /// See `desired`.
    pub desired_version: u64,
    /// The reported section and its version.
    pub reported: String,
    /// See `reported`.
    pub reported_version: u64,
    log_level: u8,
}

/// Runs one instance from the first frame to the last, on the calling thread, and returns the exit code.
/// `open` opens the image, once the runtime has said who the instance is; its error goes to the runtime.
pub fn run(options: Options, open: impl FnOnce(&Facts) -> Result<RootRef, (FailureKind, String)>) -> i32 {
    let Options { link: mut socket, status, isolation, log_level, exit } = options;
    status.magic.store(status::STATUS_MAGIC, std::sync::atomic::Ordering::Release);
    let (facts, credit, rest) = match greet(&mut socket, &isolation, log_level) {
        Ok(greeted) => greeted,
        Err(error) => {
            eprintln!("skerry module host: {error}");
            return EXIT_LINK;
        }
    };
    let link = match link::Link::new(socket, exit, status, facts, credit, &rest).and_then(|link| {
        let link = Arc::new(link);
        watch::start(&link).map(|()| link)
    }) {
        Ok(link) => link,
        Err(error) => {
            eprintln!("skerry module host: {error}");
            return EXIT_LINK;
        }
    };
    watch::resume(&link);
    link.scan(&mut link.take_place());
    let code = match begin(&link, open) {
        Ok(work) => work.run(),
        Err((kind, text)) => {
            FromHost::Failed { kind, text: &text }.encode(&mut link.state().out);
            link.flush(true);
            EXIT_FAILED
        }
    };
    link.end();
    code
}

fn begin(
    link: &Arc<link::Link>,
    open: impl FnOnce(&Facts) -> Result<RootRef, (FailureKind, String)>,
) -> Result<work::Work, (FailureKind, String)> {
    link.status.begin(status::kind::START, 0, clock::boot_ms());
    let root = open(&link.facts)?;
    let host = Host_TO::from_value(host::PumpHost(link.clone()), TD_Opaque);
    let instance = match root.create()(host) {
        ROk(instance) => instance,
        RErr(text) => return Err((FailureKind::Image, text.into())),
    };
    let mut work = work::Work::new(link.clone(), instance);
    let (version, desired) = (link.facts.desired_version, link.facts.desired.clone());
    work.start(version, &desired).map_err(|text| (FailureKind::Start, text))?;
    Ok(work)
}

/// The two first frames, and what came behind them. Version first: nothing else is said or heard before both hellos.
fn greet(socket: &mut UnixStream, isolation: &str, log_level: u8) -> Result<(Facts, credit::Credit, Vec<u8>), String> {
    let mut read = Vec::new();
    let taken = next(socket, &mut read, 0)?;
    let Ok(ToHost::Hello { link_version, device, module, generation, credit_messages, credit_bytes }) =
        ToHost::decode(&read[4..taken])
    else {
        return Err("the runtime does not begin with a hello".to_owned());
    };
    let mut facts = Facts {
        device: device.to_owned(),
        module: module.to_owned(),
        generation,
        state_dir: String::new(),
        desired: String::new(),
        desired_version: 0,
        reported: String::new(),
        reported_version: 0,
        log_level,
    };
    let mut hello = Vec::new();
    FromHost::Hello { link_version: LINK_VERSION, sdk_version: crate::SDK_VERSION, isolation }.encode(&mut hello);
    socket.write_all(&hello).map_err(|error| error.to_string())?;
    if link_version != LINK_VERSION {
        return Err(format!("the runtime speaks link version {link_version}, this host {LINK_VERSION}"));
    }
    let start = next(socket, &mut read, taken)?;
    let Ok(ToHost::Start { desired_version, desired, reported_version, reported, state_dir }) =
        ToHost::decode(&read[taken + 4..start])
    else {
        return Err("the runtime does not say what to start".to_owned());
    };
    facts.state_dir = state_dir.to_owned();
    (facts.desired, facts.desired_version) = (desired.to_owned(), desired_version);
    (facts.reported, facts.reported_version) = (reported.to_owned(), reported_version);
    Ok((facts, credit::Credit::new(credit_messages, credit_bytes), read.split_off(start)))
}

/// Reads until there is a whole frame behind `from`; where it ends.
fn next(socket: &mut UnixStream, read: &mut Vec<u8>, from: usize) -> Result<usize, String> {
    let mut chunk = [0; 4096];
    loop {
        let mut rest = &read[from..];
        if split(&mut rest).map_err(|error| error.to_string())?.is_some() {
            return Ok(read.len() - rest.len());
        }
        match socket.read(&mut chunk).map_err(|error| error.to_string())? {
            0 => return Err("the runtime has gone".to_owned()),
            count => read.extend_from_slice(&chunk[..count]),
        }
    }
}
