//! What an image says about itself and what it needs of a device. Plain values, read from the file by `io::image`.
//! Must never promise what was not read: what a file leaves out is absent here.

use std::fmt;

/// One `.so`, immutable; known by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The module's name: as declared, or the package's without a leading `skerry-` or `skerry-module-`.
    pub name: String,
    /// The cargo package's name.
    pub package: String,
    pub version: String,
    pub description: String,
    /// A `Deliver` frame names an input by its index here.
    pub inputs: Vec<String>,
    /// A `Publish` frame names an output by its index here.
    pub outputs: Vec<String>,
    /// One text an input, in the same order; may be empty.
    pub input_texts: Vec<String>,
    /// One text an output.
    pub output_texts: Vec<String>,
    pub settings: Vec<Setting>,
    pub sdk_version: String,
    /// `major.minor.patch`; the major one must be the runtime's.
    pub abi_version: String,
    pub machine: Machine,
    pub libc: Libc,
    /// The newest symbol version of glibc that it needs; the oldest glibc that it runs on.
    pub glibc_floor: Option<GlibcVersion>,
    /// What a crash report names, lower-case hex. Debuggers find symbols by it.
    pub build_id: Option<String>,
    /// SHA-256 of the file, lower-case hex.
    pub digest: String,
    pub bytes: u64,
}

/// One desired property that a module reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub name: String,
    /// JSON text.
    pub default: String,
    pub unit: String,
    pub text: String,
}

/// What code an ELF file holds: machine number, word size and byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// `e_machine`.
    pub number: u16,
    pub bits: u8,
    pub big_endian: bool,
}

/// The C library that an image was linked to. It can be loaded by a host of the same one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libc {
    Glibc,
    Musl,
    /// It needs no C library at all; any host will do.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GlibcVersion {
    pub major: u32,
    pub minor: u32,
}

/// What a device offers to images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    pub machine: Machine,
    /// The version of its glibc, when it has one.
    pub glibc: Option<GlibcVersion>,
    /// Images for musl can run: its loader is there, and a host for it.
    pub musl: bool,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = MACHINES.iter().find(|(machine, _)| machine == self);
        if let Some((_, name)) = usual {
            return f.write_str(name);
        }
        let order = if self.big_endian { "big" } else { "little" };
        match MACHINES.iter().find(|(machine, _)| machine.number == self.number) {
            Some((_, name)) => write!(f, "{name} ({} bits, {order} endian)", self.bits),
            None => write!(f, "machine {} ({} bits, {order} endian)", self.number, self.bits),
        }
    }
}

impl fmt::Display for Libc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Libc::Glibc => "glibc",
            Libc::Musl => "musl",
            Libc::Any => "none",
        })
    }
}

impl fmt::Display for GlibcVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Machine {
    /// The one that this binary was built for, when ELF has a usual name for it.
    pub fn here() -> Option<Machine> {
        let name = match std::env::consts::ARCH {
            "x86" => "i686",
            "arm" => "armv7",
            other => other,
        };
        MACHINES.iter().find(|(_, n)| *n == name).map(|(machine, _)| *machine)
    }
}

const fn machine(number: u16, bits: u8, big_endian: bool) -> Machine {
    Machine { number, bits, big_endian }
}

/// Machines that a device may be, by the names that Rust's targets use. The first of a name is what `here` finds.
const MACHINES: [(Machine, &str); 12] = [
    (machine(62, 64, false), "x86_64"),
    (machine(183, 64, false), "aarch64"),
    (machine(40, 32, false), "armv7"),
    (machine(3, 32, false), "i686"),
    (machine(243, 64, false), "riscv64"),
    (machine(243, 32, false), "riscv32"),
    (machine(258, 64, false), "loongarch64"),
    (machine(8, 32, true), "mips"),
    (machine(8, 32, false), "mipsel"),
    (machine(20, 32, true), "powerpc"),
    (machine(21, 64, false), "powerpc64le"),
    (machine(22, 64, true), "s390x"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_have_names() {
        assert_eq!(machine(62, 64, false).to_string(), "x86_64");
        assert_eq!(machine(62, 32, false).to_string(), "x86_64 (32 bits, little endian)");
        assert_eq!(machine(999, 64, true).to_string(), "machine 999 (64 bits, big endian)");
        assert!(Machine::here().is_some());
    }
}
