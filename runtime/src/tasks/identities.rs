//! Sees to it that every module that runs has an identity in the hub and a way to it: from the configuration, from what was made
//! before, or made now over the registry. Must never make two for one module, and never need the cloud for one that it made before.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};
use smol::channel::{Receiver, bounded};

use super::board::Uplink;
use super::upstream::Upstream;
use super::world::World;
use crate::io::rest::{self, Question};
use crate::logic::registration::{Outcome, Registration};
use crate::logic::sas;
use crate::logic::session::{Session, SessionConfig};
use crate::model::identity::Credentials;
use crate::model::time::Mono;

/// Life of the token of one request: enough for a slow network, and for a clock that is some minutes off.
const TOKEN_LIFE_S: i64 = 600;

/// Modules on their way into the registry, with when to go on.
type Pending = BTreeMap<String, (Registration, Mono)>;

/// For as long as the runtime runs. `changed` says that instances came or went.
pub async fn run(world: Rc<World>, changed: Receiver<()>) {
    for (module, identity) in &world.config.cloud.modules {
        start_uplink(&world, module, identity.clone());
    }
    let Some(device) = world.config.cloud.device.clone() else { return };
    for (module, identity) in made_before(&world, &device) {
        start_uplink(&world, &module, identity);
    }
    let mut pending = Pending::new();
    let mut said: BTreeMap<String, String> = BTreeMap::new();
    loop {
        wanted(&world, &device, &mut pending);
        let now = world.port.now().mono;
        let due = pending.iter().filter(|(_, (_, at))| *at <= now).map(|(module, _)| module.clone()).next();
        match due {
            Some(module) => {
                if let Some((registration, _)) = pending.remove(&module)
                    && let Some(left) = register(&world, &device, &module, registration, &mut said).await
                {
                    pending.insert(module, left);
                }
            }
            None => wait(pending.values().map(|(_, at)| at.since(now)).min(), &changed).await,
        }
    }
}

async fn wait(ms: Option<u64>, changed: &Receiver<()>) {
    let due = async {
        match ms {
            Some(ms) => drop(smol::Timer::after(Duration::from_millis(ms)).await),
            None => std::future::pending().await,
        }
    };
    let changed = async {
        let _ = changed.recv().await;
    };
    smol::future::or(changed, due).await;
}

/// Instances, and identities of the runtime itself, without a way to the cloud.
fn wanted(world: &World, device: &Credentials, pending: &mut Pending) {
    let (slots, seats) = (world.board.slots.borrow(), world.board.seats.borrow());
    pending.retain(|module, _| slots.contains_key(module) || seats.contains_key(module));
    for module in slots.keys().chain(seats.keys()) {
        if world.board.uplinks.borrow().contains_key(module) || pending.contains_key(module) {
            continue;
        }
        match world.keys.identity(module) {
            Ok(keys) => {
                let [primary, secondary] = keys.map(|key| BASE64.encode(key.bytes()));
                let registration = Registration::new(&device.device_id, module, primary, secondary);
                pending.insert(module.clone(), (registration, Mono(0)));
            }
            Err(error) => world.board.warn(format!("{module} gets no identity in the cloud: {error}")),
        }
    }
}

/// Asks until it is done, or has failed for now: then when to go on.
async fn register(
    world: &Rc<World>,
    device: &Credentials,
    module: &str,
    mut registration: Registration,
    said: &mut BTreeMap<String, String>,
) -> Option<(Registration, Mono)> {
    loop {
        let request = registration.request();
        let authorization = token(world, device);
        let question = Question {
            method: request.method,
            target: &request.target,
            authorization: &authorization,
            if_match: request.if_match,
            body: request.body.as_ref().map(|body| body.to_string().into_bytes()),
        };
        let dialler = world.dialler.as_ref()?;
        let answer = rest::ask(dialler, &device.host_name, question).await;
        let now = world.port.now().mono;
        let outcome = match answer {
            Ok(answer) => {
                // A token that was made too early for the cloud: once more with the time that it says.
                let news = answer.date.is_some_and(|date| world.learn_time(date));
                if news && answer.status == 401 {
                    continue;
                }
                registration.handle_answer(now, answer.status, &answer.body)
            }
            Err(why) => registration.handle_unreachable(now, why),
        };
        match outcome {
            Outcome::Continue => {}
            Outcome::Done { generation_id } => {
                said.remove(module);
                made(world, device, module, &generation_id);
                return None;
            }
            Outcome::Failed { why, at } => {
                // One line for one reason, however often it is met.
                let level = if said.get(module) == Some(&why) { log::Level::Debug } else { log::Level::Warn };
                log::log!(
                    level,
                    "identity module={module} status=missing retry_in_ms={} reason={why:?}",
                    at.since(now)
                );
                said.insert(module.to_owned(), why);
                return Some((registration, at));
            }
        }
    }
}

fn token(world: &World, device: &Credentials) -> String {
    let expires = world.floor.now().0.div_euclid(1_000).saturating_add(TOKEN_LIFE_S);
    sas::token(&device.key, &device.resource_uri(), expires)
}

fn made(world: &Rc<World>, device: &Credentials, module: &str, generation_id: &str) {
    let Ok([primary, _]) = world.keys.identity(module) else { return };
    log::info!("identity module={module} status=registered host={} generation_id={generation_id}", device.host_name);
    let identity = Credentials { module_id: Some(module.to_owned()), key: primary, ..device.clone() };
    let document = json!({"host": identity.host_name, "device": identity.device_id, "generationId": generation_id});
    let bytes = document.to_string().into_bytes();
    world.port.turn(|hub, now| hub.put_document(now, &format!("identity/{module}"), Some(bytes.clone()), true));
    world.board.identities.borrow_mut().insert(module.to_owned(), document);
    start_uplink(world, module, identity);
}

/// Identities of this device in this hub that were made before, also of modules that do not run any more: their messages may wait.
fn made_before(world: &World, device: &Credentials) -> Vec<(String, Credentials)> {
    let known = world.board.identities.borrow();
    let ours = |document: &Value| document["host"] == device.host_name && document["device"] == device.device_id;
    let mut found = Vec::new();
    for (module, _) in known.iter().filter(|(_, document)| ours(document)) {
        match world.keys.identity(module) {
            Ok([key, _]) => {
                found.push((module.clone(), Credentials { module_id: Some(module.clone()), key, ..device.clone() }));
            }
            Err(error) => world.board.warn(format!("{module} can't prove its identity: {error}")),
        }
    }
    found
}

fn start_uplink(world: &Rc<World>, module: &str, identity: Credentials) {
    let Some(dialler) = &world.dialler else { return };
    if world.board.uplinks.borrow().contains_key(module) {
        return;
    }
    let cloud = &world.config.cloud;
    let config = SessionConfig {
        keep_alive: cloud.keep_alive,
        operation_timeout: cloud.operation_timeout,
        token_ttl: cloud.token_ttl,
        retry_max: cloud.retry_max,
    };
    let now = world.port.now();
    // Only to spread a fleet's attempts: what was built on one day and started together must not retry together.
    let start = now.wall.0 as u64 ^ (u64::from(std::process::id()) << 40) ^ now.mono.0;
    let seed = module.bytes().fold(start, |seed, byte| seed.rotate_left(7) ^ u64::from(byte));
    let (wake, wakes) = bounded(1);
    let uplink = Rc::new(Uplink::new(module, &identity, wake, now.wall));
    world.board.uplinks.borrow_mut().insert(module.to_owned(), Rc::clone(&uplink));
    let session = Session::new(identity, config, seed);
    world.executor.spawn(Upstream::new(world, &uplink, dialler, session, wakes).run()).detach();
}
