//! The chores of this repository: `cargo xtask <what>`.

use std::{path::PathBuf, process::ExitCode};

use argh::FromArgs;

mod new;

/// the chores of this repository
#[derive(FromArgs)]
struct Arguments {
    #[argh(subcommand)]
    task: Task,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Task {
    New(New),
}

/// makes a module crate that builds with plain cargo
#[derive(FromArgs)]
#[argh(subcommand, name = "new")]
struct New {
    /// folder in which the crate's folder is made (default: the current one)
    #[argh(option, default = "PathBuf::from(\".\")")]
    path: PathBuf,
    /// name of the module: lower-case letters, digits and dashes
    #[argh(positional)]
    name: String,
}

fn main() -> ExitCode {
    let done = match argh::from_env::<Arguments>().task {
        Task::New(New { path, name }) => new::run(&path, &name),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
