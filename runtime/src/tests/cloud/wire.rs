//! One connection between the two: bytes on their way in either direction, in order, each piece with the time of its arrival.
//! Must never overtake, double or invent a byte: that is what TCP promises, and nothing more.

use std::collections::VecDeque;

use crate::io::store::tests::disk::Dice;

/// Bytes in one direction.
#[derive(Default)]
pub struct Way {
    pieces: VecDeque<(u64, Vec<u8>)>,
    last_at: u64,
}

pub struct Wire {
    pub up: Way,
    pub down: Way,
    /// Nothing arrives any more, and nobody is told.
    pub stalled: bool,
    /// The device has closed it; what it wrote before may still arrive.
    pub left: bool,
    /// The cloud has closed it; the same.
    pub closed: bool,
    latency_ms: u64,
}

impl Way {
    fn push(&mut self, at: u64, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.last_at = self.last_at.max(at);
            self.pieces.push_back((self.last_at, bytes));
        }
    }

    fn arrived(&mut self, now: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.pieces.front().is_some_and(|(at, _)| *at <= now) {
            bytes.extend(self.pieces.pop_front().into_iter().flat_map(|(_, piece)| piece));
        }
        bytes
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn next_at(&self) -> u64 {
        self.pieces.front().map_or(u64::MAX, |(at, _)| *at)
    }
}

impl Wire {
    pub fn new(latency_ms: u64) -> Wire {
        Wire { up: Way::default(), down: Way::default(), stalled: false, left: false, closed: false, latency_ms }
    }

    fn way(&self, dice: &mut Dice) -> u64 {
        1 + dice.roll(self.latency_ms)
    }

    /// Packets and pieces need not have the same borders.
    pub fn send_up(&mut self, now: u64, dice: &mut Dice, mut bytes: Vec<u8>) {
        if self.left {
            return;
        }
        if bytes.len() > 1 && dice.chance(8) {
            let rest = bytes.split_off(1 + dice.roll(bytes.len() as u64 - 1) as usize);
            let at = now + self.way(dice);
            self.up.push(at, bytes);
            bytes = rest;
        }
        let at = now + self.way(dice);
        self.up.push(at, bytes);
    }

    pub fn send_down(&mut self, now: u64, dice: &mut Dice, bytes: Vec<u8>) {
        if !self.closed {
            let at = now + self.way(dice);
            self.down.push(at, bytes);
        }
    }

    pub fn take_up(&mut self, now: u64) -> Vec<u8> {
        if self.stalled { Vec::new() } else { self.up.arrived(now) }
    }

    pub fn take_down(&mut self, now: u64) -> Vec<u8> {
        if self.stalled || self.left { Vec::new() } else { self.down.arrived(now) }
    }

    /// The device hears that the cloud has closed it.
    pub fn is_over(&self) -> bool {
        self.closed && !self.stalled && !self.left && self.down.is_empty()
    }

    /// It breaks: what was on its way is lost behind some byte.
    pub fn cut(&mut self, dice: &mut Dice) {
        for way in [&mut self.up, &mut self.down] {
            let keep = dice.roll(way.pieces.len() as u64 + 1) as usize;
            way.pieces.truncate(keep);
            if let Some((_, last)) = way.pieces.back_mut() {
                last.truncate(1 + dice.roll(last.len() as u64) as usize);
            }
        }
        self.closed = true;
    }

    /// When the next byte arrives anywhere.
    pub fn next_at(&self) -> u64 {
        if self.stalled {
            return u64::MAX;
        }
        let over = if self.is_over() { 0 } else { u64::MAX };
        self.up.next_at().min(if self.left { u64::MAX } else { self.down.next_at() }).min(over)
    }
}
