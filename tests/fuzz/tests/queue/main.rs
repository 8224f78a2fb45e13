//! The hub's queues against a plain model: any bytes are a story of sends, completions, refusals, deaths, commits that fail and
//! runtimes that are killed, and a few sorted sets say what may happen. The model knows nothing of heads, gaps, blocks and windows.
//! Must never ask the hub what is right.

mod disk;
mod model;
mod world;

use skerry_fuzz::fuzz;
use world::World;

#[test]
fn queues() {
    // Each story is pairs of bytes: what happens, and how much of it.
    let flows: &[u8] = &[0, 9, 5, 40, 6, 40, 1, 3, 5, 9, 11, 1, 2, 4, 7, 9];
    let waits: &[u8] = &[14, 0, 14, 1, 0, 200, 13, 30, 11, 0, 1, 90, 13, 30, 11, 0, 10, 0, 5, 200, 6, 200];
    let fails: &[u8] = &[0, 9, 8, 0, 9, 1, 10, 0, 13, 40, 12, 0, 8, 0, 15, 1, 10, 0, 13, 255, 15, 0, 3, 7];
    let poison: &[u8] = &[0, 5, 9, 0, 10, 0, 13, 20, 9, 0, 10, 0, 13, 90, 9, 0, 10, 0, 11, 0, 5, 99];
    fuzz("queues", &[flows, waits, fails, poison], |story| {
        let mut world = World::new();
        for step in story.chunks_exact(2).take(200) {
            world.step(step[0] % 16, u64::from(step[1]));
        }
        world.drain();
    });
}
