//! The module host as a program of its own, for a libc each: what a static skerry carries inside. The code is the runtime's,
//! file by file, so that building it for many machines does not mean building the hub, TLS and the store as often.
//! Must never hold code of its own.
#![allow(dead_code)] // The runtime's half of what the two share.

use std::process::ExitCode;

#[path = "../../src/host/mod.rs"]
mod host;

#[path = "../../src/io"]
mod io {
    pub mod order;
    pub mod process;
    pub mod status_page;
    pub mod user;
}

#[path = "../../src/model"]
mod model {
    pub mod instance;
}

fn main() -> ExitCode {
    host::main::main()
}
