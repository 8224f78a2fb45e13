//! The images that modules take from registries and servers: each is brought once, tried again after a failure, and at hand
//! without a network once it was brought. Must never wait: who asks gets what there is, and is woken when there is more.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use smol::channel::{Receiver, Sender};

use super::world::World;
use crate::model::image::Image;
use crate::model::reference::{PullPolicy, Reference, RegistryCredentials};

/// Wait after the first failure, and the longest; it doubles in between, as for instances.
const RETRY_FIRST: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Between two looks how far a pull is. What is reported changes with each tenth, so this costs nothing by itself.
const TELL: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Supply {
    /// By reference in full. An errand ends when its reference is forgotten.
    errands: BTreeMap<String, Errand>,
    /// The first look is over: what is named from now on is asked for at its source.
    settled: bool,
}

struct Errand {
    outcome: Rc<RefCell<Outcome>>,
    again: Sender<()>,
    _task: smol::Task<()>,
}

enum Outcome {
    Coming,
    There(Rc<Image>),
    Failed(String),
}

impl Outcome {
    fn image(&self, reference: &Reference) -> Result<Rc<Image>, String> {
        match self {
            Outcome::Coming => Err(format!("{reference} is being pulled")),
            Outcome::There(image) => Ok(Rc::clone(image)),
            Outcome::Failed(why) => Err(why.clone()),
        }
    }
}

impl Supply {
    /// The image, or why it is not there yet. A change wakes the agent.
    pub fn image(
        &mut self,
        world: &Rc<World>,
        reference: &Reference,
        registries: &[RegistryCredentials],
        policy: PullPolicy,
    ) -> Result<Rc<Image>, String> {
        let settled = self.settled;
        let errand = self.errands.entry(reference.to_string()).or_insert_with(|| {
            let outcome = Rc::new(RefCell::new(Outcome::Coming));
            let (again, retry) = smol::channel::bounded(1);
            let (registries, inner) = (registries.to_vec(), Rc::clone(&outcome));
            let work = bring(Rc::clone(world), reference.clone(), registries, policy, settled, inner, retry);
            Errand { outcome, again, _task: world.executor.spawn(work) }
        });
        if world.pulls.was_brought(reference) {
            let _ = errand.again.try_send(());
        }
        errand.outcome.borrow().image(reference)
    }

    /// What is made anew is asked for anew, where something else may stand behind its reference by now. What runs goes on meanwhile.
    pub fn ask_again(&mut self, reference: &Reference) {
        if let Some(errand) = self.errands.get(&reference.to_string()).filter(|_| reference.may_move()) {
            *errand.outcome.borrow_mut() = Outcome::Coming;
            let _ = errand.again.try_send(());
        }
    }

    /// Without bringing anything, for a preview.
    pub fn known(&self, reference: &Reference) -> Result<Rc<Image>, String> {
        match self.errands.get(&reference.to_string()).map(|errand| errand.outcome.borrow()) {
            Some(outcome) => outcome.image(reference),
            None => Err(format!("{reference} would be pulled")),
        }
    }

    /// It was asked for, and its source has not yet said no.
    pub fn is_coming(&self, reference: &Reference) -> bool {
        let errand = self.errands.get(&reference.to_string());
        errand.is_some_and(|errand| matches!(*errand.outcome.borrow(), Outcome::Coming))
    }

    /// References that nobody names any more.
    pub fn forget(&mut self, named: &[String]) {
        self.errands.retain(|reference, _| named.contains(reference));
    }

    /// A look is over.
    pub fn settle(&mut self, world: &World) {
        self.settled = true;
        world.pulls.forget_brought();
    }

    pub fn digests(&self) -> Vec<String> {
        let there = |errand: &Errand| match &*errand.outcome.borrow() {
            Outcome::There(image) => Some(image.digest.clone()),
            _ => None,
        };
        self.errands.values().filter_map(there).collect()
    }
}

/// What came of a pull so far is reported, as long as it goes on.
async fn tell<T>(world: &World) -> T {
    loop {
        smol::Timer::after(TELL).await;
        let _ = world.report.try_send(());
    }
}

/// As long as somebody names it: until it is there, and again when it is asked for anew or an operator brought another. A runtime that
/// starts takes what was brought before it ended: a start needs no network.
async fn bring(
    world: Rc<World>,
    reference: Reference,
    registries: Vec<RegistryCredentials>,
    policy: PullPolicy,
    settled: bool,
    outcome: Rc<RefCell<Outcome>>,
    retry: Receiver<()>,
) {
    let mut wait = RETRY_FIRST;
    let mut at_hand = if settled { None } else { world.pulls.at_hand(&reference).await };
    loop {
        let got = match at_hand.take() {
            Some(got) => got,
            None => smol::future::or(world.pulls.get(&reference, &registries, policy), tell(&world)).await,
        };
        let done = match got {
            Ok(got) => {
                if let Some(remark) = &got.remark {
                    world.board.warn(format!("{reference} may run all the same: {remark}"));
                }
                *outcome.borrow_mut() = Outcome::There(got.image);
                true
            }
            Err(why) => {
                log::warn!("image={reference} pulled=false retry_in_s={} reason=\"{why}\"", wait.as_secs());
                *outcome.borrow_mut() = Outcome::Failed(why);
                false
            }
        };
        let _ = world.replan.try_send(());
        let waited = async {
            if done {
                std::future::pending::<()>().await;
            }
            smol::Timer::after(wait).await;
            wait * 2
        };
        let told = async {
            match retry.recv().await {
                Ok(()) => RETRY_FIRST,
                Err(_) => std::future::pending().await,
            }
        };
        wait = smol::future::or(told, waited).await.min(RETRY_MAX);
    }
}
