//! Declares the files of `app`.

pub mod check;
pub mod cli;
pub mod cli_dead;
pub mod cli_images;
pub mod cli_signing;
pub mod cli_support;
pub mod cloud_settings;
pub mod config;
pub mod dps_settings;
pub mod inspect;
pub mod logger;
pub mod pull_settings;
pub mod route_eval;
pub mod run;
pub mod settings;
pub mod signals;
pub mod support;
pub mod table;
pub mod toml_table;
pub mod verbs;
