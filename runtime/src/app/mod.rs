//! Declares the files of `app`.

pub mod route_eval;
