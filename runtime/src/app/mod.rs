//! Declares the files of `app`.

pub mod config;
pub mod settings;
pub mod toml_table;
