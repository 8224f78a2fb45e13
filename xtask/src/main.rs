//! The chores of this repository: `cargo xtask <what>`. A table of contents: each command is a file or folder of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;

mod cargo;
mod control;
mod demo;
mod device;
mod interrupt;
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
    Demo(Demo),
    New(New),
}

/// shows a device at work for half a minute: what flows, what is killed and comes back, and that nothing is lost
#[derive(FromArgs)]
#[argh(subcommand, name = "demo")]
struct Demo {
    /// leave it running at the end
    #[argh(switch)]
    keep: bool,
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
    let good = match argh::from_env::<Arguments>().task {
        Task::Demo(Demo { keep }) => demo::run(keep),
        Task::New(New { path, name }) => new::run(&path, &name).map(|()| true),
    };
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error == interrupt::INTERRUPTED => ExitCode::from(130),
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
