//! Finds the program and the images beside the running test, after seeing to it that they are of today.
//! Must never build them in another profile than the test's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The program.
pub fn program() -> PathBuf {
    target().join("skerry")
}

/// The chores.
pub(crate) fn xtask() -> PathBuf {
    target().join("xtask")
}

/// The file of a plugin, or of an image of the tests.
pub(crate) fn image_file(name: &str) -> PathBuf {
    let file = format!("lib{}.so", name.replace('-', "_"));
    let names =
        [target().join("examples").join(&file), target().join(format!("libskerry_{}.so", name.replace('-', "_")))];
    let found = names.iter().find(|path| path.exists());
    found
        .unwrap_or_else(|| panic!("no image {name}: neither {} nor {}", names[0].display(), names[1].display()))
        .clone()
}

/// `target/<profile>`, with everything in it.
fn target() -> &'static Path {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    TARGET.get_or_init(|| {
        let test = std::env::current_exe().expect("the path of the running test");
        let target = test.ancestors().nth(2).expect("target/<profile>/deps/test").to_owned();
        build(&target);
        target
    })
}

/// Debian's libfaketime, which gives a process another wall clock.
pub(crate) fn fake_time() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|path| path.exists());
    found.expect("libfaketime; install it with: apt-get install faketime")
}

fn build(target: &Path) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["build", "--quiet", "--workspace", "--lib", "--bins", "--example", "scribe", "--example", "hostile"]);
    match target.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => {}
        Some(profile) => {
            cargo.args(["--profile", profile]);
        }
    }
    // What cargo tells this test would make build scripts run again, and everything above them.
    let told = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_") && name != "CARGO_HOME" && name != "CARGO_TARGET_DIR"
    });
    for name in told {
        cargo.env_remove(name);
    }
    assert!(cargo.status().expect("cargo").success(), "the program does not build");
}
