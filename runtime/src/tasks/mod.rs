//! Declares the files of `tasks`.
