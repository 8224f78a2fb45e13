//! Calls cargo for the other commands, with its progress on the terminal. Must never build another checkout than the
//! one that this program was built from.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the workspace.
pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().unwrap_or(root)
}

pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What cargo tells the program that it runs would make some build scripts run again in the cargo below.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|own| name.starts_with(own)) {
            command.env_remove(&*name);
        }
    }
    command
}

pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// Builds these packages and returns the folder with the results.
pub fn build(profile: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let mut command = cargo();
    command.args(["build", "--profile", profile]);
    for package in packages {
        command.args(["--package", package]);
    }
    let status = command.status().map_err(|e| format!("can't run cargo: {e}"))?;
    if !status.success() {
        return Err(format!("the build failed: cargo build --profile {profile}"));
    }
    let name = if profile == "dev" { "debug" } else { profile };
    Ok(target_folder().join(name))
}

/// The file that cargo makes of a plugin's crate.
pub fn image(built: &Path, plugin: &str) -> PathBuf {
    built.join(format!("libskerry_{}.so", plugin.replace('-', "_")))
}
