//! One instance over all its generations: start, watch, classify the end, wait, start again.
//! Must never wait for the module: every wait here has an end.

use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use smol::Timer;
use smol::channel::Receiver;

use super::board::{LastExit, Order, Slot, Status};
use super::life::{End, Life};
use super::world::World;
use crate::io::image::device;
use crate::io::process::{self, Host, Spec};
use crate::io::user;
use crate::logic::restart::{Limits, Next, Policy, Restart};
use crate::model::instance::Exit;
use skerry_abi::wire::frame::FailureKind;

/// Runs until it is told to stop. Then the slot is gone from the board.
pub async fn run(world: Rc<World>, slot: Rc<Slot>, orders: Receiver<Order>) {
    let typed = &world.config.restart;
    let limits = Limits {
        backoff_first_ms: typed.backoff_base.as_millis() as u64,
        backoff_max_ms: typed.backoff_max.as_millis() as u64,
        healthy_after_ms: typed.healthy_after.as_millis() as u64,
        restarts_max: typed.max_restarts,
    };
    let mut restart = Restart::new(limits, Policy::Always);
    loop {
        let end = live(&world, &slot, &orders, &mut restart).await;
        let next = match end {
            End::Exited(exit) => after_exit(&world, &slot, &orders, &mut restart, &exit).await,
            End::Asked(order) => Some(order),
        };
        match next {
            Some(Order::Stop) => break,
            Some(Order::Replace(image)) => {
                restart.handle_reset(Policy::Always);
                *slot.image.borrow_mut() = image;
            }
            Some(Order::Restart) => restart.handle_reset(Policy::Always),
            None => {}
        }
        slot.restarts.set(slot.restarts.get() + 1);
    }
    slot.set_status(Status::Stopped, world.port.now());
    world.board.slots.borrow_mut().remove(&slot.name);
    let _ = world.replan.try_send(());
}

/// One process, from its start to its end.
async fn live(world: &Rc<World>, slot: &Rc<Slot>, orders: &Receiver<Order>, restart: &mut Restart) -> End {
    slot.generation.set(slot.generation.get() + 1);
    slot.set_status(Status::Starting, world.port.now());
    let host = match start(world, slot) {
        Ok(host) => host,
        Err(error) => {
            return not_started(world, slot, &error);
        }
    };
    slot.pid.set(Some(host.pid));
    let mut life = match Life::new(world, slot, host) {
        Ok(life) => life,
        Err(error) => {
            return not_started(world, slot, &error);
        }
    };
    let end = life.watch(orders, restart).await;
    let in_progress = life.bury(&end).await;
    slot.pid.set(None);
    slot.link.set(None);
    slot.methods.borrow_mut().clear();
    if let Some(link) = life.link {
        world.port.turn(|hub, now| hub.close_link(now, link, in_progress));
        world.port.disconnect(link);
    }
    end
}

/// There never was a process, so nobody else will tell why.
fn not_started(world: &World, slot: &Slot, error: &std::io::Error) -> End {
    let exit = Exit::Failed { kind: FailureKind::Confinement, text: error.to_string() };
    let at = world.port.now().wall;
    log::warn!("instance={}/{} exit=\"{exit}\"", slot.name, slot.generation.get());
    *slot.last_exit.borrow_mut() = Some(LastExit { at, text: exit.to_string(), code: exit.code() });
    End::Exited(exit)
}

fn start(world: &World, slot: &Slot) -> std::io::Result<Host> {
    let config = &world.config;
    let limits = world.limits(&slot.name);
    let instance = config.modules.instances.get(&slot.name);
    let socket_folder = config.control_socket.parent().map(std::path::Path::to_owned);
    let uid = process::is_root().then(|| uid_of(world, &slot.name));
    let groups = user::groups(instance.map_or(&[], |i| &i.groups), uid)?;
    let spec = Spec {
        module: slot.name.clone(),
        generation: slot.generation.get(),
        state_dir: config.state_folder.join("modules").join(&slot.name),
        hidden: [Some(config.state_folder.clone()), socket_folder].into_iter().flatten().collect(),
        writable: Vec::new(),
        env: instance.map_or(Vec::new(), |i| i.env.clone().into_iter().collect()),
        uid,
        groups,
        limits: crate::io::order::Limits {
            memory_bytes: Some(limits.memory_bytes_max),
            files: Some(u64::from(limits.files_max)),
            processes: Some(u64::from(limits.processes_max)),
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
    let wait = match restart.handle_exit(now.mono, exit) {
        Next::Restart { at } => {
            slot.set_status(Status::Backoff, now);
            let ms = at.since(now.mono);
            log::info!("instance={}/{} restart_in_ms={ms}", slot.name, slot.generation.get());
            Some(Duration::from_millis(ms))
        }
        Next::Stay => {
            slot.set_status(Status::Stopped, now);
            None
        }
        Next::GiveUp => {
            slot.set_status(Status::Failed, now);
            world.board.warn(format!("{} is failed: {exit}; restart it, or put in a better image", slot.name));
            None
        }
    };
    let pause = async {
        match wait {
            Some(wait) => drop(Timer::after(wait).await),
            None => std::future::pending().await,
        }
        None
    };
    let order = async { Some(orders.recv().await.unwrap_or(Order::Stop)) };
    let next = smol::future::or(order, pause).await;
    let _ = restart.on_timeout(world.port.now().mono);
    next
}
