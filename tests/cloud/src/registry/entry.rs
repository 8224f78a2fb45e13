//! Who may ask over REST: a back end with the key of a policy, or a device for itself and its modules. Must never say yes
//! to a token whose signature was not checked.

use std::time::{Duration, Instant};

use super::path::{Resource, is_known_version, parameter};
use super::reply::Refusal;
use crate::sas::Token;
use crate::upgrade::Request;
use crate::world::World;

/// The policy that may do everything.
pub const POLICY: &str = "iothubowner";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Policy,
    /// For its own modules.
    Device,
}

impl Right {
    /// What the journal says of whoever did it.
    pub fn name(self) -> &'static str {
        match self {
            Right::Policy => POLICY,
            Right::Device => "device",
        }
    }
}

impl World {
    /// In the cloud's order: who, then whether the request is one.
    pub fn admit_request(&mut self, request: &Request, resource: &Resource) -> Result<Right, Refusal> {
        let text = request.header("authorization").ok_or_else(|| Refusal::unauthorized("there is no Authorization"))?;
        let token = Token::parse(text).map_err(Refusal::unauthorized)?;
        let right = match &token.policy {
            Some(policy) => self.check_policy(&token, policy, request).map(|()| Right::Policy),
            None => self.check_device(text, resource).map(|()| Right::Device),
        };
        let right = right.map_err(Refusal::unauthorized)?;
        let version = parameter(&request.target, "api-version");
        match version.as_deref().map(is_known_version) {
            Some(true) => Ok(right),
            _ => Err(Refusal::new(400, "InvalidProtocolVersion", version.unwrap_or_default())),
        }
    }

    fn check_policy(&self, token: &Token, policy: &str, request: &Request) -> Result<(), String> {
        if policy != POLICY {
            return Err(format!("there is no policy `{policy}`"));
        }
        let path = request.target.split('?').next().unwrap_or_default();
        if !token.covers(&format!("{}{path}", self.host)) {
            return Err(format!("the token is for `{}`", token.resource));
        }
        if !token.is_signed_by(&self.policy_key) {
            return Err("the token's signature is wrong".to_owned());
        }
        let now = self.clock_ms() / 1000;
        if now >= token.expiry.saturating_add(self.grace_s) {
            return Err(format!("the token expired {} s ago", now - token.expiry));
        }
        Ok(())
    }

    /// A device that is off does nothing for its modules either.
    fn check_device(&mut self, token: &str, resource: &Resource) -> Result<(), String> {
        let device = match resource {
            Resource::Modules { device } | Resource::Module { device, .. } | Resource::Device { device } => device,
            _ => return Err("it takes the key of a policy".to_owned()),
        };
        let life = self.faults.acting(Some(device)).token_life_s.map(Duration::from_secs);
        let (host, grace_s, now_s) = (self.host.clone(), self.grace_s, self.clock_ms() / 1000);
        let peer = self.peer(device)?;
        if !peer.record.enabled {
            return Err(format!("`{device}` is disabled"));
        }
        peer.check(&host, token, (Instant::now(), now_s), (grace_s, life)).map(drop)
    }
}
