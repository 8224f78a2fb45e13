//! The module hosts of this build, one a C library, and how one becomes a program: a package's file, else what lies behind the
//! end of the lone binary, put into a sealed file in memory, or into the state folder where the kernel does not run memory.
//! Must never run a host that does not have the digest that was built in: runtime and host are two halves of one version.

use super::process::HostBinary;
use super::{elf, gzip, image};
use crate::model::image::{Device, GlibcVersion, Libc};
use rustix::fs::{MemfdFlags, SealFlags, StatVfsMountFlags};
use std::cell::{Cell, OnceCell};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Whether this program is its own host: a plain build, which no `cargo xtask package` made. Known to the compiler, so that a
/// packaged program does not hold the host's code a second time.
pub const OWN_HOST: bool = GLIBC.is_none() && MUSL.is_none();

/// All hosts of this binary. Each is made a program when the first instance needs it.
#[derive(Debug)]
pub struct Hosts {
    /// The package's files, opened at start: an upgrade that replaces them does not change a version that runs.
    package: Vec<(Libc, File)>,
    state: PathBuf,
    glibc: OnceCell<HostBinary>,
    musl: OnceCell<HostBinary>,
    /// The kernel does not run what lies in memory.
    no_memory: Cell<bool>,
}

/// Whether images of this libc have a host in this build: one that belongs to it, or (in a plain build) this program itself.
pub fn serves(libc: Libc) -> bool {
    libc == Libc::Any || if OWN_HOST { libc == OWN } else { wanted(libc).is_some() }
}

impl Hosts {
    /// `state` is where a file is made when nothing else is allowed.
    pub fn new(state: &Path) -> Hosts {
        let folder = beside_this_program().unwrap_or_default();
        let open = |libc| Some((libc, File::open(folder.join(name(libc))).ok()?));
        Hosts {
            package: [Libc::Glibc, Libc::Musl].into_iter().filter(|_| !OWN_HOST).filter_map(open).collect(),
            state: state.join("hosts"),
            glibc: OnceCell::new(),
            musl: OnceCell::new(),
            no_memory: Cell::new(false),
        }
    }

    /// The host for an image of `libc`. An error is one sentence, and stays.
    pub fn get(&self, libc: Libc, device: &Device) -> io::Result<&HostBinary> {
        if OWN_HOST {
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
        if OWN_HOST || self.no_memory.replace(true) {
            return false;
        }
        log::warn!("module host: the kernel does not run it from memory; it goes to {}", self.state.display());
        (self.glibc, self.musl) = (OnceCell::new(), OnceCell::new());
        true
    }

    fn make(&self, libc: Libc) -> io::Result<HostBinary> {
        let wanted = wanted(libc).ok_or_else(|| none_for(libc))?;
        let packaged = self.package.iter().find(|(of, _)| *of == libc).map(|(_, file)| file);
        if let Some(file) = packaged {
            let bytes = contents(file)?;
            if image::digest(&bytes) == wanted {
                log::debug!("module host: the package's {}", name(libc));
                loader_is_there(libc, &bytes)?;
                return Ok(HostBinary::Open(file.try_clone()?.into()));
            }
            log::warn!("module host: the package's {} is not this version's, and is not used", name(libc));
        }
        let bytes = carried(libc)?.filter(|bytes| image::digest(bytes) == wanted);
        let bytes = bytes.ok_or_else(|| not_installed(libc, packaged.is_some()))?;
        loader_is_there(libc, &bytes)?;
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
        if let Some(file) = File::open(&path).ok().filter(|file| contents(file).is_ok_and(|found| found == bytes)) {
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

fn contents(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn loader_is_there(libc: Libc, bytes: &[u8]) -> io::Result<()> {
    match elf::interpreter(bytes).filter(|loader| !Path::new(loader).exists()) {
        None => Ok(()),
        Some(loader) => Err(io::Error::other(format!(
            "the image is linked to {libc}, and this device has no {libc}: {loader} is missing; build it for the \
             device's C library"
        ))),
    }
}

/// From behind the end of the lone binary, as `xtask/src/package/lone.rs` writes it: the hosts for glibc and for musl, each gzipped, then the
/// lengths of both, four bytes each with the least first, then a word. A packaged program has none.
fn carried(libc: Libc) -> io::Result<Option<Vec<u8>>> {
    let mut program = File::open("/proc/self/exe")?;
    let mut end = [0; 8 + WORD.len()];
    program.seek(SeekFrom::End(-(end.len() as i64)))?;
    program.read_exact(&mut end)?;
    let [g0, g1, g2, g3, m0, m1, m2, m3, word @ ..] = end;
    if word != *WORD {
        return Ok(None);
    }
    let (glibc, musl) = (u32::from_le_bytes([g0, g1, g2, g3]), u32::from_le_bytes([m0, m1, m2, m3]));
    let (length, behind) = if libc == Libc::Musl { (musl, 0) } else { (glibc, musl) };
    program.seek(SeekFrom::End(-(end.len() as i64 + i64::from(behind) + i64::from(length))))?;
    gzip::unpack(program.take(length.into())).map(Some)
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

/// Neither as a file nor behind the program.
fn not_installed(libc: Libc, another: bool) -> io::Error {
    let folder = beside_this_program().unwrap_or_default();
    let (file, folder) = (name(libc), folder.display());
    io::Error::other(if another {
        format!("{folder}/{file} is not of this version of skerry; install the package again, and restart skerry")
    } else {
        format!(
            "this skerry is a package's, and {folder}/{file} is missing; install the package again, or take the lone \
             binary of the .tar.gz, which carries it"
        )
    })
}

fn none_for(libc: Libc) -> io::Error {
    io::Error::other(format!(
        "this build of skerry has no module host for {libc}; build the module for another C library"
    ))
}

/// SHA-256 of the host for this libc that belongs to this build.
fn wanted(libc: Libc) -> Option<&'static str> {
    if libc == Libc::Musl { MUSL } else { GLIBC }
}

fn name(libc: Libc) -> &'static str {
    if libc == Libc::Musl { "skerry-host-musl" } else { "skerry-host-glibc" }
}

/// What `cargo xtask package` says of the hosts that it has built: SHA-256 in lower-case hex.
const GLIBC: Option<&str> = option_env!("SKERRY_HOST_GLIBC");
const MUSL: Option<&str> = option_env!("SKERRY_HOST_MUSL");
/// The last bytes of the lone binary.
const WORD: &[u8; 8] = b"skerryh1";
/// The libc of this program, when it acts as its own host.
const OWN: Libc = if cfg!(target_env = "musl") { Libc::Musl } else { Libc::Glibc };
/// What the carried glibc host is linked for.
const GLIBC_FLOOR: GlibcVersion = GlibcVersion { major: 2, minor: 17 };
