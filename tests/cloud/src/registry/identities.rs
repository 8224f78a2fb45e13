//! Devices and modules in the registry: made, read, changed and removed over REST. Must never change an entry whose
//! precondition does not hold.

use serde_json::{Value, json};

use super::entry::Right;
use super::record::{Proof, Record, Written, check_id};
use super::reply::{Outcome, Refusal, Reply};
use crate::clock::{NEVER, iso};
use crate::event::What;
use crate::peer::{Peer, random_key};
use crate::world::{End, World};

/// The cloud's own limit, on each device.
pub const MODULES_MAX: usize = 50;
/// More than any test has.
pub const DEVICES_MAX: usize = 1_000;
/// What every edge device has from the start.
pub const SYSTEM_MODULES: [&str; 2] = ["$edgeAgent", "$edgeHub"];

/// What `If-Match` asks for.
pub enum Match {
    Anything,
    Etag(String),
}

impl Match {
    /// With quotes or without.
    pub fn parse(header: Option<&str>) -> Option<Match> {
        let text = header?.trim().trim_start_matches("W/").trim_matches('"');
        Some(if text == "*" { Match::Anything } else { Match::Etag(text.to_owned()) })
    }

    pub fn check(&self, etag: &str) -> Result<(), Refusal> {
        match self {
            Match::Etag(wanted) if wanted != etag => {
                Err(Refusal::new(412, "PreconditionFailed", format!("the etag is {etag}")))
            }
            _ => Ok(()),
        }
    }
}

impl World {
    /// By its id; the cloud's word for one that is missing depends on what it would be.
    pub fn registered(&mut self, identity: &str) -> Result<&mut Peer, Refusal> {
        let device = identity.split('/').next().unwrap_or_default();
        if !self.peers.contains_key(device) {
            return Err(Refusal::new(404, "DeviceNotFound", device));
        }
        self.peers.get_mut(identity).ok_or_else(|| Refusal::new(404, "ModuleNotFound", identity))
    }

    pub fn modules_of(&self, device: &str) -> impl Iterator<Item = &Peer> {
        let own = move |peer: &&Peer| peer.module.is_some() && peer.device == device;
        // `a` and `a-b` are neighbours of `a/m`, so that a range does not do.
        self.peers.values().filter(own)
    }

    pub fn read_identity(&mut self, identity: &str) -> Outcome {
        let peer = self.registered(identity)?;
        Ok(identity_reply(peer))
    }

    pub fn list_modules(&mut self, device: &str) -> Outcome {
        self.registered(device)?;
        Ok(Reply::new(200, self.modules_of(device).map(entry).collect()))
    }

    pub fn list_devices(&self, top: Option<usize>) -> Outcome {
        let devices = self.peers.values().filter(|peer| peer.module.is_none());
        let top = top.filter(|top| (1..=DEVICES_MAX).contains(top)).unwrap_or(DEVICES_MAX);
        Ok(Reply::new(200, devices.take(top).map(entry).collect()))
    }

    /// Without `If-Match` it makes one, with it it changes one.
    pub fn write_identity(&mut self, identity: &str, body: &[u8], wanted: Option<Match>, by: Right) -> Outcome {
        let (device, module) = split(identity);
        check_id(device)?;
        module.map_or(Ok(()), check_id)?;
        if module.is_some() {
            self.registered(device)?;
        }
        let written = Written::parse(body, device, module)?;
        match (wanted, self.peers.get(identity)) {
            (None, Some(_)) if module.is_some() => Err(Refusal::new(409, "ModuleAlreadyExistsOnDevice", identity)),
            (None, Some(_)) => Err(Refusal::new(409, "DeviceAlreadyExists", identity)),
            (None, None) => self.make(identity, &written, by),
            (Some(wanted), _) => {
                wanted.check(&self.registered(identity)?.record.etag())?;
                self.update(identity, &written, by)
            }
        }
    }

    fn make(&mut self, identity: &str, written: &Written, by: Right) -> Outcome {
        let (device, module) = split(identity);
        if module.is_some() && self.modules_of(device).count() >= MODULES_MAX {
            let message = format!("a device has at most {MODULES_MAX} modules");
            return Err(Refusal::new(413, "TooManyModulesOnDevice", message));
        }
        let keys = [key(&written.keys[0])?, key(&written.keys[1])?];
        let proof = written.proof.clone().unwrap_or(Proof::Sas);
        let mut peer = Peer::new(device, module, keys);
        peer.record = Record::new(device, proof, module.is_none() && written.is_edge == Some(true));
        peer.record.take(device, &Written { is_edge: None, ..written.clone() });
        peer.record.edition = 1;
        self.add(peer, by.name())?;
        if self.peers.get(identity).is_some_and(|peer| peer.record.is_edge) {
            for name in SYSTEM_MODULES {
                let mut peer = Peer::new(device, Some(name), [random()?, random()?]);
                peer.record.proof = Proof::Nothing;
                self.add(peer, by.name())?;
            }
        }
        self.read_identity(identity)
    }

    /// A new one, told of.
    pub fn add(&mut self, peer: Peer, by: &str) -> Result<(), Refusal> {
        let devices = || self.peers.values().filter(|peer| peer.module.is_none()).count();
        if peer.module.is_none() && devices() >= DEVICES_MAX {
            return Err(Refusal::new(413, "TooManyDevices", format!("at most {DEVICES_MAX}")));
        }
        let identity = peer.id();
        let generation = peer.record.generation.clone();
        self.peers.insert(identity.clone(), peer);
        self.say(What::IdentityCreated { identity, by: by.to_owned(), generation });
        Ok(())
    }

    fn update(&mut self, identity: &str, written: &Written, by: Right) -> Outcome {
        let peer = self.registered(identity)?;
        let was_enabled = peer.record.enabled;
        peer.record.take(split(identity).0, written);
        for (own, new) in peer.keys.iter_mut().zip(&written.keys) {
            if let Some(new) = new {
                own.clone_from(new);
            }
        }
        let is_enabled = peer.record.enabled;
        let reply = identity_reply(peer);
        self.say(What::IdentityUpdated { identity: identity.to_owned(), by: by.name().to_owned() });
        if was_enabled && !is_enabled {
            self.say(What::IdentityStatus { identity: identity.to_owned(), enabled: false });
            self.end_with_modules(identity, "disabled");
        } else if !was_enabled && is_enabled {
            self.say(What::IdentityStatus { identity: identity.to_owned(), enabled: true });
        }
        Ok(reply)
    }

    /// By command.
    pub fn set_enabled(&mut self, identity: &str, enabled: bool) -> Result<(), String> {
        let peer = self.peer(identity)?;
        peer.record.take(split(identity).0, &Written { enabled: Some(enabled), ..Written::default() });
        self.say(What::IdentityStatus { identity: identity.to_owned(), enabled });
        if !enabled {
            self.end_with_modules(identity, "disabled, by command");
        }
        Ok(())
    }

    pub fn delete_identity(&mut self, identity: &str, wanted: Option<Match>, by: Right) -> Outcome {
        let wanted = wanted.ok_or_else(|| Refusal::argument("there is no If-Match"))?;
        let peer = self.registered(identity)?;
        wanted.check(&peer.record.etag())?;
        self.remove(identity, by.name());
        Ok(Reply::empty(204))
    }

    /// With its modules.
    pub fn remove(&mut self, identity: &str, by: &str) {
        self.end_with_modules(identity, "deleted");
        for identity in self.with_modules(identity) {
            self.peers.remove(&identity);
            self.say(What::IdentityDeleted { identity, by: by.to_owned() });
        }
    }

    fn end_with_modules(&mut self, identity: &str, reason: &str) {
        for identity in self.with_modules(identity) {
            self.end_of(Some(&identity), End::Close, reason);
        }
    }

    /// Modules first.
    fn with_modules(&self, identity: &str) -> Vec<String> {
        self.modules_of(identity).map(Peer::id).chain([identity.to_owned()]).collect()
    }

    pub fn count_devices(&self) -> Outcome {
        let devices: Vec<&Peer> = self.peers.values().filter(|peer| peer.module.is_none()).collect();
        let enabled = devices.iter().filter(|peer| peer.record.enabled).count();
        Ok(Reply::new(
            200,
            json!({
                "totalDeviceCount": devices.len(),
                "enabledDeviceCount": enabled,
                "disabledDeviceCount": devices.len() - enabled,
            }),
        ))
    }

    pub fn count_connections(&self) -> Outcome {
        let connected = self.peers.values().filter(|peer| peer.module.is_none() && peer.link.is_some()).count();
        Ok(Reply::new(200, json!({"connectedDeviceCount": connected})))
    }
}

pub fn split(identity: &str) -> (&str, Option<&str>) {
    identity.split_once('/').map_or((identity, None), |(device, module)| (device, Some(module)))
}

fn random() -> Result<String, Refusal> {
    random_key().map_err(|message| Refusal::new(500, "ServerError", message))
}

fn key(given: &Option<String>) -> Result<String, Refusal> {
    given.clone().map_or_else(random, Ok)
}

fn identity_reply(peer: &Peer) -> Reply {
    Reply::new(200, entry(peer)).with("ETag", format!("\"{}\"", peer.record.etag()))
}

/// With its keys: that is what REST is asked for.
fn entry(peer: &Peer) -> Value {
    let record = &peer.record;
    let mut entry = json!({
        "deviceId": peer.device,
        "generationId": record.generation,
        "etag": record.etag(),
        "connectionState": peer.connection_state(),
        "connectionStateUpdatedTime": iso(record.connection_changed_ms),
        "lastActivityTime": NEVER,
        "cloudToDeviceMessageCount": peer.waiting_count(),
        "authentication": record.authentication(&peer.keys),
    });
    if let Some(module) = &peer.module {
        entry["moduleId"] = json!(module);
        entry["managedBy"] = json!(record.managed_by);
    } else {
        entry["status"] = json!(record.status());
        entry["statusReason"] = json!(record.status_reason);
        entry["statusUpdatedTime"] = json!(iso(record.status_changed_ms));
        entry["capabilities"] = json!({"iotEdge": record.is_edge});
        entry["deviceScope"] = json!(record.scope);
        entry["parentScopes"] = json!(record.parent_scopes);
    }
    entry
}
