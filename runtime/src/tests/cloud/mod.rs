//! The way to the cloud in a simulated world: the real hub, sessions, twins, tokens and time floor of two identities on one side, a cloud
//! that checks what it is told on the other, and a network between them that is slow, silent, and breaks. One number decides everything:
//! faults first, then calm; then both sides must agree. `cargo xtask sim` runs many.

mod end;
mod iot_hub;
mod packets;
mod plan;
mod wire;
mod world;

use super::seeds;
use world::World;

/// One world. Returns the number that stands for everything that happened in it.
fn run(seed: u64) -> u64 {
    let mut world = World::new(seed);
    while world.ms < world.plan.faults_ms {
        world.step();
    }
    world.calm_down();
    world.judge();
    world.trace
}

#[test]
fn whatever_happens_both_sides_agree() {
    seeds::run("cloud", 100, run);
}

#[test]
fn the_same_seed_is_the_same_world() {
    let first = seeds::number("SKERRY_SEED").unwrap_or(1_000);
    for seed in first..first + 5 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(first), run(first + 1));
}
