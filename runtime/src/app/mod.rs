//! Declares the files of `app`.

pub mod cli;
pub mod config;
pub mod inspect;
pub mod pending;
pub mod route_eval;
pub mod settings;
pub mod table;
pub mod toml_table;
pub mod verbs;
