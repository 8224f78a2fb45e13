//! Tells the hub which modules there should be, so that what waits for one that was removed does not wait for ever.
//! Must never call a module removed that is only down: it stands on the board or in the configuration.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use super::world::World;

/// A day is what is measured with it. The first look comes after one, when the folders were looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// For as long as the runtime runs.
pub async fn run(world: Rc<World>) {
    loop {
        smol::Timer::after(LOOK_EVERY).await;
        look(&world);
    }
}

fn look(world: &World) {
    let slots = world.board.slots.borrow();
    let configured = world.config.modules.instances.keys();
    let there: BTreeSet<String> = slots.keys().chain(configured).cloned().collect();
    // Every module that ran has a twin, and one that had an identity still has what is known of it.
    let (twins, identities) = (world.board.twins.borrow(), world.board.identities.borrow());
    let generation = |module: &str| identities.get(module)?["generationId"].as_str().map(str::to_owned);
    world.port.turn(|hub, now| hub.set_modules(now, &there, |module| twins.contains_key(module), generation));
}
