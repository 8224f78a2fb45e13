//! Declares the files of `host`.

pub mod confine;
pub mod crash;
pub mod descriptors;
pub mod main;
pub mod open;
