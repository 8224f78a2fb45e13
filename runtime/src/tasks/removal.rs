//! An operator removes a module's identity: in the hub, then here. Must never remove in the hub what somebody else has made since, and
//! never forget here what could not be removed there.

use serde_json::Value;
use smol::channel::Receiver;

use super::mailbox::{Errand, Refusal, Removal};
use super::registry;
use super::world::World;
use crate::logic::registration::{Request, target};
use crate::model::endpoint::Endpoint;
use crate::model::identity::Credentials;

/// Where no device is known, nothing can be asked.
pub async fn refuse_all(errands: &Receiver<Errand>) {
    while let Ok(Errand::Remove(Removal { answer, .. }) | Errand::List(answer)) = errands.recv().await {
        let text =
            "identities are made, listed and removed in the hub with the device's own key: give [provisioning] one";
        let _ = answer.try_send(Err(Refusal::new(409, text)));
    }
    std::future::pending().await
}

/// Whether it may be removed at all.
pub fn judge(world: &World, module: &str) -> Result<(), Refusal> {
    let board = &world.board;
    if board.seats.borrow().contains_key(module) {
        return Err(Refusal::new(409, format!("{module} is the runtime's own identity")));
    }
    if world.config.cloud.modules.contains_key(module) {
        let text = format!(
            "the identity of {module} was not made here: it stands in [upstream.modules.{module}]; remove that"
        );
        return Err(Refusal::new(409, text));
    }
    let known = board.identities.borrow();
    if !known.contains_key(module) {
        return Err(Refusal::no_such_module(module, known.keys().map(String::as_str)));
    }
    let revoked = board.uplinks.borrow().get(module).is_some_and(|uplink| uplink.revoked.borrow().is_some());
    if board.slots.borrow().contains_key(module) && !revoked {
        let text = format!(
            "{module} runs, and would get a new identity at once; take its file away or set enabled = false in [modules.{module}] first"
        );
        return Err(Refusal::new(409, text));
    }
    Ok(())
}

/// `removed`, `gone` (it was not there any more) or `replaced` (somebody has made another of its name, which stays).
pub async fn from_hub(world: &World, device: &Credentials, module: &str) -> Result<&'static str, Refusal> {
    let known = world.board.identities.borrow().get(module).cloned().unwrap_or_default();
    if known["host"] != device.host_name || known["device"] != device.device_id {
        // Of a hub that this device does not belong to any more.
        return Ok("gone");
    }
    let target = target(&device.device_id, module);
    let ask = async |method, if_match| {
        let request = Request { method, target: target.clone(), if_match, body: None };
        let away = |why| Refusal::new(502, format!("nothing was removed: {why}"));
        registry::answer(world, device, &request).await.map_err(away)
    };
    let found = ask("GET", None).await?;
    let there: Value = serde_json::from_slice(&found.body).unwrap_or_default();
    match found.status {
        404 => return Ok("gone"),
        200 if there["generationId"] != known["generationId"] => return Ok("replaced"),
        200 => {}
        status => return Err(Refusal::new(502, format!("nothing was removed: the registry answered {status}"))),
    }
    match ask("DELETE", Some("*")).await?.status {
        200..=299 | 404 => Ok("removed"),
        status => Err(Refusal::new(502, format!("nothing was removed: the registry answered {status}"))),
    }
}

/// Document, key and connection. The twin stays, as that of a module that does not run.
pub fn forget(world: &World, module: &str) -> Result<(), Refusal> {
    world.board.identities.borrow_mut().remove(module);
    world.port.turn(|hub, now| hub.put_document(now, &format!("identity/{module}"), None, true));
    if let Some(uplink) = world.board.uplinks.borrow().get(module) {
        uplink.end();
    }
    let kept = |error| Refusal::new(500, format!("it is removed, but its key is not: {error}"));
    world.keys.remove(module).map_err(kept)
}

/// Messages that wait for the cloud under its name.
pub fn waiting(world: &World, module: &str) -> u64 {
    let queues = world.port.look(|hub| hub.overview()).queues;
    let own = queues.iter().filter(|q| matches!(&q.endpoint, Endpoint::Upstream { identity } if identity == module));
    own.map(|queue| queue.ledger.pending).sum()
}
