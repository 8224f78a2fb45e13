//! Declares the files of `app`.
