//! Declares the files of `io`.

pub mod crash_report;
pub mod elf;
pub mod image;
pub mod images;
pub mod order;
pub mod process;
pub mod status_page;
