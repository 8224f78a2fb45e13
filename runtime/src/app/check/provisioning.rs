//! Where the device's identity in the cloud comes from, and whether it has one.
//! Must never ask the cloud: the runtime has, or will.

use serde_json::Value;

use super::report::{Finding, Report};
use crate::app::config::Config;
use crate::io::assignment;

pub fn look(report: &mut Report, config: &Config, status: Option<&Value>) {
    const ID: &str = "provisioning";
    let cloud = &config.cloud;
    let Some(dps) = &cloud.dps else {
        return report.add(match (&cloud.device, cloud.modules.len()) {
            (Some(device), _) => Finding::success(ID, format!("manual: {} in {}", device.device_id, device.host_name)),
            (None, 0) => Finding::success(ID, "none: no cloud"),
            (None, count) => Finding::success(ID, format!("manual: {count} module identities")),
        });
    };
    let who = format!("registration {:?} in id_scope {:?}", dps.registration_id, dps.id_scope);
    let fault = status.and_then(|status| status["provisioning"]["reason"].as_str());
    report.add(match (assignment::load(&config.state_folder, dps), fault) {
        (Some(assigned), None) => {
            Finding::success(ID, format!("dps: {who} is {} in {}", assigned.device, assigned.hub))
        }
        (Some(assigned), Some(fault)) => Finding::warning(
            ID,
            format!("dps: {who} is {} in {}, which refuses it, and {fault}", assigned.device, assigned.hub),
            "look at the device in the hub, and at its enrolment",
        ),
        (None, Some(fault)) => Finding::error(
            ID,
            format!("dps: {who} has no hub yet: {fault}"),
            "messages wait until they expire; correct what it says",
        ),
        (None, None) => Finding::warning(
            ID,
            format!("dps: {who} has no hub yet"),
            "run skerry with a way to the provisioning service once; after that it is not needed",
        ),
    });
}
