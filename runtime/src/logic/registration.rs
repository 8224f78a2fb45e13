//! How a module gets its identity in the hub, over the registry's REST interface and under the device's own token (spec iot-hub-wire
//! 9): look, create, put our keys in. The same steps again do no harm. Must never replace a key that is right.

use std::time::Duration;

use serde_json::{Value, json};

use super::percent;
use crate::model::time::Mono;

const API_VERSION: &str = "2021-04-12";
/// First wait after a failure, doubled up to the next.
const RETRY_BASE: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Longest wait that the registry may ask for.
const ASKED_MAX: Duration = Duration::from_secs(600);

/// One request of the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub method: &'static str,
    /// Path and query, escaped.
    pub target: String,
    /// Value of `If-Match`.
    pub if_match: Option<&'static str>,
    pub body: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is more to ask.
    Continue,
    /// The hub knows the module and its key.
    Done { generation_id: String },
    /// Not now, for this reason; try again then.
    Failed { why: String, at: Mono },
    /// The same, since the hub does not accept the device itself.
    Refused { why: String, at: Mono },
    /// Of a check: the hub knows the device, and not this identity, or not our key.
    Revoked { why: String },
}

impl Outcome {
    /// The registry asks to wait so long.
    pub fn asked_to_wait(self, now: Mono, asked: Duration) -> Outcome {
        let until = now.after(asked.min(ASKED_MAX));
        match self {
            Outcome::Failed { why, at } => Outcome::Failed { why, at: at.max(until) },
            Outcome::Refused { why, at } => Outcome::Refused { why, at: at.max(until) },
            other => other,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Look,
    Create,
    Update,
}

/// One module on its way into the registry.
#[derive(Debug)]
pub struct Registration {
    device: String,
    module: String,
    /// Base64, ours.
    primary: String,
    secondary: String,
    phase: Phase,
    is_check: bool,
    failures: u32,
}

impl Registration {
    pub fn new(device: &str, module: &str, primary: String, secondary: String) -> Registration {
        Registration {
            device: device.to_owned(),
            module: module.to_owned(),
            primary,
            secondary,
            phase: Phase::Look,
            is_check: false,
            failures: 0,
        }
    }

    /// Only looks; nothing is made and no key is put in.
    pub fn check(self) -> Registration {
        Registration { is_check: true, ..self }
    }

    pub fn is_check(&self) -> bool {
        self.is_check
    }

    pub fn request(&self) -> Request {
        let target = target(&self.device, &self.module);
        let identity = json!({"deviceId": self.device, "moduleId": self.module});
        match self.phase {
            Phase::Look => Request { method: "GET", target, if_match: None, body: None },
            Phase::Create => Request { method: "PUT", target, if_match: None, body: Some(identity) },
            Phase::Update => {
                let mut body = identity;
                body["authentication"] = json!({
                    "type": "sas",
                    "symmetricKey": {"primaryKey": self.primary, "secondaryKey": self.secondary},
                });
                Request { method: "PUT", target, if_match: Some("*"), body: Some(body) }
            }
        }
    }

    /// The answer to `request`.
    pub fn handle_answer(&mut self, now: Mono, status: u16, body: &[u8]) -> Outcome {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        match (self.phase, status) {
            (Phase::Look, 200) if self.has_our_keys(&answer) => self.done(&answer),
            (Phase::Look, 200) if self.is_check => {
                Outcome::Revoked { why: "it has another key in the hub now".to_owned() }
            }
            (Phase::Look, 404) if self.is_check => Outcome::Revoked { why: "it was removed in the hub".to_owned() },
            (Phase::Look, 200) | (Phase::Create, 200 | 201 | 409) => {
                self.phase = Phase::Update;
                Outcome::Continue
            }
            (Phase::Look, 404) => {
                self.phase = Phase::Create;
                Outcome::Continue
            }
            (Phase::Update, 200 | 201) => self.done(&answer),
            // Somebody removed it in between.
            (Phase::Update, 404) => self.failed(now, "it was removed while it was made".to_owned()),
            (_, 401 | 403) => {
                let why = format!(
                    "the hub refuses this device ({status}); check the device's connection string, then the clock"
                );
                Outcome::Refused { why, at: self.later(now) }
            }
            (Phase::Create, 400 | 413) if is_full(&answer) => self.failed(
                now,
                "the device has as many module identities as the hub allows; remove some there".to_owned(),
            ),
            (_, status) => {
                let said = message(&answer).map_or(String::new(), |said| format!(": {said}"));
                self.failed(now, format!("the registry answered {status}{said}"))
            }
        }
    }

    /// The registry could not be asked.
    pub fn handle_unreachable(&mut self, now: Mono, why: String) -> Outcome {
        self.failed(now, why)
    }

    fn done(&self, answer: &Value) -> Outcome {
        let generation = answer["generationId"].as_str().unwrap_or_default();
        Outcome::Done { generation_id: generation.to_owned() }
    }

    fn failed(&mut self, now: Mono, why: String) -> Outcome {
        Outcome::Failed { why, at: self.later(now) }
    }

    /// When to begin anew.
    fn later(&mut self, now: Mono) -> Mono {
        self.phase = Phase::Look;
        let wait = RETRY_BASE.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
        self.failures += 1;
        now.after(wait)
    }

    fn has_our_keys(&self, answer: &Value) -> bool {
        answer.pointer("/authentication/symmetricKey/primaryKey").and_then(Value::as_str) == Some(&self.primary)
    }
}

/// Path and query of one module's identity.
pub fn target(device: &str, module: &str) -> String {
    let mut target = "/devices/".to_owned();
    percent::encode(&mut target, device);
    target.push_str("/modules/");
    percent::encode(&mut target, module);
    target.push_str("?api-version=");
    target.push_str(API_VERSION);
    target
}

/// Path and query of all identities that the device has there.
pub fn target_of_all(device: &str) -> String {
    let mut target = "/devices/".to_owned();
    percent::encode(&mut target, device);
    target.push_str("/modules?api-version=");
    target.push_str(API_VERSION);
    target
}

/// An identity as the registry lists it, without its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub module: String,
    pub generation_id: String,
    pub is_connected: bool,
}

/// The answer to a GET of [`target_of_all`]; `None` for anything else.
pub fn listed(body: &[u8]) -> Option<Vec<Listed>> {
    let all: Vec<Value> = serde_json::from_slice(body).ok()?;
    let one = |entry: Value| {
        Some(Listed {
            module: entry["moduleId"].as_str().filter(|id| !id.is_empty())?.to_owned(),
            generation_id: entry["generationId"].as_str().unwrap_or_default().to_owned(),
            is_connected: entry["connectionState"] == "Connected",
        })
    };
    all.into_iter().map(one).collect()
}

pub fn message(answer: &Value) -> Option<String> {
    let found = ["Message", "message", "errorMessage"].into_iter().find_map(|key| answer[key].as_str())?;
    Some(found.chars().take(200).collect())
}

fn is_full(answer: &Value) -> bool {
    let words = ["TooManyModulesOnDevice", "MaximumModulesOnDeviceExceeded"];
    message(answer).is_some_and(|said| words.iter().any(|word| said.contains(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Registration {
        Registration::new("d 1", "m", "UFJJTQ==".into(), "U0VD".into())
    }

    #[test]
    fn a_new_module_is_created_and_given_our_keys() {
        let mut registration = start();
        assert_eq!(registration.request().method, "GET");
        assert_eq!(registration.request().target, "/devices/d%201/modules/m?api-version=2021-04-12");
        assert_eq!(registration.handle_answer(Mono(0), 404, b""), Outcome::Continue);
        let create = registration.request();
        assert_eq!((create.method, create.if_match), ("PUT", None));
        assert_eq!(create.body.unwrap(), json!({"deviceId": "d 1", "moduleId": "m"}));
        assert_eq!(registration.handle_answer(Mono(0), 200, b"{\"generationId\":\"7\"}"), Outcome::Continue);
        let update = registration.request();
        assert_eq!((update.method, update.if_match), ("PUT", Some("*")));
        assert_eq!(update.body.unwrap()["authentication"]["symmetricKey"]["primaryKey"], "UFJJTQ==");
        let done = registration.handle_answer(Mono(0), 200, b"{\"generationId\":\"7\"}");
        assert_eq!(done, Outcome::Done { generation_id: "7".into() });
    }

    #[test]
    fn one_that_is_there_is_taken_over_or_left_alone() {
        let mut registration = start();
        let ours = br#"{"generationId":"7","authentication":{"symmetricKey":{"primaryKey":"UFJJTQ=="}}}"#;
        assert_eq!(registration.handle_answer(Mono(0), 200, ours), Outcome::Done { generation_id: "7".into() });
        let mut registration = start();
        assert_eq!(registration.handle_answer(Mono(0), 200, b"{}"), Outcome::Continue);
        assert_eq!(registration.request().if_match, Some("*"));
        // Somebody was faster.
        let mut registration = start();
        registration.handle_answer(Mono(0), 404, b"");
        assert_eq!(registration.handle_answer(Mono(0), 409, b""), Outcome::Continue);
        assert_eq!(registration.request().if_match, Some("*"));
    }

    #[test]
    fn a_list_is_read_without_its_keys() {
        assert_eq!(target_of_all("d 1"), "/devices/d%201/modules?api-version=2021-04-12");
        let body = br#"[{"moduleId":"m","generationId":"7","connectionState":"Connected",
            "authentication":{"symmetricKey":{"primaryKey":"UFJJTQ=="}}},{"moduleId":"n"}]"#;
        let found = listed(body).unwrap();
        assert!(!format!("{found:?}").contains("UFJJTQ"));
        assert_eq!(found[0], Listed { module: "m".into(), generation_id: "7".into(), is_connected: true });
        assert_eq!(found[1], Listed { module: "n".into(), generation_id: String::new(), is_connected: false });
        for wrong in [&b""[..], b"{}", b"[1]", br#"[{"moduleId":""}]"#, br#"[{"deviceId":"d"}]"#] {
            assert_eq!(listed(wrong), None);
        }
    }

    #[test]
    fn a_check_changes_nothing() {
        let ours = br#"{"generationId":"7","authentication":{"symmetricKey":{"primaryKey":"UFJJTQ=="}}}"#;
        let mut check = start().check();
        assert_eq!(check.handle_answer(Mono(0), 200, ours), Outcome::Done { generation_id: "7".into() });
        let revoked = |status| start().check().handle_answer(Mono(0), status, b"{}");
        assert!(matches!(revoked(200), Outcome::Revoked { why } if why.contains("another key")));
        assert!(matches!(revoked(404), Outcome::Revoked { why } if why.contains("removed")));
        assert!(matches!(revoked(401), Outcome::Refused { .. }));
        assert!(matches!(revoked(503), Outcome::Failed { .. }));
    }

    #[test]
    fn failures_wait_longer_each_time_and_begin_anew() {
        let mut registration = start();
        let mut last = 0;
        for (status, part) in
            [(401, "connection string"), (500, "answered 500"), (429, "answered 429"), (400, "answered 400")]
        {
            registration.phase = Phase::Create;
            let (Outcome::Failed { why, at } | Outcome::Refused { why, at }) =
                registration.handle_answer(Mono(0), status, b"rubbish")
            else {
                panic!()
            };
            assert!(why.contains(part), "{why}");
            assert!(at.0 > last);
            last = at.0;
            assert_eq!(registration.request().method, "GET");
        }
        let full = br#"{"Message":"ErrorCode:TooManyModulesOnDevice;at most 50"}"#;
        registration.phase = Phase::Create;
        let Outcome::Failed { why, .. } = registration.handle_answer(Mono(0), 413, full) else { panic!() };
        assert!(why.contains("remove some there"), "{why}");
        let asked = |seconds| {
            let answer = start().handle_answer(Mono(0), 429, b"").asked_to_wait(Mono(0), Duration::from_secs(seconds));
            if let Outcome::Failed { at, .. } = answer { at } else { panic!() }
        };
        assert_eq!((asked(1), asked(30), asked(u64::MAX)), (Mono(2_000), Mono(30_000), Mono(600_000)));
        for _ in 0..40 {
            registration.handle_unreachable(Mono(0), "no".into());
        }
        assert_eq!(
            registration.handle_unreachable(Mono(0), "no".into()),
            Outcome::Failed { why: "no".into(), at: Mono(300_000) }
        );
    }
}
