//! Seams: what other pieces put in place of these functions. This file goes when none is left.
//! Must never pretend: each of them fails and says that it is missing.

use std::process::ExitCode;

use super::cli::{Inspect, RouteEval};
use super::config::{Config, RouteFault};

/// Seam: the runtime itself (`app::run`).
pub fn run(_config: Config) -> Result<(), String> {
    Err("the runtime is not part of this build".to_owned())
}

/// Seam: `app::inspect`.
pub fn inspect(_args: &Inspect) -> ExitCode {
    missing("inspect")
}

/// Seam: `app::route_eval`.
pub fn route_eval(_args: &RouteEval) -> ExitCode {
    missing("route eval")
}

/// Seam: `logic::routing::parse_route`. Until then only a blank text is refused.
pub fn check_route(text: &str) -> Result<(), RouteFault> {
    if text.trim().is_empty() {
        return Err(RouteFault { column: 1, message: "expected \"FROM … INTO …\"".to_owned() });
    }
    Ok(())
}

fn missing(what: &str) -> ExitCode {
    eprintln!("skerry: `{what}` is not part of this build");
    ExitCode::FAILURE
}
