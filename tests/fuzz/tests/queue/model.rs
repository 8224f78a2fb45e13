//! What may happen to messages, as sorted sets: a message has a number, and a smaller one is always the older.
//! Must never know how the hub does it.

use std::collections::{BTreeMap, BTreeSet};

use skerry_abi::wire::frame::Outcome;
use skerry_runtime::logic::hub::Ledger;
use skerry_runtime::model::time::Age;

/// One endpoint at one priority.
#[derive(Debug, Default)]
pub struct Queue {
    pub waiting: BTreeSet<u64>,
    /// With the consumer.
    pub flying: BTreeSet<u64>,
    /// Refused too often, and not written to the dead letters yet.
    pub dying: BTreeSet<u64>,
    pub refusals: BTreeMap<u64, u16>,
    pub delivered: u64,
    pub expired: u64,
    pub dead: u64,
}

impl Queue {
    pub fn open(&self) -> u64 {
        (self.waiting.len() + self.flying.len() + self.dying.len()) as u64
    }
}

/// One message.
#[derive(Debug)]
pub struct Message {
    pub queues: Vec<usize>,
    pub expiry: Age,
    pub told: Option<Outcome>,
    /// A commit that succeeded has it.
    pub committed: bool,
    /// Its sender was not there any more to be told, so nobody relies on it.
    pub orphan: bool,
    /// How it ended at some endpoint.
    pub ended: BTreeSet<&'static str>,
}

#[derive(Debug, Default)]
pub struct Model {
    pub queues: Vec<Queue>,
    pub messages: Vec<Message>,
    pub refusals_max: u16,
}

impl Model {
    /// The number of a new message.
    pub fn sent(&mut self, queues: Vec<usize>, expiry: Age) -> u64 {
        let number = self.messages.len() as u64;
        for queue in &queues {
            self.queues[*queue].waiting.insert(number);
        }
        let (told, ended) = (None, BTreeSet::new());
        self.messages.push(Message { queues, expiry, told, committed: false, orphan: false, ended });
        number
    }

    pub fn message(&mut self, number: u64) -> &mut Message {
        &mut self.messages[number as usize]
    }

    /// A message comes to a consumer: the oldest that waits, but for those that are too old.
    pub fn delivered_to(&mut self, queue: usize, number: u64, attempts: u16, age: Age) {
        assert!(self.messages[number as usize].expiry > age, "{number} is too old");
        let state = &mut self.queues[queue];
        assert!(state.flying.is_empty() || state.flying.last() < Some(&number), "{number} comes twice, or too late");
        assert_eq!(state.refusals.get(&number).copied().unwrap_or(0), attempts, "refusals of {number}");
        while let Some(first) = state.waiting.pop_first() {
            if first == number {
                state.flying.insert(number);
                return;
            }
            assert!(self.messages[first as usize].expiry <= age, "{number} comes before {first}");
            state.expired += 1;
            self.messages[first as usize].ended.insert("expired");
        }
        panic!("{number} comes, and does not wait");
    }

    pub fn done(&mut self, queue: usize, number: u64) {
        assert!(self.queues[queue].flying.remove(&number));
        self.queues[queue].delivered += 1;
        self.queues[queue].refusals.remove(&number);
        self.message(number).ended.insert("delivered");
    }

    pub fn returned(&mut self, queue: usize, number: u64) {
        assert!(self.queues[queue].flying.remove(&number));
        self.queues[queue].waiting.insert(number);
    }

    pub fn refused(&mut self, queue: usize, number: u64) {
        let state = &mut self.queues[queue];
        assert!(state.flying.remove(&number));
        let count = state.refusals.entry(number).or_default();
        *count += 1;
        if *count >= self.refusals_max {
            state.dying.insert(number)
        } else {
            state.waiting.insert(number)
        };
    }

    /// A commit wrote it to the dead letters.
    pub fn buried(&mut self, queue: usize, number: u64) {
        assert!(self.queues[queue].dying.remove(&number), "{number} goes to the dead letters, and nobody refused it");
        self.queues[queue].dead += 1;
        self.message(number).ended.insert("dead");
    }

    /// A sender is told what became of its message.
    pub fn told(&mut self, number: u64, outcome: Outcome, age: Age) {
        let message = self.message(number);
        assert_eq!(message.told, None, "{number} is answered twice");
        message.told = Some(outcome);
        let (queues, committed, ended) = (message.queues.clone(), message.committed, message.ended.clone());
        let too_old = message.expiry <= age;
        let open = queues.iter().any(|queue| {
            let state = &self.queues[*queue];
            state.flying.contains(&number)
                || state.dying.contains(&number)
                || (state.waiting.contains(&number) && !too_old)
        });
        match outcome {
            Outcome::NoRoute => assert!(queues.is_empty(), "{number} had a route"),
            Outcome::Delivered => assert!(!open && !queues.is_empty(), "{number} is not delivered"),
            Outcome::Durable => assert!(committed, "{number} is not on disk"),
            Outcome::Expired => assert!(!open && too_old, "{number} is not too old"),
            Outcome::DeadLettered => assert!(!open && ended.contains("dead"), "{number} is no dead letter"),
            Outcome::Refused => {
                for queue in queues {
                    let state = &mut self.queues[queue];
                    assert!(!state.flying.contains(&number), "{number} is withdrawn from a consumer's hands");
                    state.waiting.remove(&number);
                }
            }
            Outcome::Evicted | Outcome::Removed => panic!("{number} is {outcome:?}, for no reason"),
        }
    }

    /// What waits, and is not too old.
    pub fn waits(&self, age: Age) -> Option<u64> {
        let mut all = self.queues.iter().flat_map(|state| &state.waiting);
        all.find(|number| self.messages[**number as usize].expiry > age).copied()
    }

    /// The hub counts what is too old when it comes across it, the model when it matters.
    pub fn check_ledger(&self, queue: usize, ledger: &Ledger) {
        let state = &self.queues[queue];
        assert_eq!(ledger.delivered, state.delivered, "delivered at {queue}");
        assert_eq!(ledger.dead_lettered, state.dead, "dead letters of {queue}");
        assert_eq!(ledger.pending + ledger.expired, state.open() + state.expired, "pending and expired at {queue}");
        assert!(ledger.pending <= state.open() && ledger.stored <= ledger.pending, "{ledger:?} at {queue}");
    }

    /// The runtime was killed: what the disk has is what there is. What a sender was told is safe must be among it.
    pub fn found(
        &mut self,
        queue: usize,
        (open, refusals): (BTreeSet<u64>, BTreeMap<u64, u16>),
        ledger: Ledger,
        age: Age,
    ) {
        let state = &self.queues[queue];
        let had = state.waiting.iter().chain(&state.flying).chain(&state.dying);
        for number in had.filter(|number| !open.contains(number)) {
            let message = &self.messages[*number as usize];
            let safe = matches!(message.told, Some(outcome) if outcome != Outcome::Refused) && !message.orphan;
            let ended = message.expiry <= age || message.ended.contains("dead");
            assert!(!safe || ended, "{number} was {:?}, and is lost", message.told);
        }
        self.queues[queue] = Queue {
            waiting: open,
            refusals,
            delivered: ledger.delivered,
            expired: ledger.expired,
            dead: ledger.dead_lettered,
            ..Queue::default()
        };
    }
}
