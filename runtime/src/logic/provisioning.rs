//! How a device learns from the provisioning service which hub is its own, over HTTPS (spec iot-hub-wire 11): register, then ask after
//! the operation until it is over. Must never take a hub that was not assigned, and never ask faster than the service allows.

use std::time::Duration;

use serde_json::{Value, json};

use super::percent;
use super::registration::{Request, message};
use crate::model::time::Mono;

const API_VERSION: &str = "2021-06-01";
/// Between two questions, where the service says nothing else.
const POLL: Duration = Duration::from_secs(3);
/// Longest wait that the service may ask for.
const ASKED_MAX: Duration = Duration::from_secs(600);
/// Questions after one operation; then it counts as failed.
const POLLS_MAX: u32 = 60;
/// First wait after a failure, doubled up to the next.
const RETRY_BASE: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Where the device belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub hub: String,
    pub device: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask `request` then, not before.
    Ask {
        at: Mono,
    },
    Assigned(Assignment),
    /// Not now, for this reason; everything begins anew then.
    Failed {
        why: String,
        at: Mono,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Register,
    Poll { operation: String, polls: u32 },
}

/// One device on its way to its hub.
#[derive(Debug)]
pub struct Provisioning {
    scope: String,
    registration: String,
    phase: Phase,
    failures: u32,
}

impl Provisioning {
    pub fn new(scope: &str, registration: &str) -> Provisioning {
        let (scope, registration) = (scope.to_owned(), registration.to_owned());
        Provisioning { scope, registration, phase: Phase::Register, failures: 0 }
    }

    /// What the token is for.
    pub fn resource_uri(&self) -> String {
        format!("{}/registrations/{}", self.scope, self.registration)
    }

    pub fn request(&self) -> Request {
        let mut target = "/".to_owned();
        percent::encode(&mut target, &self.scope);
        target.push_str("/registrations/");
        percent::encode(&mut target, &self.registration);
        let (method, body) = match &self.phase {
            Phase::Register => {
                target.push_str("/register");
                ("PUT", Some(json!({"registrationId": self.registration})))
            }
            Phase::Poll { operation, .. } => {
                target.push_str("/operations/");
                percent::encode(&mut target, operation);
                ("GET", None)
            }
        };
        target.push_str("?api-version=");
        target.push_str(API_VERSION);
        Request { method, target, if_match: None, body }
    }

    /// The answer to `request`. `retry_after`: how long the service asks to wait.
    pub fn handle_answer(&mut self, now: Mono, status: u16, retry_after: Option<Duration>, body: &[u8]) -> Step {
        let wait = retry_after.unwrap_or(POLL).min(ASKED_MAX);
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        match status {
            200..=299 => self.told(now, wait, &answer),
            429 | 500.. => self.failed(now, format!("the provisioning service is busy ({status})"), retry_after),
            401 | 403 => {
                let why = format!(
                    "the provisioning service refuses the registration {:?} ({status}): it is not enrolled in id_scope {:?}, or its key is wrong \
                     (symmetric_key is the device's own, group_key the group's), or this device's clock is",
                    self.registration, self.scope
                );
                self.failed(now, why, None)
            }
            // An operation that is forgotten, or a scope that never was.
            404 if matches!(self.phase, Phase::Poll { .. }) => {
                self.failed(now, "the provisioning service does not know its own operation any more".to_owned(), None)
            }
            404 => {
                self.failed(now, format!("the provisioning service knows no id_scope {:?}; check it", self.scope), None)
            }
            status => {
                let said = message(&answer).map_or(String::new(), |said| format!(": {said}"));
                self.failed(now, format!("the provisioning service answered {status}{said}"), None)
            }
        }
    }

    fn told(&mut self, now: Mono, wait: Duration, answer: &Value) -> Step {
        let state = &answer["registrationState"];
        let text =
            |value: &Value| value.as_str().filter(|text| !text.is_empty() && text.len() <= 256).map(str::to_owned);
        match answer["status"].as_str() {
            Some("assigned") => match (text(&state["assignedHub"]), text(&state["deviceId"])) {
                (Some(hub), Some(device)) => {
                    (self.phase, self.failures) = (Phase::Register, 0);
                    Step::Assigned(Assignment { hub, device })
                }
                _ => self.failed(now, "the provisioning service assigned no hub or no device id".to_owned(), None),
            },
            Some("assigning") => {
                let polls = if let Phase::Poll { polls, .. } = self.phase { polls + 1 } else { 0 };
                match text(&answer["operationId"]) {
                    Some(_) if polls >= POLLS_MAX => {
                        let why = "the provisioning service has been assigning for too long; look at the enrolment's allocation";
                        self.failed(now, why.to_owned(), None)
                    }
                    Some(operation) => {
                        self.phase = Phase::Poll { operation, polls };
                        Step::Ask { at: now.after(wait) }
                    }
                    None => self.failed(now, "the provisioning service named no operation".to_owned(), None),
                }
            }
            Some("disabled") => {
                self.failed(now, format!("the enrolment of {:?} is disabled; enable it there", self.registration), None)
            }
            Some("failed") => {
                let said = ["errorMessage", "errorCode"].into_iter().find_map(|key| match &state[key] {
                    Value::String(said) => Some(said.chars().take(200).collect()),
                    Value::Number(code) => Some(code.to_string()),
                    _ => None,
                });
                let said: String = said.unwrap_or_else(|| "no reason".to_owned());
                self.failed(now, format!("the provisioning service could not assign a hub: {said}"), None)
            }
            Some(status) => {
                let status: String = status.chars().take(40).collect();
                self.failed(now, format!("the registration is {status:?}; look at the enrolment"), None)
            }
            None => self.failed(now, "the provisioning service answered nothing that can be read".to_owned(), None),
        }
    }

    /// The service could not be asked.
    pub fn handle_unreachable(&mut self, now: Mono, why: String) -> Step {
        self.failed(now, why, None)
    }

    fn failed(&mut self, now: Mono, why: String, retry_after: Option<Duration>) -> Step {
        self.phase = Phase::Register;
        let wait = RETRY_BASE.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
        self.failures += 1;
        Step::Failed { why, at: now.after(wait.max(retry_after.unwrap_or_default().min(ASKED_MAX))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Provisioning {
        Provisioning::new("0ne1", "dev 1")
    }

    #[test]
    fn a_device_comes_to_its_hub() {
        let mut dps = start();
        assert_eq!(dps.resource_uri(), "0ne1/registrations/dev 1");
        let asked = dps.request();
        assert_eq!(
            (asked.method, asked.target.as_str()),
            ("PUT", "/0ne1/registrations/dev%201/register?api-version=2021-06-01")
        );
        assert_eq!(asked.body, Some(json!({"registrationId": "dev 1"})));
        let assigning = br#"{"operationId":"5.a/b","status":"assigning"}"#;
        let step = dps.handle_answer(Mono(0), 202, Some(Duration::from_secs(1)), assigning);
        assert_eq!(step, Step::Ask { at: Mono(1_000) });
        let asked = dps.request();
        assert_eq!(
            (asked.method, asked.target.as_str()),
            ("GET", "/0ne1/registrations/dev%201/operations/5.a%2Fb?api-version=2021-06-01")
        );
        assert_eq!(dps.handle_answer(Mono(1_000), 200, None, assigning), Step::Ask { at: Mono(4_000) });
        let done = br#"{"status":"assigned","registrationState":{"assignedHub":"h.example","deviceId":"D1"}}"#;
        let assigned = Assignment { hub: "h.example".into(), device: "D1".into() };
        assert_eq!(dps.handle_answer(Mono(4_000), 200, None, done), Step::Assigned(assigned));
        assert_eq!(dps.request().method, "PUT");
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let cases = [
            (401, "{}", "not enrolled in id_scope \"0ne1\""),
            (404, "{}", "no id_scope"),
            (429, "{}", "busy (429)"),
            (503, "rubbish", "busy (503)"),
            (400, r#"{"message":"bad thing"}"#, "answered 400: bad thing"),
            (200, "rubbish", "nothing that can be read"),
            (200, r#"{"status":"assigned"}"#, "no hub"),
            (200, r#"{"status":"assigned","registrationState":{"assignedHub":"","deviceId":"d"}}"#, "no hub"),
            (202, r#"{"status":"assigning"}"#, "no operation"),
            (200, r#"{"status":"disabled"}"#, "enable it there"),
            (200, r#"{"status":"unassigned"}"#, "\"unassigned\""),
            (200, r#"{"status":"failed","registrationState":{"errorMessage":"none free"}}"#, "none free"),
            (200, r#"{"status":"failed","registrationState":{"errorCode":400209}}"#, "400209"),
        ];
        for (status, body, part) in cases {
            let Step::Failed { why, at } = start().handle_answer(Mono(0), status, None, body.as_bytes()) else {
                panic!()
            };
            assert!(why.contains(part), "{why}");
            assert_eq!(at, Mono(2_000));
        }
    }

    #[test]
    fn waits_grow_and_the_services_own_count() {
        let mut dps = start();
        let mut waits = Vec::new();
        for _ in 0..12 {
            let Step::Failed { at, .. } = dps.handle_unreachable(Mono(0), "no".into()) else { panic!() };
            waits.push(at.0);
        }
        assert_eq!((waits[0], waits[1], waits[11]), (2_000, 4_000, 300_000));
        let asked = Some(Duration::from_secs(30));
        let Step::Failed { at, .. } = start().handle_answer(Mono(0), 429, asked, b"") else { panic!() };
        assert_eq!(at, Mono(30_000));
        // An operation without end is given up, and so is one that is forgotten.
        let assigning = br#"{"operationId":"o","status":"assigning"}"#;
        let mut dps = start();
        let last = (0..=POLLS_MAX).map(|_| dps.handle_answer(Mono(0), 202, None, assigning)).last();
        assert!(matches!(last, Some(Step::Failed { why, .. }) if why.contains("too long")));
        dps.handle_answer(Mono(0), 202, None, assigning);
        assert!(
            matches!(dps.handle_answer(Mono(0), 404, None, b""), Step::Failed { why, .. } if why.contains("any more"))
        );
    }
}
