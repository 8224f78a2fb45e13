//! skerry: runs modules, each as a process of its own, and keeps their messages safe.
//! The floors, top to bottom: `app`, `tasks`, `io`, `logic`, `model`; beside them `host`. `ARCHITECTURE.md` is the map.

pub mod app;
pub mod host;
pub mod io;
pub mod logic;
pub mod model;
pub mod tasks;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: io::memory::Allocator = io::memory::Allocator;

#[cfg(test)]
mod tests;
