//! What is asked for by a manifest: modules come, change and go, and an update that fails comes back.
//! Every test has a device of its own.

mod cloud;
mod kills;
mod local;
mod many;
mod registry;
mod update;
