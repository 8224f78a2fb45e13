//! What runs on a device, how it ends, and how it comes back.
