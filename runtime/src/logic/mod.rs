//! Declares the files of `logic`.

pub mod routing;
pub mod twin;
