//! The packages, tried as a user would: installed into a Debian folder with dpkg, unpacked into an OpenWrt-like folder that knows
//! only musl, started there, upgraded and removed; and those for other machines, emulated. Must never touch the system that it runs on.

mod debian;
mod elsewhere;
mod emulated;
mod openwrt;
mod rates;
mod root;
mod scripts;
mod structure;

use std::path::PathBuf;

use crate::package::build::Build;
use crate::package::target::{self, Libc, Target};
use crate::package::toolchain::Toolchain;
use crate::package::{self, Built, Format, contents};

pub use debian::on_debian;
pub use elsewhere::elsewhere;
pub use emulated::emulated;
pub use openwrt::on_openwrt;
pub use rates::rates;
pub use scripts::scripts;
pub use structure::structure;

/// Modules of each trial: one that speaks, one that writes down.
const MODULES: [&str; 2] = ["sysinfo", "recorder"];
const CONFIG: &str = r#"# edited by the operator
[device]
id = "trial"
[modules.sysinfo]
settings = { interval_ms = 200 }
[store]
flush_interval = "20ms"
[routes]
seen = 'FROM /messages/* INTO BrokeredEndpoint("/modules/recorder/inputs/input1")'
"#;

/// Everything that the trials install.
pub struct Packages {
    built: Built,
    epoch: u64,
    modules: Vec<(package::build::Module, Vec<(Libc, PathBuf)>)>,
}

/// This machine's.
pub fn build() -> Result<Packages, String> {
    build_for(target::of(std::env::consts::ARCH)?, &Libc::BOTH)
}

/// With modules for these C libraries.
fn build_for(target: &'static Target, libcs: &[Libc]) -> Result<Packages, String> {
    let (mut toolchain, epoch) = (Toolchain::find()?, package::epoch()?);
    let mut build = Build { toolchain: &mut toolchain, epoch, target };
    let built = package::runtime(&mut build)?;
    let mut modules = Vec::new();
    for module in package::own_modules()?.into_iter().filter(|module| MODULES.contains(&&*module.name)) {
        let mut files = Vec::new();
        for libc in libcs {
            files.push((*libc, build.module(&module, *libc)?));
        }
        modules.push((module, files));
    }
    Ok(Packages { built, epoch, modules })
}

impl Packages {
    fn module(&self, name: &str, format: Format) -> Result<package::Made, String> {
        let found = self.modules.iter().find(|(module, _)| module.name == name);
        let (module, files) = found.ok_or_else(|| format!("no module {name}"))?;
        let wanted = if format == Format::Ipk { Libc::Musl } else { Libc::Glibc };
        let files: Vec<_> = files.iter().filter(|(libc, _)| *libc == wanted).cloned().collect();
        let mut made = contents::module(module, self.built.target, &files, format, self.epoch)?;
        if made.is_empty() { Err(format!("no package of {name}")) } else { Ok(made.swap_remove(0)) }
    }
}

fn require(good: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if good { Ok(()) } else { Err(why()) }
}
