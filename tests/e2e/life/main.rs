//! What runs on a device, how it ends, and how it comes back: modules that crash, the runtime killed at any moment, and
//! what is written meanwhile.

mod again;
mod calls;
mod crash;
mod dead_letters;
mod durable;
mod excess;
mod health;
mod logs;
mod operate;
mod seeing;
mod support;
mod twin;
