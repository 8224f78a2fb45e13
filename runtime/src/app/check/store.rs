//! The store from outside: its files, its format, who has it open, and whether the quota fits on the disk.
//! Must never open it: what only its owner knows is asked of the runtime.

use std::io;

use serde_json::Value;

use super::report::{Finding, Report};
use crate::app::config::{Config, Quota};
use crate::io::disk;
use crate::io::store::{self, Look};
use crate::logic::units::show_bytes;

pub fn look(report: &mut Report, config: &Config, status: Option<&Value>) {
    let look = store::look(&config.store.path);
    report.add(judged(config, status, &look));
    let moved = look.iter().flat_map(|look| &look.moved_aside);
    for file in moved {
        let what = format!("{} is the index of a store that could not be opened", file.display());
        report.add(Finding::warning(
            "store",
            what,
            "what could be read came over when it was moved aside: keep it for whoever looks into it, or remove it",
        ));
    }
    let used = look.as_ref().map_or(0, |look| look.bytes);
    report.add(quota(config, status, used));
}

fn judged(config: &Config, status: Option<&Value>, look: &io::Result<Look>) -> Finding {
    const ID: &str = "store";
    let shown = config.store.path.display();
    if let Some(status) = status {
        let store = &status["state"]["store"];
        let reason = store["reason"].as_str().unwrap_or("no reason was told");
        match store["state"].as_str() {
            Some("broken") => {
                let to_do = "look after the disk; it is tried again every 5 s, and messages that need no disk go on";
                return Finding::error(ID, format!("{shown} is broken: {reason}"), to_do);
            }
            Some("full") => {
                let to_do = "bring the consumers back, or raise [store] quota";
                return Finding::error(ID, format!("{shown} is full: {reason}"), to_do);
            }
            _ => {}
        }
    }
    match look {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::success(ID, format!("{shown} is not there yet, and will be made"))
        }
        Err(error) => {
            Finding::skipped(ID, format!("{shown} can't be looked at: {error}; be the user that runs skerry"))
        }
        Ok(Look { format: Some(format), format_known, .. }) if format > format_known => {
            let what = format!("{shown} has format {format}, and this skerry knows formats up to {format_known}");
            Finding::error(ID, what, "run the newer skerry again, or move the folder away; it is left alone")
        }
        Ok(Look { broken: Some(file), .. }) => {
            let what = format!("{} is no store", file.display());
            Finding::error(ID, what, "at its next start skerry moves it aside and makes a new one")
        }
        Ok(Look { to_salvage: true, .. }) => {
            let what = format!("the index of {shown} turned out to be broken");
            Finding::warning(
                ID,
                what,
                "start skerry: it makes the index anew from what can be read, and says so in status",
            )
        }
        Ok(Look { in_use: true, .. }) if status.is_none() => {
            let what =
                format!("{shown} is open in a process, but no skerry answers at {}", config.control_socket.display());
            Finding::warning(ID, what, "a skerry with another control socket has it: name that with --control")
        }
        Ok(look) => {
            let owner = if status.is_some() { "open in the running skerry" } else { "closed" };
            Finding::success(ID, format!("{shown}: {}, {owner}", show_bytes(look.bytes)))
        }
    }
}

fn quota(config: &Config, status: Option<&Value>, used: u64) -> Finding {
    const ID: &str = "store-quota";
    let disk = match disk::of(&config.store.path) {
        Ok(disk) => disk,
        Err(error) => return Finding::skipped(ID, format!("free space can't be told: {error}")),
    };
    let free = disk.available;
    let running = status.and_then(|status| status["state"]["store"]["quota"].as_u64());
    let quota = running.or(match config.store.quota {
        Quota::Auto => None,
        Quota::Bytes(bytes) => Some(bytes),
    });
    let free_text = format!("{} of {} free", show_bytes(free), show_bytes(disk.total));
    match quota {
        Some(quota) if quota > free.saturating_add(used) => {
            let what = format!("the quota of {} is more than the disk has: {free_text}", show_bytes(quota));
            Finding::warning(
                ID,
                what,
                "lower [store] quota, or make room: the disk would be full before the quota is reached",
            )
        }
        Some(quota) => Finding::success(ID, format!("{}, {free_text}", show_bytes(quota))),
        None if free < 16 << 20 => Finding::warning(
            ID,
            format!("a quarter of the free space is little: {free_text}"),
            "make room, or set [store] quota",
        ),
        None => Finding::success(ID, format!("a quarter of the free space, at most 1GiB: {free_text}")),
    }
}
