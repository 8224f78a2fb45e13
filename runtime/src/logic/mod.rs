//! Declares the files of `logic`.
