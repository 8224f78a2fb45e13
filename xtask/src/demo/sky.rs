//! The demo's cloud: the emulator within this program, what it is told, and what came. Must never show a key, nor touch
//! the device but through the wire.

use std::time::Duration;

use serde_json::Value;
use skerry_cloud::{Cloud, Command, Options, What};

use super::watch::Seen;

pub const DEVICE: &str = "Hannover01";
/// For a method's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub struct Sky {
    cloud: Cloud,
    /// Messages that were looked at.
    taken: usize,
}

impl Sky {
    pub fn start(modules: &[&str]) -> Result<Sky, String> {
        Ok(Sky { cloud: Cloud::start(Options::new(DEVICE, modules))?, taken: 0 })
    }

    /// The part of a device's configuration that leads here; impatient, since nobody watches for a minute.
    pub fn config(&self) -> String {
        let ready = self.cloud.ready();
        let mut config = format!(
            "[upstream]\naddress = \"{}\"\nca = \"{}\"\nretry_max = \"1s\"\noperation_timeout = \"10s\"\n",
            ready.address,
            ready.ca_file.display()
        );
        for module in &ready.modules {
            let name = module.id.rsplit('/').next().unwrap_or_default();
            config += &format!("[upstream.modules.{name}]\nconnection_string = \"{}\"\n", module.connection_string);
        }
        config
    }

    pub fn host(&self) -> &str {
        &self.cloud.ready().host_name
    }

    pub fn tell(&self, command: Command) -> Result<(), String> {
        self.cloud.command(command).map(drop)
    }

    pub fn desire(&self, module: &str, patch: Value) -> Result<(), String> {
        self.tell(Command::Desired { identity: identity(module), patch })
    }

    pub fn reported(&self, module: &str) -> Value {
        self.cloud.twin(&identity(module))["reported"].clone()
    }

    pub fn connected(&self) -> usize {
        let connections = self.cloud.connections();
        connections.values().filter(|connection| connection.is_open).count()
    }

    /// Status and payload of the answer; 404 while the module is not there.
    pub fn call(&self, module: &str, name: &str) -> Result<(i64, Value), String> {
        let mut events = self.cloud.events();
        let answer = self.cloud.command(Command::Method {
            identity: identity(module),
            name: name.to_owned(),
            payload: Value::Null,
            timeout_s: Some(ANSWER_WITHIN.as_secs_f64()),
        })?;
        let own = |what: &What| matches!(what, What::Method { rid, .. } if answer["rid"] == **rid);
        match events.find(ANSWER_WITHIN, |event| own(&event.what)).map(|event| event.what) {
            Some(What::Method { status, payload, .. }) => Ok((status, payload)),
            _ => Ok((504, Value::Null)),
        }
    }

    /// What came since the last time.
    pub fn take(&mut self, seen: &mut Seen) {
        for message in self.cloud.telemetry_from(self.taken) {
            self.taken += 1;
            seen.arrive(message);
        }
    }
}

fn identity(module: &str) -> String {
    format!("{DEVICE}/{module}")
}
