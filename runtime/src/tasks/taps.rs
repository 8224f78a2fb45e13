//! Hands copies of messages to whoever watches them pass. Must never slow the hub: who reads too slowly misses some,
//! and while nobody watches no copy is made.

use super::views;
use super::world::World;

/// Called after a turn in which messages came in.
pub fn hand_out(world: &World) {
    let mut taps = world.board.taps.borrow_mut();
    let before = taps.len();
    if before == 0 {
        return;
    }
    for tapped in world.port.turn(|hub, _| hub.take_tapped()) {
        for tap in taps.iter().filter(|t| (t.accepts)(&tapped)) {
            let _ = tap.to.try_send(views::tapped(&tapped));
        }
    }
    taps.retain(|t| !t.to.is_closed());
    let left = taps.len();
    if left != before {
        world.port.turn(|hub, _| hub.set_taps(left));
    }
}
