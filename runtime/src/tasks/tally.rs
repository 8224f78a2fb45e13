//! What happens seldom enough to be counted by its labels: twin reads and reports, methods, commands, connections. Goes out as
//! the field's metrics. Must never grow with what a module makes up: labels are names of the configuration and of this program.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::logic::metrics::{Kind, Page};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    TwinRead,
    Reported,
    Method,
    AgentMethod,
    Offline,
    Retry,
    ConnectFailed,
    Disconnect,
    Prepare,
    Command,
    Sync,
    FailedSync,
    Deployment,
}

/// Rows of one kind that are kept: modules and the like, which have their own limits.
const ROWS_MAX: usize = 1_000;

/// How one kind is called: its count, how long it took, its labels.
struct Family {
    of: Of,
    total: Option<&'static str>,
    seconds: Option<&'static str>,
    labels: &'static [&'static str],
    help: &'static str,
}

const fn family(
    of: Of,
    total: Option<&'static str>,
    seconds: Option<&'static str>,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family { of, total, seconds, labels, help }
}

const FAMILIES: &[Family] = &[
    family(
        Of::TwinRead,
        Some("edgehub_gettwin_total"),
        Some("edgehub_gettwin_duration_seconds"),
        &["source", "id"],
        "Twins that were read: by modules, and from the cloud.",
    ),
    family(
        Of::Reported,
        Some("edgehub_reported_properties_total"),
        Some("edgehub_reported_properties_update_duration_seconds"),
        &["target", "id"],
        "Reported properties that were sent: by modules, and to the cloud.",
    ),
    family(
        Of::Method,
        Some("edgehub_direct_methods_total"),
        Some("edgehub_direct_method_duration_seconds"),
        &["from", "to"],
        "Methods of modules that were called.",
    ),
    family(
        Of::AgentMethod,
        Some("edgeagent_direct_method_invocations_count"),
        None,
        &["method_name"],
        "Methods of the runtime itself that were called.",
    ),
    family(
        Of::Offline,
        Some("edgehub_offline_count_total"),
        Some("edgehub_offline_duration_seconds"),
        &["id"],
        "Connections to the cloud that were lost, and the time until they were there again.",
    ),
    family(Of::Retry, Some("edgehub_operation_retry_total"), None, &["id", "operation"], "What was tried again."),
    family(
        Of::ConnectFailed,
        Some("edgehub_client_connect_failed_total"),
        None,
        &["id", "reason"],
        "Processes of modules that ended before they ran.",
    ),
    family(
        Of::Disconnect,
        Some("edgehub_client_disconnect_total"),
        None,
        &["id", "reason"],
        "Processes of modules that ran, and went.",
    ),
    family(
        Of::Prepare,
        Some("edgeAgent_module_prepare_update_total"),
        None,
        &["module_name", "module_version"],
        "How often it was put on another version.",
    ),
    family(
        Of::Command,
        None,
        Some("edgeAgent_command_latency_seconds"),
        &["command"],
        "How long starts and stops of modules took.",
    ),
    family(
        Of::Sync,
        Some("edgeAgent_iothub_syncs_total"),
        None,
        &[],
        "Twins of the agent that the cloud answered with.",
    ),
    family(
        Of::FailedSync,
        Some("edgeAgent_unsuccessful_iothub_syncs_total"),
        None,
        &[],
        "Requests for the twin of the agent that failed.",
    ),
    family(
        Of::Deployment,
        None,
        Some("edgeAgent_deployment_time_seconds"),
        &[],
        "How long it took until everything was as a manifest asks for.",
    ),
];

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    count: u64,
    timed: u64,
    ms: u64,
}

#[derive(Default)]
pub struct Tally {
    rows: RefCell<BTreeMap<(Of, Vec<String>), Row>>,
}

impl Tally {
    /// It happened once more.
    pub fn count(&self, of: Of, labels: &[&str]) {
        self.row(of, labels, |row| row.count += 1);
    }

    /// It took so long.
    pub fn time(&self, of: Of, labels: &[&str], ms: u64) {
        self.row(of, labels, |row| (row.timed, row.ms) = (row.timed + 1, row.ms + ms));
    }

    /// Both.
    pub fn took(&self, of: Of, labels: &[&str], ms: u64) {
        self.count(of, labels);
        self.time(of, labels, ms);
    }

    fn row(&self, of: Of, labels: &[&str], change: impl FnOnce(&mut Row)) {
        let key = (of, labels.iter().map(|label| (*label).to_owned()).collect());
        let mut rows = self.rows.borrow_mut();
        if rows.len() < ROWS_MAX || rows.contains_key(&key) {
            change(rows.entry(key).or_default());
        }
    }

    /// Every family, also those of which nothing happened yet.
    pub fn put_out(&self, page: &mut Page) {
        let rows = self.rows.borrow();
        for Family { of, total, seconds, labels, help } in FAMILIES {
            let found = rows.iter().filter(|((kind, _), _)| kind == of);
            let found: Vec<(Vec<(&str, &str)>, &Row)> = found
                .map(|((_, values), row)| {
                    (labels.iter().copied().zip(values.iter().map(String::as_str)).collect(), row)
                })
                .collect();
            if let Some(name) = total {
                let mut family = page.family(name, Kind::Counter, help);
                if found.is_empty() && labels.is_empty() {
                    family.sample(&[], 0u64);
                }
                for (labels, row) in &found {
                    family.sample(labels, row.count);
                }
            }
            if let Some(name) = seconds {
                let mut family = page.family(name, Kind::Summary, help);
                for (labels, row) in found.iter().filter(|(_, row)| row.timed > 0) {
                    family.seconds(labels, row.ms, row.timed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_told_and_what_did_not_is_there_as_well() {
        let tally = Tally::default();
        tally.took(Of::Method, &["operator", "d1/filter"], 1_500);
        tally.took(Of::Method, &["operator", "d1/filter"], 500);
        tally.count(Of::Offline, &["d1/filter"]);
        (0..2 * ROWS_MAX).for_each(|n| tally.count(Of::Retry, &[&n.to_string(), "connect"]));
        let mut page = Page::new(&[]);
        tally.put_out(&mut page);
        let text = page.text();
        for line in [
            "edgehub_direct_methods_total{from=\"operator\",to=\"d1/filter\"} 2",
            "edgehub_direct_method_duration_seconds_sum{from=\"operator\",to=\"d1/filter\"} 2",
            "edgehub_direct_method_duration_seconds_count{from=\"operator\",to=\"d1/filter\"} 2",
            "edgehub_offline_count_total{id=\"d1/filter\"} 1",
            "# TYPE edgehub_offline_duration_seconds summary",
            "edgeAgent_iothub_syncs_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("edgehub_offline_duration_seconds_count"), "it is not over yet");
        assert!(text.lines().count() < ROWS_MAX + 100, "it grows");
    }
}
