//! What does: files, sockets, processes, clocks.
//! Must never decide: that is for `logic`.

pub mod again;
pub mod archive;
pub mod assignment;
pub mod clock;
pub mod code_pages;
pub mod crash_report;
pub mod dial;
pub mod disk;
pub mod download;
pub mod elf;
pub mod executor;
pub mod fetch;
pub mod gzip;
pub mod hosts;
pub mod http;
pub mod image;
pub mod image_book;
pub mod images;
pub mod kernel;
pub mod log_files;
pub mod machine;
#[cfg(any(target_env = "musl", test))]
pub mod memory;
pub mod order;
pub mod peer;
pub mod process;
pub mod proved;
pub mod pull;
pub mod registry;
pub mod rest;
pub mod secret;
pub mod signing;
pub mod socket;
pub mod status_page;
pub mod store;
pub mod tls;
mod tls_crypto;
pub mod usage;
pub mod user;
pub mod watch;
pub mod ws;
