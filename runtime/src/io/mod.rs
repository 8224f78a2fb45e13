//! What does: files, sockets, processes, clocks. Leaves the deciding to `logic`.

pub mod store;
