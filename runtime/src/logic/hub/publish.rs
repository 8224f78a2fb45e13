//! A message comes in: checked, routed, put into the queues of its endpoints. Must never block on anything,
//! and must answer every ticket exactly once.

use std::time::Duration;

use smallvec::SmallVec;

use super::deliver::Fault;
use super::entry::{Chain, Entry, Key, List, Parent, Target, Ticket};
use super::link::Link;
use super::trace::{Arrival, Fate};
use super::{
    Hub, HubConfig, Identity, IdentityIx, LinkIx, QueueIx, SourceCounts, SourceIx, SourceState, StoreState, Tapped,
};
use crate::logic::routing::{Envelope, Instant, RecordSubject, Verdicts, View};
use crate::model::endpoint::Source;
use crate::model::limits::{
    CREDIT_OVERDRAFT, CREDIT_OVERDRAFT_BYTES, CREDIT_OVERDRAFT_MESSAGES, ENTRY_BYTES, REMOVED_KEPT,
};
use crate::model::time::{Age, Now};
use skerry_abi::wire::frame::{Outcome, Parents, ToHost};
use skerry_abi::wire::record::Record;

/// A message as its sender hands it over.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// Counts up by one from 1 on each link.
    pub ticket: u64,
    /// Index into the outputs that the link was opened with.
    pub output: u16,
    /// Commit without waiting for company.
    pub at_once: bool,
    /// Deliveries of this link that are done only when this message is safe.
    pub parents: Parents<'a>,
    pub record: &'a [u8],
}

impl Hub {
    /// An instance said `Hello`. It may send; it is given messages after [`Hub::ready`].
    pub fn open_link(&mut self, module: &str, outputs: &[String], inputs: &[String]) -> LinkIx {
        let identity = self.identity_of(module);
        self.add_link(identity, module, outputs, inputs)
    }

    /// Somebody sends in a module's name through the control socket: a credit of its own, no deliveries.
    pub fn open_sender(&mut self, module: &str, output: &str) -> LinkIx {
        let name = format!("{module} through the control socket");
        let identity = self.identity_of(&name);
        self.add_link(identity, module, &[output.to_owned()], &[])
    }

    /// The way of `identity` to the cloud. It sends nothing; it is given messages after [`Hub::ready`].
    pub fn open_upstream(&mut self, identity: &str) -> LinkIx {
        let name = format!("{identity} to the cloud");
        let by = self.identity_of(&name);
        let ix = self.add_link(by, &name, &[], &[]);
        if let Some(link) = self.link_mut(ix) {
            link.upstream = Some(identity.to_owned());
        }
        ix
    }

    fn identity_of(&mut self, name: &str) -> IdentityIx {
        if let Some(ix) = self.by_module.get(name) {
            return *ix;
        }
        self.by_module.insert(name.to_owned(), self.identities.len() as IdentityIx);
        self.identities.push(Identity {
            unacked_messages: 0,
            unacked_bytes: 0,
            sending: List::new(Chain::Sender),
            sources: Default::default(),
            no_route: 0,
            refused: 0,
        });
        (self.identities.len() - 1) as IdentityIx
    }

    fn add_link(&mut self, identity: IdentityIx, module: &str, outputs: &[String], inputs: &[String]) -> LinkIx {
        let outputs: Vec<_> = outputs.iter().map(|output| self.source_of(identity, module, output)).collect();
        let ix = LinkIx(self.links.len() as u32);
        let mut link = Link::new(identity, outputs, inputs.to_vec());
        self.borrowers += u32::from(link.borrows());
        link.credit_told = self.credit_of(&link);
        self.links.push(Some(Box::new(link)));
        self.lend_anew();
        ix
    }

    /// The share of each changed, because one came or went.
    pub(super) fn lend_anew(&mut self) {
        for ix in 0..self.links.len() {
            let changed = |link: &Link| link.borrows() && self.credit_of(link) != link.credit_told;
            if self.links[ix].as_deref().is_some_and(changed) {
                self.mark_output(LinkIx(ix as u32));
            }
        }
    }

    /// What one sender may have unacknowledged: what was configured, or its share of the half of the memory that is lent.
    /// Of that share two thirds are for records and one for the bookkeeping of messages.
    pub(super) fn window(&self) -> (u32, u64) {
        let share = self.config.memory_bytes / 2 / u64::from(self.borrowers.max(1));
        let messages = u32::try_from(share / 3 / ENTRY_BYTES).unwrap_or(u32::MAX);
        (self.config.credit_messages.min(messages).max(1), self.config.credit_bytes.min(share / 3 * 2).max(1))
    }

    fn source_of(&mut self, identity: IdentityIx, module: &str, output: &str) -> SourceIx {
        if let Some(ix) = self.identities[identity as usize].sources.get(output) {
            return *ix;
        }
        let ix = self.add_source(Source { module: module.to_owned(), output: output.to_owned() });
        self.identities[identity as usize].sources.insert(output.to_owned(), ix);
        ix
    }

    pub(super) fn add_source(&mut self, source: Source) -> SourceIx {
        if let Some(found) = self.sources.iter().position(|s| s.source == source) {
            return found as SourceIx;
        }
        let candidates = self.routes.candidates(&source.path());
        self.sources.push(SourceState { source, candidates, queues: Vec::new(), counts: SourceCounts::default() });
        (self.sources.len() - 1) as SourceIx
    }

    /// The window that the link's first frame tells.
    pub fn credit(&self, ix: LinkIx) -> (u32, u64) {
        self.link(ix).map_or((0, 0), |l| l.credit_told)
    }

    /// What is left of the identity's window after the messages of its earlier generations: a sender that crashes
    /// and comes back gains nothing.
    pub(super) fn credit_of(&self, link: &Link) -> (u32, u64) {
        let identity = &self.identities[link.identity as usize];
        let inherited = identity.unacked_messages - link.unacked_messages;
        let inherited_bytes = identity.unacked_bytes - link.unacked_bytes;
        let (messages, bytes) = self.window();
        (messages.saturating_sub(inherited).max(1), bytes.saturating_sub(inherited_bytes).max(1))
    }

    /// One that does not keep to its credit: a module's host never sends so much, whatever its module does. It is the
    /// identity that counts, so that nobody gets more by dying.
    fn is_overdrawn(&self, identity: IdentityIx, record: usize) -> bool {
        let HubConfig { credit_messages, credit_bytes, .. } = self.config;
        let Identity { unacked_messages, unacked_bytes, .. } = self.identities[identity as usize];
        let messages = u64::from(unacked_messages);
        let records = unacked_bytes.saturating_sub(messages * ENTRY_BYTES);
        let bytes_max = credit_bytes.saturating_mul(CREDIT_OVERDRAFT).saturating_add(CREDIT_OVERDRAFT_BYTES);
        messages >= u64::from(credit_messages) * CREDIT_OVERDRAFT + CREDIT_OVERDRAFT_MESSAGES
            || records + record as u64 > bytes_max
    }

    /// Not before it is ready: the first frames of a link are the two that its host waits for.
    pub(super) fn tell_credit(&mut self, ix: LinkIx) {
        let Some(link) = self.link(ix).filter(|link| link.ready) else { return };
        let credit = self.credit_of(link);
        if credit == link.credit_told {
            return;
        }
        if let Some(link) = self.link_mut(ix) {
            link.credit_told = credit;
            ToHost::Credit { messages: credit.0, bytes: credit.1 }.encode(&mut link.out);
        }
    }

    /// A message of `link`. The answer comes as `Settled` with its ticket, perhaps in this very call.
    pub fn publish(&mut self, now: Now, ix: LinkIx, sent: Sent<'_>) -> Result<(), Fault> {
        let Sent { ticket, output, record: bytes, parents, .. } = sent;
        let link = self.link_mut(ix).ok_or(Fault::Closed)?;
        if ticket != link.next_ticket {
            return Err(Fault::Ticket { expected: link.next_ticket, got: ticket });
        }
        link.next_ticket += 1;
        let identity = link.identity;
        let Some(&source) = link.outputs.get(usize::from(output)) else {
            return self.refuse(ix, ticket, &format!("output number {output} is not declared"));
        };
        if self.is_overdrawn(identity, bytes.len()) {
            return self.refuse(ix, ticket, "out of credit");
        }
        let record = match Record::parse(bytes) {
            Ok(record) => record,
            Err(error) => return self.refuse(ix, ticket, &error.to_string()),
        };
        let (targets, verdicts) = self.route(now, source, record);
        let arrival = Arrival { seq: self.next_seq, source, now, verdicts };
        if self.taps > 0 {
            self.tap(now, source, bytes, &targets);
        }
        if targets.is_empty() {
            self.identities[identity as usize].no_route += 1;
            self.sources[source as usize].counts.no_route += 1;
            self.trace.turned_away(&arrival, bytes, Fate::NoRoute);
            self.answer(ix, ticket, Outcome::NoRoute, "");
            return Ok(());
        }
        // What a module sends while it handles a message is taken all the same, and waits: refused, it would come again
        // behind what the module did since. Its credit bounds it, and its input is not done until it is safe.
        if parents.is_empty()
            && let Some(reason) = self.no_place(&targets)
        {
            self.sources[source as usize].counts.unstored += 1;
            self.trace.turned_away(&arrival, bytes, Fate::Refused(reason.as_str().into()));
            return self.refuse(ix, ticket, &reason);
        }
        self.admit(ix, &arrival, sent, targets);
        Ok(())
    }

    fn admit(&mut self, ix: LinkIx, arrival: &Arrival, sent: Sent<'_>, targets: SmallVec<[Target; 2]>) {
        let Sent { ticket, at_once, parents, record, .. } = sent;
        let Arrival { seq, source, now, .. } = *arrival;
        self.next_seq += 1;
        let receipt = Some(Ticket { link: ix, ticket });
        let mut entry = Entry::new(seq, record.into(), source, now.wall, now.mono, targets, receipt, at_once);
        entry.trace = self.trace.taken(arrival, record.len());
        for delivery in parents.iter() {
            // A delivery that is over needs nobody to wait for it.
            if let Some(flight) = self.link_mut(ix).and_then(|l| l.flight(delivery)) {
                flight.children += 1;
                entry.parents.push(Parent { link: ix, delivery });
            }
        }
        let memory = entry.bytes();
        let key = self.entries.insert(entry);
        self.unsafes.push(&mut self.entries, key);
        self.urgent_messages += u32::from(at_once);
        self.charge(ix, key, memory);
        for i in 0..self.entries[key].targets.len() {
            let (queue, expiry) = (self.entries[key].targets[i].queue, self.entries[key].targets[i].expiry);
            let queue = &mut self.queues[queue as usize];
            queue.push(key, memory, expiry);
            queue.ledger.pending += 1;
            if let Some((consumer, _)) = queue.consumer {
                self.mark_dirty(consumer);
            }
        }
    }

    fn charge(&mut self, ix: LinkIx, key: Key, bytes: u64) {
        let link = self.links[ix.0 as usize].as_deref_mut().expect("the caller looked it up");
        link.unacked_messages += 1;
        link.unacked_bytes += bytes;
        let identity = &mut self.identities[link.identity as usize];
        identity.unacked_messages += 1;
        identity.unacked_bytes += bytes;
        identity.sending.push(&mut self.entries, key);
    }

    /// Where the message goes: each endpoint once.
    fn route(&mut self, now: Now, source: SourceIx, record: Record<'_>) -> (SmallVec<[Target; 2]>, Verdicts) {
        let state = &mut self.sources[source as usize];
        state.counts.received += 1;
        state.counts.received_bytes += record.bytes().len() as u64;
        let enqueued = Instant::new(now.wall);
        let envelope = Envelope {
            device_id: &self.device,
            module_id: Some(&state.source.module),
            output: Some(&state.source.output),
            enqueued_time: Some(&enqueued),
            ..Envelope::default()
        };
        let subject = RecordSubject { record, envelope };
        let mut selected = std::mem::take(&mut self.selected);
        selected.clear();
        let verdicts = self.routes.select(&state.candidates, &View::new(&subject), &mut selected);
        let mut targets = SmallVec::new();
        for choice in &selected {
            let queue = self.queue_for(source, choice.endpoint as u32, choice.priority);
            let ttl = choice.ttl_secs.map_or(self.config.ttl, |secs| Some(Duration::from_secs(secs)));
            let mut expiry = ttl.map_or(Age::NEVER, |ttl| now.age.after(ttl));
            if self.queues[queue as usize].capped {
                expiry = expiry.min(now.age.after(REMOVED_KEPT));
            }
            targets.push(Target::waiting(queue, expiry, 0));
        }
        self.selected = selected;
        (targets, verdicts)
    }

    fn queue_for(&mut self, source: SourceIx, endpoint: u32, priority: u32) -> QueueIx {
        let state = &self.sources[source as usize];
        if let Some((_, _, queue)) = state.queues.iter().find(|(e, p, _)| *e == endpoint && *p == priority) {
            return *queue;
        }
        let target = self.endpoint_of(source, endpoint);
        let queue = self.queue_of(target, priority);
        self.sources[source as usize].queues.push((endpoint, priority, queue));
        queue
    }

    /// Why a message can not be taken although its routes lead somewhere.
    pub(super) fn no_place(&self, targets: &[Target]) -> Option<String> {
        let reason = match &self.store {
            StoreState::Sound => return None,
            StoreState::Broken(reason) => format!("the store is broken: {reason}"),
            StoreState::Full(reason) => format!("the store is full: {reason}"),
        };
        // What a consumer can take at once needs no disk.
        let waiting = targets.iter().map(|t| &self.queues[t.queue as usize]);
        let stuck = waiting.into_iter().find(|q| q.consumer.is_none() || q.gap.is_some())?;
        Some(format!("{}: {reason}", stuck.endpoint))
    }

    pub(super) fn refuse(&mut self, ix: LinkIx, ticket: u64, reason: &str) -> Result<(), Fault> {
        if let Some(identity) = self.link(ix).map(|l| l.identity) {
            self.identities[identity as usize].refused += 1;
        }
        self.answer(ix, ticket, Outcome::Refused, reason);
        Ok(())
    }

    pub(super) fn answer(&mut self, ix: LinkIx, ticket: u64, outcome: Outcome, reason: &str) {
        if let Some(link) = self.link_mut(ix) {
            link.ack(ticket, outcome, reason);
            self.mark_output(ix);
        }
    }

    fn tap(&mut self, now: Now, source: SourceIx, bytes: &[u8], targets: &[Target]) {
        let endpoints = targets.iter().map(|t| self.queues[t.queue as usize].endpoint.to_string()).collect();
        let source = self.sources[source as usize].source.clone();
        self.tapped.push(Tapped { source, record: bytes.into(), enqueued: now.wall, endpoints });
    }
}
