//! What reaches the cloud, through everything that can go wrong on the way there: real processes, real TLS, the emulator.
//! Must never take a message for delivered that the cloud has not stored.

mod backend;
mod faults;
mod hostile;
mod identities;
mod messages;
mod provisioning;
mod trust;
mod twin;
