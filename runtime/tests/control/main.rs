//! The control socket, from both sides.

mod core;
mod http;
mod verbs;
