//! What goes wrong on purpose, for everybody and for single identities at once. Must never act by itself: whoever is about
//! to do something asks here first.

use std::collections::BTreeMap;

use crate::command::{DpsOutcome, Trap, Wrong};

/// Traps that wait at a time, for one scope.
const TRAPS_MAX: usize = 64;

#[derive(Debug, Default)]
pub struct Faults {
    /// Before anybody has a name.
    pub refuse: bool,
    pub http: Option<(u16, Option<u32>)>,
    pub deny_proxy: bool,
    pub wrong: Option<Wrong>,
    pub date_skew_s: i64,
    pub clock_skew_s: i64,
    pub frame_bytes_max: Option<usize>,
    /// Of REST, and of the provisioning side.
    pub rest: Option<Refusing>,
    pub dps: Option<Refusing>,
    pub dps_outcome: Option<DpsOutcome>,
    all: Own,
    single: BTreeMap<String, Own>,
}

/// Requests that are refused whatever they ask.
#[derive(Clone, Copy, Debug)]
pub struct Refusing {
    pub status: u16,
    pub retry_after_s: Option<u32>,
    /// So many; `None` is until it is ended.
    pub count: Option<u32>,
}

/// Of one identity, or of all.
#[derive(Debug, Default)]
pub struct Own {
    pub now: Acting,
    pub close_mid_frame: bool,
    traps: Vec<(Trap, Spring, u64)>,
}

/// What holds while it is on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Acting {
    pub stall: bool,
    pub no_puback: bool,
    pub connack: Option<u8>,
    pub per_second: Option<f64>,
    pub latency_ms: Option<u64>,
    pub token_life_s: Option<u64>,
    pub twin_status: Option<u16>,
}

/// When a trap closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spring {
    BeforeStored,
    InsteadOfPuback,
}

impl Faults {
    pub fn of(&mut self, identity: Option<String>) -> &mut Own {
        match identity {
            Some(identity) => self.single.entry(identity).or_default(),
            None => &mut self.all,
        }
    }

    /// What holds for this one; what is said of it alone goes first.
    pub fn acting(&self, identity: Option<&str>) -> Acting {
        let all = self.all.now;
        let Some(own) = identity.and_then(|identity| self.single.get(identity)).map(|own| own.now) else { return all };
        Acting {
            stall: own.stall || all.stall,
            no_puback: own.no_puback || all.no_puback,
            connack: own.connack.or(all.connack),
            per_second: own.per_second.or(all.per_second),
            latency_ms: own.latency_ms.or(all.latency_ms),
            token_life_s: own.token_life_s.or(all.token_life_s),
            twin_status: own.twin_status.or(all.twin_status),
        }
    }

    /// Whether this publish springs a trap. Asked once a publish.
    pub fn springs(&mut self, identity: &str, body: &[u8]) -> Option<Spring> {
        let single = self.single.get_mut(identity).and_then(|own| own.springs(body));
        let all = self.all.springs(body);
        single.or(all)
    }

    /// Status and `Retry-After`. Asked once a request.
    pub fn takes_rest(&mut self) -> Option<(u16, Option<u32>)> {
        takes(&mut self.rest)
    }

    pub fn takes_dps(&mut self) -> Option<(u16, Option<u32>)> {
        takes(&mut self.dps)
    }

    /// Once.
    pub fn takes_mid_frame(&mut self, identity: &str) -> bool {
        let single = self.single.get_mut(identity).is_some_and(|own| std::mem::take(&mut own.close_mid_frame));
        single || std::mem::take(&mut self.all.close_mid_frame)
    }
}

fn takes(refusing: &mut Option<Refusing>) -> Option<(u16, Option<u32>)> {
    let Refusing { status, retry_after_s, count } = (*refusing)?;
    match count {
        Some(0 | 1) => *refusing = None,
        Some(left) => *refusing = Some(Refusing { status, retry_after_s, count: Some(left - 1) }),
        None => {}
    }
    Some((status, retry_after_s))
}

impl Own {
    pub fn set_trap(&mut self, trap: Trap, spring: Spring) -> Result<(), String> {
        if self.traps.len() == TRAPS_MAX {
            return Err(format!("{TRAPS_MAX} traps wait already"));
        }
        self.traps.push((trap, spring, 0));
        Ok(())
    }

    fn springs(&mut self, body: &[u8]) -> Option<Spring> {
        let mut sprung = None;
        self.traps.retain_mut(|(trap, spring, seen)| {
            let fits = trap.contains.as_ref().is_none_or(|text| holds(body, text.as_bytes()));
            *seen += u64::from(fits);
            let springs = fits && *seen >= trap.nth.unwrap_or(1).max(1);
            if springs {
                sprung = sprung.or(Some(*spring));
                *seen = 0;
            }
            !springs || trap.always
        });
        sprung
    }
}

fn holds(body: &[u8], part: &[u8]) -> bool {
    part.is_empty() || body.windows(part.len()).any(|window| window == part)
}
