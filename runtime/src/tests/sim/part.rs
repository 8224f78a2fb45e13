//! A module as its host behaves: takes messages in order, gives back what follows a refused one, keeps to its credit.
//! Also the way to the cloud, which pauses and keeps what it has. Must never break a rule of the link.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::oracle::{Q, Uid};
use crate::logic::hub::LinkIx;
use skerry_abi::wire::frame;
use skerry_abi::wire::record::{Record, Writer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sends.
    Source,
    /// Passes everything on.
    Passer,
    /// Passes some on.
    Sink,
    /// Of the identity with that name.
    Cloud,
}

/// A delivery.
#[derive(Clone, Copy, Debug)]
pub struct Got {
    pub id: u64,
    pub stream: u32,
    pub uid: Uid,
    pub queue: Q,
}

#[derive(Debug)]
pub struct Part {
    pub name: &'static str,
    pub kind: Kind,
    pub link: Option<LinkIx>,
    /// Takes deliveries; the cloud is away at times.
    pub ready: bool,
    pub inbox: VecDeque<Got>,
    pub refused_streams: BTreeSet<u32>,
    pub deferred: Vec<Got>,
    /// Without an answer.
    pub tickets: BTreeMap<u64, (Uid, u64)>,
    pub next_ticket: u64,
    pub credit: (u32, u64),
}

impl Part {
    pub fn new(name: &'static str, kind: Kind) -> Part {
        Part {
            name,
            kind,
            link: None,
            ready: false,
            inbox: VecDeque::new(),
            refused_streams: BTreeSet::new(),
            deferred: Vec::new(),
            tickets: BTreeMap::new(),
            next_ticket: 1,
            credit: (0, 0),
        }
    }

    /// It is gone, with everything that it knew.
    pub fn reset(&mut self) {
        *self = Part::new(self.name, self.kind);
    }

    /// Out of credit, a host runs no callback.
    pub fn has_credit(&self) -> bool {
        let bytes: u64 = self.tickets.values().map(|(_, bytes)| bytes).sum();
        self.tickets.len() < self.credit.0 as usize && bytes < self.credit.1
    }

    /// Everything that it has in its hands.
    pub fn in_hand(&self) -> impl Iterator<Item = &Got> {
        self.inbox.iter().chain(&self.deferred)
    }
}

thread_local! {
    /// The last bodies, since each message is looked at a dozen times.
    static BODIES: RefCell<HashMap<(Uid, u64), Vec<u8>>> = RefCell::default();
}

/// Bodies that are kept.
const BODIES_MAX: usize = 1_000;

/// A message: its number, and bytes that follow from it.
pub fn record(uid: Uid, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    writer.application("k", Some(if uid.is_multiple_of(4) { "0" } else { "1" }));
    BODIES.with_borrow_mut(|bodies| {
        if bodies.len() >= BODIES_MAX {
            bodies.clear();
        }
        let body = bodies.entry((uid, length)).or_insert_with(|| body(uid, length));
        writer.finish(body).expect("few properties");
    });
    bytes
}

fn body(uid: Uid, length: u64) -> Vec<u8> {
    let mut body = uid.to_le_bytes().to_vec();
    let noisy = uid.is_multiple_of(3);
    let mut state = uid;
    body.extend((0..length).map(|at| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if noisy { (state >> 56) as u8 } else { (uid as u8).wrapping_add((at / 16) as u8) }
    }));
    body
}

/// The number of the message, if its bytes are what they were.
pub fn uid_of(bytes: &[u8]) -> Option<Uid> {
    let body = Record::parse(bytes).ok()?.body();
    let uid = Uid::from_le_bytes(body.get(..8)?.try_into().ok()?);
    (record(uid, body.len() as u64 - 8) == bytes).then_some(uid)
}

pub fn publish(ticket: u64, output: u16, at_once: bool, parents: &[u64], record: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::publish(&mut bytes, ticket, output, at_once, parents, record);
    bytes
}
