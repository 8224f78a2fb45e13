//! What `status`, `tap` and the tests see of the hub. Copies.
//! Must never let anybody outside reach into it.

use super::{Delivered, Hub, Ledger, LinkIx, StoreState};
use crate::model::endpoint::{Endpoint, Priority, Source};
use crate::model::time::Wall;

/// The state of one queue.
#[derive(Clone, Debug)]
pub struct QueueView {
    pub endpoint: Endpoint,
    pub priority: Priority,
    pub ledger: Ledger,
    /// Somebody takes from it now.
    pub connected: bool,
}

/// What came from one output, since the runtime started.
#[derive(Clone, Debug)]
pub struct SourceView {
    pub source: Source,
    pub received: u64,
    pub received_bytes: u64,
    pub no_route: u64,
    /// Turned away because the store is broken or full.
    pub unstored: u64,
    /// While in memory.
    pub expired: u64,
    pub delivered: Vec<(Endpoint, Priority, Delivered)>,
}

#[derive(Clone, Debug)]
pub struct Overview {
    pub queues: Vec<QueueView>,
    /// Messages and bytes in memory.
    pub messages: usize,
    pub memory_bytes: u64,
    /// Messages that matched no route.
    pub no_route: u64,
    /// Messages that were not taken.
    pub refused: u64,
    pub store: StoreState,
}

/// A copy of a message for whoever looks on.
#[derive(Clone, Debug)]
pub struct Tapped {
    pub source: Source,
    pub record: Box<[u8]>,
    pub enqueued: Wall,
    pub endpoints: Vec<String>,
}

impl Hub {
    pub fn overview(&self) -> Overview {
        Overview {
            queues: self
                .queues
                .iter()
                .map(|q| QueueView {
                    endpoint: q.endpoint.clone(),
                    priority: q.priority,
                    ledger: q.ledger,
                    connected: q.consumer.is_some(),
                })
                .collect(),
            messages: self.entries.len(),
            memory_bytes: self.entries.bytes(),
            no_route: self.identities.iter().map(|i| i.no_route).sum(),
            refused: self.identities.iter().map(|i| i.refused).sum(),
            store: self.store.clone(),
        }
    }

    /// One for each output that sent anything since the start.
    pub fn sources(&self) -> Vec<SourceView> {
        let view = |state: &super::SourceState| {
            let counts = &state.counts;
            let queue = |(queue, count): &(super::QueueIx, Delivered)| {
                let queue = &self.queues[*queue as usize];
                (queue.endpoint.clone(), queue.priority, *count)
            };
            SourceView {
                source: state.source.clone(),
                received: counts.received,
                received_bytes: counts.received_bytes,
                no_route: counts.no_route,
                unstored: counts.unstored,
                expired: counts.expired,
                delivered: counts.delivered.iter().map(queue).collect(),
            }
        };
        self.sources.iter().map(view).collect()
    }

    /// Bytes of all messages that came since the start.
    pub fn received_bytes(&self) -> u64 {
        self.sources.iter().map(|s| s.counts.received_bytes).sum()
    }

    /// How many look on; at zero no copies are made.
    pub fn set_taps(&mut self, taps: usize) {
        self.taps = taps;
    }

    pub fn take_tapped(&mut self) -> Vec<Tapped> {
        std::mem::take(&mut self.tapped)
    }

    /// A delivery in words, for whoever asks what a module died of.
    pub fn describe(&self, ix: LinkIx, delivery: u64) -> Option<String> {
        let flight =
            self.link(ix)?.flights.get(usize::try_from(delivery.checked_sub(self.link(ix)?.first_flight)?).ok()?)?;
        let entry = &self.entries[flight.key];
        let source = &self.sources[entry.source as usize].source;
        let endpoint = &self.queues[flight.queue as usize].endpoint;
        let id = skerry_abi::wire::record::Record::parse_trusted(&entry.record)
            .and_then(|r| r.system(skerry_abi::wire::record::System::MessageId))
            .map_or(String::new(), |id| format!(" with message id {id:?}"));
        Some(format!(
            "message {}{id} of {} bytes from {}/{}, accepted {}, to {endpoint}",
            entry.seq,
            entry.record.len(),
            source.module,
            source.output,
            entry.enqueued.to_rfc3339()
        ))
    }

    /// Messages on their way to the instance, and those it has put aside.
    pub fn in_hand(&self, ix: LinkIx) -> (usize, usize) {
        self.link(ix).map_or((0, 0), |l| (l.flying, l.deferred))
    }
}
