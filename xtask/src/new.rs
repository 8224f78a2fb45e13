//! `cargo xtask new`: a module crate outside of this workspace, with a test that passes, ready to be dropped in.
//! Must never write into a folder that is there already.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Longest name: what IoT Hub allows for a module id.
const NAME_BYTES_MAX: usize = 128;

/// The files of a new crate, with `@name@`, `@crate@`, `@type@` and `@abi@` to be filled in.
const FILES: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("new/Cargo.toml.in")),
    ("src/lib.rs", include_str!("new/lib.rs.in")),
    ("src/settings.json", include_str!("new/settings.json.in")),
    ("tests/module.rs", include_str!("new/module.rs.in")),
    (".gitignore", "/target\n"),
];

/// Makes the crate `name` in the folder `path`. The error is for the person who typed it.
pub fn run(path: &Path, name: &str) -> Result<(), String> {
    check_name(name)?;
    let root = path.join(name);
    if root.exists() {
        return Err(format!("{} exists already: choose another name or --path", root.display()));
    }
    let abi = abi_folder()?;
    for (file, text) in FILES {
        let file = root.join(file);
        let text = text
            .replace("@name@", name)
            .replace("@crate@", &name.replace('-', "_"))
            .replace("@type@", &type_name(name))
            .replace("@abi@", &abi.to_string_lossy());
        let folder = file.parent().unwrap_or(&root);
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&file, text));
        written.map_err(|error| format!("{} can't be written: {error}", file.display()))?;
    }
    let root = root.canonicalize().unwrap_or(root);
    println!("made {}", root.display());
    println!("  cargo test                 its tests, without a runtime");
    println!(
        "  cargo build --release      target/release/lib{}.so: drop it into the modules folder",
        name.replace('-', "_")
    );
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("{name:?} can't be the name of a module: {why}"));
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return refuse("it must have 1 to 128 characters");
    }
    if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        return refuse("only lower-case letters, digits and dashes are allowed");
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.ends_with('-') || name.contains("--") {
        return refuse("it must begin with a letter, and dashes stand between two others");
    }
    // Names that make no crate: keywords, and what the crate itself depends on.
    const TAKEN: &[&str] = &[
        "abi-stable",
        "as",
        "async",
        "await",
        "break",
        "const",
        "continue",
        "core",
        "crate",
        "dyn",
        "else",
        "enum",
        "extern",
        "false",
        "fn",
        "for",
        "gen",
        "if",
        "impl",
        "in",
        "let",
        "log",
        "loop",
        "match",
        "mod",
        "move",
        "mut",
        "pub",
        "ref",
        "return",
        "self",
        "serde",
        "serde-json",
        "skerry-abi",
        "static",
        "std",
        "struct",
        "super",
        "test",
        "trait",
        "true",
        "type",
        "unsafe",
        "use",
        "where",
        "while",
    ];
    if TAKEN.contains(&name) {
        return refuse("Rust or one of the crate's dependencies has it");
    }
    Ok(())
}

/// `hot-water` is `HotWater`.
fn type_name(name: &str) -> String {
    name.split('-')
        .map(|part| {
            let (first, rest) = part.split_at(1);
            format!("{}{rest}", first.to_ascii_uppercase())
        })
        .collect()
}

/// Of this checkout.
fn abi_folder() -> Result<PathBuf, String> {
    let abi = Path::new(env!("CARGO_MANIFEST_DIR")).join("../abi");
    abi.canonicalize().map_err(|error| format!("{}: {error}", abi.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn names_are_checked() {
        for name in ["filter", "hot-water", "a1"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "Filter", "1a", "a_b", "a/b", "-a", "a-", "a--b", "log", "crate", &"x".repeat(129)] {
            assert!(check_name(name).unwrap_err().contains("can't be the name"), "{name}");
        }
        assert_eq!(type_name("hot-water2"), "HotWater2");
    }

    #[test]
    fn a_folder_that_exists_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("filter")).unwrap();
        assert!(run(folder.path(), "filter").unwrap_err().contains("exists already"));
    }

    /// Builds with plain cargo, outside of the workspace, and its own test passes. Slow the first time: its
    /// dependencies are kept under `target/xtask-new`.
    #[test]
    fn a_new_crate_builds_and_passes_its_test() {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), "hot-water").unwrap();
        let (root, checkout) = (folder.path().join("hot-water"), Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        // The versions that are there already, so that it needs no network.
        fs::copy(checkout.join("Cargo.lock"), root.join("Cargo.lock")).unwrap();
        let target = checkout.join("target/xtask-new");
        for task in ["test", "build"] {
            let done = Command::new(env!("CARGO"))
                .args([task, "--quiet", "--offline"])
                .current_dir(&root)
                .env("CARGO_TARGET_DIR", &target)
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{told}");
        }
        assert!(target.join("debug/libhot_water.so").exists());
    }
}
