//! Declares the files of `host`.
