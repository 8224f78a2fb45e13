//! Reads what the runtime wants to know of an ELF file from its bytes, without running any of it.
//! Must never trust an offset or a length, and never panic: anybody can drop a file.

use crate::model::image::{GlibcVersion, Libc, Machine};
use object::Endianness;
use object::elf;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader, SectionTable, Sym};
use std::fmt;

/// What one ELF file says of itself.
#[derive(Debug)]
pub struct Elf<'a> {
    pub machine: Machine,
    /// `ET_DYN`: a shared library (or a position independent program, which is loaded the same way).
    pub is_library: bool,
    pub needed: Vec<String>,
    /// The newest `GLIBC_x.y` that it needs of its libraries.
    pub glibc_floor: Option<GlibcVersion>,
    /// The newest `GLIBC_x.y` that it offers: only a glibc does.
    pub glibc_offered: Option<GlibcVersion>,
    pub build_id: Option<String>,
    sections: Vec<(&'a [u8], &'a [u8])>,
    symbols: Vec<&'a [u8]>,
}

/// Why bytes are no ELF file that can be loaded.
#[derive(Debug, PartialEq, Eq)]
pub enum ElfError {
    NotElf,
    /// Something that the headers name lies beyond the end of the file.
    Truncated,
    Damaged(String),
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ElfError::NotElf => f.write_str("not an ELF file"),
            ElfError::Truncated => f.write_str("not whole yet: its headers name bytes beyond the end of the file"),
            ElfError::Damaged(what) => write!(f, "a damaged ELF file: {what}"),
        }
    }
}

/// Reads a whole file's bytes.
pub fn read(bytes: &[u8]) -> Result<Elf<'_>, ElfError> {
    match bytes.get(..IDENT) {
        Some(ident) if ident.starts_with(b"\x7fELF") => match ident[4] {
            1 => read_class::<elf::FileHeader32<Endianness>>(bytes, 32),
            2 => read_class::<elf::FileHeader64<Endianness>>(bytes, 64),
            _ => Err(ElfError::Damaged("its class is neither 32 nor 64 bits".into())),
        },
        None if !bytes.is_empty() && b"\x7fELF".starts_with(&bytes[..bytes.len().min(4)]) => Err(ElfError::Truncated),
        _ => Err(ElfError::NotElf),
    }
}

/// The loader that the kernel starts this program with; none for a static one, and for what is no ELF file.
pub fn interpreter(bytes: &[u8]) -> Option<String> {
    fn of<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Option<String> {
        let header = H::parse(bytes).ok()?;
        let endian = header.endian().ok()?;
        let segments = header.program_headers(endian, bytes).ok()?;
        let path = segments.iter().find_map(|segment| segment.interpreter(endian, bytes).ok().flatten())?;
        Some(String::from_utf8_lossy(path).into_owned())
    }
    match bytes.get(4) {
        Some(1) => of::<elf::FileHeader32<Endianness>>(bytes),
        Some(2) => of::<elf::FileHeader64<Endianness>>(bytes),
        _ => None,
    }
}

impl<'a> Elf<'a> {
    /// A section's bytes, when it has any in the file.
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        self.sections.iter().find(|(n, _)| *n == name.as_bytes()).map(|(_, bytes)| *bytes)
    }

    /// Whether the dynamic symbol table defines `name`.
    pub fn exports(&self, name: &str) -> bool {
        self.symbols.contains(&name.as_bytes())
    }

    /// The C library that it was linked to. A musl image names `libc.so` when it was linked outside of Alpine.
    pub fn libc(&self) -> Libc {
        let is_musl = |n: &String| n == "libc.so" || n.starts_with("libc.musl-") || n.starts_with("ld-musl-");
        if self.needed.iter().any(|n| n == "libc.so.6") || self.glibc_floor.is_some() {
            Libc::Glibc
        } else if self.needed.iter().any(is_musl) {
            Libc::Musl
        } else {
            Libc::Any
        }
    }
}

fn read_class<H: FileHeader<Endian = Endianness>>(bytes: &[u8], bits: u8) -> Result<Elf<'_>, ElfError> {
    if bytes.len() < size_of::<H>() {
        return Err(ElfError::Truncated);
    }
    let header = H::parse(bytes).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    whole(header, endian, bytes)?;
    let sections = header.sections(endian, bytes).map_err(damaged)?;
    let dynamic = Dynamic::read(&sections, endian, bytes)?;
    let mut named = Vec::new();
    for section in sections.iter().skip(1) {
        let (name, content) = (sections.section_name(endian, section), section.data(endian, bytes));
        named.push((name.map_err(damaged)?, content.map_err(damaged)?));
    }
    Ok(Elf {
        machine: Machine { number: header.e_machine(endian).0, bits, big_endian: endian == Endianness::Big },
        is_library: header.e_type(endian) == elf::ET_DYN,
        needed: dynamic.needed,
        glibc_floor: glibc_needed(&sections, endian, bytes)?,
        glibc_offered: glibc_offered(&sections, endian, bytes)?,
        build_id: build_id::<H>(&sections, endian, bytes)?,
        sections: named,
        symbols: dynamic.symbols,
    })
}

/// Everything that the headers name must lie in the file: a copy in progress fails here.
fn whole<H: FileHeader<Endian = Endianness>>(header: &H, endian: Endianness, bytes: &[u8]) -> Result<(), ElfError> {
    let length = bytes.len() as u64;
    let within = |offset: u64, size: u64| match offset.checked_add(size) {
        Some(end) if end <= length => Ok(()),
        _ => Err(ElfError::Truncated),
    };
    let segments = u64::from(header.e_phnum(endian)) * u64::from(header.e_phentsize(endian));
    within(header.e_phoff(endian).into(), segments)?;
    let sections = u64::from(header.e_shnum(endian)) * u64::from(header.e_shentsize(endian));
    within(header.e_shoff(endian).into(), sections)?;
    for segment in header.program_headers(endian, bytes).map_err(damaged)? {
        let (offset, size) = segment.file_range(endian);
        within(offset, size)?;
    }
    let table = header.section_headers(endian, bytes).map_err(damaged)?;
    for section in table {
        let (offset, size) = section.file_range(endian).unwrap_or((0, 0));
        within(offset, size)?;
    }
    // A copier that reserves the space first leaves zeros where the section headers will be.
    if table.len() > 1 && table.iter().all(|s| s.sh_type(endian) == elf::SHT_NULL) {
        return Err(ElfError::Truncated);
    }
    Ok(())
}

struct Dynamic<'a> {
    needed: Vec<String>,
    symbols: Vec<&'a [u8]>,
}

impl<'a> Dynamic<'a> {
    fn read<H: FileHeader<Endian = Endianness>>(
        sections: &SectionTable<'a, H>,
        endian: Endianness,
        bytes: &'a [u8],
    ) -> Result<Dynamic<'a>, ElfError> {
        let mut needed = Vec::new();
        if let Some((entries, link)) = sections.dynamic(endian, bytes).map_err(damaged)? {
            let strings = sections.strings(endian, bytes, link).map_err(damaged)?;
            for entry in entries.iter().take_while(|e| e.tag(endian) != elf::DT_NULL) {
                if entry.tag(endian) == elf::DT_NEEDED {
                    let name = entry.string(endian, strings).map_err(damaged)?;
                    needed.push(String::from_utf8_lossy(name).into_owned());
                }
            }
        }
        let table = sections.symbols(endian, bytes, elf::SHT_DYNSYM).map_err(damaged)?;
        let mut symbols = Vec::new();
        for symbol in table.iter().filter(|s| !s.is_undefined(endian)) {
            symbols.push(symbol.name(endian, table.strings()).map_err(damaged)?);
        }
        Ok(Dynamic { needed, symbols })
    }
}

fn glibc_needed<'a, H: FileHeader<Endian = Endianness>>(
    sections: &SectionTable<'a, H>,
    endian: Endianness,
    bytes: &'a [u8],
) -> Result<Option<GlibcVersion>, ElfError> {
    let Some((mut files, link)) = sections.gnu_verneed(endian, bytes).map_err(damaged)? else { return Ok(None) };
    let strings = sections.strings(endian, bytes, link).map_err(damaged)?;
    let (mut floor, mut steps) = (None, 0);
    while let Some((_, mut versions)) = files.next().map_err(damaged)? {
        while let Some(version) = versions.next().map_err(damaged)? {
            steps = step(steps)?;
            floor = floor.max(glibc_version(version.name(endian, strings).map_err(damaged)?));
        }
    }
    Ok(floor)
}

fn glibc_offered<'a, H: FileHeader<Endian = Endianness>>(
    sections: &SectionTable<'a, H>,
    endian: Endianness,
    bytes: &'a [u8],
) -> Result<Option<GlibcVersion>, ElfError> {
    let Some((mut versions, link)) = sections.gnu_verdef(endian, bytes).map_err(damaged)? else { return Ok(None) };
    let strings = sections.strings(endian, bytes, link).map_err(damaged)?;
    let (mut newest, mut steps) = (None, 0);
    while let Some((_, mut names)) = versions.next().map_err(damaged)? {
        steps = step(steps)?;
        if let Some(name) = names.next().map_err(damaged)? {
            newest = newest.max(glibc_version(name.name(endian, strings).map_err(damaged)?));
        }
    }
    Ok(newest)
}

/// A chain of version entries may be made to run in place for a very long time.
fn step(steps: u32) -> Result<u32, ElfError> {
    if steps < VERSIONS_MAX { Ok(steps + 1) } else { Err(ElfError::Damaged("too many symbol versions".into())) }
}

/// `GLIBC_2.17`. `GLIBC_PRIVATE` and other words count for nothing, but the word for packed relocations,
/// which came with 2.36, stands for that.
fn glibc_version(name: &[u8]) -> Option<GlibcVersion> {
    let name = std::str::from_utf8(name).ok()?.strip_prefix("GLIBC_")?;
    if name == "ABI_DT_RELR" {
        return Some(GlibcVersion { major: 2, minor: 36 });
    }
    let mut numbers = name.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some(GlibcVersion { major, minor }),
        _ => None,
    }
}

fn build_id<'a, H: FileHeader<Endian = Endianness>>(
    sections: &SectionTable<'a, H>,
    endian: Endianness,
    bytes: &'a [u8],
) -> Result<Option<String>, ElfError> {
    for section in sections.iter() {
        let Some(mut notes) = section.notes(endian, bytes).map_err(damaged)? else { continue };
        while let Some(note) = notes.next().map_err(damaged)? {
            if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
                return Ok(Some(note.desc().iter().map(|byte| format!("{byte:02x}")).collect()));
            }
        }
    }
    Ok(None)
}

fn damaged(error: object::read::Error) -> ElfError {
    ElfError::Damaged(error.to_string())
}

/// `e_ident`.
const IDENT: usize = 16;
/// glibc itself defines some 50.
const VERSIONS_MAX: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_symbol_versions() {
        let version = |major, minor| Some(GlibcVersion { major, minor });
        for (name, expected) in [
            ("GLIBC_2.17", version(2, 17)),
            ("GLIBC_2.2.5", version(2, 2)),
            ("GLIBC_ABI_DT_RELR", version(2, 36)),
            ("GLIBC_PRIVATE", None),
            ("GCC_3.0", None),
            ("GLIBC_", None),
            ("GLIBC_2", None),
        ] {
            assert_eq!(glibc_version(name.as_bytes()), expected, "{name}");
        }
        assert!(version(2, 9) < version(2, 17));
    }

    #[test]
    fn what_is_no_elf_says_so() {
        assert_eq!(read(b"").unwrap_err(), ElfError::NotElf);
        assert_eq!(read(b"#!/bin/sh\necho hello\n").unwrap_err(), ElfError::NotElf);
        assert_eq!(read(b"\x7fEL").unwrap_err(), ElfError::Truncated);
        assert_eq!(read(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03").unwrap_err(), ElfError::Truncated);
    }
}
