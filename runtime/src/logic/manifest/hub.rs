//! `$edgeHub`: routes, and how long messages are kept.
//! Must never take some of the routes: the first that can't run refuses the manifest.

use std::time::Duration;

use super::node::Node;
use crate::logic::routing;
use crate::model::manifest::{Manifest, ManifestRoute};

/// What the field's documentation calls the default.
const TTL_SECS: i64 = 7_200;
const MINOR_MAX: u32 = 3;

pub(super) fn read(root: &Node<'_>, manifest: &mut Manifest) {
    let minor = match super::agent::schema_minor(root, MINOR_MAX) {
        Some(minor) => minor,
        None => return,
    };
    root.only(&["schemaVersion", "routes", "storeAndForwardConfiguration", "mqttBroker", "integrity"]);
    for (name, node) in root.child("routes").iter().flat_map(Node::children) {
        if let Some(route) = route(name, &node, minor) {
            node.map("a route");
            manifest.routes.push(route);
        }
    }
    manifest.ttl = ttl(root, minor);
    if let Some(broker) = root.child("mqttBroker") {
        broker.ignore("there is no MQTT broker here; the field withdrew it as well");
    }
    if let Some(integrity) = root.child("integrity") {
        integrity.ignore("signatures of manifests are not checked; those of images are");
    }
}

fn ttl(root: &Node<'_>, minor: u32) -> Option<Duration> {
    let config = match root.child("storeAndForwardConfiguration") {
        None if minor == 0 => return seconds(TTL_SECS),
        None => root.required("storeAndForwardConfiguration")?,
        Some(config) => config,
    };
    config.only(&["timeToLiveSecs", "storeLimits"]);
    if let Some(limits) = config.child("storeLimits") {
        limits.ignore("the store's limit is the device's: [store] quota in config.toml");
    }
    let node = match config.child("timeToLiveSecs") {
        None if minor == 0 => return seconds(TTL_SECS),
        None => config.required("timeToLiveSecs")?,
        Some(node) => node,
    };
    match node.value.as_i64() {
        Some(secs) => {
            node.map(if secs < 0 { "messages never expire" } else { "the time to live of messages" });
            seconds(secs)
        }
        None => {
            node.refuse(&format!("expected a whole number of seconds, found {}", node.value));
            None
        }
    }
}

/// Negative is for ever.
fn seconds(secs: i64) -> Option<Duration> {
    u64::try_from(secs).ok().map(Duration::from_secs)
}

fn route(name: &str, node: &Node<'_>, minor: u32) -> Option<ManifestRoute> {
    let mut route = ManifestRoute { name: name.to_owned(), text: String::new(), priority: None, ttl_secs: None };
    let text_node = if node.value.is_object() {
        if minor == 0 {
            node.refuse(
                "schema version 1.0 has routes as texts; with priority and timeToLiveSecs it must be 1.1 or later",
            );
            return None;
        }
        node.only(&["route", "priority", "timeToLiveSecs"]);
        if let Some(priority) = node.child("priority") {
            route.priority = Some(priority.whole(0..=9)? as u32);
        }
        if let Some(ttl) = node.child("timeToLiveSecs") {
            route.ttl_secs = Some(ttl.whole(0..=u64::from(u32::MAX))?).filter(|secs| *secs != 0);
        }
        node.required("route")?
    } else {
        Node::new(node.value, node.path.clone(), node.findings)
    };
    let text = text_node.text()?;
    if let Err(error) = routing::parse_route(text) {
        text_node.refuse(&format!("column {}: {}", error.column, error.message));
        return None;
    }
    text.clone_into(&mut route.text);
    Some(route)
}
