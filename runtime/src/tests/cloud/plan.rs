//! What kind of world a seed is. Decided by the first numbers drawn. Must never look at anything but the dice.

use std::time::Duration;

use crate::io::store::tests::disk::Dice;
use crate::logic::session::{Idle, SessionConfig};

#[derive(Clone, Debug)]
pub struct Plan {
    /// Connections that break, in the midst of a packet too.
    pub cuts: bool,
    /// Networks that swallow everything and say nothing.
    pub stalls: bool,
    /// Nobody can be reached for a while.
    pub outages: bool,
    /// CONNECTs that are answered with "busy".
    pub busy: bool,
    /// Answers that never come, or that say no, and messages that are stored and not acknowledged.
    pub lost_answers: bool,
    /// What was told once is told again.
    pub duplicates: bool,
    /// Tokens that the cloud ends before their time.
    pub early_tokens: bool,
    /// The device's clock goes wherever it likes.
    pub jumps: bool,
    /// It wakes up in 1970, and what it knows of the time is the day of its build.
    pub in_1970: bool,
    /// How far the clock is off when everything else has calmed down, ms.
    pub off_at_last_ms: i64,
    /// The second identity is revoked and stays so.
    pub revoked: bool,
    /// Its connection is made anew by the runtime, as after a kill.
    pub restarts: bool,
    pub idle: Option<Idle>,
    pub ttl: Option<Duration>,
    /// Longest way of a packet, ms.
    pub latency_ms: u64,
    pub faults_ms: u64,
}

impl Plan {
    pub fn draw(dice: &mut Dice) -> Plan {
        let idle = Idle { after: Duration::from_secs(3), rest_max: Some(Duration::from_secs(50)) };
        let in_1970 = dice.chance(3);
        Plan {
            cuts: dice.chance(2),
            stalls: dice.chance(3),
            outages: dice.chance(2),
            busy: dice.chance(3),
            lost_answers: dice.chance(2),
            duplicates: dice.chance(2),
            early_tokens: dice.chance(3),
            jumps: dice.chance(2),
            in_1970,
            off_at_last_ms: if in_1970 {
                -super::world::DAY_ONE
            } else {
                [0, -7_200_000, 3_600_000][dice.roll(3) as usize]
            },
            revoked: dice.chance(4),
            restarts: dice.chance(3),
            idle: dice.chance(3).then_some(idle),
            ttl: dice.chance(2).then_some(Duration::from_secs(40)),
            latency_ms: [2, 60, 900][dice.roll(3) as usize],
            faults_ms: 60_000 + dice.roll(240_000),
        }
    }

    pub fn session(&self) -> SessionConfig {
        SessionConfig {
            keep_alive: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(5),
            token_ttl: Duration::from_secs(60),
            retry_max: Duration::from_secs(20),
        }
    }
}
