//! The module host as a program of its own, for a libc each: what a static skerry carries inside. The code is the runtime's,
//! file by file, so that building it for many machines does not mean building the hub, TLS and the store as often.
//! Must never hold code of its own.
#![allow(dead_code)] // The runtime's half of what the two share.

use std::process::ExitCode;

// The tests in these files are the runtime's, and run there.
#[cfg(not(test))]
#[path = "../../src/host/mod.rs"]
mod host;

#[cfg(not(test))]
#[path = "../../src/io"]
mod io {
    pub mod order;
    pub mod process;
    pub mod status_page;
    pub mod user;
}

#[cfg(not(test))]
#[path = "../../src/model"]
mod model {
    pub mod instance;
}

fn main() -> ExitCode {
    #[cfg(not(test))]
    return host::main::main();
    #[cfg(test)]
    ExitCode::SUCCESS
}
