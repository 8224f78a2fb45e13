//! The two kinds of time. `Mono` counts since boot and also while the device sleeps; `Wall` is what the clock on the
//! wall says, and may jump. Must never read a clock: a time is always an argument.

/// Milliseconds since boot (`CLOCK_BOOTTIME`). Meaningless after a reboot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

/// Milliseconds since 1970, UTC. Survives a reboot, but may be wrong and may jump both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

impl Mono {
    pub fn plus(self, ms: u64) -> Mono {
        Mono(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to `self`; 0 when `earlier` is later.
    pub fn since(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Wall {
    pub fn plus(self, ms: i64) -> Wall {
        Wall(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to `self`; negative when the clock went back.
    pub fn since(self, earlier: Wall) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}
