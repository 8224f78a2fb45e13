//! What is told and kept of an instance's end: in the list, in the log, and as a report on disk.
//! Must never hold up the hub's thread for a disk.

use std::sync::{Arc, PoisonError};

use super::board::{LastExit, Slot};
use super::world::World;
use crate::io::crash_report::Crash;
use crate::io::status_page::Snapshot;
use crate::logic::hub::LinkIx;
use crate::model::instance::Exit;

/// Written by another thread: a disk may take its time, and everybody's messages pass through this one.
pub async fn write(
    world: &World,
    slot: &Slot,
    link: Option<LinkIx>,
    panic: Option<&str>,
    exit: &Exit,
    page: &Snapshot,
) {
    let now = world.port.now();
    let text = match panic {
        Some(panic) => format!("{exit} (last panic: {panic})"),
        None => exit.to_string(),
    };
    let link = link.filter(|_| page.delivery != 0);
    let message = link.and_then(|link| world.port.look(|hub| hub.describe(link, page.delivery)));
    let text = match &message {
        Some(message) => format!("{text}, while handling {message}"),
        None => text,
    };
    *slot.last_exit.borrow_mut() = Some(LastExit { at: now.wall, text: text.clone(), code: exit.code() });
    log::warn!("instance={}/{} exit={text:?}", slot.name, slot.generation.get());
    if exit.is_success() {
        return;
    }
    let (name, digest, build_id) = {
        let image = slot.image.borrow();
        (format!("{} {}", image.name, image.version), image.digest.clone(), image.build_id.clone())
    };
    let log = slot.log.borrow().text();
    let (module, exit, crashes) = (slot.name.clone(), exit.clone(), Arc::clone(&world.crashes));
    let generation = slot.generation.get();
    let written = smol::unblock(move || {
        let crash = Crash {
            module: &module,
            generation,
            at: now.wall,
            exit: &exit,
            image: &name,
            digest: &digest,
            build_id: build_id.as_deref(),
            message: message.as_deref(),
            log: log.as_bytes(),
        };
        // What a panic left behind is only when each module last got a report.
        crashes.lock().unwrap_or_else(PoisonError::into_inner).write(now.mono, &crash)
    });
    match written.await {
        Ok(Some(path)) => log::info!("instance={} crash_report={}", slot.name, path.display()),
        Ok(None) => {}
        Err(error) => log::warn!("instance={} crash_report=failed reason=\"{error}\"", slot.name),
    }
}
