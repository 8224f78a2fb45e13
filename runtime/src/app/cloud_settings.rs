//! What was typed about the cloud: who we are there, and how to get there.
//! Must never show a connection string in an error, since it holds a key.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::config::{Host, Proxy, instance_name_fault};
use super::dps_settings::{DpsSettings, Key};
use super::toml_table::{Table, whole};
use crate::io::secret;
use crate::logic::{connection_string, units};
use crate::model::identity::{Credentials, Secret};

const SECOND: Duration = Duration::from_secs(1);

/// Where the device's identity comes from.
#[derive(Clone, Copy, PartialEq)]
enum Provisioning {
    Manual,
    Dps,
    None,
}

/// Where a connection string stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Here(Credentials),
    /// A file that nobody else can read; relative to the configuration.
    File(String),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct CloudSettings {
    /// `source = "none"` was said.
    pub none: bool,
    pub device: Option<Source>,
    pub dps: DpsSettings,
    pub modules: BTreeMap<String, Source>,
    pub address: Option<Host>,
    pub proxy: Option<Proxy>,
    pub ca: Option<String>,
    pub keep_alive: Option<Duration>,
    pub operation_timeout: Option<Duration>,
    pub token_ttl: Option<Duration>,
    pub idle_close: Option<Duration>,
    pub retry_max: Option<Duration>,
    /// A connection string stands in the file itself.
    pub inline_keys: bool,
}

impl CloudSettings {
    /// `[provisioning]`, named as in Azure's own configuration.
    pub fn read_provisioning(&mut self, table: &mut Table<'_, '_>) {
        let words = [("manual", Provisioning::Manual), ("dps", Provisioning::Dps), ("none", Provisioning::None)];
        let said = table.one_of("source", &words);
        self.none = said == Some(Provisioning::None);
        self.device = source(table, None);
        self.dps.read(table);
        let at = table.place("source").unwrap_or(0);
        let fault = match said {
            Some(Provisioning::Manual) if self.device.is_none() && table.place("connection_string").is_none() => {
                Some("\"manual\" needs connection_string or connection_string_file")
            }
            Some(Provisioning::None) if self.device.is_some() => {
                Some("\"none\" does not go with a connection string; say \"manual\"")
            }
            Some(Provisioning::Dps) if self.device.is_some() => {
                Some("\"dps\" does not go with a connection string; say \"manual\", or leave it out")
            }
            Some(Provisioning::Dps) => self.dps.fault(),
            _ => None,
        };
        if let Some(fault) = fault {
            table.fault(at, "source", fault);
        }
        if said != Some(Provisioning::Dps) && !self.dps.is_empty() {
            let keys =
                ["id_scope", "registration_id", "global_endpoint", "serial_file", "attestation", "symmetric_key"];
            let more = ["symmetric_key_file", "group_key", "group_key_file"];
            let first = keys.into_iter().chain(more).find_map(|key| Some((key, table.place(key)?)));
            if let Some((key, at)) = first {
                table.fault(at, key, "belongs to source = \"dps\"; say that, or leave this out");
            }
        }
    }

    /// `[upstream]`.
    pub fn read_upstream(&mut self, table: &mut Table<'_, '_>) {
        self.address =
            table.get("address", |value| value.as_str().and_then(Host::parse).ok_or("\"HOST:PORT\"".to_owned()));
        self.proxy = proxy(table);
        self.ca = table.get("ca", |value| {
            value.as_str().filter(|path| !path.is_empty()).map(str::to_owned).ok_or("a path".to_owned())
        });
        // IoT Hub closes after 1.5 times this, and never waits longer than 1,767 s (spec iot-hub-wire 4).
        self.keep_alive = table.duration("keep_alive", SECOND, Duration::from_secs(1_177));
        self.operation_timeout = table.duration("operation_timeout", SECOND, Duration::from_secs(600));
        // "never" is what nothing means, too.
        self.idle_close = idle_close(table);
        self.token_ttl = table.duration("token_ttl", 2 * SECOND, Duration::from_secs(365 * 86_400));
        self.retry_max = table.duration("retry_max", SECOND, Duration::from_secs(3_600));
        let Some(mut modules) = table.table("modules") else { return };
        for (name, at, value) in modules.drain() {
            if let Some(expected) = instance_name_fault(name) {
                modules.fault(at, name, &format!("an instance's name must be {expected}"));
            }
            let Some(mut inner) = modules.inner(name, value) else { continue };
            match source(&mut inner, Some(name)) {
                Some(source) => drop(self.modules.insert(name.to_owned(), source)),
                None if inner.place("connection_string").is_none() => {
                    modules.fault(at, name, "connection_string or connection_string_file is missing");
                }
                None => {}
            }
            inner.end();
        }
    }

    /// Reads the files that hold connection strings, relative to `folder`. The error is a line to print.
    pub fn open_files(&mut self, folder: &Path) -> Result<(), String> {
        let inline = |source: &Source| matches!(source, Source::Here(_));
        let group = matches!(self.dps.key, Some(Key::Here(_)));
        self.inline_keys = group || self.device.iter().chain(self.modules.values()).any(inline);
        self.dps.open_files(folder)?;
        let device = self.device.iter_mut().map(|source| (None, source));
        let modules = self.modules.iter_mut().map(|(name, source)| (Some(name.as_str()), source));
        for (module, source) in device.chain(modules) {
            let Source::File(path) = source else { continue };
            let path = folder.join(&*path);
            let text = secret::read_private(&path).map_err(|e| e.to_string())?;
            let found = connection_string::parse(&text).map_err(|e| format!("{}: {e}", path.display()))?;
            if let Some(fault) = module_fault(&found, module) {
                return Err(format!("{}: {fault}", path.display()));
            }
            *source = Source::Here(found);
        }
        Ok(())
    }
}

fn idle_close(table: &mut Table<'_, '_>) -> Option<Duration> {
    let range = Duration::from_secs(10)..=Duration::from_secs(366 * 86_400);
    let read = table.get("idle_close", |value| {
        if value.as_str() == Some("never") {
            return Ok(None);
        }
        let typed = value.as_str().and_then(units::duration).or_else(|| whole(value).map(Duration::from_secs));
        typed
            .filter(|after| range.contains(after))
            .map(Some)
            .ok_or("\"never\", or a duration of 10s or more".to_owned())
    });
    read.flatten()
}

fn source(table: &mut Table<'_, '_>, module: Option<&str>) -> Option<Source> {
    let text = table.text("connection_string");
    let file = table.text("connection_string_file");
    let at = table.place("connection_string");
    match (text, file, at) {
        (Some(_), Some(_), Some(at)) => {
            table.fault(at, "connection_string", "give this or connection_string_file, not both");
            None
        }
        (Some(text), None, Some(at)) => {
            let found = connection_string::parse(&text).map_err(|e| e.to_string());
            let judged = found.and_then(|found| match module_fault(&found, module) {
                Some(fault) => Err(fault),
                None => Ok(found),
            });
            // Not shown: it holds a key.
            judged.map_err(|fault| table.fault(at, "connection_string", &fault)).ok().map(Source::Here)
        }
        (_, Some(file), _) => Some(Source::File(file)),
        _ => None,
    }
}

/// Whether it is that of the device (`module` is `None`) or of the module of this name.
fn module_fault(found: &Credentials, module: Option<&str>) -> Option<String> {
    match (&found.module_id, module) {
        (None, None) => None,
        (Some(_), None) => Some("this is a module's connection string; take the device's".to_owned()),
        (None, Some(_)) => Some("this is a device's connection string; take the module's, with a ModuleId".to_owned()),
        (Some(id), Some(name)) if id == name => None,
        (Some(id), Some(name)) => {
            Some(format!("ModuleId is {id:?}; an instance and its identity have one name, here {name:?}"))
        }
    }
}

/// `http://[USER:PASSWORD@]HOST[:PORT]`.
fn proxy(table: &mut Table<'_, '_>) -> Option<Proxy> {
    let text = table.text("proxy")?;
    let at = table.place("proxy")?;
    let parsed = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')).and_then(|rest| {
        let (user, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
        let host = Host::parse(host).or_else(|| Host::parse(&format!("{host}:80")))?;
        let user = user.map(|user| user.split_once(':').unwrap_or((user, "")));
        let user = user.map(|(name, password)| (name.to_owned(), Secret::new(password.as_bytes().to_vec())));
        Some(Proxy { host, user })
    });
    if parsed.is_none() {
        // Not shown: it may hold a password.
        table.fault(at, "proxy", "expected \"http://HOST:PORT\" or \"http://USER:PASSWORD@HOST:PORT\"");
    }
    parsed
}
