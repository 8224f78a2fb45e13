//! Declares the files of `logic`.

pub mod message_json;
pub mod nearest;
pub mod units;
