//! What the registry keeps of an identity beside its keys and its twin, and how it reads what a back end writes of them.
//! Must never take over a part of an entry that is wrong elsewhere.

use data_encoding::BASE64;
use serde_json::{Map, Value, json};

use super::reply::Refusal;
use crate::clock;
use crate::peer::random_key;

/// Of a key, decoded.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=64;
const ID_BYTES_MAX: usize = 128;
/// Of what is only kept: a reason, an owner, a thumbprint.
const TEXT_BYTES_MAX: usize = 1024;

#[derive(Clone, Debug)]
pub struct Record {
    /// Another one for an identity of the same name that was made anew.
    pub generation: String,
    /// Of the entry, from 1.
    pub edition: u64,
    pub enabled: bool,
    pub status_reason: Option<String>,
    pub status_changed_ms: u64,
    pub managed_by: Option<String>,
    pub proof: Proof,
    pub is_edge: bool,
    pub scope: Option<String>,
    pub parent_scopes: Vec<String>,
    pub connection_changed_ms: u64,
}

/// How an identity proves who it is; only the first kind is tried here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    Sas,
    Thumbprints { primary: Option<String>, secondary: Option<String> },
    Authority,
    Nothing,
}

/// An entry as it is written; what is `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Written {
    pub enabled: Option<bool>,
    pub status_reason: Option<String>,
    pub managed_by: Option<String>,
    pub proof: Option<Proof>,
    pub keys: [Option<String>; 2],
    pub is_edge: Option<bool>,
    pub scope: Option<String>,
    pub parent_scopes: Option<Vec<String>>,
}

impl Record {
    pub fn new(device: &str, proof: Proof, is_edge: bool) -> Record {
        let now = clock::unix_ms();
        // A test makes two in one millisecond.
        let tail =
            random_key().map_or(0, |key| key.bytes().fold(0u64, |sum, byte| (sum * 31 + u64::from(byte)) % 10_000));
        let generation = (clock::ticks(now) + tail).to_string();
        let scope = is_edge.then(|| scope(device, &generation));
        Record {
            generation,
            edition: 1,
            enabled: true,
            status_reason: None,
            status_changed_ms: 0,
            managed_by: None,
            proof,
            is_edge,
            scope,
            parent_scopes: Vec::new(),
            connection_changed_ms: 0,
        }
    }

    pub fn etag(&self) -> String {
        BASE64.encode(self.edition.to_string().as_bytes())
    }

    pub fn status(&self) -> &'static str {
        if self.enabled { "enabled" } else { "disabled" }
    }

    /// With these keys, if it has any.
    pub fn authentication(&self, keys: &[String; 2]) -> Value {
        let (mut primary, mut secondary) = (Value::Null, Value::Null);
        let mut thumbprints = [&None, &None];
        match &self.proof {
            Proof::Sas => (primary, secondary) = (json!(keys[0]), json!(keys[1])),
            Proof::Thumbprints { primary, secondary } => thumbprints = [primary, secondary],
            Proof::Authority | Proof::Nothing => {}
        }
        json!({
            "type": self.proof.name(),
            "symmetricKey": {"primaryKey": primary, "secondaryKey": secondary},
            "x509Thumbprint": {"primaryThumbprint": thumbprints[0], "secondaryThumbprint": thumbprints[1]},
        })
    }

    pub fn take(&mut self, device: &str, written: &Written) {
        let now = clock::unix_ms();
        self.edition += 1;
        if let Some(enabled) = written.enabled.filter(|enabled| *enabled != self.enabled) {
            (self.enabled, self.status_changed_ms) = (enabled, now);
        }
        let keep = |own: &mut Option<String>, new: &Option<String>| *own = new.clone().or(own.take());
        keep(&mut self.status_reason, &written.status_reason);
        keep(&mut self.managed_by, &written.managed_by);
        keep(&mut self.scope, &written.scope.clone().filter(|_| !self.is_edge));
        self.proof = written.proof.clone().unwrap_or_else(|| self.proof.clone());
        if written.is_edge == Some(true) && !self.is_edge {
            self.scope = Some(scope(device, &self.generation));
        }
        self.is_edge = written.is_edge.unwrap_or(self.is_edge);
        self.parent_scopes = written.parent_scopes.clone().unwrap_or_else(|| std::mem::take(&mut self.parent_scopes));
    }
}

/// What an edge device is the root of.
fn scope(device: &str, generation: &str) -> String {
    format!("ms-azure-iot-edge://{device}-{generation}")
}

impl Proof {
    pub fn name(&self) -> &'static str {
        match self {
            Proof::Sas => "sas",
            Proof::Thumbprints { .. } => "selfSigned",
            Proof::Authority => "certificateAuthority",
            Proof::Nothing => "none",
        }
    }
}

impl Written {
    /// `deviceId` and `moduleId` must be those of the path.
    pub fn parse(body: &[u8], device: &str, module: Option<&str>) -> Result<Written, Refusal> {
        let body = object(body)?;
        for (key, expected) in [("deviceId", Some(device)), ("moduleId", module)] {
            let given = text(&body, key)?;
            if given.is_some() && given.as_deref() != expected {
                return Err(Refusal::argument(format!("{key} is not the path's")));
            }
        }
        let enabled = match text(&body, "status")?.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None => None,
            Some("enabled") => Some(true),
            Some("disabled") => Some(false),
            Some(other) => return Err(Refusal::argument(format!("status: `{other}`"))),
        };
        let is_edge = match body.get("capabilities").and_then(|capabilities| capabilities.get("iotEdge")) {
            None | Some(Value::Null) => None,
            Some(Value::Bool(is_edge)) => Some(*is_edge),
            Some(_) => return Err(Refusal::argument("capabilities.iotEdge is true or false")),
        };
        let scopes = match body.get("parentScopes") {
            None | Some(Value::Null) => None,
            Some(scopes) => serde_json::from_value::<Vec<String>>(scopes.clone())
                .map(Some)
                .map_err(|_| Refusal::argument("parentScopes is a list of texts"))?,
        };
        let (proof, keys) = authentication(&body)?;
        Ok(Written {
            enabled,
            status_reason: text(&body, "statusReason")?,
            managed_by: text(&body, "managedBy")?,
            proof,
            keys,
            is_edge,
            scope: text(&body, "deviceScope")?,
            parent_scopes: scopes.filter(|scopes| scopes.len() <= 1),
        })
    }
}

fn authentication(body: &Map<String, Value>) -> Result<(Option<Proof>, [Option<String>; 2]), Refusal> {
    let given = match body.get("authentication") {
        None | Some(Value::Null) => return Ok((None, [None, None])),
        Some(Value::Object(given)) => given,
        Some(_) => return Err(Refusal::argument("authentication is an object")),
    };
    let empty = Map::new();
    let part = |name: &str| given.get(name).and_then(Value::as_object).unwrap_or(&empty);
    let keys = [key(part("symmetricKey"), "primaryKey")?, key(part("symmetricKey"), "secondaryKey")?];
    let thumbprint = |name: &str| text(part("x509Thumbprint"), name);
    let proof = match text(given, "type")?.as_deref() {
        None | Some("sas") => Proof::Sas,
        Some("selfSigned") => Proof::Thumbprints {
            primary: thumbprint("primaryThumbprint")?,
            secondary: thumbprint("secondaryThumbprint")?,
        },
        Some("certificateAuthority") => Proof::Authority,
        Some("none") => Proof::Nothing,
        Some(other) => return Err(Refusal::argument(format!("authentication.type: `{other}`"))),
    };
    Ok((Some(proof), keys))
}

fn key(symmetric: &Map<String, Value>, name: &str) -> Result<Option<String>, Refusal> {
    // The form's way to say that the hub is to make one.
    let Some(key) = text(symmetric, name)?.filter(|key| !key.is_empty()) else { return Ok(None) };
    let fits = BASE64.decode(key.as_bytes()).is_ok_and(|bytes| KEY_BYTES.contains(&bytes.len()));
    if !fits {
        return Err(Refusal::argument(format!("{name} is no base64 of 16 to 64 bytes")));
    }
    Ok(Some(key))
}

/// A body that has to be an object.
pub fn object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Refusal::argument("the body is no object")),
        Err(error) => Err(Refusal::argument(format!("the body is no JSON: {error}"))),
    }
}

/// Null is absent.
pub fn text(object: &Map<String, Value>, name: &str) -> Result<Option<String>, Refusal> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= TEXT_BYTES_MAX => Ok(Some(text.clone())),
        Some(Value::String(_)) => Err(Refusal::argument(format!("{name} is longer than {TEXT_BYTES_MAX}"))),
        Some(_) => Err(Refusal::argument(format!("{name} is no text"))),
    }
}

/// What the cloud takes for the id of a device or a module.
pub fn check_id(id: &str) -> Result<(), Refusal> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:%#*?!(),=@;$'".contains(&byte);
    if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(fits) {
        return Err(Refusal::argument(format!("`{id}` is no id of at most {ID_BYTES_MAX} characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read() {
        let check = |body: Value, expected: Result<(), &str>| match (
            Written::parse(body.to_string().as_bytes(), "d", Some("m")),
            expected,
        ) {
            (Ok(_), Ok(())) => {}
            (Err(why), Err(part)) => assert!(why.status == 400 && why.message.contains(part), "{why:?}"),
            (came, expected) => panic!("{body}: {came:?}, expected {expected:?}"),
        };
        check(json!({"deviceId": "d", "moduleId": "m", "managedBy": null}), Ok(()));
        check(
            json!({"authentication": {"type": "sas", "symmetricKey": {"primaryKey": "", "secondaryKey": null}}}),
            Ok(()),
        );
        check(json!({"authentication": {"symmetricKey": {"primaryKey": "AAAA"}}}), Err("16 to 64"));
        check(json!({"authentication": {"symmetricKey": {"primaryKey": 5}}}), Err("no text"));
        check(json!({"authentication": {"type": "tpm"}}), Err("tpm"));
        check(json!({"authentication": []}), Err("object"));
        check(json!({"deviceId": "e"}), Err("path"));
        check(json!({"status": "asleep"}), Err("asleep"));
        check(json!({"managedBy": "x".repeat(1025)}), Err("longer"));
        check(json!({"parentScopes": [1]}), Err("parentScopes"));
        check(json!({"capabilities": {"iotEdge": "yes"}}), Err("iotEdge"));
        check(json!([]), Err("object"));
        assert!(Written::parse(b"{", "d", None).is_err_and(|why| why.message.contains("no JSON")));
        assert!(check_id("$edgeHub").is_ok() && check_id("a b").is_err() && check_id(&"x".repeat(129)).is_err());
    }
}
