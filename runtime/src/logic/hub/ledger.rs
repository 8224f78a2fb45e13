//! What became of the messages of one queue. `accepted` is not stored: it is the sum of all the rest,
//! so the equation of the ledger can't be broken by a forgotten count, only by a lost message.

use skerry_abi::wire::frame::Outcome;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub delivered: u64,
    pub expired: u64,
    pub evicted: u64,
    pub dead_lettered: u64,
    pub removed: u64,
    /// Not yet any of the above.
    pub pending: u64,
    /// Of `pending`, how many lie committed on disk.
    pub stored: u64,
    /// Refusals by the consumer; counted apart, since a refused message comes again.
    pub refused: u64,
}

impl Ledger {
    /// delivered + expired + evicted + dead-lettered + removed + pending.
    pub fn accepted(&self) -> u64 {
        self.settled() + self.pending
    }

    pub fn settled(&self) -> u64 {
        self.delivered + self.expired + self.evicted + self.dead_lettered + self.removed
    }

    pub(super) fn settle(&mut self, outcome: Outcome) {
        self.settle_many(outcome, 1);
    }

    /// The same for what lies on disk.
    pub(super) fn settle_stored(&mut self, outcome: Outcome, messages: u64) {
        self.settle_many(outcome, messages);
        self.stored -= messages;
    }

    fn settle_many(&mut self, outcome: Outcome, messages: u64) {
        match outcome {
            Outcome::Expired => self.expired += messages,
            Outcome::Evicted => self.evicted += messages,
            Outcome::DeadLettered => self.dead_lettered += messages,
            Outcome::Removed => self.removed += messages,
            Outcome::Delivered => self.delivered += messages,
            Outcome::Durable | Outcome::NoRoute | Outcome::Refused => unreachable!("no target settles as {outcome:?}"),
        }
        self.pending -= messages;
    }
}
