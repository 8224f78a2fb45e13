//! A device with a cloud of its own: the emulator, and the configuration that leads to it. Must never judge by anything
//! but what the cloud has stored and what senders were told.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use skerry_cloud::{Cloud, Command, Options, Telemetry};

use crate::{DEADLINE, wait_for, wait_within};

/// For what takes several attempts to connect.
const LONG: Duration = Duration::from_secs(60);

/// An emulator that knows device `d1` with these modules.
pub fn cloud(modules: &[&str]) -> Cloud {
    Cloud::start(Options::new("d1", modules)).expect("the emulator")
}

/// The configuration that leads there, impatient for tests. `upstream` is more for that section, `rest` goes behind it.
pub fn to_cloud(cloud: &Cloud, upstream: &str, rest: &str) -> String {
    let ready = cloud.ready();
    let mut config = format!(
        "[upstream]\naddress = \"{}\"\nca = \"{}\"\nretry_max = \"1s\"\noperation_timeout = \"2s\"\n{upstream}\n",
        ready.address,
        ready.ca_file.display()
    );
    for module in &ready.modules {
        let name = module.id.rsplit('/').next().unwrap_or_default();
        config.push_str(&format!("[upstream.modules.{name}]\nconnection_string = \"{}\"\n", module.connection_string));
    }
    config + rest
}

/// Everything of the module `tester` goes to the cloud.
pub const TESTER_TO_CLOUD: &str =
    "[store]\nflush_interval = \"20ms\"\n[routes]\nup = \"FROM /messages/modules/tester/* INTO $upstream\"\n";

/// The same, and what is delivered in time is not written: on a busy machine 20 ms may pass before the cloud has answered.
pub const TESTER_ONLINE: &str = "[routes]\nup = \"FROM /messages/modules/tester/* INTO $upstream\"\n";

/// What the identity has stored in the cloud so far, by the number in its body.
pub fn stored(cloud: &Cloud, identity: &str) -> Vec<u64> {
    let of = |message: &Telemetry| message.json()?.get("seq").and_then(Value::as_u64);
    cloud.telemetry().iter().filter(|m| m.identity == identity).filter_map(|m| of(m)).collect()
}

#[track_caller]
pub fn tell(cloud: &Cloud, command: Command) {
    cloud.command(command).expect("a command");
}

#[track_caller]
pub fn wait_stored(cloud: &Cloud, identity: &str, seq: u64) {
    let found = cloud.wait_until(LONG, |cloud| stored(cloud, identity).contains(&seq).then_some(()));
    assert!(
        found.is_some(),
        "message {seq} is not in the cloud within {LONG:?}; there are {}",
        stored(cloud, identity).len()
    );
}

#[track_caller]
pub fn wait_connected(cloud: &Cloud, identity: &str) {
    let open = |cloud: &Cloud| cloud.connections().get(identity).is_some_and(|c| c.is_open).then_some(());
    assert!(cloud.wait_until(LONG, open).is_some(), "{identity} does not connect");
}

/// Everything acknowledged is there, and each came for the first time in the order in which it was sent.
#[track_caller]
pub fn all_there(cloud: &Cloud, identity: &str, acknowledged: &[u64]) {
    if let Some(last) = acknowledged.last() {
        wait_stored(cloud, identity, *last);
    }
    let (mut seen, mut firsts) = (BTreeSet::new(), Vec::new());
    for seq in stored(cloud, identity) {
        if seen.insert(seq) {
            firsts.push(seq);
        }
    }
    let missing: Vec<&u64> = acknowledged.iter().filter(|seq| !seen.contains(seq)).collect();
    assert!(missing.is_empty(), "{} of {} are lost: {missing:?}", missing.len(), acknowledged.len());
    assert!(firsts.is_sorted(), "out of order: {firsts:?}");
}

impl crate::Device {
    /// The queue of a module's messages for the cloud, with its counts.
    pub fn upstream_queue(&self, module: &str) -> Option<Value> {
        let endpoint = format!("upstream/{module}");
        self.status()["queues"].as_array()?.iter().find(|queue| queue["endpoint"] == *endpoint).cloned()
    }

    #[track_caller]
    pub fn wait_upstream(&self, module: &str, what: &str, fits: impl Fn(u64) -> bool) -> u64 {
        wait_for(&format!("{what} of {module} upstream"), || {
            self.upstream_queue(module)?[what].as_u64().filter(|count| fits(*count))
        })
    }

    /// What `status` says of the module's connection.
    pub fn uplink(&self, module: &str) -> Value {
        let status = self.status();
        let found = status["upstream"].as_array().into_iter().flatten().find(|u| u["module"] == module);
        found.cloned().unwrap_or_default()
    }

    /// Exactly one line of the log says so, also after a while in which it was tried again.
    #[track_caller]
    pub fn one_line(&self, text: &str) -> String {
        let line = self.wait_log(text);
        let again = wait_within(Duration::from_millis(1_500), || {
            (self.log().lines().filter(|line| line.contains(text)).count() > 1).then_some(())
        });
        assert!(again.is_none(), "said twice: {text}");
        assert!(DEADLINE > Duration::from_millis(1_500));
        line
    }
}
