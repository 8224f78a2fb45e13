//! The emulator before its judges: official SDKs, unmodified, for devices, for back ends and for provisioning.

mod backend;
mod device;
mod judge;
mod provisioning;
