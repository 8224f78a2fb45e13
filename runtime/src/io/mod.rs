//! Declares the files of `io`.

pub mod crash_report;
pub mod elf;
pub mod image;
pub mod images;
