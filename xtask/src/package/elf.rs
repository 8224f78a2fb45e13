//! Judges what was built by its ELF headers: a program or module that needs something a device may lack is never packed.
//! Must never run what it looks at.

use std::path::Path;

use object::Endianness;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader, Sym};

use super::target::{Libc, Target};

/// What a file is meant to be.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// Loads nothing and needs no loader.
    Static,
    Host(Libc),
    Module(Libc),
}

#[derive(Debug, Default)]
struct Facts {
    machine: u16,
    interpreter: Option<String>,
    needed: Vec<String>,
    /// The newest `GLIBC_x.y` with the library that it is asked of.
    glibc: Option<((u32, u32), String)>,
    is_module: bool,
}

/// One line for the log. The error names the file and the offender.
pub fn check(path: &Path, target: &Target, role: Role) -> Result<String, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let facts = match bytes.get(4) {
        Some(1) => read::<FileHeader32<Endianness>>(&bytes),
        _ => read::<FileHeader64<Endianness>>(&bytes),
    };
    let facts = facts.map_err(|e| format!("{}: {e}", path.display()))?;
    let faults = faults(&facts, target, role);
    if let Some(fault) = faults.first() {
        return Err(format!("{}: {fault}", path.display()));
    }
    let glibc = facts.glibc.map_or(String::new(), |((major, minor), _)| format!(", glibc {major}.{minor}"));
    let loader = facts.interpreter.unwrap_or_else(|| "no interpreter".to_owned());
    let needed = if facts.needed.is_empty() { "no library".to_owned() } else { facts.needed.join(" ") };
    Ok(format!("{name}: {} bytes, machine {}, {loader}, {needed}{glibc}", bytes.len(), facts.machine))
}

fn faults(facts: &Facts, target: &Target, role: Role) -> Vec<String> {
    let mut faults = Vec::new();
    if facts.machine != target.machine {
        faults.push(format!("made for machine {}, and {} is {}", facts.machine, target.name, target.machine));
    }
    let (libc, loader) = match role {
        Role::Static => (None, None),
        Role::Host(libc) => (Some(libc), Some(target.loader(libc))),
        Role::Module(libc) => (Some(libc), None),
    };
    if facts.interpreter.as_deref() != loader {
        let found = facts.interpreter.as_deref().unwrap_or("none");
        faults.push(format!("its interpreter is {found}, and should be {}", loader.unwrap_or("none")));
    }
    for needed in &facts.needed {
        let known = match libc {
            None => false,
            Some(Libc::Glibc) => OF_GLIBC.iter().any(|known| needed == known) || needed.starts_with("ld-linux"),
            Some(Libc::Musl) => needed == "libc.so",
        };
        if !known {
            faults.push(format!("it needs {needed}, which a device may not have; link it statically"));
        }
    }
    if let Some((version, library)) = &facts.glibc {
        let named = format!("GLIBC_{}.{} of {library}", version.0, version.1);
        match libc {
            Some(Libc::Glibc) if *version > GLIBC_FLOOR => {
                faults.push(format!("it needs {named}; the floor is {}.{}", GLIBC_FLOOR.0, GLIBC_FLOOR.1));
            }
            Some(Libc::Glibc) => {}
            _ => faults.push(format!("it needs {named}, and should need no glibc")),
        }
    }
    if matches!(role, Role::Module(_)) && !facts.is_module {
        faults.push(format!("it has no section {SECTION}; was it built with export_module!?"));
    }
    faults
}

fn read<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Result<Facts, String> {
    let failed = |error: object::read::Error| error.to_string();
    let header = H::parse(bytes).map_err(failed)?;
    let endian = header.endian().map_err(failed)?;
    let mut facts = Facts { machine: header.e_machine(endian).0, ..Facts::default() };
    for segment in header.program_headers(endian, bytes).map_err(failed)? {
        if let Some(path) = segment.interpreter(endian, bytes).map_err(failed)? {
            facts.interpreter = Some(String::from_utf8_lossy(path).into_owned());
        }
    }
    let sections = header.sections(endian, bytes).map_err(failed)?;
    if let Some((entries, link)) = sections.dynamic(endian, bytes).map_err(failed)? {
        let strings = sections.strings(endian, bytes, link).map_err(failed)?;
        use object::read::elf::Dyn;
        for entry in entries.iter().take_while(|entry| entry.tag(endian) != elf::DT_NULL) {
            if entry.tag(endian) == elf::DT_NEEDED {
                facts.needed.push(String::from_utf8_lossy(entry.string(endian, strings).map_err(failed)?).into_owned());
            }
        }
    }
    if let Some((mut files, link)) = sections.gnu_verneed(endian, bytes).map_err(failed)? {
        let strings = sections.strings(endian, bytes, link).map_err(failed)?;
        while let Some((file, mut versions)) = files.next().map_err(failed)? {
            let library = String::from_utf8_lossy(file.file(endian, strings).map_err(failed)?).into_owned();
            while let Some(version) = versions.next().map_err(failed)? {
                let name = String::from_utf8_lossy(version.name(endian, strings).map_err(failed)?).into_owned();
                let newer = glibc(&name).filter(|found| facts.glibc.as_ref().is_none_or(|(known, _)| found > known));
                facts.glibc = newer.map(|found| (found, library.clone())).or(facts.glibc.take());
            }
        }
    }
    let described = sections.section_by_name(endian, SECTION.as_bytes()).is_some();
    let symbols = sections.symbols(endian, bytes, elf::SHT_DYNSYM).map_err(failed)?;
    let exports = symbols.iter().any(|s| !s.is_undefined(endian) && s.name(endian, symbols.strings()).is_ok());
    facts.is_module = described && exports;
    Ok(facts)
}

/// `GLIBC_2.17`; the word for packed relocations came with 2.36.
fn glibc(name: &str) -> Option<(u32, u32)> {
    let name = name.strip_prefix("GLIBC_")?;
    if name == "ABI_DT_RELR" {
        return Some((2, 36));
    }
    let mut numbers = name.split('.').map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Of everything that is linked to glibc: CentOS 7's, and the first for aarch64.
pub const GLIBC_FLOOR: (u32, u32) = (2, 17);
/// The libraries that every glibc brings.
const OF_GLIBC: [&str; 5] = ["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"];
/// Where `export_module!` puts its description.
const SECTION: &str = ".skerry.module";

#[cfg(test)]
mod tests {
    use super::super::target;
    use super::*;

    #[test]
    fn the_offender_is_named() {
        let target = target::of("x86_64").unwrap();
        let good = || Facts { machine: 62, needed: vec!["libc.so.6".into()], is_module: true, ..Facts::default() };
        let module = Role::Module(Libc::Glibc);
        assert_eq!(faults(&good(), target, module), Vec::<String>::new());
        let all: &[(Facts, Role, &str)] = &[
            (Facts { machine: 40, ..good() }, module, "made for machine 40"),
            (Facts { needed: vec!["libssl.so.3".into()], ..good() }, module, "libssl.so.3"),
            (Facts { glibc: Some(((2, 34), "libc.so.6".into())), ..good() }, module, "GLIBC_2.34 of libc.so.6"),
            (Facts { is_module: false, ..good() }, module, "export_module!"),
            (good(), Role::Static, "libc.so.6"),
            (good(), Role::Host(Libc::Glibc), "its interpreter is none"),
            (Facts { needed: vec!["libc.so".into()], ..good() }, Role::Host(Libc::Musl), "ld-musl-x86_64.so.1"),
        ];
        for (facts, role, offender) in all {
            let found = faults(facts, target, *role);
            assert!(found.iter().any(|fault| fault.contains(offender)), "{offender}: {found:?}");
        }
    }

    #[test]
    fn words_of_symbol_versions() {
        assert_eq!(glibc("GLIBC_2.2.5"), Some((2, 2)));
        assert_eq!(glibc("GLIBC_ABI_DT_RELR"), Some((2, 36)));
        assert_eq!(glibc("GLIBC_PRIVATE"), None);
        assert_eq!(glibc("GCC_3.0"), None);
    }
}
