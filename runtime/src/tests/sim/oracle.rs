//! What is true of every message, by what senders and consumers saw and what was committed. Each thing the hub does is
//! held against it when it happens. Must never ask the hub under test what is right.

use std::collections::{BTreeMap, BTreeSet};

use super::ledgers::Count;
use super::part::Got;
use crate::logic::hub::{Ledger, QueueRow};
use crate::model::endpoint::{Endpoint, Priority};
use crate::model::time::Age;
use skerry_abi::wire::frame::{Completion, Outcome};

/// Number of a message, in the order in which all were sent.
pub type Uid = u64;
/// Number of a queue here.
pub type Q = usize;
/// A message in each of some queues.
pub type Keys = Vec<(Q, Uid)>;

/// Where a message is, for one of its queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Waiting,
    /// With its consumer.
    InHand,
    /// Its consumer is done; what was sent on the way is not safe yet.
    Done,
    /// To be written to the dead letters.
    Dying,
    Closed(How),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Delivered,
    /// Its time is over; the hub may not have looked yet.
    Late,
    Dead,
    Evicted,
    /// Its sender was told that it is nowhere.
    Refused,
    /// With the memory of the runtime.
    Lost,
}

#[derive(Clone, Debug)]
pub struct Target {
    pub queue: Q,
    pub expiry: Age,
    pub at: At,
    pub committed: bool,
    /// The consumer has had it in its hands and did something with it.
    pub handled: bool,
    pub refusals: u16,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub source: (&'static str, &'static str),
    pub wall: i64,
    pub targets: Vec<Target>,
    pub told: Option<Outcome>,
    /// Its sender is gone, and nobody hears what becomes of it.
    pub orphan: bool,
    /// It was in a commit that failed, so that a cut may bring it back.
    pub doubtful: bool,
}

pub struct Queue {
    pub endpoint: Endpoint,
    pub priority: Priority,
    pub waiting: BTreeSet<Uid>,
    /// Of each source, the last that was handled for the first time.
    newest: BTreeMap<(&'static str, &'static str), Uid>,
    /// Nothing was refused and nobody died since the runtime started: nothing holds it up but its consumer's window.
    pub calm: bool,
    /// Some of it may lie on disk alone, and has to be read back first.
    pub may_lie_on_disk: bool,
    pub in_hand: u64,
    pub count: Count,
}

/// A delivery that is done but for its children.
pub struct Finishing {
    pub uid: Uid,
    pub queue: Q,
    pub children: Vec<Uid>,
}

#[derive(Default)]
pub struct Oracle {
    pub messages: Vec<Message>,
    pub queues: Vec<Queue>,
    pub finishing: Vec<Finishing>,
    pub expiring: BTreeSet<(Age, Uid, Q)>,
    pub age: Age,
    pub refusals_max: u16,
    /// Told since the last check.
    pub told: Vec<Uid>,
}

impl Oracle {
    pub fn queue(&mut self, endpoint: &Endpoint, priority: Priority) -> Q {
        let found = self.queues.iter().position(|q| q.endpoint == *endpoint && q.priority == priority);
        found.unwrap_or_else(|| {
            self.queues.push(Queue {
                endpoint: endpoint.clone(),
                priority,
                waiting: BTreeSet::new(),
                newest: BTreeMap::new(),
                calm: true,
                may_lie_on_disk: false,
                in_hand: 0,
                count: Count::default(),
            });
            self.queues.len() - 1
        })
    }

    pub fn next_uid(&self) -> Uid {
        self.messages.len() as Uid
    }

    pub fn message(&mut self, uid: Uid) -> &mut Message {
        &mut self.messages[uid as usize]
    }

    pub fn target(&mut self, uid: Uid, queue: Q) -> &mut Target {
        let found = self.messages[uid as usize].targets.iter_mut().find(|t| t.queue == queue);
        found.unwrap_or_else(|| panic!("message {uid} is at queue {queue}, where no route leads it"))
    }

    pub fn sent(&mut self, message: Message) {
        let uid = self.next_uid();
        for target in &message.targets {
            let queue = &mut self.queues[target.queue];
            queue.waiting.insert(uid);
            queue.count.admitted += 1;
            self.expiring.insert((target.expiry, uid, target.queue));
        }
        self.messages.push(message);
    }

    /// Time passes: whose is over is not delivered any more.
    pub fn grow(&mut self, age: Age) {
        assert!(age >= self.age, "the age of the store goes back: {age:?} after {:?}", self.age);
        self.age = age;
        while let Some((expiry, uid, queue)) = self.expiring.first().copied().filter(|(expiry, _, _)| *expiry <= age) {
            self.expiring.remove(&(expiry, uid, queue));
            if self.target(uid, queue).at == At::Waiting {
                self.wait(uid, queue);
            }
        }
    }

    /// Back to where it waits, or out of it if its time is over.
    fn wait(&mut self, uid: Uid, queue: Q) {
        let age = self.age;
        let target = self.target(uid, queue);
        let late = target.expiry <= age && target.expiry != Age::NEVER;
        target.at = if late { At::Closed(How::Late) } else { At::Waiting };
        let queue = &mut self.queues[queue];
        if late {
            queue.waiting.remove(&uid);
            queue.count.late += 1;
        } else {
            queue.waiting.insert(uid);
        }
    }

    /// After a cut, with a clock that went back meanwhile, nobody knows of the time since the last commit: what was too old
    /// then may not be so now, and comes behind what was delivered in its place.
    pub fn younger_again(&mut self, age: Age) {
        let before = std::mem::replace(&mut self.age, age);
        for message in &mut self.messages {
            message.doubtful |= message.targets.iter().any(|t| t.expiry <= before && t.expiry > age);
        }
    }

    /// A frame hands a message to its consumer. `better` are the consumer's queues of better priorities.
    pub fn delivered(&mut self, uid: Uid, queue: Q, attempts: u16) {
        let age = self.age;
        let target = self.target(uid, queue).clone();
        assert!(target.expiry > age, "message {uid} is delivered although its time is over");
        assert_eq!(target.at, At::Waiting, "message {uid} is delivered, but for {}", self.queues[queue].endpoint);
        assert!(attempts <= target.refusals, "message {uid} was refused {} times, not {attempts}", target.refusals);
        let older = self.queues[queue].waiting.range(..uid).copied();
        let surely = |uid: &Uid| {
            let message = &self.messages[*uid as usize];
            // Whether the message of a sender that is gone was taken is known only once it is on disk.
            !message.orphan || message.targets.iter().any(|t| t.queue == queue && t.committed)
        };
        let before: Vec<Uid> = older.filter(surely).collect();
        assert!(before.is_empty(), "message {uid} is delivered to {} before {before:?}", self.queues[queue].endpoint);
        self.check_priority(uid, queue);
        let target = self.target(uid, queue);
        target.at = At::InHand;
        target.refusals = attempts;
        self.queues[queue].waiting.remove(&uid);
        self.queues[queue].in_hand += 1;
    }

    fn check_priority(&self, uid: Uid, queue: Q) {
        let Queue { endpoint, priority, .. } = &self.queues[queue];
        let module = |endpoint: &Endpoint| match endpoint {
            Endpoint::Input { module, .. } => (module.clone(), false),
            Endpoint::Upstream { identity } => (identity.clone(), true),
        };
        let better = self
            .queues
            .iter()
            .filter(|q| q.calm && !q.may_lie_on_disk && q.priority < *priority && !q.waiting.is_empty());
        for other in better.filter(|q| module(&q.endpoint) == module(endpoint)) {
            let first = other.waiting.first().copied().unwrap_or_default();
            assert!(
                self.messages[first as usize].orphan,
                "message {uid} of priority {priority} goes to {endpoint} before {first} of {}",
                other.priority
            );
        }
    }

    /// The consumer does something with it.
    pub fn handled(&mut self, uid: Uid, queue: Q) {
        let source = self.messages[uid as usize].source;
        let doubtful = self.messages[uid as usize].doubtful;
        let target = self.target(uid, queue);
        if std::mem::replace(&mut target.handled, true) {
            return;
        }
        let queue = &mut self.queues[queue];
        let newest = queue.newest.entry(source).or_default();
        let endpoint = &queue.endpoint;
        assert!(uid >= *newest || doubtful, "message {uid} comes to {endpoint} for the first time after {newest}");
        *newest = uid.max(*newest);
    }

    /// The consumer ends a delivery; `children` were sent on the way.
    pub fn ended(&mut self, got: Got, completion: Completion, children: Vec<Uid>) {
        let Got { uid, queue, .. } = got;
        if completion == Completion::Deferred {
            return;
        }
        let max = self.refusals_max;
        self.queues[queue].in_hand -= 1;
        match completion {
            Completion::Done if children.is_empty() => self.close(uid, queue, How::Delivered),
            Completion::Done => {
                self.target(uid, queue).at = At::Done;
                self.finishing.push(Finishing { uid, queue, children });
            }
            Completion::Refused => {
                self.queues[queue].calm = false;
                let target = self.target(uid, queue);
                target.refusals += 1;
                if target.refusals >= max {
                    target.at = At::Dying;
                } else {
                    self.wait(uid, queue);
                }
            }
            _ => self.wait(uid, queue),
        }
    }

    /// It can never be delivered.
    pub fn given_up(&mut self, got: Got) {
        self.queues[got.queue].in_hand -= 1;
        self.target(got.uid, got.queue).at = At::Dying;
    }

    pub fn close(&mut self, uid: Uid, queue: Q, how: How) {
        let target = self.target(uid, queue);
        assert!(
            !matches!(target.at, At::Closed(_)) || how == How::Lost,
            "message {uid}: {:?}, then {how:?}",
            target.at
        );
        target.at = At::Closed(how);
        let queue = &mut self.queues[queue];
        queue.waiting.remove(&uid);
        match how {
            How::Delivered => queue.count.delivered += 1,
            How::Dead => queue.count.dead += 1,
            How::Evicted => queue.count.evicted += 1,
            How::Refused => queue.count.withdrawn += 1,
            How::Late | How::Lost => {}
        }
    }

    /// Its consumer is gone with it; `died` if that was what killed it.
    pub fn orphaned(&mut self, got: Got, died: bool) {
        self.queues[got.queue].calm = false;
        self.ended(got, if died { Completion::Refused } else { Completion::Returned }, Vec::new());
    }

    /// Nobody hears any more what becomes of it.
    pub fn sender_gone(&mut self, uid: Uid) {
        self.message(uid).orphan = true;
    }

    /// Safe by what is known here: with `maybe`, also if the hub has yet to see that its time is over.
    pub fn is_safe(&self, uid: Uid, maybe: bool) -> bool {
        self.messages[uid as usize].targets.iter().all(|t| match t.at {
            At::Closed(How::Late) => t.committed || maybe,
            At::Closed(_) => true,
            At::Done => t.committed || (maybe && self.may_be_finished(uid, t.queue)),
            At::Waiting | At::InHand | At::Dying => t.committed,
        })
    }

    fn may_be_finished(&self, uid: Uid, queue: Q) -> bool {
        let found = self.finishing.iter().find(|f| f.uid == uid && f.queue == queue);
        found.is_some_and(|f| f.children.iter().all(|child| self.is_safe(*child, true)))
    }

    /// Deliveries whose children are all safe are over.
    pub fn finish(&mut self) {
        loop {
            let over = |f: &Finishing| f.children.iter().all(|child| self.is_safe(*child, false));
            let Some(at) = self.finishing.iter().position(over) else { break };
            let Finishing { uid, queue, .. } = self.finishing.swap_remove(at);
            self.close(uid, queue, How::Delivered);
        }
    }

    pub fn told(&mut self, uid: Uid, outcome: Outcome) {
        let before = self.message(uid).told.replace(outcome);
        assert_eq!(before, None, "message {uid} is answered twice");
        self.told.push(uid);
        if outcome == Outcome::Refused {
            let waits = self.finishing.iter().any(|f| f.children.contains(&uid));
            assert!(!waits, "message {uid} is refused, and an input that is done waits for it");
            for at in 0..self.message(uid).targets.len() {
                let Target { queue, at, committed, .. } = self.message(uid).targets[at].clone();
                match at {
                    At::Waiting => {
                        assert!(!committed, "message {uid} is refused although it is on disk");
                        self.close(uid, queue, How::Refused);
                    }
                    // The hub may have withdrawn it before it saw that its time was over.
                    At::Closed(How::Late) => self.queues[queue].count.unsure += 1,
                    _ => {}
                }
            }
        }
    }

    /// Every answer of this turn was true.
    pub fn check_told(&mut self) {
        for uid in std::mem::take(&mut self.told) {
            let message = &self.messages[uid as usize];
            let outcome = message.told.expect("it is on the list");
            let any = |how: How| message.targets.iter().any(|t| t.at == At::Closed(how));
            let right = match outcome {
                Outcome::NoRoute => message.targets.is_empty(),
                Outcome::Refused => !message.targets.iter().any(|t| matches!(t.at, At::InHand | At::Done | At::Dying)),
                Outcome::Delivered => message.targets.iter().all(|t| match t.at {
                    At::Closed(how) => how == How::Delivered,
                    At::Done => self.may_be_finished(uid, t.queue),
                    _ => false,
                }),
                Outcome::Durable => self.is_safe(uid, true),
                Outcome::Expired => any(How::Late) && self.is_safe(uid, true),
                Outcome::DeadLettered => any(How::Dead) && self.is_safe(uid, true),
                Outcome::Evicted => any(How::Evicted) && self.is_safe(uid, true),
                Outcome::Removed => false,
            };
            assert!(
                right && (outcome != Outcome::NoRoute) != message.targets.is_empty(),
                "message {uid} is told {outcome:?}: {message:?}"
            );
        }
    }

    /// The runtime begins anew with what the store holds: `open` by queue of the store.
    pub fn begin(&mut self, rows: &[QueueRow], open: &BTreeSet<(Q, Uid)>) {
        self.finishing.clear();
        self.expiring.clear();
        for queue in &mut self.queues {
            queue.waiting.clear();
            queue.in_hand = 0;
            queue.count = Count::default();
            queue.calm = true;
            queue.may_lie_on_disk = false;
        }
        for row in rows {
            let queue = self.queue(&row.endpoint, row.priority);
            self.queues[queue].count.base = Ledger { pending: row.ledger.stored, ..row.ledger };
            self.queues[queue].may_lie_on_disk = row.ledger.stored > 0;
        }
        for uid in 0..self.next_uid() {
            for at in 0..self.message(uid).targets.len() {
                let queue = self.message(uid).targets[at].queue;
                let is_open = open.contains(&(queue, uid));
                let target = self.target(uid, queue);
                target.committed = is_open;
                if is_open {
                    let expiry = target.expiry;
                    target.at = At::Waiting;
                    self.expiring.insert((expiry, uid, queue));
                    self.wait(uid, queue);
                } else if !matches!(target.at, At::Closed(_)) {
                    target.at = At::Closed(How::Lost);
                }
            }
        }
    }
}
