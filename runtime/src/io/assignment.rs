//! The file that remembers which hub a device was assigned, so that no later start needs the provisioning service. One owner of this
//! format. Must never hold a key, and never be half written.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::model::config::DpsConfig;
use crate::model::time::Wall;

/// In the state folder.
const FILE: &str = "provisioning.json";

/// What was assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    pub hub: String,
    pub device: String,
}

pub fn path(state: &Path) -> PathBuf {
    state.join(FILE)
}

/// What the same registration was assigned before. Another registration, or a file that can't be read, is none: it is asked for again.
pub fn load(state: &Path, dps: &DpsConfig) -> Option<Assigned> {
    let value: Value = serde_json::from_slice(&fs::read(path(state)).ok()?).ok()?;
    let same = value["idScope"] == dps.id_scope
        && value["registrationId"] == dps.registration_id
        && value["endpoint"] == dps.endpoint.to_string();
    let text = |key: &str| value[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    same.then_some(Assigned { hub: text("assignedHub")?, device: text("deviceId")? })
}

/// When that was.
pub fn written(state: &Path) -> Wall {
    let modified = fs::metadata(path(state)).and_then(|metadata| metadata.modified());
    let since = modified.ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Wall(since.map_or(0, |since| since.as_millis() as i64))
}

pub fn store(state: &Path, dps: &DpsConfig, assigned: &Assigned) -> io::Result<()> {
    let value = json!({
        "endpoint": dps.endpoint.to_string(), "idScope": dps.id_scope, "registrationId": dps.registration_id,
        "assignedHub": assigned.hub, "deviceId": assigned.device,
    });
    let (path, temporary) = (path(state), state.join("provisioning.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(format!("{value:#}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    fs::File::open(state)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Host;
    use crate::model::identity::Secret;

    #[test]
    fn it_is_remembered_for_the_same_registration_only() {
        let state = tempfile::tempdir().unwrap();
        let dps = DpsConfig {
            endpoint: Host { name: "dps.example".into(), port: 443 },
            id_scope: "0ne1".into(),
            registration_id: "d".into(),
            key: Secret::new(b"secret".to_vec()),
        };
        assert_eq!(load(state.path(), &dps), None);
        let assigned = Assigned { hub: "h".into(), device: "d".into() };
        store(state.path(), &dps, &assigned).unwrap();
        assert_eq!(load(state.path(), &dps), Some(assigned));
        assert_eq!(load(state.path(), &DpsConfig { registration_id: "e".into(), ..dps.clone() }), None);
        assert_eq!(load(state.path(), &DpsConfig { id_scope: "0ne2".into(), ..dps.clone() }), None);
        assert!(!fs::read_to_string(path(state.path())).unwrap().contains("secret"));
        fs::write(path(state.path()), "{").unwrap();
        assert_eq!(load(state.path(), &dps), None);
    }
}
