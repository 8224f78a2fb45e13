//! Sees to it that every module that runs has an identity in the hub and a way to it: from the configuration, from what was made
//! before, or made now over the registry. Must never make two for one module, never need the cloud for one that it made before, and
//! never give a new identity to one that was revoked.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};
use smol::channel::Receiver;

use super::mailbox::{Errand, Refusal, Removal};
use super::registry::{self, start_uplink};
use super::world::World;
use super::{provision, removal, roster};
use crate::logic::registration::{Outcome, Registration};
use crate::model::identity::Credentials;
use crate::model::time::Mono;

/// Between two looks at the registry for an identity whose token is not accepted, ms.
const DOUBT_MS: u64 = 60_000;
/// Before the provisioning service is asked again although it has just answered, doubled each time up to the next, ms.
const AGAIN_MS: u64 = 30_000;
const AGAIN_MAX_MS: u64 = 3_600_000;

/// What wakes the loop.
pub struct Wakes {
    /// Instances came or went, a connection ended for good, or a token was refused.
    pub changed: Receiver<()>,
    pub errands: Receiver<Errand>,
}

/// The identities of one device in one hub.
struct Identities {
    world: Rc<World>,
    device: Credentials,
    /// On their way into the registry, or looked up there, with when to go on.
    pending: BTreeMap<String, (Registration, Mono)>,
    /// To be made anew: the device was assigned again.
    again: BTreeSet<String>,
    /// To be connected as soon as their former connection is gone.
    ready: BTreeMap<String, Credentials>,
    /// When an identity that is refused may be looked up.
    doubts: BTreeMap<String, Mono>,
    /// What was logged last, by module.
    said: BTreeMap<String, String>,
}

/// For as long as the runtime runs.
pub async fn run(world: Rc<World>, wakes: Wakes) {
    for (module, identity) in &world.config.cloud.modules {
        start_uplink(&world, module, identity.clone());
    }
    let dps = world.config.cloud.dps.clone();
    let device = match (&world.config.cloud.device, &dps) {
        (Some(device), _) => device.clone(),
        (None, Some(dps)) => provision::run(&world, dps).await,
        (None, None) => return removal::refuse_all(&wakes.errands).await,
    };
    let (mut own, mut asked, mut not_before) = (Identities::new(&world, device), 0, Mono(0));
    loop {
        own.serve(&wakes, not_before).await;
        let Some(dps) = &dps else { continue };
        log::warn!(
            "provisioning registration={} status=again reason=\"the hub {} refuses this device\"",
            dps.registration_id,
            own.device.host_name
        );
        let assigned = async { Some(provision::run(&world, dps).await) };
        // Switched on again, or refused by mistake.
        let accepted = async {
            while wakes.changed.recv().await.is_ok() && !own.is_any_connected() {}
            None
        };
        if let Some(device) = smol::future::or(assigned, accepted).await {
            own.assigned_again(device);
        }
        let wait = AGAIN_MS.saturating_mul(1 << asked).min(AGAIN_MAX_MS);
        not_before = world.port.now().mono.plus(wait);
        asked = if own.is_any_connected() { 0 } else { (asked + 1).min(16) };
    }
}

impl Identities {
    fn new(world: &Rc<World>, device: Credentials) -> Identities {
        let mut own = Identities {
            world: Rc::clone(world),
            device,
            pending: BTreeMap::new(),
            again: BTreeSet::new(),
            ready: BTreeMap::new(),
            doubts: BTreeMap::new(),
            said: BTreeMap::new(),
        };
        own.ready = own.made_before();
        own
    }

    /// Until the hub refuses the device, where somebody can tell another hub; not before that time.
    async fn serve(&mut self, wakes: &Wakes, not_before: Mono) {
        loop {
            self.start_ready();
            self.wake_all();
            self.wanted();
            self.doubtful();
            let now = self.world.port.now().mono;
            let due = self.pending.iter().filter(|(_, (_, at))| *at <= now).map(|(module, _)| module.clone()).next();
            let Some(module) = due else {
                let first = self.pending.values().map(|(_, at)| at.since(now)).min();
                match wait(first, wakes).await {
                    Some(Errand::Remove(removal)) => self.remove(removal).await,
                    Some(Errand::List(answer)) => drop(answer.try_send(roster::list(&self.world, &self.device).await)),
                    None => {}
                }
                continue;
            };
            let Some((registration, _)) = self.pending.remove(&module) else { continue };
            let refused = self.register(&module, registration).await;
            if refused && self.world.config.cloud.dps.is_some() && not_before <= self.world.port.now().mono {
                return;
            }
        }
    }

    fn start_ready(&mut self) {
        let free = |module: &String| !self.world.board.uplinks.borrow().contains_key(module);
        let free: Vec<String> = self.ready.keys().filter(|module| free(module)).cloned().collect();
        for module in free {
            if let Some(identity) = self.ready.remove(&module) {
                start_uplink(&self.world, &module, identity);
            }
        }
    }

    /// A module that came or went changes whether its connection is kept.
    fn wake_all(&self) {
        for uplink in self.world.board.uplinks.borrow().values().filter(|uplink| uplink.resting.get()) {
            let _ = uplink.wake.try_send(());
        }
    }

    /// Instances, and identities of the runtime itself, without a way to the cloud.
    fn wanted(&mut self) {
        let world = Rc::clone(&self.world);
        let (slots, seats, uplinks) =
            (world.board.slots.borrow(), world.board.seats.borrow(), world.board.uplinks.borrow());
        let is_wanted = |module: &String| slots.contains_key(module) || seats.contains_key(module);
        self.pending.retain(|module, (r, _)| is_wanted(module) || self.again.contains(module) || r.is_check());
        let new = slots.keys().chain(seats.keys()).filter(|module| !uplinks.contains_key(*module));
        let new: BTreeSet<String> = new.chain(&self.again).cloned().collect();
        for module in new.into_iter().filter(|module| !self.ready.contains_key(module)) {
            if !self.pending.contains_key(&module)
                && let Some(registration) = self.registration(&module)
            {
                self.pending.insert(module, (registration, Mono(0)));
            }
        }
    }

    fn registration(&self, module: &str) -> Option<Registration> {
        match self.world.keys.identity(module) {
            Ok(keys) => {
                let [primary, secondary] = keys.map(|key| BASE64.encode(key.bytes()));
                Some(Registration::new(&self.device.device_id, module, primary, secondary))
            }
            Err(error) => {
                self.world.board.warn(format!("{module} gets no identity in the cloud: {error}"));
                None
            }
        }
    }

    /// Those that the hub knew and refuses now: the registry says why.
    fn doubtful(&mut self) {
        let now = self.world.port.now().mono;
        let known = self.world.board.identities.borrow();
        let refused: Vec<String> = {
            let uplinks = self.world.board.uplinks.borrow();
            let doubtful = uplinks.values().filter(|uplink| uplink.refused.get() && known.contains_key(&uplink.module));
            doubtful.map(|uplink| uplink.module.clone()).collect()
        };
        for module in refused {
            let early = self.doubts.get(&module).is_some_and(|at| *at > now);
            if early || self.pending.contains_key(&module) {
                continue;
            }
            if let Some(registration) = self.registration(&module) {
                self.doubts.insert(module.clone(), now.plus(DOUBT_MS));
                self.pending.insert(module, (registration.check(), now));
            }
        }
    }

    /// Asks until it is done, or has failed for now. True where the hub refuses the device itself.
    async fn register(&mut self, module: &str, mut registration: Registration) -> bool {
        let world = Rc::clone(&self.world);
        loop {
            let outcome = registry::ask(&world, &self.device, &mut registration).await;
            let now = world.port.now().mono;
            let (why, at, refused) = match outcome {
                Outcome::Continue => continue,
                Outcome::Done { generation_id } => {
                    self.said.remove(module);
                    self.done(module, &generation_id, registration.is_check());
                    return false;
                }
                Outcome::Revoked { why } => {
                    self.revoked(module, why);
                    return false;
                }
                Outcome::Failed { why, at } => (why, at, false),
                Outcome::Refused { why, at } => (why, at, true),
            };
            // One line for one reason, however often it is met; of one that was connected its connection has told.
            let quiet = self.said.get(module) == Some(&why) || registration.is_check();
            let level = if quiet { log::Level::Debug } else { log::Level::Warn };
            log::log!(level, "identity module={module} status=missing retry_in_ms={} reason={why:?}", at.since(now));
            self.said.insert(module.to_owned(), why);
            if !registration.is_check() {
                self.pending.insert(module.to_owned(), (registration, at));
            }
            return refused;
        }
    }

    fn done(&mut self, module: &str, generation_id: &str, was_check: bool) {
        let known = self.world.board.identities.borrow().get(module).cloned();
        if was_check {
            let before = known.as_ref().and_then(|known| known["generationId"].as_str()).unwrap_or_default();
            if before != generation_id && !before.is_empty() {
                self.revoked(module, "another identity of its name was made in the hub".to_owned());
            }
            return;
        }
        self.again.remove(module);
        let Ok([primary, _]) = self.world.keys.identity(module) else { return };
        let host = &self.device.host_name;
        log::info!("identity module={module} status=registered host={host} generation_id={generation_id}");
        let identity = Credentials { module_id: Some(module.to_owned()), key: primary, ..self.device.clone() };
        let document = json!({"host": host, "device": identity.device_id, "generationId": generation_id});
        let bytes = document.to_string().into_bytes();
        self.world
            .port
            .turn(|hub, now| hub.put_document(now, &format!("identity/{module}"), Some(bytes.clone()), true));
        self.world.board.identities.borrow_mut().insert(module.to_owned(), document);
        self.ready.insert(module.to_owned(), identity);
    }

    fn revoked(&mut self, module: &str, why: String) {
        let uplinks = self.world.board.uplinks.borrow();
        let Some(uplink) = uplinks.get(module) else { return };
        if uplink.revoked.borrow().as_ref() != Some(&why) {
            log::warn!(
                "identity module={module} status=revoked reason={why:?} action=\"its messages are held until they expire; skerry identity \
                 remove {module} lets it have a new one\""
            );
        }
        *uplink.revoked.borrow_mut() = Some(why);
    }

    /// Identities of this device in this hub that were made before, also of modules that do not run any more: their messages may wait.
    fn made_before(&self) -> BTreeMap<String, Credentials> {
        let known = self.world.board.identities.borrow();
        let device = &self.device;
        let ours = |document: &Value| document["host"] == device.host_name && document["device"] == device.device_id;
        let mut found = BTreeMap::new();
        for (module, _) in known.iter().filter(|(_, document)| ours(document)) {
            match self.world.keys.identity(module) {
                Ok([key, _]) => {
                    let identity = Credentials { module_id: Some(module.clone()), key, ..device.clone() };
                    found.insert(module.clone(), identity);
                }
                Err(error) => self.world.board.warn(format!("{module} can't prove its identity: {error}")),
            }
        }
        found
    }

    fn is_any_connected(&self) -> bool {
        self.world.board.uplinks.borrow().values().any(|uplink| uplink.connected.get())
    }

    /// All identities are made in the hub that was assigned now, which may be the same one without them.
    fn assigned_again(&mut self, device: Credentials) {
        self.device = device;
        self.pending.clear();
        self.doubts.clear();
        let known = self.world.board.identities.borrow();
        self.again = known.keys().cloned().collect();
        let uplinks = self.world.board.uplinks.borrow();
        for uplink in uplinks.values().filter(|uplink| known.contains_key(&uplink.module)) {
            uplink.end();
        }
    }

    async fn remove(&mut self, Removal { module, answer }: Removal) {
        let result = self.remove_one(&module).await;
        let _ = answer.try_send(result);
    }

    async fn remove_one(&mut self, module: &str) -> Result<Value, Refusal> {
        removal::judge(&self.world, module)?;
        let removed = removal::from_hub(&self.world, &self.device, module).await?;
        self.pending.remove(module);
        self.ready.remove(module);
        self.again.remove(module);
        self.said.remove(module);
        removal::forget(&self.world, module)?;
        log::info!("identity module={module} status=removed hub={removed}");
        Ok(json!({"module": module, "hub": removed, "waiting": removal::waiting(&self.world, module)}))
    }
}

async fn wait(ms: Option<u64>, wakes: &Wakes) -> Option<Errand> {
    let due = async {
        match ms {
            Some(ms) => drop(smol::Timer::after(Duration::from_millis(ms)).await),
            None => std::future::pending().await,
        }
        None
    };
    let changed = async {
        let _ = wakes.changed.recv().await;
        None
    };
    let asked = async { wakes.errands.recv().await.ok() };
    smol::future::or(asked, smol::future::or(changed, due)).await
}
