//! The ABI of skerry modules, and the SDK to write them.
pub mod wire;
