//! Images from elsewhere: from a registry that lies, stalls and refuses, and from a real one.
//! Must never leave this machine: every server is on the loopback interface.

mod liar;
mod lies;
mod place;
mod registry;
