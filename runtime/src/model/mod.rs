//! Declares the files of `model`.
