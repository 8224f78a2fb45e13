//! Writes down when this was built, in seconds since 1970: the time floor of a device that has lost its clock.
//! Must never make two builds of one commit differ: SOURCE_DATE_EPOCH, then the commit's date, then the present.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=Cargo.toml");
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().filter(|text| text.parse::<u64>().is_ok());
    println!("cargo:rustc-env=SKERRY_BUILT={}", given.or_else(committed).unwrap_or_else(present));
}

fn committed() -> Option<String> {
    let log = Command::new("git").args(["log", "-1", "--format=%ct"]).output().ok()?;
    let text = String::from_utf8(log.stdout).ok()?.trim().to_owned();
    text.parse::<u64>().ok().map(|_| text)
}

fn present() -> String {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).to_string()
}
