//! Routes that can do nothing: from modules, outputs or to inputs that no image has, and to a cloud that does not know the
//! sender. Must never call a route wrong that a message through the control socket could still match.

use serde_json::Value;

use super::report::{Finding, Report};
use crate::app::config::Config;
use crate::logic::nearest::nearest;
use crate::logic::routing::{RouteTable, Sink};
use crate::model::image::Image;

/// Where messages of this version come from.
const MODULES: &str = "/messages/modules/";

pub fn look(report: &mut Report, config: &Config, running: &[(String, Image)], status: Option<&Value>) {
    if let Some(origin) = status.and_then(|status| status["deployment"]["origin"].as_str()) {
        // Those of the configuration are not asked meanwhile; what is odd about a manifest's is in the status.
        let why =
            format!("the manifest in force (from: {origin}) has routes of its own; `skerry status` warns of them");
        let ids = ["routes", "routes-match", "routes-upstream"];
        return ids.iter().for_each(|id| report.add(Finding::skipped(id, why.clone())));
    }
    let Ok(table) = crate::app::run::route_table(config) else {
        let why = "needs routes that can be read";
        return ["routes", "routes-match", "routes-upstream"]
            .iter()
            .for_each(|id| report.add(Finding::skipped(id, why)));
    };
    let odd = table.warnings().map(|(name, warning)| {
        let what = format!("route {name}, column {}: {}", warning.column, warning.message);
        Finding::warning("routes", what, "correct it, if that is not meant")
    });
    let mut odd: Vec<Finding> = odd.collect();
    if table.is_empty() {
        odd.push(Finding::warning(
            "routes",
            "there are no routes: messages of modules go nowhere",
            "add some to [routes]",
        ));
    }
    report.add_all(odd, Finding::success("routes", format!("{} routes", table.len())));
    if running.is_empty() {
        report.add(Finding::skipped("routes-match", "needs a module in the folders"));
    } else {
        let never = (0..table.len()).flat_map(|route| never(&table, route, running)).collect();
        report.add_all(never, Finding::success("routes-match", "every route is for modules that are there"));
    }
    upstream(report, config, &table, running);
}

/// Why a route never matches, or leads nowhere.
fn never(table: &RouteTable, route: usize, running: &[(String, Image)]) -> Vec<Finding> {
    let (name, parsed) = (table.name(route), table.route(route));
    let says = |what: String| {
        Finding::warning("routes-match", format!("route {name}: {what}"), "correct the route, or drop the module in")
    };
    let mut found = Vec::new();
    let source = parsed.source.as_str();
    let lower = source.to_ascii_lowercase();
    if let Some(rest) = lower.strip_prefix(MODULES).map(|_| &source[MODULES.len()..]) {
        let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
        if let Some(module) = parts.first() {
            match image_of(running, module) {
                Err(hint) => found.push(says(format!("no module {module:?} sends anything{hint}"))),
                Ok(image) => {
                    if let Some(output) = parts.get(2)
                        && let Some(hint) = missing(&image.outputs, output)
                    {
                        found.push(says(format!("{module} has no output {output:?}{hint}")));
                    }
                }
            }
        }
    } else if !MODULES.starts_with(&lower) {
        found.push(says(format!("no message comes from {source}")));
    }
    if let Sink::Module { module, input } = &parsed.sink {
        match image_of(running, module) {
            Err(hint) => found.push(says(format!("no module {module:?} takes what it leads to{hint}"))),
            Ok(image) => {
                if let Some(hint) = missing(&image.inputs, input) {
                    found.push(says(format!("{module} has no input {input:?}{hint}")));
                }
            }
        }
    }
    found
}

fn image_of<'r>(running: &'r [(String, Image)], module: &str) -> Result<&'r Image, String> {
    let found = running.iter().find(|(name, _)| name.eq_ignore_ascii_case(module));
    found.map(|(_, image)| image).ok_or_else(|| hint(module, running.iter().map(|(name, _)| name.as_str())))
}

/// The hint, if none of the names is that one.
fn missing(names: &[String], wanted: &str) -> Option<String> {
    let known = names.iter().any(|name| name.eq_ignore_ascii_case(wanted));
    (!known).then(|| hint(wanted, names.iter().map(String::as_str)))
}

fn hint<'n>(wanted: &str, names: impl Iterator<Item = &'n str>) -> String {
    nearest(wanted, names).map_or(String::new(), |name| format!(": did you mean {name:?}?"))
}

fn upstream(report: &mut Report, config: &Config, table: &RouteTable, running: &[(String, Image)]) {
    const ID: &str = "routes-upstream";
    let routes: Vec<usize> = (0..table.len()).filter(|route| table.route(*route).sink == Sink::Upstream).collect();
    let known = &config.cloud.modules;
    if routes.is_empty() {
        return report.add(Finding::success(ID, "no route leads to the cloud"));
    }
    if config.cloud.device.is_some() || config.cloud.dps.is_some() {
        return report.add(Finding::success(ID, "every module that runs gets an identity in the cloud by itself"));
    }
    if known.is_empty() {
        let what =
            "routes lead to $upstream, but no module has an identity in the cloud: messages wait until they expire";
        return report.add(Finding::warning(
            ID,
            what,
            "give [provisioning] the device's connection string or source = \"dps\", or [upstream.modules.NAME] one",
        ));
    }
    let sends = |module: &str, outputs: &[String]| {
        let path = |output: &String| format!("{MODULES}{module}/outputs/{output}/");
        outputs.iter().any(|output| table.candidates(&path(output)).routes().any(|route| routes.contains(&route)))
    };
    let without = running.iter().filter(|(name, image)| !known.contains_key(name) && sends(name, &image.outputs));
    let without = without.map(|(name, _)| {
        let what = format!("a route leads from {name} to $upstream, but it has no identity in the cloud: its messages wait until they expire");
        Finding::warning(ID, what, format!("give [upstream.modules.{name}] a connection string, or narrow the route"))
    });
    report
        .add_all(without.collect(), Finding::success(ID, "every module that sends to the cloud has an identity there"));
}
