//! Declares the files of `io`.

pub mod http;
pub mod peer;
pub mod socket;
