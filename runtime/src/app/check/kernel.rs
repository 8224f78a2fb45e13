//! What the kernel can do, how well instances are kept apart with it, and whether the clock can be right.
//! Must never call a device unfit that only lacks a second line of defence.

use serde_json::Value;

use super::report::{Finding, Report};
use crate::app::config::Config;
use crate::io::clock::{self, TimeFloor};
use crate::io::{kernel, process};

pub fn look(report: &mut Report) {
    report.add(match kernel::landlock() {
        Ok(abi) => Finding::success("kernel-landlock", format!("Landlock ABI {abi}")),
        Err(why) => Finding::warning(
            "kernel-landlock",
            format!("no Landlock: {why}"),
            "boot with lsm=landlock,… or a kernel from 5.13 on; until then only uids keep modules apart",
        ),
    });
    let must = |id, what: &str, result: std::io::Result<()>| match result {
        Ok(()) => Finding::success(id, format!("{what} work")),
        Err(error) => {
            Finding::error(id, format!("{what}: {error}"), "use a kernel from 5.4 on; no module can run without")
        }
    };
    report.add(must("kernel-memfd", "files in memory", kernel::memfd()));
    report.add(must("kernel-pidfd", "process descriptors", kernel::pidfd()));
}

pub fn isolation(report: &mut Report, config: &Config, status: Option<&Value>) {
    const ID: &str = "isolation";
    // What the runtime reached counts more than what this process could reach.
    if let Some(reached) = status.and_then(|s| s["isolation"].as_str()).filter(|text| *text != "no instance") {
        return report.add(if reached.starts_with("not isolated") {
            let to_do = "run skerry as root, so that each instance has a uid of its own, or use a kernel with Landlock";
            Finding::warning(ID, format!("the weakest instance is {reached}"), to_do)
        } else {
            Finding::success(ID, format!("the weakest instance has {reached}"))
        });
    }
    let landlock = config.isolation.landlock && kernel::landlock().is_ok();
    report.add(match (process::is_root(), landlock) {
        (true, _) => Finding::success(ID, format!("a uid for each instance, from {} on", config.isolation.uid_base)),
        (false, true) => Finding::success(ID, "Landlock, and the uid of skerry itself: it is not root"),
        (false, false) => Finding::warning(
            ID,
            "instances would not be kept apart: not root, and no Landlock",
            "run skerry as root, or with landlock = true in [isolation] on a kernel that has it",
        ),
    });
}

/// The newest file of the state folder is not from the future.
pub fn clock(report: &mut Report, config: Option<&Config>) {
    let known = config.map(|config| clock::floor(&config.state_folder)).unwrap_or_default();
    let (wall, floor) = (clock::wall(), TimeFloor::new(known));
    report.add(if floor.is_ahead() {
        let what = format!("the clock says {}, but it is at least {}", wall.to_rfc3339(), known.to_rfc3339());
        let to_do = "set it or let NTP do so; until then time that the device was off does not count towards a ttl";
        Finding::warning("clock", what, to_do)
    } else {
        Finding::success("clock", wall.to_rfc3339())
    });
}
