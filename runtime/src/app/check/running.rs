//! What only a running skerry knows: that it answers, as which version, and what becomes of messages that wait.
//! Must never take an answer of another version at its word where a field is missing.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::Duration;

use serde_json::Value;

use super::report::{Finding, Report};
use crate::app::config::{AtQuota, Config, TimeToLive};
use crate::app::verbs::{self, Fault};
use crate::logic::outlook::{Outlook, Present, outlook as foresee};

const ID: &str = "control-socket";

/// The status of the runtime at the configured socket, if one answers.
pub fn ask(report: &mut Report, config: &Config) -> Option<Value> {
    let path = &config.control_socket;
    let shown = path.display();
    if let Ok(found) = std::fs::symlink_metadata(path) {
        let mode = found.mode() & 0o777;
        if !found.file_type().is_socket() {
            report.add(Finding::error(
                ID,
                format!("{shown} is no socket"),
                "move it away, or name another with [control] socket",
            ));
            return None;
        }
        if mode & 0o006 != 0 {
            let what = format!("{shown} has mode {mode:04o}: anybody can control skerry");
            report.add(Finding::error(ID, what, format!("chmod 660 {shown}")));
        }
    }
    match verbs::ask(path, "GET", "/status", Vec::new()) {
        Ok(status) => {
            let version = status["version"].as_str().unwrap_or("of an unknown version");
            let own = env!("CARGO_PKG_VERSION");
            report.add(if version == own {
                Finding::success(ID, format!("skerry {version} answers at {shown}"))
            } else {
                let what = format!("skerry {version} answers at {shown}, and this program is {own}");
                Finding::warning(ID, what, "restart skerry, so that what is installed is what runs")
            });
            other_folder(report, config, &status);
            Some(status)
        }
        Err(Fault::Unreachable { error, .. }) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            report.add(Finding::warning(
                ID,
                format!("{shown}: no permission"),
                "be root, or in the group of the socket",
            ));
            None
        }
        Err(Fault::Unreachable { .. }) => {
            report.add(Finding::success(ID, format!("no skerry is running at {shown}")));
            None
        }
        Err(fault) => {
            report.add(Finding::error(ID, format!("{shown}: {fault}"), "restart skerry"));
            None
        }
    }
}

/// It was started with other flags than this check was given: then its folders are not those that are looked at.
fn other_folder(report: &mut Report, config: &Config, status: &Value) {
    let folder = status["state"]["folder"].as_str().map(std::path::Path::new);
    if let Some(folder) = folder.filter(|folder| *folder != config.state_folder) {
        let (folder, own) = (folder.display(), config.state_folder.display());
        let what = format!("the skerry that answers has its state in {folder}, and {own} is looked at");
        report.add(Finding::warning(ID, what, "give check the flags that run was given"));
    }
}

/// Whether time to live or quota is going to discard what waits.
pub fn outlook(report: &mut Report, config: &Config, status: Option<&Value>) {
    const ID: &str = "outlook";
    let Some(status) = status else {
        return report.add(Finding::skipped(ID, "needs a running skerry"));
    };
    report.add(match foresee(&present(config, status)) {
        Outlook::Unknown(why) => Finding::skipped(ID, why),
        Outlook::Good(what) => Finding::success(ID, what),
        Outlook::Loses { what, to_do } => Finding::warning(ID, what, to_do),
    });
}

fn present(config: &Config, status: &Value) -> Present {
    let store = &status["state"]["store"];
    let queues = status["queues"].as_array().into_iter().flatten();
    let away = queues.filter(|queue| queue["connected"] == false);
    // The longest that any route gives: what a shorter one discards is meant to be.
    let ttls = config.routes.iter().map(|route| route.ttl).chain([config.store.ttl]);
    let longest = ttls.map(|ttl| match ttl {
        TimeToLive::After(time) => time,
        TimeToLive::Never => Duration::MAX,
    });
    Present {
        received_per_hour: status["state"]["receivedPerHour"].as_u64(),
        quota: store["quota"].as_u64().unwrap_or(0),
        stored: store["blockBytes"].as_u64().unwrap_or(0),
        ttl: longest.max().filter(|ttl| *ttl != Duration::MAX),
        waiting: away.filter_map(|queue| queue["pending"].as_u64()).sum(),
        evicts: config.store.at_quota == AtQuota::Evict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::config::{Flags, Surroundings, resolve};
    use serde_json::json;

    #[test]
    fn a_status_is_understood_and_an_empty_one_too() {
        let config = resolve(Default::default(), &Flags::default(), &Surroundings::default()).unwrap();
        let status = json!({
            "state": {"receivedPerHour": 9, "store": {"quota": 100, "blockBytes": 7}},
            "queues": [{"connected": false, "pending": 3}, {"connected": true, "pending": 50}, {"connected": false, "pending": 4}],
        });
        let expected = Present {
            received_per_hour: Some(9),
            quota: 100,
            stored: 7,
            ttl: Some(Duration::from_secs(7_200)),
            waiting: 7,
            evicts: false,
        };
        assert_eq!(present(&config, &status), expected);
        assert_eq!(present(&config, &json!({})).received_per_hour, None);
        let mut report = Report::default();
        outlook(&mut report, &config, Some(&json!({})));
        outlook(&mut report, &config, None);
        assert!(report.text().contains("has not run long enough") && report.text().contains("needs a running skerry"));
    }
}
