//! What does: files, sockets, processes, clocks. Leaves the deciding to `logic`.

pub mod clock;
pub mod crash_report;
pub mod dial;
pub mod disk;
pub mod download;
pub mod elf;
pub mod fetch;
pub mod http;
pub mod image;
pub mod image_book;
pub mod images;
pub mod kernel;
pub mod order;
pub mod peer;
pub mod process;
pub mod pull;
pub mod registry;
pub mod rest;
pub mod secret;
pub mod socket;
pub mod status_page;
pub mod store;
pub mod tls;
pub mod watch;
pub mod ws;
