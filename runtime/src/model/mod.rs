//! Declares the files of `model`.

pub mod instance;
pub mod time;
