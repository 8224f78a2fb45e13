//! The official SDKs that judge the emulator: a virtual environment of Python with exactly the packages that are written
//! down. Must never touch the machine's own Python packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{cargo, debian};

const REQUIREMENTS: &str = "tests/cloud/sdk/requirements.txt";
/// In the environment, a copy of what was installed.
const DONE: &str = "requirements.txt";

/// Makes it where it is missing or out of date.
pub fn install() -> Result<(), String> {
    let wanted = cargo::root().join(REQUIREMENTS);
    let text = fs::read_to_string(&wanted).map_err(|e| format!("{}: {e}", wanted.display()))?;
    let venv = folder();
    if fs::read_to_string(venv.join(DONE)).is_ok_and(|done| done == text) && works() {
        return Ok(());
    }
    println!("installing the Python SDKs into {}", venv.display());
    if venv.exists() {
        fs::remove_dir_all(&venv).map_err(|e| format!("{}: {e}", venv.display()))?;
    }
    if !make(&venv) {
        // Debian has it in a package of its own.
        debian::install(&["python3-venv"]);
        let _ = fs::remove_dir_all(&venv);
        if !make(&venv) {
            return Err("missing; install with: apt-get install python3-venv".to_owned());
        }
    }
    let mut pip = Command::new(python());
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r"]).arg(&wanted);
    let status = pip.status().map_err(|e| format!("pip: {e}"))?;
    if !status.success() {
        return Err(format!("pip install -r {REQUIREMENTS}: {status}"));
    }
    fs::write(venv.join(DONE), text).map_err(|e| format!("{}: {e}", venv.display()))
}

fn make(venv: &Path) -> bool {
    Command::new("python3").args(["-m", "venv"]).arg(venv).status().is_ok_and(|status| status.success())
}

/// An environment breaks when the Python that it was made with goes.
fn works() -> bool {
    let import =
        Command::new(python()).args(["-c", "import azure.iot.device, azure.iot.hub"]).stderr(Stdio::null()).status();
    import.is_ok_and(|status| status.success())
}

/// The interpreter that has the SDKs.
pub fn python() -> PathBuf {
    folder().join("bin/python")
}

fn folder() -> PathBuf {
    cargo::target_folder().join("sdk-venv")
}
