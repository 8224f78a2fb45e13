//! `skerry check`: looks over everything that a device needs, with or without a running skerry, and says in one sentence
//! each what is wrong and what to do. Must never write anything, nor open what the runtime has open.

mod folders;
mod kernel;
mod provisioning;
mod report;
mod routes;
mod running;
mod store;

use std::io::Write;

use super::cli::Check;
use super::config::{self, Config, RouteCheck, Surroundings};
use super::verbs::Outcome;
use report::{Finding, Report};

/// Everything that is looked at, in the order in which it is told. The ids are for programs: they stay.
const NEEDS_CONFIG: [&str; 14] = [
    "control-socket",
    "state-folder",
    "state-medium",
    "store",
    "store-quota",
    "key-files",
    "provisioning",
    "module-folders",
    "module-images",
    "isolation",
    "routes",
    "routes-match",
    "routes-upstream",
    "outlook",
];

/// Good news when nothing is an error.
pub fn check(args: &Check, check_route: RouteCheck) -> Outcome {
    let report = look(args, check_route);
    let mut out = std::io::stdout().lock();
    out.write_all(if args.json { report.json() } else { report.text() }.as_bytes())?;
    Ok(!report.has_errors())
}

/// What `skerry check` would print, for people and for programs.
pub fn report(args: &Check, check_route: RouteCheck) -> (String, String) {
    let report = look(args, check_route);
    (report.text(), report.json())
}

fn look(args: &Check, check_route: RouteCheck) -> Report {
    let mut report = Report::default();
    let loaded = config::load(&args.flags(), &Surroundings::look(), check_route);
    match &loaded {
        Ok(config) => configured(&mut report, config),
        Err(lines) => {
            let to_do = "correct it; packaging/config.toml shows every key".to_owned();
            report.add(Finding::error("configuration", lines.join("\n"), to_do));
            let why = "needs a configuration that can be read";
            NEEDS_CONFIG.iter().for_each(|id| report.add(Finding::skipped(id, why)));
        }
    }
    kernel::look(&mut report);
    kernel::clock(&mut report, loaded.as_ref().ok());
    report
}

fn configured(report: &mut Report, config: &Config) {
    let file = config.file.as_deref().map_or("no configuration file: defaults".into(), |f| f.to_string_lossy());
    report.add(match super::run::route_table(config) {
        Ok(_) => Finding::success("configuration", file.into_owned()),
        Err(error) => Finding::error("configuration", error, "correct the route".to_owned()),
    });
    let status = running::ask(report, config);
    folders::state(report, config, status.is_some());
    store::look(report, config, status.as_ref());
    folders::keys(report, config);
    provisioning::look(report, config, status.as_ref());
    let images = folders::modules(report, config);
    kernel::isolation(report, config, status.as_ref());
    routes::look(report, config, &images, status.as_ref());
    running::outlook(report, config, status.as_ref());
    debug_assert!(NEEDS_CONFIG.iter().all(|id| report.has(id)));
}
