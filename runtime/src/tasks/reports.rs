//! Speaks with the cloud as `$edgeAgent` and `$edgeHub`: takes the manifest of their desired properties, reports what runs, and answers their
//! methods. Without a cloud the same can be read and asked on the device. Must never report what is as it was reported before.

use std::rc::Rc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use smol::channel::Receiver;

use super::agent_methods;
use super::board::{Slot, Status};
use super::deployment::{self, Origin};
use super::system::{Seat, SystemCall, speak_as};
use super::world::World;
use crate::logic::manifest::{self, AGENT, HUB, Sections};
use crate::logic::report::{self, Client, Desired, Module, Program};
use crate::logic::twin;
use crate::model::time::Wall;

/// Changes that come together are one report.
const GATHER: Duration = Duration::from_millis(300);
/// Between two looks whether the hub's twin has come, when only the agent's has.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long the last report may take.
const FAREWELL_WAIT: Duration = Duration::from_millis(1_000);

struct Reports {
    world: Rc<World>,
    agent: Seat,
    hub: Seat,
    agent_status: Desired,
    hub_status: Desired,
    /// Versions of both desired sections that were looked at last.
    seen: Option<(u64, u64)>,
    /// The hub's twin is still to come.
    waiting: bool,
}

enum Happened {
    Changed,
    /// Something is to be reported.
    Due,
    AgentCall(SystemCall),
    HubCall(SystemCall),
}

/// For as long as the runtime runs. `due` wakes it when an instance is another than before.
pub async fn run(world: Rc<World>, due: Receiver<()>) {
    let (agent, hub) = (speak_as(&world, AGENT), speak_as(&world, HUB));
    let (agent_status, hub_status) = (Desired::default(), Desired::default());
    let mut own = Reports { world, agent, hub, agent_status, hub_status, seen: None, waiting: false };
    own.look();
    own.report();
    loop {
        match own.next(&due).await {
            Happened::AgentCall(call) => agent_methods::agent(&own.world, call),
            Happened::HubCall(call) => agent_methods::hub(call),
            Happened::Changed | Happened::Due => {
                smol::Timer::after(GATHER).await;
                own.look();
                own.report();
            }
        }
    }
}

/// The last word of a runtime that ends: nobody looks after the modules any more. Waits a moment for the cloud to hear it.
pub async fn farewell(world: &Rc<World>) {
    let desired = |module: &str| world.board.twins.borrow().get(module).map_or(1, |twin| twin.desired_version());
    let status = Desired { version: desired(AGENT), code: 406, description: "Agent is not running".to_owned() };
    // All else is as it was told last: the instances are gone by now, and with them what could be told of them.
    let mut section = world.board.twins.borrow().get(AGENT).map(|twin| twin.reported().clone()).unwrap_or_default();
    section.insert("lastDesiredVersion".to_owned(), status.version.into());
    section.insert("lastDesiredStatus".to_owned(), json!({"code": status.code, "description": status.description}));
    for module in section.get_mut("modules").and_then(Value::as_object_mut).into_iter().flat_map(|m| m.values_mut()) {
        module["runtimeStatus"] = "unknown".into();
    }
    if !put(world, AGENT, section) {
        return;
    }
    let uplink = world.board.uplinks.borrow().get(AGENT).cloned();
    // Until its connection has looked, the word is the one before this change.
    uplink.iter().for_each(|uplink| uplink.twin_in_step.set(false));
    let told = async {
        while uplink.as_ref().is_some_and(|uplink| uplink.connected.get() && !uplink.twin_in_step.get()) {
            smol::Timer::after(Duration::from_millis(5)).await;
        }
    };
    let late = async {
        smol::Timer::after(FAREWELL_WAIT).await;
    };
    smol::future::or(told, late).await;
}

impl Reports {
    async fn next(&self, due: &Receiver<()>) -> Happened {
        let changed = async {
            let _ = smol::future::or(self.agent.changed.recv(), self.hub.changed.recv()).await;
            Happened::Changed
        };
        let due = async {
            let _ = due.recv().await;
            Happened::Due
        };
        let look_again = async {
            match self.waiting {
                true => drop(smol::Timer::after(LOOK_AGAIN).await),
                false => std::future::pending().await,
            }
            Happened::Changed
        };
        let calls = smol::future::or(
            async {
                match self.agent.calls.recv().await {
                    Ok(call) => Happened::AgentCall(call),
                    Err(_) => std::future::pending().await,
                }
            },
            async {
                match self.hub.calls.recv().await {
                    Ok(call) => Happened::HubCall(call),
                    Err(_) => std::future::pending().await,
                }
            },
        );
        smol::future::or(calls, smol::future::or(changed, smol::future::or(due, look_again))).await
    }

    /// Takes what the cloud wants, if it wants something else than before.
    fn look(&mut self) {
        self.waiting = false;
        if self.world.config.cloud.is_none() {
            self.own_manifest("there is no cloud");
            return;
        }
        let ((agent_version, agent), (hub_version, hub)) = (self.agent.desired(), self.hub.desired());
        if self.seen == Some((agent_version, hub_version)) {
            return;
        }
        if agent.is_empty() && agent_version <= 1 {
            self.own_manifest("nobody has set modules in the cloud");
            return;
        }
        let in_step =
            |module: &str| self.world.board.uplinks.borrow().get(module).is_some_and(|u| u.twin_in_step.get());
        if hub.is_empty() && !in_step(HUB) {
            // Both are set at once, but they come over two connections.
            self.waiting = true;
            return;
        }
        self.seen = Some((agent_version, hub_version));
        let (code, description) = match manifest::from_twins(&agent, &hub).manifest {
            Ok(manifest) => match self.take(agent, hub, manifest) {
                Ok(()) => (200, String::new()),
                Err(why) => (400, why),
            },
            Err(refusal) => (refusal.code, refusal.message),
        };
        if code != 200 {
            log::warn!("deployment origin=cloud status=refused code={code} reason={description:?}");
        }
        self.agent_status = Desired { version: agent_version, code, description: description.clone() };
        self.hub_status = Desired { version: hub_version, code, description };
    }

    fn take(
        &self,
        agent: Map<String, Value>,
        hub: Map<String, Value>,
        manifest: crate::model::manifest::Manifest,
    ) -> Result<(), String> {
        let sections: Sections =
            [(AGENT.to_owned(), Value::Object(agent)), (HUB.to_owned(), Value::Object(hub))].into_iter().collect();
        {
            let deployment = self.world.board.deployment.borrow();
            if deployment.origin() == Some(Origin::Cloud) && deployment.sections() == Some(&sections) {
                return Ok(());
            }
        }
        deployment::take(&self.world, sections, manifest, Origin::Cloud)
    }

    /// What the device itself has is in force.
    fn own_manifest(&mut self, why: &str) {
        let origin = self.world.board.deployment.borrow().origin();
        let (code, description) = match origin {
            Some(origin) => (200, format!("{why}; the manifest of this device is in force ({})", origin.word())),
            None => (417, format!("{why}; the drop-in folders and the configuration are in force")),
        };
        let desired = |version| Desired { version, code, description: description.clone() };
        self.agent_status = desired(self.agent.desired().0);
        self.hub_status = desired(self.hub.desired().0);
    }

    fn report(&self) {
        put(&self.world, AGENT, agent_section(&self.world, &self.agent_status));
        let slots = self.world.board.slots.borrow().values().cloned().collect::<Vec<_>>();
        let clients: Vec<Client<'_>> = slots.iter().map(|slot| client(slot)).collect();
        let section = with_program(&self.world, |program| {
            report::hub(program, &self.hub_status, &self.world.config.device_id, &clients)
        });
        put(&self.world, HUB, section);
    }
}

/// Only what differs. True when something did.
fn put(world: &World, module: &str, section: Map<String, Value>) -> bool {
    let result = {
        let mut twins = world.board.twins.borrow_mut();
        let twin = twins.entry(module.to_owned()).or_default();
        let patch = twin::difference(twin.reported(), &section);
        if patch.is_empty() {
            return false;
        }
        twin.apply_reported(&Value::Object(patch))
    };
    if let Err(error) = result {
        world.board.warn(format!("{module} can't report: {error}"));
        return false;
    }
    world.reported_changed(module);
    true
}

fn with_program<R>(world: &World, act: impl FnOnce(&Program<'_>) -> R) -> R {
    let uname = rustix::system::uname();
    let kernel = uname.release().to_string_lossy();
    let now = world.port.now();
    let program = Program {
        version: env!("CARGO_PKG_VERSION"),
        architecture: std::env::consts::ARCH,
        kernel: &kernel,
        started: started(world, now.wall, now.mono.since(world.started)),
    };
    act(&program)
}

/// To the second: what is worked out anew each time must not differ by a millisecond. Said once, it stays.
fn started(world: &World, now: Wall, up_ms: u64) -> Wall {
    let begun = world.begun.get().unwrap_or(Wall(now.0.saturating_sub_unsigned(up_ms)));
    world.begun.set(Some(begun));
    begun
}

fn agent_section(world: &World, status: &Desired) -> Map<String, Value> {
    let (asked, slots) = (world.board.asked.borrow(), world.board.slots.borrow());
    let mut problems = Vec::new();
    let modules: Vec<Module<'_>> = asked
        .iter()
        .map(|(name, asked)| {
            let slot = slots.get(name);
            let problem = match asked.coming {
                true => Some(world.pulls.sentence(&asked.spec.image)),
                false => asked.problem.clone(),
            };
            if let Some(problem) = problem.as_ref().filter(|_| !asked.coming) {
                problems.push(format!("{name}: {problem}"));
            }
            let mut module = slot.map_or_else(|| absent(name, &asked.spec), |slot| instance(name, &asked.spec, slot));
            if let Some(problem) = &problem {
                module.description =
                    if slot.is_some() { format!("{}; {problem}", module.description) } else { problem.clone() };
            }
            module
        })
        .collect();
    // Taken, but not all of it could be done.
    let failed = status.code == 200 && !problems.is_empty();
    let status = if failed {
        Desired { version: status.version, code: 500, description: problems.join("; ") }
    } else {
        status.clone()
    };
    let digests: Vec<Option<String>> =
        asked.keys().map(|name| slots.get(name).map(|slot| slot.image.borrow().digest.clone())).collect();
    let modules: Vec<Module<'_>> = modules
        .into_iter()
        .zip(&digests)
        .map(|(module, digest)| Module { image_hash: digest.as_deref(), ..module })
        .collect();
    with_program(world, |program| report::agent(program, &status, &modules))
}

fn absent<'a>(name: &'a str, spec: &'a crate::model::manifest::ModuleSpec) -> Module<'a> {
    Module {
        name,
        spec,
        image_hash: None,
        runtime_status: "unknown",
        description: "not started yet".to_owned(),
        exit_code: 0,
        last_start: None,
        last_exit: None,
        restarts: 0,
        last_restart: None,
    }
}

fn instance<'a>(name: &'a str, spec: &'a crate::model::manifest::ModuleSpec, slot: &Slot) -> Module<'a> {
    let exit = slot.last_exit.borrow();
    let status = slot.status.get();
    let description = match status {
        Status::Running | Status::Starting => status.name().to_owned(),
        Status::Unhealthy if !slot.unhealthy.borrow().is_empty() => slot.unhealthy.borrow().clone(),
        _ => exit.as_ref().map_or_else(|| status.name().to_owned(), |exit| exit.text.clone()),
    };
    Module {
        name,
        spec,
        image_hash: None,
        // The field has no word for one that is on its way.
        runtime_status: if status == Status::Starting { "unknown" } else { status.name() },
        description,
        exit_code: exit.as_ref().map_or(0, |exit| exit.code),
        last_start: slot.last_start.get(),
        last_exit: exit.as_ref().map(|exit| exit.at),
        restarts: slot.policy_restarts.get(),
        last_restart: slot.last_restart.get(),
    }
}

fn client(slot: &Slot) -> Client<'_> {
    let connected = slot.link.get().is_some();
    let exit = slot.last_exit.borrow().as_ref().map(|exit| exit.at);
    Client {
        module: &slot.name,
        connected,
        connected_at: if slot.status.get() == Status::Running { Some(slot.since.get()) } else { slot.last_start.get() },
        disconnected_at: exit,
    }
}
