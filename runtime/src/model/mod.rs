//! The nouns. Knows nobody; never serialises itself.

pub mod endpoint;
pub mod limits;
pub mod time;
