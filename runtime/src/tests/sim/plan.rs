//! What kind of world a seed is: which faults there are, how large things may be. Decided by the first numbers drawn.
//! Must never look at anything but the dice.

use std::time::Duration;

use crate::io::store::tests::disk::Dice;
use crate::logic::hub::HubConfig;

#[derive(Clone, Debug)]
pub struct Plan {
    /// Nothing fails, everybody is there and quick: then nothing is written.
    pub calm: bool,
    /// Power cuts and kills of the runtime.
    pub cuts: bool,
    /// Some of those cuts are kills of the runtime in the midst of a job of the disk, whose cache goes on.
    pub kills: bool,
    /// Operations of the disk that fail.
    pub failures: bool,
    /// The file system is full at times.
    pub fills: bool,
    /// The store has hardly any room.
    pub tight: bool,
    pub evict: bool,
    pub ttl: bool,
    pub refusals: bool,
    /// So few that messages go to the dead letters.
    pub dead_letters: bool,
    pub deaths: bool,
    pub new_routes: bool,
    pub jumps: bool,
    pub documents: bool,
    /// Longest body, bytes.
    pub body: u64,
    pub memory: u64,
    pub steps: u64,
}

impl Plan {
    pub fn draw(dice: &mut Dice) -> Plan {
        // By the seed and not by a draw: the seeds that once found something go on as they did.
        let kills = dice.0 % 4 == 3;
        let calm = dice.chance(16);
        let mut on = |one_in| dice.chance(one_in) && !calm;
        let tight = on(4);
        Plan {
            calm,
            cuts: on(2),
            kills,
            failures: on(3),
            fills: on(6),
            tight,
            evict: tight && on(2),
            ttl: on(3),
            refusals: on(2),
            dead_letters: on(2),
            deaths: on(2),
            new_routes: on(4),
            jumps: on(2),
            documents: on(3),
            body: if tight { 12_000 } else { [60, 300, 2_000][dice.roll(3) as usize] },
            memory: if tight { 128 * 1024 } else { [16 * 1024, 64 * 1024, 1024 * 1024][dice.roll(3) as usize] },
            steps: 60 + dice.roll(200),
        }
    }

    pub fn config(&self) -> HubConfig {
        HubConfig {
            memory_bytes: self.memory,
            credit_messages: 40,
            credit_bytes: self.memory / 4,
            refusals_max: if self.dead_letters { 3 } else { 1_000 },
            ttl: self.ttl.then_some(Duration::from_secs(20)),
            evict: self.evict,
            ..HubConfig::default()
        }
    }

    pub fn quota(&self) -> u64 {
        if self.tight { 1 << 20 } else { 64 << 20 }
    }
}
