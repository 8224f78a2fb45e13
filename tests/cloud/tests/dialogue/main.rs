//! The emulator against a plain client: sessions, twins, methods, and every fault that a test can ask for.

mod client;
mod faults;
mod session;
mod speed;
