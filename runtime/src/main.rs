//! The binary: a table of contents.

use skerry_runtime::{host, io};
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(verb) if verb == io::process::VERB => host::main::main(),
        _ => ExitCode::FAILURE,
    }
}
