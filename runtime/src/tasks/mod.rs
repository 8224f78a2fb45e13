//! Declares the files of `tasks`.

pub mod control;
pub mod mailbox;
