//! The bytes that cross the link between the runtime and an instance's process.
//! Pure: encodes into and decodes from slices, never reads, writes or waits.

pub mod frame;
pub mod record;
