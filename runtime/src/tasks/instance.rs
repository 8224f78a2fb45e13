//! One instance over all its generations: start, watch, classify the end, wait, start again.
//! Must never wait for the module: every wait here has an end.

use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use smol::Timer;
use smol::channel::Receiver;

use super::board::{LastExit, Order, Slot, Status};
use super::life::{End, Life};
use super::tally::Of;
use super::world::World;
use crate::io::image::device;
use crate::io::process::{self, Host, Spec};
use crate::io::user;
use crate::logic::proof::Start;
use crate::logic::restart::{Limits, Next, Policy, Restart};
use crate::model::instance::Exit;
use skerry_abi::wire::frame::FailureKind;

/// Runs until it is told to end. Then the slot is gone from the board.
pub async fn run(world: Rc<World>, slot: Rc<Slot>, orders: Receiver<Order>) {
    let typed = &world.config.restart;
    let limits = Limits {
        backoff_first_ms: typed.backoff_base.as_millis() as u64,
        backoff_max_ms: typed.backoff_max.as_millis() as u64,
        healthy_after_ms: typed.healthy_after.as_millis() as u64,
        restarts_max: typed.max_restarts,
    };
    let mut restart = Restart::new(limits, slot.policy.get());
    let mut runs = slot.told.borrow().running;
    loop {
        let next = if runs {
            match live(&world, &slot, &orders, &mut restart).await {
                End::Exited(exit) => after_exit(&world, &slot, &orders, &mut restart, &exit).await,
                End::Asked(order) => Some(order),
            }
        } else {
            slot.set_status(Status::Stopped, world.port.now());
            Some(orders.recv().await.unwrap_or(Order::End))
        };
        // What was asked for begins anew; a restart by the policy goes on counting.
        if next.is_some() {
            restart.handle_reset(slot.policy.get());
        }
        slot.policy_restarts.set(restart.restarts());
        match next {
            Some(Order::End) => break,
            Some(Order::Stop) => runs = false,
            Some(Order::Start) => runs = true,
            Some(Order::Become(image, setup)) => {
                *slot.image.borrow_mut() = image;
                *slot.setup.borrow_mut() = setup;
            }
            Some(Order::Restart) | None => {}
        }
        if runs {
            slot.restarts.set(slot.restarts.get() + 1);
        }
    }
    slot.set_status(Status::Stopped, world.port.now());
    world.board.slots.borrow_mut().remove(&slot.name);
    let _ = world.replan.try_send(());
}

/// One process, from its start to its end.
async fn live(world: &Rc<World>, slot: &Rc<Slot>, orders: &Receiver<Order>, restart: &mut Restart) -> End {
    slot.generation.set(slot.generation.get() + 1);
    slot.set_status(Status::Starting, world.port.now());
    slot.unhealthy.borrow_mut().clear();
    if let Err(error) = on_trial(world, slot).await {
        return not_started(world, slot, &error);
    }
    let host = match start(world, slot) {
        Ok(host) => host,
        Err(error) => {
            return not_started(world, slot, &error);
        }
    };
    slot.pid.set(Some(host.pid));
    slot.last_start.set(Some(world.port.now().wall));
    let mut life = match Life::new(world, slot, host) {
        Ok(life) => life,
        Err(error) => {
            return not_started(world, slot, &error);
        }
    };
    let end = life.watch(orders, restart).await;
    let ending = life.bury(&end).await;
    slot.pid.set(None);
    let reason = if matches!(end, End::Asked(_)) { "stopped" } else { "ended" };
    let ran = if slot.link.take().is_some() { Of::Disconnect } else { Of::ConnectFailed };
    world.board.tally.count(ran, &[&world.named(&slot.name), reason]);
    slot.methods.borrow_mut().clear();
    if let Some(link) = life.link {
        world.port.turn(|hub, now| hub.close_link(now, link, ending));
        world.port.disconnect(link);
    }
    end
}

/// A version on trial is on disk as such before its process starts: it may take everything down with it.
async fn on_trial(world: &World, slot: &Slot) -> std::io::Result<()> {
    let now = world.port.now();
    let (start, tried) = {
        let mut proofs = world.board.proofs.borrow_mut();
        let proof = proofs.entry(slot.name.clone()).or_default();
        (proof.handle_start(&slot.version(), now.wall), proof.on_trial())
    };
    if tried {
        slot.log_version("trial");
    }
    match start {
        Start::Trial { keep: true } => {
            let committed = world.port.when_committed();
            world.keep_proof(&slot.name);
            // A store that is broken stops no update; it is told elsewhere.
            let _ = committed.recv().await;
            Ok(())
        }
        Start::Rejected => {
            world.keep_proof(&slot.name);
            let _ = world.replan.try_send(());
            Err(std::io::Error::other("the device or the runtime went down with it too often while it was on trial"))
        }
        Start::Trial { keep: false } | Start::Good | Start::First => Ok(()),
    }
}

/// There never was a process, so nobody else will tell why.
fn not_started(world: &World, slot: &Slot, error: &std::io::Error) -> End {
    let exit = Exit::Failed { kind: FailureKind::Confinement, text: error.to_string() };
    let at = world.port.now().wall;
    log::warn!("instance={}/{} exit=\"{exit}\"", slot.name, slot.generation.get());
    *slot.last_exit.borrow_mut() = Some(LastExit { at, text: exit.to_string(), code: exit.code() });
    world.board.tally.count(Of::ConnectFailed, &[&world.named(&slot.name), "not_started"]);
    End::Exited(exit)
}

fn start(world: &World, slot: &Slot) -> std::io::Result<Host> {
    let config = &world.config;
    let setup = Rc::clone(&slot.setup.borrow());
    let socket_folder = config.control_socket.parent().map(std::path::Path::to_owned);
    let uid = process::is_root().then(|| uid_of(world, &slot.name));
    let granted = config.modules.instances.get(&slot.name).map_or(&[][..], |instance| &instance.groups);
    let groups = user::groups(granted, uid)?;
    let spec = Spec {
        module: slot.name.clone(),
        generation: slot.generation.get(),
        state_dir: config.state_folder.join("modules").join(&slot.name),
        hidden: [Some(config.state_folder.clone()), socket_folder].into_iter().flatten().collect(),
        writable: setup.writable.clone(),
        env: setup.env.clone().into_iter().collect(),
        arguments: setup.arguments.clone(),
        working_folder: setup.working_folder.clone(),
        uid,
        gid: process::group_of_devices(&setup.devices)?,
        groups,
        limits: crate::io::order::Limits {
            memory_bytes: Some(setup.limits.memory_bytes_max),
            files: Some(u64::from(setup.limits.files_max)),
            processes: Some(u64::from(setup.limits.processes_max)),
        },
        landlock: config.isolation.landlock,
        log_level: 3,
        wait_debugger: config.wait_debugger.contains(&slot.name),
    };
    let image = world.images.file(&slot.image.borrow().digest)?;
    let libc = slot.image.borrow().libc;
    let spawn = || process::spawn(world.hosts.borrow().get(libc, device())?, &spec, &image);
    let mut host = spawn();
    let refused = |host: &std::io::Result<Host>| host.as_ref().is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
    if refused(&host) && world.hosts.borrow_mut().refused() {
        host = spawn();
    }
    let host = host?;
    if spec.wait_debugger {
        log::info!("instance={}/{} waits for a debugger: gdb -p {}", slot.name, spec.generation, host.pid);
    }
    Ok(host)
}

/// A uid of its own for each instance, the same as long as its folder lives. Names are spread over the range by
/// a hash; the folder's owner wins, so that a clash with another instance is settled once.
fn uid_of(world: &World, name: &str) -> u32 {
    use std::os::unix::fs::MetadataExt;
    const UIDS: u32 = 4096;
    let base = world.config.isolation.uid_base;
    let folder = world.config.state_folder.join("modules");
    let range = base..base.saturating_add(UIDS);
    let owner = |path: std::path::PathBuf| std::fs::metadata(path).ok().map(|m| m.uid()).filter(|u| range.contains(u));
    if let Some(own) = owner(folder.join(name)) {
        return own;
    }
    let taken: Vec<u32> =
        std::fs::read_dir(&folder).into_iter().flatten().flatten().filter_map(|e| owner(e.path())).collect();
    let hash = name.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (0..UIDS).map(|step| base + (hash.wrapping_add(step)) % UIDS).find(|uid| !taken.contains(uid)).unwrap_or(base)
}

/// Waits out the back-off, or for an order. `None`: start again.
async fn after_exit(
    world: &World,
    slot: &Slot,
    orders: &Receiver<Order>,
    restart: &mut Restart,
    exit: &Exit,
) -> Option<Order> {
    let now = world.port.now();
    restart.set_policy(slot.policy.get());
    let rejected = judge(world, slot, exit);
    let next = restart.handle_exit(now.mono, exit);
    slot.policy_restarts.set(restart.restarts());
    let wait = match next {
        // The agent brings the last good one back at once; should it not, this one has to do.
        _ if rejected => {
            slot.set_status(Status::Backoff, now);
            Some(FALL_BACK_WAIT)
        }
        Next::Restart { at } => {
            slot.set_status(Status::Backoff, now);
            let ms = at.since(now.mono);
            log::info!("instance={}/{} restart_in_ms={ms}", slot.name, slot.generation.get());
            Some(Duration::from_millis(ms))
        }
        Next::Stay => {
            // As the field has it: who ended with code 0 is stopped, everybody else failed.
            slot.set_status(if exit.is_success() { Status::Stopped } else { Status::Failed }, now);
            None
        }
        Next::GiveUp => {
            slot.set_status(Status::Failed, now);
            world.board.warn(format!("{} is failed: {exit}; restart it, or put in a better image", slot.name));
            None
        }
    };
    let _ = world.replan.try_send(());
    let pause = async {
        match wait {
            Some(wait) => drop(Timer::after(wait).await),
            None => std::future::pending().await,
        }
        None
    };
    let order = async { Some(orders.recv().await.unwrap_or(Order::End)) };
    let next = smol::future::or(order, pause).await;
    let now = world.port.now();
    let _ = restart.on_timeout(now.mono);
    if next.is_none() {
        slot.last_restart.set(Some(now.wall));
    }
    next
}

/// An end of a version on trial rejects it, unless that is how this module ends when all is well.
fn judge(world: &World, slot: &Slot, exit: &Exit) -> bool {
    if exit.is_success() && slot.policy.get() != Policy::Always {
        world.ran_well(slot);
        return false;
    }
    let at = world.port.now().wall;
    let rejected =
        world.board.proofs.borrow_mut().entry(slot.name.clone()).or_default().handle_failed(&exit.to_string(), at);
    if rejected {
        let image = slot.image.borrow();
        let why = exit.to_string();
        log::warn!(
            "instance={}/{} rejected={}@{} reason={why:?}",
            slot.name,
            slot.generation.get(),
            image.name,
            image.version
        );
        world.keep_proof(&slot.name);
    }
    rejected
}

/// How long the agent may take to bring the last good version back.
const FALL_BACK_WAIT: Duration = Duration::from_secs(10);
