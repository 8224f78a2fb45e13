//! The provisioning side: who is enrolled, and what becomes of a registration, the same over MQTT and HTTPS. Must never
//! make a device for a registration whose key was not proved.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use crate::clock::{iso, unix_ms};
use crate::command::DpsOutcome;
use crate::event::What;
use crate::peer::{Peer, random_key};
use crate::registry::{Proof, Reply, Resource, check_id, parameter, provisioning_error};
use crate::sas::{Token, derive_key};
use crate::topic::{decode, encode};
use crate::upgrade::Request;
use crate::world::World;

/// What every client asks.
pub const HOST: &str = "global.azure-devices-provisioning.net";
/// Also of registrations that came to something.
const ENROLMENTS_MAX: usize = 1_000;
/// The oldest go.
const OPERATIONS_MAX: usize = 1_000;
/// Less than the cloud's 3, so that tests do not wait.
const RETRY_AFTER_S: u32 = 1;

pub struct Dps {
    pub scope: String,
    pub group_key: String,
    /// By registration id in lower case: the cloud does not tell cases apart.
    enrolments: BTreeMap<String, Enrolment>,
    /// With the registration that each is of.
    operations: VecDeque<(String, String)>,
    next_operation: u64,
}

#[derive(Clone, Debug)]
struct Enrolment {
    key: String,
    device: String,
    first_assigned_ms: u64,
}

/// An answer, before it is MQTT's or HTTP's.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    pub body: Value,
    pub retry_after_s: Option<u32>,
}

/// What a client asks over MQTT.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    Register { rid: String },
    Operation { rid: String, operation: String },
}

impl Dps {
    pub fn new(scope: &str, group_key: String) -> Dps {
        let (enrolments, operations) = (BTreeMap::new(), VecDeque::new());
        Dps { scope: scope.to_owned(), group_key, enrolments, operations, next_operation: 1 }
    }

    /// A registration of its own; its key.
    pub fn enrol(&mut self, registration: &str, device: Option<String>, key: Option<String>) -> Result<String, String> {
        check_id(registration).map_err(|why| why.message)?;
        let device = device.unwrap_or_else(|| registration.to_owned());
        check_id(&device).map_err(|why| why.message)?;
        let key = key.map_or_else(random_key, Ok)?;
        self.keep(registration, Enrolment { key: key.clone(), device, first_assigned_ms: 0 })?;
        Ok(key)
    }

    fn keep(&mut self, registration: &str, enrolment: Enrolment) -> Result<(), String> {
        let id = registration.to_ascii_lowercase();
        if self.enrolments.len() == ENROLMENTS_MAX && !self.enrolments.contains_key(&id) {
            return Err(format!("there are {ENROLMENTS_MAX} enrolments already"));
        }
        self.enrolments.insert(id, enrolment);
        Ok(())
    }

    /// Its own one, or what the group would give it: the key is proved before anything comes of it.
    fn enrolment(&self, registration: &str) -> Option<Enrolment> {
        self.enrolments.get(&registration.to_ascii_lowercase()).cloned().or_else(|| {
            let key = derive_key(&self.group_key, registration)?;
            Some(Enrolment { key, device: registration.to_owned(), first_assigned_ms: 0 })
        })
    }

    fn begin(&mut self, registration: &str) -> String {
        let operation = format!("5.skerry.{}", self.next_operation);
        self.next_operation += 1;
        if self.operations.len() == OPERATIONS_MAX {
            self.operations.pop_front();
        }
        self.operations.push_back((operation.clone(), registration.to_owned()));
        operation
    }
}

impl World {
    pub fn check_registrant(&self, scope: &str, registration: &str, token: &str) -> Result<(), String> {
        check_id(registration).map_err(|why| why.message)?;
        if scope != self.dps.scope {
            return Err(format!("there is no id scope `{scope}`"));
        }
        let token = Token::parse(token)?;
        if !token.is_for(&format!("{scope}/registrations/{registration}")) {
            return Err(format!("the token is for `{}`", token.resource));
        }
        let enrolment = self.dps.enrolment(registration).ok_or("the group's key is none")?;
        if !token.is_signed_by(&enrolment.key) {
            return Err(format!("neither an enrolment `{registration}` nor the group has the key of the token"));
        }
        if self.clock_ms() / 1000 >= token.expiry.saturating_add(self.grace_s) {
            return Err("the token has expired".to_owned());
        }
        Ok(())
    }

    /// Of one who is proved.
    pub fn register(&mut self, registration: &str, body: &[u8]) -> Told {
        if let Some(told) = self.dps_fault() {
            return told;
        }
        let given = serde_json::from_slice::<Value>(body).unwrap_or_default();
        let id = given["registrationId"].as_str().unwrap_or_default();
        if !id.eq_ignore_ascii_case(registration) {
            return Told::error(400, 400_004, "the body's registrationId is not the one that asks");
        }
        let operation = self.dps.begin(registration);
        self.say_registration(registration, "assigning", None, None);
        let body = json!({"operationId": operation, "status": "assigning"});
        Told { status: 202, body, retry_after_s: Some(RETRY_AFTER_S) }
    }

    pub fn registration_status(&mut self, registration: &str, operation: &str) -> Told {
        if let Some(told) = self.dps_fault() {
            return told;
        }
        let own = (operation.to_owned(), registration.to_owned());
        if !self.dps.operations.contains(&own) {
            return Told::error(404, 404_202, "there is no such operation");
        }
        let status = match self.faults.dps_outcome {
            None => return self.assign(registration, operation),
            Some(DpsOutcome::Assigning) => {
                let body = json!({"operationId": operation, "status": "assigning"});
                return Told { status: 202, body, retry_after_s: Some(RETRY_AFTER_S) };
            }
            Some(DpsOutcome::Failed) => "failed",
            Some(DpsOutcome::Disabled) => "disabled",
            Some(DpsOutcome::Unassigned) => "unassigned",
        };
        self.say_registration(registration, status, None, None);
        let now = iso(unix_ms());
        let mut state = json!({
            "registrationId": registration,
            "status": status,
            "createdDateTimeUtc": now,
            "lastUpdatedDateTimeUtc": now,
        });
        if status == "failed" {
            state["errorCode"] = json!(400_209);
            state["errorMessage"] = json!("by command");
        }
        Told::done(json!({"operationId": operation, "status": status, "registrationState": state}))
    }

    fn assign(&mut self, registration: &str, operation: &str) -> Told {
        let Some(mut enrolment) = self.dps.enrolment(registration) else {
            return Told::error(401, 401_002, "Unauthorized");
        };
        let now = unix_ms();
        let first = enrolment.first_assigned_ms == 0;
        if first {
            enrolment.first_assigned_ms = now;
        }
        let made = self.dps.keep(registration, enrolment.clone()).and_then(|()| self.make_device(&enrolment));
        if let Err(message) = made {
            return Told::error(500, 500_000, &message);
        }
        let device = enrolment.device;
        self.say_registration(registration, "assigned", Some(device.clone()), None);
        let state = json!({
            "registrationId": registration,
            "createdDateTimeUtc": iso(enrolment.first_assigned_ms),
            "assignedHub": self.host,
            "deviceId": device,
            "status": "assigned",
            "substatus": if first { "initialAssignment" } else { "deviceDataMigrated" },
            "lastUpdatedDateTimeUtc": iso(now),
            "etag": "IjAxMDAwMDAwIg==",
        });
        Told::done(json!({"operationId": operation, "status": "assigned", "registrationState": state}))
    }

    /// The hub then knows it by the key that it registered with; a twin that is there stays.
    fn make_device(&mut self, enrolment: &Enrolment) -> Result<(), String> {
        if let Some(peer) = self.peers.get_mut(&enrolment.device) {
            peer.keys[0].clone_from(&enrolment.key);
            peer.record.proof = Proof::Sas;
            return Ok(());
        }
        let peer = Peer::new(&enrolment.device, None, [enrolment.key.clone(), random_key()?]);
        self.add(peer, "dps").map_err(|why| why.message)
    }

    /// Over HTTPS.
    pub fn ask_provisioning(&mut self, request: &Request, resource: &Resource, body: &[u8]) -> Reply {
        let (Resource::Register { scope, registration } | Resource::Operation { scope, registration, .. }) = resource
        else {
            return Told::error(404, 404_000, "nothing is here").into_reply();
        };
        let token = request.header("authorization").unwrap_or_default();
        if let Err(reason) = self.check_registrant(scope, registration, token) {
            self.say_registration(registration, "refused", None, Some(reason));
            return Told::error(401, 401_002, "Unauthorized").into_reply();
        }
        if parameter(&request.target, "api-version").is_none() {
            return Told::error(400, 400_001, "api-version is missing").into_reply();
        }
        match (request.method.as_str(), resource) {
            ("PUT", Resource::Register { .. }) => self.register(registration, body),
            ("GET", Resource::Operation { operation, .. }) => self.registration_status(registration, operation),
            _ => Told::error(405, 405_000, "this method does not go here"),
        }
        .into_reply()
    }

    fn dps_fault(&mut self) -> Option<Told> {
        let (status, retry_after_s) = self.faults.takes_dps()?;
        let number = u32::from(status) * 1000;
        Some(Told { retry_after_s, ..Told::error(status, number, "by command") })
    }

    fn say_registration(&self, registration: &str, status: &str, device: Option<String>, reason: Option<String>) {
        let (registration, status) = (registration.to_owned(), status.to_owned());
        self.say(What::Registration { registration, status, device, reason });
    }
}

impl Told {
    fn done(body: Value) -> Told {
        Told { status: 200, body, retry_after_s: None }
    }

    fn error(status: u16, number: u32, message: &str) -> Told {
        Told { status, body: provisioning_error(number, message), retry_after_s: None }
    }

    fn into_reply(self) -> Reply {
        let reply = Reply::new(self.status, self.body);
        self.retry_after_s.into_iter().fold(reply, |reply, seconds| reply.with("Retry-After", seconds.to_string()))
    }

    /// Where the answer is published.
    pub fn topic(&self, rid: &str) -> String {
        let retry = self.retry_after_s.map_or_else(String::new, |seconds| format!("&retry-after={seconds}"));
        format!("$dps/registrations/res/{}/?$rid={rid}{retry}", self.status)
    }
}

impl Asked {
    /// `None` for a topic that is none of these.
    pub fn parse(topic: &str) -> Option<Asked> {
        let rest = topic.strip_prefix("$dps/registrations/")?;
        let (what, query) = rest.split_once("/?")?;
        let part = |name: &str| {
            let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
            decode(value)
        };
        let rid = encode(&part("$rid")?);
        match what {
            "PUT/iotdps-register" => Some(Asked::Register { rid }),
            "GET/iotdps-get-operationstatus" => Some(Asked::Operation { rid, operation: part("operationId")? }),
            _ => None,
        }
    }
}

/// Scope and registration: `{scope}/registrations/{id}/[?]api-version=…`.
pub fn user(name: &str) -> Option<(&str, &str)> {
    let (path, query) = name.rsplit_once('/')?;
    let query = query.strip_prefix('?').unwrap_or(query);
    let (scope, registration) = path.split_once("/registrations/")?;
    let fits = query.starts_with("api-version=") && !scope.contains('/') && !registration.contains('/');
    fits.then_some((scope, registration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_user_names_are_read() {
        let register = "$dps/registrations/PUT/iotdps-register/?$rid=a-1";
        assert_eq!(Asked::parse(register), Some(Asked::Register { rid: "a-1".to_owned() }));
        let poll = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId=5.x%2F1";
        let expected = Asked::Operation { rid: "2".to_owned(), operation: "5.x/1".to_owned() };
        assert_eq!(Asked::parse(poll), Some(expected));
        for wrong in ["$dps/registrations/PUT/iotdps-register/", "$dps/registrations/x/?$rid=1", "$dps/?$rid=1", ""] {
            assert_eq!(Asked::parse(wrong), None, "{wrong}");
        }
        assert_eq!(user("0ne1/registrations/r/api-version=2019-03-31&ClientVersion=x"), Some(("0ne1", "r")));
        for wrong in ["hub/d/?api-version=1", "0ne1/registrations/r/x", "a/b/registrations/r/api-version=1", ""] {
            assert_eq!(user(wrong), None, "{wrong}");
        }
    }
}
