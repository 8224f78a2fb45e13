//! The emulator against a plain client: sessions, twins, methods, REST, provisioning, and every fault that a test can ask for.

mod client;
mod faults;
mod provisioning;
mod rest;
mod session;
mod speed;
