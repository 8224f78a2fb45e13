//! What the packaged program costs beside the development build: rate of the hop and of the store, and memory, both in the same run and
//! in turns. Must never compare two machines, or two days.

use std::fs;
use std::path::Path;

use super::{Packages, require};
use crate::{bench, cargo};

/// Turns of each.
const RUNS: usize = 5;

pub fn rates(packages: &Packages) -> Result<(), String> {
    let development = cargo::build("fast", &["skerry-runtime", "skerry-bench", "skerry-filter"])?;
    let folder = tempfile::Builder::new().prefix("packaged-").tempdir_in(cargo::target_folder());
    let folder = folder.map_err(|e| e.to_string())?;
    let packaged = folder.path().join("bin");
    let copy = |from: &Path, to: &str| {
        let to = folder.path().join(to);
        fs::create_dir_all(to.parent().unwrap_or(&to)).map_err(|e| e.to_string())?;
        fs::copy(from, &to).map(drop).map_err(|e| format!("{}: {e}", to.display()))
    };
    copy(&packages.built.skerry, "bin/skerry")?;
    copy(&packages.built.glibc_host, "lib/skerry/skerry-host-glibc")?;
    for plugin in ["bench", "filter"] {
        // The same modules for both: it is the runtime that is compared.
        let image = cargo::image(&development, plugin);
        copy(&image, &format!("bin/{}", image.file_name().unwrap_or_default().to_string_lossy()))?;
    }
    compare(&packaged, &development)
}

fn compare(packaged: &Path, development: &Path) -> Result<(), String> {
    for (name, unit, measure) in bench::OF_THE_RUNTIME {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            ours.push(measure(packaged)?);
            theirs.push(measure(development)?);
        }
        let (ours, theirs) = (bench::median(&ours), bench::median(&theirs));
        require(ours > 0.0 && theirs > 0.0, || format!("{name}: nothing was measured"))?;
        println!(
            "{name:<20} packaged {ours:>10.2} {unit}, development {theirs:>10.2} {unit}, ratio {:.2}",
            ours / theirs
        );
    }
    Ok(())
}
