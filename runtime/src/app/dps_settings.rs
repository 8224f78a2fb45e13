//! What was typed about the provisioning service (DPS), named as in Azure's own configuration: which scope, which registration, and the
//! key that proves it. Must never show a key in an error.

use std::path::{Path, PathBuf};

use data_encoding::BASE64;

use super::config::{DpsConfig, Host, Surroundings};
use super::toml_table::Table;
use crate::io::{machine, secret};
use crate::logic::sas;
use crate::model::identity::Secret;

/// What every device asks unless it is told otherwise.
const ENDPOINT: &str = "global.azure-devices-provisioning.net";
/// Longest registration id, characters. The service's rule.
const REGISTRATION_LENGTH_MAX: usize = 128;

/// Where a key stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    Here(Secret),
    /// A file that nobody else can read; relative to the configuration.
    File(String),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct DpsSettings {
    pub endpoint: Option<Host>,
    pub id_scope: Option<String>,
    /// With `{serial}` or `{hostname}` still in it.
    pub registration_id: Option<String>,
    /// File with this machine's serial number, and then what stands in it.
    pub serial_file: Option<String>,
    pub serial: Option<String>,
    pub key: Option<Key>,
    /// `key` is that of the enrolment group; the device's own follows from it.
    pub is_group: bool,
}

impl DpsSettings {
    /// The keys of `[provisioning]` that belong to DPS; those of Azure's `[provisioning.attestation]` may stand there, too.
    pub fn read(&mut self, table: &mut Table<'_, '_>) {
        self.endpoint = table.get("global_endpoint", |value| {
            let parsed = value.as_str().and_then(endpoint);
            parsed.ok_or("\"https://HOST\" or \"https://HOST:PORT\"".to_owned())
        });
        self.id_scope = table.text("id_scope");
        self.serial_file = table.text("serial_file");
        self.read_attestation(table);
        if let Some(mut inner) = table.table("attestation") {
            inner.get("method", |value| match value.as_str() {
                Some("symmetric_key") => Ok(()),
                _ => Err("\"symmetric_key\", the only one in this version".to_owned()),
            });
            self.read_attestation(&mut inner);
            inner.end();
        }
    }

    fn read_attestation(&mut self, table: &mut Table<'_, '_>) {
        let id = table.get("registration_id", |value| {
            let id = value.as_str().ok_or("a text")?;
            // What stands for something is judged when it is known.
            registration_fault(&fill(id, Some("x"), "x").unwrap_or_default()).map_or(Ok(id.to_owned()), Err)
        });
        self.registration_id = id.or(self.registration_id.take());
        for (key, file, is_group) in
            [("symmetric_key", "symmetric_key_file", false), ("group_key", "group_key_file", true)]
        {
            let here = symmetric(table, key).map(|found| found.unwrap_or_else(Key::File));
            let there = table.text(file).map(Key::File);
            let place = table.place(key).or(table.place(file));
            let Some(at) = place else { continue };
            if self.key.is_some() || (here.is_some() && there.is_some()) {
                table.fault(at, key, "one key is enough: symmetric_key or group_key, here or in a file");
            }
            if let Some(found) = here.or(there) {
                (self.key, self.is_group) = (Some(found), is_group);
            }
        }
    }

    /// What is missing, as a key of `[provisioning]` and what to do.
    pub fn fault(&self) -> Option<&'static str> {
        match self {
            DpsSettings { id_scope: None, .. } => {
                Some("\"dps\" needs id_scope: the ID Scope of the provisioning service")
            }
            DpsSettings { registration_id: None, .. } => Some(
                "\"dps\" needs registration_id: a name, or \"{serial}\" or \"{hostname}\" where one image serves many devices",
            ),
            DpsSettings { key: None, .. } => Some(
                "\"dps\" needs symmetric_key_file (the device's own key) or group_key_file (that of the enrolment group)",
            ),
            _ => None,
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == DpsSettings::default()
    }

    /// Reads key and serial number, relative to `folder`. The error is a line to print.
    pub fn open_files(&mut self, folder: &Path) -> Result<(), String> {
        if let Some(Key::File(path)) = &self.key {
            let path = folder.join(path);
            let text = secret::read_private(&path).map_err(|e| e.to_string())?;
            let key = secret_of(&text).map_err(|fault| format!("{}: {fault}", path.display()))?;
            self.key = Some(Key::Here(key));
        }
        if let Some(path) = &self.serial_file {
            let path: PathBuf = folder.join(path);
            let serial = machine::serial_in(&path).map_err(|e| format!("[provisioning] serial_file: {e}"))?;
            self.serial = Some(serial);
        }
        Ok(())
    }

    /// With nothing left open; `None` where the file was never read. The error is a line to print.
    pub fn resolve(self, place: &Surroundings) -> Result<Option<DpsConfig>, String> {
        let (Some(id_scope), Some(typed), Some(Key::Here(key))) = (self.id_scope, self.registration_id, self.key)
        else {
            return Ok(None);
        };
        let registration_id = fill(&typed, self.serial.as_deref().or(place.serial.as_deref()), &place.host_name)
            .map_err(|fault| format!("[provisioning] registration_id: {fault}"))?;
        if let Some(expected) = registration_fault(&registration_id) {
            return Err(format!(
                "[provisioning] registration_id: {typed:?} becomes {registration_id:?}; expected {expected}"
            ));
        }
        let key = if self.is_group { sas::derive(&key, &registration_id) } else { key };
        let default = Host { name: ENDPOINT.to_owned(), port: 443 };
        Ok(Some(DpsConfig { endpoint: self.endpoint.unwrap_or(default), id_scope, registration_id, key }))
    }
}

fn endpoint(text: &str) -> Option<Host> {
    let rest = text.strip_prefix("https://")?.trim_end_matches('/');
    Host::parse(rest).or_else(|| Host::parse(&format!("{rest}:443")))
}

/// A key as text, as `{ value = "…" }` or as `{ uri = "file:///…" }`: all ways in which Azure's configuration has it.
fn symmetric(table: &mut Table<'_, '_>, key: &'static str) -> Option<Result<Key, String>> {
    const EXPECTED: &str = "a key in base64, { value = \"…\" } or { uri = \"file:///…\" }";
    // Not shown: it is a key.
    let found = table.get(key, |value| {
        let inner = |name: &str| value.get(name).and_then(|value| value.get_ref().as_str());
        Ok(match (value.as_str().or(inner("value")), inner("uri").and_then(|uri| uri.strip_prefix("file://"))) {
            (Some(text), None) => secret_of(text).map(|key| Ok(Key::Here(key))),
            (None, Some(path)) => Ok(Err(path.to_owned())),
            _ => Err(format!("expected {EXPECTED}")),
        })
    })?;
    let at = table.place(key)?;
    found.map_err(|fault| table.fault(at, key, &fault)).ok()
}

fn secret_of(text: &str) -> Result<Secret, String> {
    let key = BASE64.decode(text.trim().as_bytes()).ok().filter(|key| !key.is_empty());
    key.map(Secret::new).ok_or_else(|| "the key is not base64; copy it as the provisioning service shows it".to_owned())
}

/// The text with what `{serial}` and `{hostname}` stand for.
fn fill(text: &str, serial: Option<&str>, host_name: &str) -> Result<String, String> {
    let mut filled = text.replace("{hostname}", host_name);
    if filled.contains("{serial}") {
        let serial = serial.ok_or(
            "this machine tells no serial number that can be used (device tree, DMI; the latter only to root): name a file that holds \
             it with serial_file, or use \"{hostname}\"",
        )?;
        filled = filled.replace("{serial}", serial);
    }
    Ok(filled)
}

/// What a registration id must be, if it is not.
fn registration_fault(id: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    let ends = id.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
    let bad = !ends || id.len() > REGISTRATION_LENGTH_MAX || !id.chars().all(good);
    bad.then(|| {
        "1 to 128 ASCII letters, digits and - . _ :, ending in a letter, digit or -; {serial} and {hostname} stand for those of this machine"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_image_serves_many_devices() {
        assert_eq!(fill("line-{serial}-{hostname}", Some("S1"), "h").as_deref(), Ok("line-S1-h"));
        assert!(fill("{serial}", None, "h").unwrap_err().contains("serial_file"));
        assert_eq!(fill("x", None, "h").as_deref(), Ok("x"));
        for good in ["a", "A-1._:x", "x-"] {
            assert_eq!(registration_fault(good), None, "{good}");
        }
        for bad in ["", "a.", "a b", "ü", &"x".repeat(129), "{seriel}"] {
            assert!(registration_fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn endpoints_are_read() {
        assert_eq!(endpoint("https://a.example"), Some(Host { name: "a.example".into(), port: 443 }));
        assert_eq!(endpoint("https://a.example:8443/").map(|h| h.port), Some(8443));
        assert_eq!(endpoint("http://a.example"), None);
        assert_eq!(endpoint("a.example"), None);
        assert_eq!(endpoint("https://a/b"), None);
    }
}
