//! What operators and the cloud can order: restart an instance, deploy a manifest, withdraw it.
//! Must never do half of what was ordered.

use std::rc::Rc;

use serde_json::{Value, json};

use super::board::Order;
use super::deployment::{self, Origin};
use super::mailbox::{Preview, Refusal};
use super::world::World;
use crate::logic::manifest::{self, Sections};

/// Starts it anew. A version that was rejected may try once more.
pub fn restart(world: &World, module: &str) -> Result<(), Refusal> {
    let slot = world.slot(module)?;
    if !slot.told.borrow().running {
        return Err(Refusal::new(
            409,
            format!("{module} is stopped by its manifest; set its status to \"running\" there"),
        ));
    }
    let retry = world.board.proofs.borrow_mut().get_mut(module).is_some_and(|proof| proof.handle_retry());
    if retry {
        world.keep_proof(module);
        let _ = world.replan.try_send(());
        return Ok(());
    }
    let full = |_| Refusal::new(503, format!("{module} is busy ending; try again"));
    slot.orders.try_send(Order::Restart).map_err(full)
}

/// What is in force, without passwords.
pub fn deployment(world: &World) -> Value {
    let deployment = world.board.deployment.borrow();
    let content = deployment.sections().cloned().map(without_passwords);
    json!({"origin": deployment.origin().map(Origin::word), "modulesContent": content})
}

fn without_passwords(sections: Sections) -> Value {
    let mut content = serde_json::Map::new();
    for (identity, mut section) in sections {
        let registries = section.pointer_mut("/runtime/settings/registryCredentials").and_then(Value::as_object_mut);
        for registry in registries.into_iter().flat_map(|r| r.values_mut()).filter_map(Value::as_object_mut) {
            if let Some(password) = registry.get_mut("password") {
                *password = "(not shown)".into();
            }
        }
        content.insert(identity, json!({"properties.desired": section}));
    }
    Value::Object(content)
}

/// Answered when it is on disk. A dry run says what each thing in it means, and what would be done, also of one that is not good.
pub async fn deploy(world: &Rc<World>, manifest: Value, dry_run: bool) -> Result<Value, Refusal> {
    let files = match manifest {
        Value::Array(files) => files,
        file => vec![file],
    };
    let (sections, reading) = manifest::from_files(&files);
    let notes = manifest::notes_json(&reading.notes);
    let manifest = reading.manifest.map_err(|refusal| refusal.message);
    let manifest = match manifest.and_then(|manifest| deployment::judge(&manifest).map(|()| manifest)) {
        Ok(manifest) => manifest,
        Err(why) if dry_run => return Ok(json!({"dryRun": true, "refused": why, "notes": notes, "steps": []})),
        Err(why) => return Err(Refusal::new(400, why)),
    };
    if !dry_run && world.board.deployment.borrow().origin() == Some(Origin::Cloud) {
        return Err(Refusal::new(409, "the cloud's manifest is in force and would come back; set the modules there"));
    }
    let steps = preview(world, manifest.clone()).await?;
    if !dry_run {
        let committed = world.port.when_committed();
        deployment::take(world, sections, manifest, Origin::Operator).map_err(|why| Refusal::new(400, why))?;
        stored(committed).await?;
    }
    Ok(json!({"dryRun": dry_run, "refused": null, "notes": notes, "steps": steps}))
}

async fn preview(world: &World, manifest: crate::model::manifest::Manifest) -> Result<Vec<Value>, Refusal> {
    let stopping = |()| Refusal::new(503, "the runtime is stopping");
    let (answer, steps) = smol::channel::bounded(1);
    let preview = Preview { manifest: Rc::new(manifest), answer };
    world.previews.send(preview).await.map_err(|_| stopping(()))?;
    steps.recv().await.map_err(|_| stopping(()))
}

async fn stored(committed: smol::channel::Receiver<Result<(), String>>) -> Result<(), Refusal> {
    match committed.recv().await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(Refusal::new(507, format!("the manifest is in force but not stored: {reason}"))),
        Err(_) => Err(Refusal::new(503, "the runtime is stopping")),
    }
}

pub fn withdraw(world: &World) -> Result<Value, Refusal> {
    if world.board.deployment.borrow().origin() == Some(Origin::Cloud) {
        return Err(Refusal::new(409, "the cloud's manifest is in force and would come back; change it there"));
    }
    if !deployment::withdraw(world) {
        return Err(Refusal::new(404, "no manifest is in force"));
    }
    Ok(json!({"withdrawn": true}))
}
