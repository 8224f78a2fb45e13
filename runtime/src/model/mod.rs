//! Declares the files of `model`.

pub mod image;
pub mod instance;
pub mod time;
