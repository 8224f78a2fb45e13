//! What decides: pure state machines, without I/O, clock or `async`. Siblings do not know each other, but for `hub`,
//! which is composed of `routing` and `block`.

pub mod block;
pub mod hub;
pub mod log_ring;
pub mod message_json;
pub mod nearest;
pub mod plan;
pub mod restart;
pub mod routing;
pub mod twin;
pub mod units;
pub mod version;
