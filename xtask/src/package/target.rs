//! The machines that there are packages for, by everybody's names for them.
//! Must never hold a name that no distribution uses.

/// One architecture.
#[derive(Debug)]
pub struct Target {
    /// What `--target` takes, and file names say.
    pub name: &'static str,
    pub glibc: &'static str,
    pub musl: &'static str,
    /// Debian's name.
    pub deb: &'static str,
    /// OpenWrt's names up to 24.10 that this code runs on: one package file each, of the same bytes inside.
    pub ipk: &'static [&'static str],
    /// `e_machine`.
    pub machine: u16,
    pub glibc_loader: &'static str,
    pub musl_loader: &'static str,
    /// Where Debian's package of musl has its library.
    pub musl_folder: &'static str,
    /// qemu's name.
    pub qemu: &'static str,
}

/// The C library that something dynamic is linked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libc {
    Glibc,
    Musl,
}

impl Libc {
    pub const BOTH: [Libc; 2] = [Libc::Glibc, Libc::Musl];

    pub fn name(self) -> &'static str {
        match self {
            Libc::Glibc => "glibc",
            Libc::Musl => "musl",
        }
    }
}

impl Target {
    pub fn triple(&self, libc: Libc) -> &'static str {
        match libc {
            Libc::Glibc => self.glibc,
            Libc::Musl => self.musl,
        }
    }

    pub fn loader(&self, libc: Libc) -> &'static str {
        match libc {
            Libc::Glibc => self.glibc_loader,
            Libc::Musl => self.musl_loader,
        }
    }
}

/// By its name, or by a triple that begins with it.
pub fn of(name: &str) -> Result<&'static Target, String> {
    let found = ALL.iter().find(|target| [target.name, target.glibc, target.musl, target.deb].contains(&name));
    found.ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|target| target.name).collect();
        format!("no target {name:?}: there are {}", names.join(", "))
    })
}

pub static ALL: [Target; 3] = [
    Target {
        name: "x86_64",
        glibc: "x86_64-unknown-linux-gnu",
        musl: "x86_64-unknown-linux-musl",
        deb: "amd64",
        ipk: &["x86_64"],
        machine: 62,
        glibc_loader: "/lib64/ld-linux-x86-64.so.2",
        musl_loader: "/lib/ld-musl-x86_64.so.1",
        musl_folder: "x86_64-linux-musl",
        qemu: "x86_64",
    },
    Target {
        name: "aarch64",
        glibc: "aarch64-unknown-linux-gnu",
        musl: "aarch64-unknown-linux-musl",
        deb: "arm64",
        ipk: &["aarch64_generic", "aarch64_cortex-a53", "aarch64_cortex-a72", "aarch64_cortex-a76"],
        machine: 183,
        glibc_loader: "/lib/ld-linux-aarch64.so.1",
        musl_loader: "/lib/ld-musl-aarch64.so.1",
        musl_folder: "aarch64-linux-musl",
        qemu: "aarch64",
    },
    // Hard float, vfpv3-d16, no NEON: OpenWrt's names without a floating-point unit are left out.
    Target {
        name: "armv7",
        glibc: "armv7-unknown-linux-gnueabihf",
        musl: "armv7-unknown-linux-musleabihf",
        deb: "armhf",
        ipk: &[
            "arm_cortex-a7_neon-vfpv4",
            "arm_cortex-a7_vfpv4",
            "arm_cortex-a8_vfpv3",
            "arm_cortex-a9_vfpv3-d16",
            "arm_cortex-a9_neon",
            "arm_cortex-a15_neon-vfpv4",
        ],
        machine: 40,
        glibc_loader: "/lib/ld-linux-armhf.so.3",
        musl_loader: "/lib/ld-musl-armhf.so.1",
        musl_folder: "arm-linux-musleabihf",
        qemu: "arm",
    },
];
