//! A sender and two consumers around a hub, and what they see of it, told to the model.
//! Must never break a rule of the link: what a module's host would not do is not tried here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use skerry_abi::wire::frame::{self, Completion, Parents, ToHost};
use skerry_abi::wire::record::Writer;
use skerry_runtime::logic::block::Block;
use skerry_runtime::logic::hub::{Commit, Ending, Hub, HubConfig, LinkIx, Restored, Sent};
use skerry_runtime::logic::routing::{NamedRoute, RouteTable};
use skerry_runtime::model::endpoint::{Endpoint, PRIORITY_DEFAULT, Priority};
use skerry_runtime::model::time::{Age, Mono, Now, Wall};

use super::disk::{Disk, number_of};
use super::model::{Model, Queue};

const OUTPUTS: [&str; 4] = ["one", "both", "fast", "lost"];
const CONSUMERS: [&str; 2] = ["b", "c"];
/// Consumer, and priority, of each queue of the model.
const QUEUES: [(usize, Option<u32>); 3] = [(0, None), (1, None), (0, Some(0))];
/// Which queues an output leads to.
const LEADS: [&[usize]; 4] = [&[0], &[0, 1], &[2], &[]];
const TTL: Duration = Duration::from_secs(30);

/// A consumer: what it has in its hands, in the order in which it came.
#[derive(Default)]
struct Consumer {
    link: Option<LinkIx>,
    hand: VecDeque<Got>,
    refused: BTreeSet<u32>,
}

#[derive(Clone, Copy)]
struct Got {
    id: u64,
    stream: u32,
    queue: usize,
    number: u64,
}

pub struct World {
    hub: Hub,
    disk: Disk,
    model: Model,
    ms: u64,
    sender: Option<LinkIx>,
    next_ticket: u64,
    tickets: BTreeMap<u64, u64>,
    consumers: [Consumer; 2],
    commit: Option<Commit>,
    credit: usize,
}

fn config() -> HubConfig {
    HubConfig {
        ttl: Some(TTL),
        memory_bytes: 64 * 1024,
        credit_messages: 60,
        credit_bytes: 16 * 1024,
        refusals_max: 3,
        ..HubConfig::default()
    }
}

fn routes() -> RouteTable {
    let mut routes = Vec::new();
    for (output, leads) in OUTPUTS.iter().zip(LEADS) {
        for queue in leads {
            let (consumer, priority) = QUEUES[*queue];
            let to = format!("BrokeredEndpoint(\"/modules/{}/inputs/in\")", CONSUMERS[consumer]);
            let text = format!("FROM /messages/modules/a/outputs/{output} INTO {to}");
            routes.push(NamedRoute { name: format!("{output}{queue}"), text, priority, ttl_secs: None });
        }
    }
    RouteTable::new(routes).expect("good routes")
}

fn queue_of(endpoint: &Endpoint, priority: Priority) -> usize {
    let name = |at: usize| Endpoint::Input { module: CONSUMERS[QUEUES[at].0].into(), input: "in".into() };
    let is = |at: &usize| name(*at) == *endpoint && QUEUES[*at].1.unwrap_or(PRIORITY_DEFAULT) == priority;
    (0..QUEUES.len()).find(is).expect("a queue of the model")
}

impl World {
    pub fn new() -> World {
        let queues = QUEUES.iter().map(|_| Queue::default()).collect();
        let mut world = World {
            hub: Hub::new("d", config(), routes(), Restored::default()),
            disk: Disk::default(),
            model: Model { queues, refusals_max: config().refusals_max, ..Model::default() },
            ms: 1_000,
            sender: None,
            next_ticket: 1,
            tickets: BTreeMap::new(),
            consumers: Default::default(),
            commit: None,
            credit: 0,
        };
        world.connect();
        world.turn();
        world
    }

    fn now(&self) -> Now {
        Now { mono: Mono(self.ms), wall: Wall(self.ms as i64), age: Age(self.ms) }
    }

    pub fn step(&mut self, what: u8, how: u64) {
        let consumer = (how % 2) as usize;
        match what {
            0..=4 => (0..=how / 8).for_each(|nth| self.send((how + nth) as usize % OUTPUTS.len(), how * 20)),
            5..=7 => (0..=how / 4).for_each(|_| self.finish(consumer)),
            8 => self.refuse(consumer),
            9 => self.close(consumer, true),
            10 => self.connect(),
            11 => self.committed(true),
            12 => self.committed(false),
            13 => self.ms += how * 40,
            14 => self.close(consumer, false),
            _ => self.kill(how % 2 == 1),
        }
        self.turn();
    }

    fn send(&mut self, output: usize, bytes: u64) {
        let Some(link) = self.sender.filter(|_| self.tickets.len() < self.credit) else { return };
        let now = self.now();
        let number = self.model.sent(LEADS[output].to_vec(), now.age.after(TTL));
        let (mut record, mut body) = (Vec::new(), number.to_le_bytes().to_vec());
        body.resize(8 + bytes as usize, number as u8);
        Writer::new(&mut record).finish(&body).expect("a good record");
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(ticket, number);
        let sent = Sent { ticket, output: output as u16, at_once: false, parents: Parents::NONE, record: &record };
        self.hub.publish(now, link, sent).expect("the rules are kept");
    }

    fn complete(&mut self, link: LinkIx, id: u64, completion: Completion) {
        self.hub.complete(self.now(), link, id, 1, completion, "no").expect("the rules are kept");
    }

    fn finish(&mut self, at: usize) {
        let Some(link) = self.consumers[at].link else { return };
        let Some(got) = self.consumers[at].hand.pop_front() else { return };
        self.model.done(got.queue, got.number);
        self.complete(link, got.id, Completion::Done);
    }

    /// The first in its hands; what came after that from the same queue goes back.
    fn refuse(&mut self, at: usize) {
        let Some(link) = self.consumers[at].link else { return };
        let Some(got) = self.consumers[at].hand.pop_front() else { return };
        self.consumers[at].refused.insert(got.stream);
        self.model.refused(got.queue, got.number);
        self.complete(link, got.id, Completion::Refused);
        let hand = std::mem::take(&mut self.consumers[at].hand);
        let (back, kept): (VecDeque<Got>, VecDeque<Got>) = hand.iter().partition(|other| other.stream == got.stream);
        self.consumers[at].hand = kept;
        back.into_iter().for_each(|got| self.give_back(link, got));
    }

    fn give_back(&mut self, link: LinkIx, got: Got) {
        self.model.returned(got.queue, got.number);
        self.complete(link, got.id, Completion::Returned);
    }

    /// It goes; if it died, then of the first in its hands.
    fn close(&mut self, at: usize, died: bool) {
        let Consumer { link, hand, .. } = std::mem::take(&mut self.consumers[at]);
        let Some(link) = link else { return };
        let ending = hand.front().filter(|_| died).map_or(Ending::Quietly, |got| Ending::During(got.id));
        for (nth, got) in hand.iter().enumerate() {
            let of_it = died && nth == 0;
            if of_it { self.model.refused(got.queue, got.number) } else { self.model.returned(got.queue, got.number) }
        }
        self.hub.close_link(self.now(), link, ending);
    }

    fn connect(&mut self) {
        if self.sender.is_none() {
            let outputs = OUTPUTS.map(str::to_owned);
            let link = self.hub.open_link("a", &outputs, &[]);
            self.hub.ready(link);
            (self.sender, self.next_ticket) = (Some(link), 1);
            self.credit = self.hub.credit(link).0 as usize;
        }
        for (at, name) in CONSUMERS.iter().enumerate() {
            if self.consumers[at].link.is_none() {
                let link = self.hub.open_link(name, &[], &["in".to_owned()]);
                self.hub.ready(link);
                self.consumers[at].link = Some(link);
            }
        }
    }

    fn committed(&mut self, good: bool) {
        let Some(commit) = self.commit.take() else { return };
        let now = self.now();
        if !good {
            self.hub.handle_committed(now, commit.id, Err("simulated".into()));
            return self.hub.handle_reopened();
        }
        let wrote = self.disk.apply(&commit);
        self.written(&commit);
        self.hub.handle_committed(now, commit.id, Ok(wrote));
    }

    fn written(&mut self, commit: &Commit) {
        for block in &commit.blocks {
            let parsed = Block::parse(&block.bytes).expect("a block");
            parsed.for_each(|m| self.model.message(number_of(m.record)).committed = true).expect("a whole block");
        }
        for letter in &commit.dead {
            let row = &self.disk.queues[&letter.queue];
            self.model.buried(queue_of(&row.endpoint, row.priority), number_of(&letter.record));
        }
    }

    /// Everything in memory is gone; the commit under way came through, or did not.
    fn kill(&mut self, came_through: bool) {
        if let Some(commit) = self.commit.take().filter(|_| came_through) {
            self.disk.apply(&commit);
            for letter in &commit.dead {
                self.model.message(number_of(&letter.record)).ended.insert("dead");
            }
        }
        for number in std::mem::take(&mut self.tickets).into_values() {
            self.model.message(number).orphan = true;
        }
        (self.consumers, self.sender) = (Default::default(), None);
        self.hub = Hub::new("d", config(), routes(), self.disk.restored());
        let age = self.now().age;
        for queue in 0..QUEUES.len() {
            let row = self.disk.queues.values().find(|row| queue_of(&row.endpoint, row.priority) == queue);
            let open = row.map_or_else(Default::default, |row| self.disk.open(row.id));
            self.model.found(queue, open, row.map_or_else(Default::default, |row| row.ledger), age);
        }
    }

    fn turn(&mut self) {
        let now = self.now();
        if self.hub.next_timeout(now) <= now.mono {
            self.hub.on_timeout(now);
        }
        // As long as there is something to read, since a refused message brings back what follows it.
        loop {
            self.hub.end_turn(now);
            let mut frames = Vec::new();
            while let Some(link) = self.hub.take_output() {
                frames.push((link, self.hub.output(link).map_or_else(Vec::new, std::mem::take)));
            }
            frames.iter().for_each(|(link, bytes)| self.read(*link, bytes));
            let mut loaded = false;
            while let Some(request) = self.hub.poll_load() {
                self.hub.handle_loaded(now, request, self.disk.load(&request));
                loaded = true;
            }
            if frames.is_empty() && !loaded {
                break;
            }
        }
        if let Some(commit) = self.hub.poll_commit(now) {
            assert!(self.commit.is_none(), "two commits are under way");
            self.commit = Some(commit);
        }
        for view in self.hub.overview().queues {
            self.model.check_ledger(queue_of(&view.endpoint, view.priority), &view.ledger);
        }
    }

    fn read(&mut self, link: LinkIx, bytes: &[u8]) {
        let now = self.now();
        let mut rest = bytes;
        while let Some(one) = frame::split(&mut rest).expect("whole frames") {
            match ToHost::decode(one).expect("good frames") {
                ToHost::Deliver { id, queue: stream, attempts, record, .. } => {
                    let at =
                        self.consumers.iter().position(|c| c.link == Some(link)).expect("a consumer that is there");
                    let number = number_of(record);
                    let is_here = |queue: &&usize| QUEUES[**queue].0 == at;
                    let queue = *self.model.message(number).queues.iter().find(is_here).expect("a route leads here");
                    self.model.delivered_to(queue, number, attempts, now.age);
                    let got = Got { id, stream, queue, number };
                    if self.consumers[at].refused.contains(&stream) {
                        self.give_back(link, got);
                    } else {
                        self.consumers[at].hand.push_back(got);
                    }
                }
                ToHost::Settled { first, count, outcome, .. } => {
                    for ticket in first..first + u64::from(count) {
                        let number = self.tickets.remove(&ticket).expect("a ticket is answered once");
                        self.model.told(number, outcome, now.age);
                    }
                }
                ToHost::Credit { messages, .. } => self.credit = messages as usize,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Nothing fails any more: everything comes to its end, in time, and nothing is left in memory or on disk.
    pub fn drain(&mut self) {
        for round in 0..2_000 {
            self.connect();
            for _ in 0..20 {
                for at in 0..CONSUMERS.len() {
                    (0..50).for_each(|_| self.finish(at));
                }
                self.turn();
            }
            self.committed(true);
            self.ms += 200;
            self.turn();
            // Long after every wait for another try, and well before everything is too old.
            if round == 60 {
                let waits = self.model.waits(self.now().age);
                assert_eq!(waits, None, "nothing holds it up, and it does not come: {:#?}", self.hub.overview());
            }
            let settled = self.hub.overview().queues.iter().all(|queue| queue.ledger.pending == 0);
            if settled && self.tickets.is_empty() && self.disk.is_empty() && self.commit.is_none() {
                return self.check_end();
            }
        }
        panic!("it does not drain: {:#?}", self.hub.overview());
    }

    fn check_end(&self) {
        assert_eq!(self.model.waits(self.now().age), None, "it never came");
        assert!(self.model.queues.iter().all(|state| state.flying.is_empty() && state.dying.is_empty()));
        let overview = self.hub.overview();
        assert_eq!((overview.messages, overview.memory_bytes), (0, 0), "memory that nobody gives back");
    }
}
