//! What decides: pure state machines, without I/O, clock or `async`. Siblings do not know each other, but for `hub`,
//! which is composed of `routing` and `block`.

pub mod backoff;
pub mod block;
pub mod connection_string;
pub mod dialect;
pub mod hub;
pub mod log_ring;
pub mod log_text;
pub mod manifest;
pub mod message_json;
pub mod metrics;
pub mod module_logs;
pub mod mqtt;
pub mod nearest;
pub mod oci;
pub mod outlook;
pub mod percent;
pub mod plan;
pub mod proof;
pub mod provisioning;
pub mod redact;
pub mod registration;
pub mod report;
pub mod restart;
pub mod routing;
pub mod sas;
pub mod scope;
pub mod session;
pub mod signature;
pub mod twin;
pub mod twin_sync;
pub mod units;
pub mod version;
pub mod wear;
