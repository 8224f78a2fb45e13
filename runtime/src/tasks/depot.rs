//! What operators ask about stored images: the list, and a pull with its progress.
//! Must never let a client that went away stop what others wait for.

use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use super::mailbox::{Answer, Refusal};
use super::pulls::Pulling;
use super::world::World;
use crate::model::reference::{PullPolicy, Reference};

/// Between two lines of progress.
const LOOK: Duration = Duration::from_millis(200);
/// Lines that a slow reader may be behind.
const LINES_MAX: usize = 64;

/// Every stored image, with the references that lead to it.
pub fn list(world: &World) -> Result<Answer, Refusal> {
    let broken = |e: std::io::Error| Refusal::new(500, format!("the image store can't be read: {e}"));
    let book = world.images.book();
    let (used, limit) = world.images.usage().map_err(broken)?;
    let images = world.images.digests().map_err(broken)?.into_iter().map(|digest| {
        let references: Vec<&String> =
            book.references.iter().filter(|(_, pulled)| pulled.digest == digest).map(|(name, _)| name).collect();
        let bytes = std::fs::metadata(world.images.path(&digest)).map_or(0, |m| m.len());
        let slots = world.board.slots.borrow();
        let users: Vec<&String> =
            slots.iter().filter(|(_, slot)| slot.image.borrow().digest == digest).map(|(name, _)| name).collect();
        json!({"digest": format!("sha256:{digest}"), "bytes": bytes, "references": references, "modules": users,
               "signed": world.images.signatures(&digest).is_some()})
    });
    Ok(Answer::Json(
        json!({"images": images.collect::<Vec<_>>(), "bytes": used, "limit": limit, "pulling": pulling(world)}),
    ))
}

/// What is on its way here.
pub fn pulling(world: &World) -> Vec<Value> {
    let show = |p: Pulling| json!({"reference": p.reference, "bytes": p.bytes, "total": p.bytes_total});
    world.pulls.progress().into_iter().map(show).collect()
}

/// Lines of progress, and a last one with the image or the error.
pub fn pull(world: &Rc<World>, text: &str) -> Result<Answer, Refusal> {
    let reference = Reference::parse(text).map_err(|why| Refusal::new(400, why))?;
    if let Reference::Named(image) = &reference {
        let why = format!(
            "image {:?}: it is of the drop-in folders, from where nothing is pulled; write oci://HOST/NAME:TAG",
            image.name
        );
        return Err(Refusal::new(400, why));
    }
    let (to, lines) = smol::channel::bounded(LINES_MAX);
    let inner = Rc::clone(world);
    let task = async move {
        let name = reference.to_string();
        let registries =
            inner.board.deployment.borrow().manifest().map_or_else(Vec::new, |manifest| manifest.registries.clone());
        let pulled = async { Some(inner.pulls.get(&reference, &registries, PullPolicy::OnCreate).await) };
        let shown = async {
            loop {
                smol::Timer::after(LOOK).await;
                let mine = inner.pulls.progress().into_iter().find(|p| p.reference == name);
                let line = mine
                    .map_or_else(|| json!({"waiting": true}), |p| json!({"bytes": p.bytes, "total": p.bytes_total}));
                // Nobody listens any more.
                if matches!(to.try_send(line), Err(smol::channel::TrySendError::Closed(_))) {
                    return None;
                }
            }
        };
        let last = match smol::future::or(pulled, shown).await {
            None => return,
            Some(Ok(got)) => json!({"image": {"name": got.image.name, "version": got.image.version,
                "digest": format!("sha256:{}", got.image.digest), "bytes": got.image.bytes}, "stale": got.stale, "remark": got.remark}),
            Some(Err(why)) => json!({"error": why}),
        };
        if last["error"].is_null() {
            inner.pulls.handle_brought(&reference);
            let _ = inner.replan.try_send(());
        }
        let _ = to.send(last).await;
    };
    world.executor.spawn(task).detach();
    Ok(Answer::Lines(lines))
}
