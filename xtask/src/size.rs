//! `cargo xtask size`: how large what was packed is, beside the budget, and which crates the program's bytes come from. Must never
//! judge another build than the one that is packed, but for the symbols that it counts by.

use std::collections::BTreeMap;
use std::path::Path;

use object::Endianness;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, Sym};

use crate::package::build::Build;
use crate::package::target::{self, Libc};
use crate::package::toolchain::Toolchain;
use crate::package::tree::gzip_smallest;
use crate::{cargo, package};

pub fn run(name: &str) -> Result<bool, String> {
    let target = target::of(name)?;
    let mut toolchain = Toolchain::find()?;
    let mut build = Build { toolchain: &mut toolchain, epoch: package::epoch()?, target };
    let built = package::runtime(&mut build)?;
    let mut good = true;
    let mut line = |what: &str, bytes: u64, budget: Option<u64>| {
        let kept = budget.is_none_or(|budget| bytes <= budget);
        let budget = budget.map_or(String::new(), |b| format!("  budget {b}{}", if kept { "" } else { "  EXCEEDED" }));
        println!("{what:<44} {bytes:>9}{budget}");
        good &= kept;
    };
    let programs = [&built.skerry, &built.glibc_host, &built.musl_host].map(|path| (path, None));
    for (path, budget) in [(&built.lone, Some(BINARY_MAX))].into_iter().chain(programs) {
        let relative = path.strip_prefix(cargo::target_folder()).unwrap_or(path);
        line(&relative.display().to_string(), length(path)?, budget);
    }
    let mut packages: Vec<_> = std::fs::read_dir(package::folder()).into_iter().flatten().flatten().collect();
    packages.sort_by_key(std::fs::DirEntry::file_name);
    let names = [target.name, target.deb].into_iter().chain(target.ipk.iter().copied());
    let names: Vec<String> = names.map(str::to_owned).collect();
    for entry in packages {
        let file = entry.file_name().to_string_lossy().into_owned();
        if names.iter().any(|name| file.contains(&format!("_{name}.")) || file.contains(&format!("-{name}."))) {
            let is_ipk = file.starts_with("skerry_") && file.ends_with(".ipk");
            line(&file, length(&entry.path())?, is_ipk.then_some(IPK_MAX));
        }
    }
    println!("\nwhere the program's bytes go (code and constants that have a symbol, by crate):");
    let named = build.with_symbols(&built)?;
    for (name, bytes) in by_crate(&named)?.into_iter().take(CRATES) {
        println!("{name:<44} {bytes:>9}");
    }
    for (libc, host) in [(Libc::Glibc, &built.glibc_host), (Libc::Musl, &built.musl_host)] {
        let packed = gzip_smallest(&std::fs::read(host).map_err(|e| e.to_string())?)?.len();
        println!("{:<44} {packed:>9}", format!("module host for {}, behind the lone program's end", libc.name()));
    }
    Ok(good)
}

fn length(path: &Path) -> Result<u64, String> {
    std::fs::metadata(path).map(|found| found.len()).map_err(|e| format!("{}: {e}", path.display()))
}

fn by_crate(path: &Path) -> Result<Vec<(String, u64)>, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let symbols = match bytes.get(4) {
        Some(1) => symbols::<FileHeader32<Endianness>>(&bytes),
        _ => symbols::<FileHeader64<Endianness>>(&bytes),
    };
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for (name, size) in symbols.map_err(|e| format!("{}: {e}", path.display()))? {
        *sums.entry(crate_of(&name)).or_default() += size;
    }
    let mut all: Vec<_> = sums.into_iter().collect();
    all.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    Ok(all)
}

fn symbols<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Result<Vec<(String, u64)>, object::read::Error> {
    let header = H::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let table = sections.symbols(endian, bytes, elf::SHT_SYMTAB)?;
    let named = table.iter().filter(|symbol| !symbol.is_undefined(endian)).map(|symbol| {
        let name = symbol.name(endian, table.strings())?;
        Ok((String::from_utf8_lossy(name).into_owned(), symbol.st_size(endian).into()))
    });
    named.collect()
}

/// From a mangled name of either kind: `_ZN4redb4tree…` and `_RNvCs1_4redb…`; what has none is C's.
fn crate_of(symbol: &str) -> String {
    let rest = symbol.strip_prefix("_ZN").or(symbol.strip_prefix("_R")).unwrap_or_default();
    let mut at = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    if symbol.starts_with("_R") {
        // After the crate's mark and its disambiguator: `Cs…_4redb`.
        at = rest.find('C').and_then(|mark| Some(mark + rest[mark..].find('_')? + 1)).unwrap_or(at);
    }
    let digits: String = rest[at..].chars().take_while(char::is_ascii_digit).collect();
    let begin = at + digits.len();
    let name = digits.parse::<usize>().ok().and_then(|length| rest.get(begin..begin + length));
    let name = name.unwrap_or("C, and what has no crate");
    // `<redb::Tree as core::ops::Drop>`: the type's crate.
    let inner = name.trim_start_matches(['_', '$', 'L', 'T', 'R', 'F']).trim_start_matches("u20$");
    inner.split(['.', '$']).next().filter(|text| !text.is_empty()).unwrap_or(name).to_owned()
}

/// DESIGN's budgets: the program with both hosts, and OpenWrt's package of it.
const BINARY_MAX: u64 = 4_500_000;
const IPK_MAX: u64 = 2_000_000;
/// Lines of the table.
const CRATES: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_read_from_names() {
        for (symbol, expected) in [
            ("_ZN4redb4tree6insert17h0123456789abcdefE", "redb"),
            ("_ZN60_$LT$redb..Tree$u20$as$u20$core..ops..drop..Drop$GT$4drop17hE", "redb"),
            ("_RNvCs1a2b_4redb3foo", "redb"),
            ("memcpy", "C, and what has no crate"),
        ] {
            assert_eq!(crate_of(symbol), expected, "{symbol}");
        }
    }
}
