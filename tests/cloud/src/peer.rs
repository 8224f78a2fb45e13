//! One identity as the cloud knows it: keys, twin, session, and what waits for it. Must never accept a token that its keys
//! did not sign.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use ring::rand::{SecureRandom, SystemRandom};

use crate::clock::{iso, unix_ms};
use crate::registry::{Proof, Record};
use crate::sas::{self, Token};
use crate::topic::Channel;
use crate::twin::Twin;

/// The cloud's own limit for messages to a device.
const WAITING_MAX: usize = 50;
/// Token texts that are remembered; the oldest go.
const TOKENS_MAX: usize = 256;

pub struct Peer {
    pub device: String,
    pub module: Option<String>,
    /// Primary and secondary.
    pub keys: [String; 2],
    pub twin: Twin,
    pub record: Record,
    /// There is a session from an earlier connection.
    pub session: bool,
    /// By channel, the granted QoS.
    pub subscriptions: BTreeMap<Channel, u8>,
    /// The connection, when there is one.
    pub link: Option<u64>,
    pub connects: u64,
    /// Bytes of connections that have ended.
    pub bytes: (u64, u64),
    waiting: VecDeque<(u64, Outgoing)>,
    delivered: u64,
    next_waiting: u64,
    tokens: VecDeque<Used>,
}

/// What is published to a client.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub topic: String,
    pub body: Vec<u8>,
    pub channel: Channel,
}

struct Used {
    text: String,
    first: Instant,
    refused: bool,
}

/// Of a token that was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Seconds since 1970.
    pub expiry: u64,
    pub first_used: Instant,
}

/// A key in base64.
pub fn random_key() -> Result<String, String> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "no random numbers")?;
    Ok(BASE64.encode(&bytes))
}

impl Peer {
    pub fn new(device: &str, module: Option<&str>, keys: [String; 2]) -> Peer {
        Peer {
            device: device.to_owned(),
            module: module.map(str::to_owned),
            keys,
            twin: Twin::new(&iso(unix_ms())),
            record: Record::new(device, Proof::Sas, false),
            session: false,
            subscriptions: BTreeMap::new(),
            link: None,
            connects: 0,
            bytes: (0, 0),
            waiting: VecDeque::new(),
            delivered: 0,
            next_waiting: 1,
            tokens: VecDeque::new(),
        }
    }

    pub fn id(&self) -> String {
        self.module.as_ref().map_or_else(|| self.device.clone(), |module| format!("{}/{module}", self.device))
    }

    pub fn connection_string(&self, host: &str) -> String {
        sas::connection_string(host, &self.device, self.module.as_deref(), &self.keys[0])
    }

    /// As the registry says it.
    pub fn connection_state(&self) -> &'static str {
        if self.link.is_some() { "Connected" } else { "Disconnected" }
    }

    fn resource(&self, host: &str) -> String {
        let module = self.module.as_ref().map_or_else(String::new, |module| format!("/modules/{module}"));
        format!("{host}/devices/{}{module}", self.device)
    }

    /// `unix_s` is the cloud's own clock; `life` a limit from the first use on.
    pub fn check(
        &mut self,
        host: &str,
        password: &str,
        (now, unix_s): (Instant, u64),
        (grace_s, life): (u64, Option<Duration>),
    ) -> Result<Pass, String> {
        if self.record.proof != Proof::Sas {
            return Err(format!("{} has no key: its kind is `{}`", self.id(), self.record.proof.name()));
        }
        let token = Token::parse(password)?;
        if !token.is_for(&self.resource(host)) {
            return Err(format!("the token is for `{}`", token.resource));
        }
        if !self.keys.iter().any(|key| token.is_signed_by(key)) {
            return Err("the token's signature is wrong".to_owned());
        }
        if unix_s >= token.expiry.saturating_add(grace_s) {
            return Err(format!("the token expired {} s ago", unix_s - token.expiry));
        }
        let first_used = match self.tokens.iter().find(|used| used.text == password) {
            Some(used) if used.refused => return Err("the token was declared expired".to_owned()),
            Some(used) => used.first,
            None => {
                if self.tokens.len() == TOKENS_MAX {
                    self.tokens.pop_front();
                }
                self.tokens.push_back(Used { text: password.to_owned(), first: now, refused: false });
                now
            }
        };
        if life.is_some_and(|life| now.duration_since(first_used) >= life) {
            return Err("the token was used for too long".to_owned());
        }
        Ok(Pass { expiry: token.expiry, first_used })
    }

    /// Those that were used so far.
    pub fn refuse_tokens(&mut self) {
        self.tokens.iter_mut().for_each(|used| used.refused = true);
    }

    /// Whether there was one. Of an old session only messages to the device stay subscribed.
    pub fn begin_session(&mut self, clean: bool) -> bool {
        let present = self.session && !clean;
        self.subscriptions.retain(|channel, _| present && *channel == Channel::CloudToDevice);
        self.session = !clean;
        present
    }

    pub fn push_waiting(&mut self, outgoing: Outgoing) -> Result<(), String> {
        if self.waiting.len() == WAITING_MAX {
            return Err(format!("{WAITING_MAX} messages wait for {} already", self.id()));
        }
        self.waiting.push_back((self.next_waiting, outgoing));
        self.next_waiting += 1;
        Ok(())
    }

    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// What waits behind this number and can be sent, with the QoS.
    pub fn waiting_after(&self, sent: u64) -> Vec<(u64, Outgoing, u8)> {
        let with_qos = |(number, outgoing): &(u64, Outgoing)| {
            let qos = *self.subscriptions.get(&outgoing.channel)?;
            (*number > sent).then(|| (*number, outgoing.clone(), qos))
        };
        self.waiting.iter().filter_map(with_qos).collect()
    }

    /// How many were, with this one; `None` when it does not wait any more.
    pub fn delivered(&mut self, number: u64) -> Option<u64> {
        let at = self.waiting.iter().position(|(waiting, _)| *waiting == number)?;
        self.waiting.remove(at);
        self.delivered += 1;
        Some(self.delivered)
    }
}
