//! Declares the files of `app`.

pub mod inspect;
