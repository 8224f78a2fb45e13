//! Twins as back ends see and change them, and deployments, which are several of those changes at once. Must never tell a
//! client of a change that was not taken over.

use data_encoding::BASE64;
use serde_json::{Map, Value, json};

use super::identities::{Match, split};
use super::record::{Proof, check_id, object};
use super::reply::{Outcome, Refusal, Reply};
use crate::clock::{NEVER, iso, unix_ms};
use crate::event::What;
use crate::peer::{Outgoing, Peer, random_key};
use crate::topic::{self, Channel};
use crate::twin::Change;
use crate::world::{Order, World};

/// Modules of one deployment.
const CONTENT_MAX: usize = super::identities::MODULES_MAX;
/// The key of a module in a deployment.
const DESIRED: &str = "properties.desired";

impl World {
    pub fn read_twin(&mut self, identity: &str) -> Outcome {
        let status = self.device_status(identity);
        Ok(twin_reply(self.registered(identity)?, status))
    }

    /// A patch, or the whole.
    pub fn write_twin(&mut self, identity: &str, body: &[u8], wanted: Option<Match>, replaces: bool) -> Outcome {
        let peer = self.registered(identity)?;
        if let Some(wanted) = wanted {
            wanted.check(&etag(peer))?;
        }
        let mut body = object(body)?;
        let desired = match body.remove("properties") {
            None | Some(Value::Null) => None,
            Some(Value::Object(mut properties)) => properties.remove("desired").filter(|desired| !desired.is_null()),
            Some(_) => return Err(Refusal::argument("properties is an object")),
        };
        let tags = body.remove("tags").filter(|tags| !tags.is_null());
        // The whole is there also where it is empty.
        let whole = |part: Option<Value>| part.or_else(|| replaces.then(|| json!({})));
        let (tags, desired) = (whole(tags), whole(desired.map(without_marks)));
        let said =
            What::TwinPatched { identity: identity.to_owned(), tags: tags.clone(), desired: desired.clone(), replaces };
        self.change_twin(identity, Change { desired, tags, replaces }).map_err(Refusal::argument)?;
        self.say(said);
        self.read_twin(identity)
    }

    /// The version of the desired properties.
    pub fn change_twin(&mut self, identity: &str, change: Change) -> Result<u64, String> {
        let peer = self.peer(identity)?;
        let subscribed = peer.subscriptions.contains_key(&Channel::Desired);
        let Some(desired) = peer.twin.change(change, &iso(unix_ms()))? else { return Ok(0) };
        let body = desired.body.to_string().into_bytes();
        let outgoing = Outgoing { topic: topic::desired(desired.version), body, channel: Channel::Desired };
        let notified = subscribed && self.order(identity, Order::Send(outgoing));
        let (identity, patch, version) = (identity.to_owned(), desired.patch, desired.version);
        self.say(What::Desired { identity, patch, version, notified });
        Ok(version)
    }

    /// A deployment for one device: for each module that it names, the whole of its desired properties.
    pub fn configure(&mut self, device: &str, body: &[u8]) -> Outcome {
        self.registered(device)?;
        let modules = contents(&object(body)?)?;
        let known = |module: &str| self.peers.contains_key(&format!("{device}/{module}"));
        let new: Vec<String> = modules.keys().filter(|module| !known(module)).cloned().collect();
        if self.modules_of(device).count() + new.len() > CONTENT_MAX {
            return Err(Refusal::new(413, "TooManyModulesOnDevice", format!("a device has at most {CONTENT_MAX}")));
        }
        // All of it is tried before any of it is done.
        for (module, desired) in &modules {
            let twin = self.peers.get(&format!("{device}/{module}")).map(|peer| peer.twin.clone());
            let mut twin = twin.unwrap_or_else(|| crate::twin::Twin::new(NEVER));
            let tried = twin.change(whole(desired), NEVER);
            tried.map_err(|why| Refusal::argument(format!("{module}: {why}")))?;
        }
        for module in &new {
            let random = || random_key().map_err(|message| Refusal::new(500, "ServerError", message));
            let mut peer = Peer::new(device, Some(module), [random()?, random()?]);
            // The device gives it keys, when it comes to make it.
            peer.record.proof = Proof::Nothing;
            peer.record.managed_by = Some("IotEdge".to_owned());
            self.add(peer, "deployment")?;
        }
        for (module, desired) in &modules {
            self.change_twin(&format!("{device}/{module}"), whole(desired)).map_err(Refusal::argument)?;
        }
        let modules = modules.into_iter().map(|(module, _)| module).collect();
        self.say(What::Configured { device: device.to_owned(), modules });
        Ok(Reply::empty(204))
    }

    /// Modules have none of their own; theirs is that of their device.
    fn device_status(&self, identity: &str) -> &'static str {
        self.peers.get(split(identity).0).map_or("disabled", |device| device.record.status())
    }

    /// As a query returns it.
    pub fn twin_view(&self, peer: &Peer) -> Value {
        twin(peer, self.device_status(&peer.device))
    }
}

fn whole(desired: &Value) -> Change {
    Change { desired: Some(desired.clone()), tags: None, replaces: true }
}

/// Module to its desired properties. Only deployments in layers have paths below them.
fn contents(body: &Map<String, Value>) -> Result<Map<String, Value>, Refusal> {
    let modules = body.get("modulesContent").and_then(Value::as_object);
    let modules = modules.ok_or_else(|| Refusal::argument("modulesContent is missing, or no object"))?;
    let mut found = Map::new();
    for (module, content) in modules {
        check_id(module)?;
        let content = content.as_object().ok_or_else(|| Refusal::argument(format!("{module} is no object")))?;
        if let Some(other) = content.keys().find(|key| *key != DESIRED) {
            return Err(Refusal::argument(format!("{module}: `{other}` is not `{DESIRED}`")));
        }
        if let Some(desired) = content.get(DESIRED) {
            found.insert(module.clone(), desired.clone());
        }
    }
    Ok(found)
}

/// A twin that was read and is written back has them.
fn without_marks(mut desired: Value) -> Value {
    if let Value::Object(desired) = &mut desired {
        desired.remove("$metadata");
        desired.remove("$version");
    }
    desired
}

fn etag(peer: &Peer) -> String {
    BASE64.encode(&peer.twin.edition().to_be_bytes())
}

fn twin_reply(peer: &Peer, status: &str) -> Reply {
    Reply::new(200, twin(peer, status)).with("ETag", format!("\"{}\"", etag(peer)))
}

fn twin(peer: &Peer, status: &str) -> Value {
    let record = &peer.record;
    let mut twin = json!({
        "deviceId": peer.device,
        "etag": etag(peer),
        "deviceEtag": record.etag(),
        "status": status,
        "statusUpdateTime": iso(record.status_changed_ms),
        "connectionState": peer.connection_state(),
        "lastActivityTime": NEVER,
        "cloudToDeviceMessageCount": peer.waiting_count(),
        "authenticationType": record.proof.name(),
        "x509Thumbprint": {"primaryThumbprint": null, "secondaryThumbprint": null},
        "modelId": "",
        "version": peer.twin.edition(),
        "tags": peer.twin.tags(),
        "properties": peer.twin.properties(),
    });
    if let Some(module) = &peer.module {
        twin["moduleId"] = json!(module);
    } else {
        twin["capabilities"] = json!({"iotEdge": record.is_edge});
        twin["deviceScope"] = json!(record.scope);
        twin["parentScopes"] = json!(record.parent_scopes);
    }
    twin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_are_read() {
        let check = |body: Value, expected: Result<Value, &str>| match (body.as_object().map(contents), expected) {
            (Some(Ok(came)), Ok(expected)) => assert_eq!(Value::Object(came), expected),
            (Some(Err(why)), Err(part)) => assert!(why.message.contains(part), "{why:?}"),
            (came, expected) => panic!("{came:?}, expected {expected:?}"),
        };
        check(json!({"modulesContent": {"$edgeHub": {DESIRED: {"a": 1}}, "b": {}}}), Ok(json!({"$edgeHub": {"a": 1}})));
        check(json!({"modulesContent": {"b": {"properties.desired.modules.m": {}}}}), Err("is not"));
        check(json!({"modulesContent": {"b": 1}}), Err("no object"));
        check(json!({"modulesContent": {"b c": {}}}), Err("no id"));
        check(json!({}), Err("modulesContent"));
    }
}
