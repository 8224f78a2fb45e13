//! What was typed about getting images from elsewhere: `[images]`.
//! Must never show a password in an error.

use std::path::Path;
use std::time::Duration;

use super::toml_table::Table;
use crate::io::secret;
use crate::model::config::PullsConfig;
use crate::model::identity::Secret;
use crate::model::limits::IMAGES_BYTES_MAX;
use crate::model::reference::{self, RegistryCredentials};

/// Longest silence of a server that is borne.
const TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Below this not even one small image fits.
const LIMIT_MIN: u64 = 1 << 20;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PullSettings {
    pub limit: Option<u64>,
    pub timeout: Option<Duration>,
    pub ca: Option<String>,
    pub registries: Vec<RegistrySettings>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RegistrySettings {
    pub address: String,
    pub username: String,
    pub password: Password,
}

/// Where a password stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Password {
    Here(Secret),
    /// A file that nobody else can read; relative to the configuration.
    File(String),
}

impl PullSettings {
    pub fn read(&mut self, table: &mut Table<'_, '_>) {
        self.limit = table.bytes("limit", LIMIT_MIN);
        self.timeout = table.duration("timeout", Duration::from_secs(1), TIMEOUT_MAX);
        self.ca = table.get("ca", |value| {
            value.as_str().filter(|path| !path.is_empty()).map(str::to_owned).ok_or("a path".to_owned())
        });
        let Some(mut registries) = table.table("registries") else { return };
        for (address, at, value) in registries.drain() {
            if reference::host(address).is_none() {
                registries.fault(at, address, "a registry is named by its host, or \"HOST:PORT\"");
            }
            let Some(mut inner) = registries.inner(address, value) else { continue };
            let username = inner.text("username");
            let (here, file) = (inner.text("password"), inner.text("password_file"));
            let password = match (here, file) {
                (Some(_), Some(_)) => {
                    registries.fault(at, address, "give password or password_file, not both");
                    None
                }
                (Some(text), None) => Some(Password::Here(Secret::new(text.into_bytes()))),
                (None, file) => file.map(Password::File),
            };
            match (username, password) {
                (Some(username), Some(password)) => {
                    self.registries.push(RegistrySettings { address: address.to_owned(), username, password });
                }
                (None, _) if inner.place("username").is_none() => registries.fault(at, address, "username is missing"),
                (Some(_), None) if inner.place("password").is_none() && inner.place("password_file").is_none() => {
                    registries.fault(at, address, "password or password_file is missing");
                }
                _ => {}
            }
            inner.end();
        }
    }

    /// Reads the files that hold passwords, relative to `folder`. The error is a line to print.
    pub fn open_files(&mut self, folder: &Path) -> Result<(), String> {
        for registry in &mut self.registries {
            let Password::File(path) = &registry.password else { continue };
            let text = secret::read_private(&folder.join(path)).map_err(|e| e.to_string())?;
            registry.password = Password::Here(Secret::new(text.trim_end_matches(['\r', '\n']).as_bytes().to_vec()));
        }
        Ok(())
    }

    /// Whether a password stands in the configuration itself; asked before `open_files`.
    pub fn has_passwords(&self) -> bool {
        self.registries.iter().any(|r| matches!(r.password, Password::Here(_)))
    }

    pub fn resolve(self, from_file: impl Fn(&str) -> std::path::PathBuf) -> PullsConfig {
        let registries = self.registries.into_iter().filter_map(|registry| match registry.password {
            Password::Here(password) => {
                Some(RegistryCredentials { address: registry.address, username: registry.username, password })
            }
            // `load` has read it; without `load` there is no file.
            Password::File(_) => None,
        });
        PullsConfig {
            limit_bytes: self.limit.unwrap_or(IMAGES_BYTES_MAX),
            timeout: self.timeout.unwrap_or(TIMEOUT),
            ca: self.ca.as_deref().map(from_file),
            registries: registries.collect(),
        }
    }
}
