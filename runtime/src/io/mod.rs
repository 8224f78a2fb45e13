//! Declares the files of `io`.
