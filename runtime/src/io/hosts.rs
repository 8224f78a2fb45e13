//! The module hosts that this binary carries, one a C library, and how one becomes a program: a package's file that
//! holds the same bytes, a sealed file in memory, or a file in the state folder where the kernel allows neither.
//! Must never run a host that is not byte for byte the one inside: runtime and host are two halves of one version.

use super::elf;
use super::process::HostBinary;
use crate::model::image::{Device, GlibcVersion, Libc};
use rustix::fs::{MemfdFlags, SealFlags, StatVfsMountFlags};
use std::cell::{Cell, OnceCell};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// All hosts of this binary. Each is made a program when the first instance needs it.
#[derive(Debug)]
pub struct Hosts {
    /// Where a package puts them; the parent of each is root's alone to write.
    package: Option<PathBuf>,
    state: PathBuf,
    glibc: OnceCell<HostBinary>,
    musl: OnceCell<HostBinary>,
    /// The kernel does not run what lies in memory.
    no_memory: Cell<bool>,
}

/// Whether images of this libc find a host: carried, or (in a plain build) this program itself.
pub fn serves(libc: Libc) -> bool {
    if carries_none() { libc == OWN || libc == Libc::Any } else { libc == Libc::Any || !packed(libc).is_empty() }
}

impl Hosts {
    /// `state` is where a file is made when nothing else is allowed.
    pub fn new(state: &Path) -> Hosts {
        Hosts {
            package: beside_this_program(),
            state: state.join("hosts"),
            glibc: OnceCell::new(),
            musl: OnceCell::new(),
            no_memory: Cell::new(false),
        }
    }

    /// The host for an image of `libc`. An error is one sentence, and stays.
    pub fn get(&self, libc: Libc, device: &Device) -> io::Result<&HostBinary> {
        if carries_none() {
            return if serves(libc) { Ok(&HostBinary::Own) } else { Err(none_for(libc)) };
        }
        let libc = match libc {
            Libc::Any if device.glibc >= Some(GLIBC_FLOOR) => Libc::Glibc,
            Libc::Any => Libc::Musl,
            named => named,
        };
        if libc == Libc::Glibc && device.glibc.is_some_and(|found| found < GLIBC_FLOOR) {
            let found = device.glibc.unwrap_or(GLIBC_FLOOR);
            return Err(io::Error::other(format!(
                "this device has glibc {found}, and modules run on {GLIBC_FLOOR} or newer; build the module for musl"
            )));
        }
        let cell = if libc == Libc::Glibc { &self.glibc } else { &self.musl };
        if let Some(made) = cell.get() {
            return Ok(made);
        }
        let made = self.make(libc)?;
        Ok(cell.get_or_init(|| made))
    }

    /// Told that the kernel did not run a host: true when there is another way, and `get` will take it.
    pub fn refused(&mut self) -> bool {
        if carries_none() || self.no_memory.replace(true) {
            return false;
        }
        log::warn!("module host: the kernel does not run it from memory; it goes to {}", self.state.display());
        (self.glibc, self.musl) = (OnceCell::new(), OnceCell::new());
        true
    }

    fn make(&self, libc: Libc) -> io::Result<HostBinary> {
        let bytes = unpack(libc)?;
        if let Some(loader) = elf::interpreter(&bytes).filter(|loader| !Path::new(loader).exists()) {
            return Err(io::Error::other(format!(
                "the image is linked to {libc}, and this device has no {libc}: {loader} is missing; build it for the \
                 device's C library"
            )));
        }
        if let Some(file) = self.package.as_deref().and_then(|folder| same(&folder.join(name(libc)), &bytes)) {
            log::debug!("module host: the package's {}", name(libc));
            return Ok(HostBinary::Open(file.into()));
        }
        if !self.no_memory.get() {
            match in_memory(libc, &bytes) {
                Ok(made) => return Ok(HostBinary::Open(made)),
                Err(error) => log::warn!("module host: can't be put into memory: {error}; it goes to a file"),
            }
        }
        let file = self.in_state_folder(libc, &bytes);
        file.map(HostBinary::Open).map_err(|error| {
            let folder = self.state.display();
            io::Error::other(format!(
                "the kernel runs no program from memory (vm.memfd_noexec, or a security module), and {folder} won't do: {error}"
            ))
        })
    }

    fn in_state_folder(&self, libc: Libc, bytes: &[u8]) -> io::Result<OwnedFd> {
        fs::create_dir_all(&self.state)?;
        if rustix::fs::statvfs(&self.state)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
            return Err(io::Error::other("it is mounted noexec"));
        }
        fs::set_permissions(&self.state, Permissions::from_mode(0o711))?;
        let path = self.state.join(name(libc));
        if let Some(file) = same(&path, bytes) {
            return Ok(file.into());
        }
        let part = self.state.join(format!("{}.part", name(libc)));
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.set_permissions(Permissions::from_mode(0o755))?;
        file.sync_all()?;
        // Closed before it is run, or the kernel calls it busy.
        drop(file);
        fs::rename(&part, &path)?;
        Ok(File::open(&path)?.into())
    }
}

/// `/usr/bin/skerry` has them in `/usr/lib/skerry`, `/opt/skerry/bin/skerry` in `/opt/skerry/lib/skerry`.
fn beside_this_program() -> Option<PathBuf> {
    let own = fs::read_link("/proc/self/exe").ok()?;
    Some(own.parent()?.parent()?.join("lib/skerry"))
}

/// The file, open, when it holds these bytes.
fn same(path: &Path, bytes: &[u8]) -> Option<File> {
    let mut file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|m| m.len() == bytes.len() as u64))?;
    let mut found = Vec::with_capacity(bytes.len());
    file.read_to_end(&mut found).ok()?;
    (found == bytes).then_some(file)
}

fn in_memory(libc: Libc, bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag, which newer ones may ask for.
    let memory = match rustix::fs::memfd_create(name(libc), flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name(libc), flags)?,
        other => other?,
    };
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    // Open for reading only, or the kernel calls it busy.
    Ok(File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into())
}

fn unpack(libc: Libc) -> io::Result<Vec<u8>> {
    if packed(libc).is_empty() {
        return Err(none_for(libc));
    }
    lz4_flex::decompress_size_prepended(packed(libc)).map_err(io::Error::other)
}

fn none_for(libc: Libc) -> io::Error {
    io::Error::other(format!(
        "this build of skerry has no module host for {libc}; build the module for another C library"
    ))
}

fn carries_none() -> bool {
    GLIBC.is_empty() && MUSL.is_empty()
}

fn packed(libc: Libc) -> &'static [u8] {
    if libc == Libc::Musl { MUSL } else { GLIBC }
}

fn name(libc: Libc) -> &'static str {
    if libc == Libc::Musl { "skerry-host-musl" } else { "skerry-host-glibc" }
}

/// What `build.rs` put there: LZ4 behind its length, or nothing.
static GLIBC: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/skerry-host-glibc"));
static MUSL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/skerry-host-musl"));
/// The libc of this program, when it acts as its own host.
const OWN: Libc = if cfg!(target_env = "musl") { Libc::Musl } else { Libc::Glibc };
/// What the carried glibc host is linked for.
const GLIBC_FLOOR: GlibcVersion = GlibcVersion { major: 2, minor: 17 };
