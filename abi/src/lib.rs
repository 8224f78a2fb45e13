//! The ABI of skerry modules, and the SDK to write them.
#[cfg(feature = "sdk")]
pub mod raw;
pub mod wire;
