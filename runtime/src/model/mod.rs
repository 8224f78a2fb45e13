//! The nouns. Knows nobody; never serialises itself.

pub mod config;
pub mod endpoint;
pub mod identity;
pub mod image;
pub mod instance;
pub mod limits;
pub mod manifest;
pub mod reference;
pub mod time;
