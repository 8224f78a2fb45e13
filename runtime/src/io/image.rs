//! Reads an image's description and needs from its file, and judges whether it runs on this device.
//! Must never open the library or run any of its code, and never panic on what a file holds.

use super::elf::{self, Elf, ElfError};
use super::hosts;
use crate::model::image::{Device, GlibcVersion, Image, Libc, Machine, Setting};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Reads the image at `path`, and refuses it when it can't run on this device.
pub fn inspect(path: &Path) -> Result<Image, ImageError> {
    let image = read(path)?;
    fits(&image, device())?;
    Ok(image)
}

/// Reads the image at `path`, for whatever device it was made.
pub fn read(path: &Path) -> Result<Image, ImageError> {
    parse(&bytes_of(path).map_err(|e| ImageError::Unreadable(e.to_string()))?)
}

/// Reads an image from its bytes.
pub fn parse(bytes: &[u8]) -> Result<Image, ImageError> {
    let elf = elf::read(bytes).map_err(ImageError::Elf)?;
    if !elf.is_library || elf.needed.is_empty() && elf.section(".dynsym").is_none() {
        return Err(ImageError::NotLibrary);
    }
    let section = elf.section(SECTION).ok_or(ImageError::NoDescription)?;
    let description = describe(section)?;
    if description.abi_version.split('.').next() != ABI_VERSION.split('.').next() {
        return Err(ImageError::AbiVersion { image: description.abi_version, sdk: description.sdk_version });
    }
    if !elf.exports(ROOT_SYMBOL) {
        return Err(ImageError::NoRootSymbol);
    }
    Ok(image(description, &elf, bytes))
}

/// Whether `image` can run on `device`.
pub fn fits(image: &Image, device: &Device) -> Result<(), ImageError> {
    let (theirs, ours) = (image.machine, device.machine);
    if theirs != ours {
        return Err(ImageError::OtherMachine { image: theirs, device: ours });
    }
    match (image.libc, image.glibc_floor, device.glibc) {
        (Libc::Glibc, Some(image), Some(device)) if image > device => Err(ImageError::OldGlibc { image, device }),
        (Libc::Glibc, _, None) => Err(ImageError::NoGlibc),
        (Libc::Musl, ..) if !device.musl => Err(ImageError::NoMusl),
        _ => Ok(()),
    }
}

/// This device, looked at once. Its glibc can't change under a running process that uses it.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| {
        // A program of megabytes is not read to learn what the compiler knew, but for a machine that has no usual name.
        let own = || elf::read(&std::fs::read("/proc/self/exe").ok()?).ok().map(|elf| elf.machine);
        let machine = Machine::here().or_else(own).unwrap_or(Machine { number: 0, bits: 0, big_endian: false });
        Device {
            machine,
            glibc: glibc_paths().iter().find_map(|path| glibc_of(path, machine)),
            musl: hosts::serves(Libc::Musl) && has_musl(machine),
        }
    })
}

/// Lower-case hex of the SHA-256 of `bytes`: what an image is known by.
pub fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A module's name is its package's without the project's prefix.
pub fn module_name(package: &str) -> &str {
    let name = package.strip_prefix("skerry-module-").or(package.strip_prefix("skerry-")).unwrap_or(package);
    if name.is_empty() { package } else { name }
}

/// Why a file is refused; each is one sentence for the user, without the file's name.
#[derive(Debug, PartialEq, Eq)]
pub enum ImageError {
    Unreadable(String),
    Elf(ElfError),
    NotLibrary,
    NoDescription,
    Description(String),
    AbiVersion { image: String, sdk: String },
    NoRootSymbol,
    OtherMachine { image: Machine, device: Machine },
    OldGlibc { image: GlibcVersion, device: GlibcVersion },
    NoGlibc,
    NoMusl,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::Unreadable(error) => write!(f, "can't be read: {error}"),
            ImageError::Elf(error) => error.fmt(f),
            ImageError::NotLibrary => f.write_str("not a shared library; was it built with crate-type \"cdylib\"?"),
            ImageError::NoDescription => write!(
                f,
                "not a skerry module: it has no {SECTION} section; was it built with export_module!, \
                 and not stripped of its sections?"
            ),
            ImageError::Description(error) => write!(f, "its description (section {SECTION}) is malformed: {error}"),
            ImageError::AbiVersion { image, sdk } => write!(
                f,
                "built for ABI version {image} (SDK {sdk}), this runtime speaks {ABI_VERSION}; \
                 rebuild it with a matching SDK"
            ),
            ImageError::NoRootSymbol => {
                f.write_str("it describes a module but does not export one; was it linked without export_module!?")
            }
            ImageError::OtherMachine { image, device } => write!(f, "built for {image}, this device is {device}"),
            ImageError::OldGlibc { image, device } => {
                write!(f, "needs glibc {image} or newer, this device has glibc {device}; build it on an older system")
            }
            ImageError::NoGlibc => f.write_str("linked to glibc, this device has none; build it for musl"),
            ImageError::NoMusl => {
                f.write_str("linked to musl, and this device or this build of skerry has none; build it for glibc")
            }
        }
    }
}

impl std::error::Error for ImageError {}

/// What `export_module!` writes into the section: the package's facts, and its `settings.json` as it stands.
/// Read leniently, unlike the SDK does: an image of a newer SDK may say more than this runtime knows.
#[derive(Deserialize)]
struct Description {
    format: u32,
    name: String,
    version: String,
    sdk_version: String,
    abi_version: String,
    #[serde(default)]
    declared: Declared,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Declared {
    name: Option<String>,
    description: String,
    inputs: BTreeMap<String, String>,
    outputs: BTreeMap<String, String>,
    settings: BTreeMap<String, SettingEntry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SettingEntry {
    default: serde_json::Value,
    unit: Option<String>,
    text: String,
}

fn describe(section: &[u8]) -> Result<Description, ImageError> {
    let malformed = |error: String| Err(ImageError::Description(error));
    if section.len() > DESCRIPTION_BYTES_MAX {
        return malformed(format!("{} bytes, the limit is {DESCRIPTION_BYTES_MAX}", section.len()));
    }
    // A linker may pad the section with zeros.
    let length = section.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    let description: Description = match serde_json::from_slice(&section[..length]) {
        Ok(description) => description,
        Err(error) => return malformed(error.to_string()),
    };
    if description.format != FORMAT {
        return malformed(format!("it has format {}, this runtime reads format {FORMAT}", description.format));
    }
    let ports = || description.declared.inputs.keys().chain(description.declared.outputs.keys());
    let names = std::iter::once(name_of(&description)).chain(ports().map(String::as_str));
    if let Some(name) = { names }.find(|name| !is_name(name)) {
        return malformed(format!("{name:?} is no name; letters, digits, '-', '_' and '.' make one"));
    }
    Ok(description)
}

fn name_of(description: &Description) -> &str {
    description.declared.name.as_deref().unwrap_or(module_name(&description.name))
}

/// What may stand as a module id, an input or an output in a topic and a route.
fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn image(description: Description, elf: &Elf<'_>, bytes: &[u8]) -> Image {
    let entry = |(name, entry): (String, SettingEntry)| Setting {
        name,
        default: entry.default.to_string(),
        unit: entry.unit.unwrap_or_default(),
        text: entry.text,
    };
    let name = name_of(&description).to_owned();
    let (inputs, input_texts) = description.declared.inputs.into_iter().unzip();
    let (outputs, output_texts) = description.declared.outputs.into_iter().unzip();
    Image {
        name,
        package: description.name,
        version: description.version,
        description: description.declared.description,
        inputs,
        outputs,
        input_texts,
        output_texts,
        settings: description.declared.settings.into_iter().map(entry).collect(),
        sdk_version: description.sdk_version,
        abi_version: description.abi_version,
        machine: elf.machine,
        libc: elf.libc(),
        glibc_floor: elf.glibc_floor,
        build_id: elf.build_id.clone(),
        digest: digest(bytes),
        bytes: bytes.len() as u64,
    }
}

/// Read, not mapped: a mapped file that is overwritten meanwhile ends the process with SIGBUS.
pub(super) fn bytes_of(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > IMAGE_BYTES_MAX {
        return Err(std::io::Error::other(format!("{length} bytes long, the limit is {IMAGE_BYTES_MAX}")));
    }
    let mut bytes = Vec::with_capacity(length as usize + 1);
    file.by_ref().take(IMAGE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The glibc in use when this process has one; otherwise where distributions keep it.
fn glibc_paths() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mapped = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let mut paths: Vec<PathBuf> =
        mapped.filter(|path| path.ends_with("/libc.so.6")).take(1).map(PathBuf::from).collect();
    let arch = std::env::consts::ARCH;
    let triplets = [format!("{arch}-linux-gnu"), "arm-linux-gnueabihf".into(), "i386-linux-gnu".into()];
    let folders =
        triplets.iter().map(|t| format!("/lib/{t}")).chain(["/lib64", "/usr/lib64", "/lib"].map(String::from));
    paths.extend(folders.map(|folder| Path::new(&folder).join("libc.so.6")));
    paths
}

fn glibc_of(path: &Path, machine: Machine) -> Option<GlibcVersion> {
    let bytes = bytes_of(path).ok()?;
    let elf = elf::read(&bytes).ok()?;
    if elf.machine == machine { elf.glibc_offered } else { None }
}

/// musl's loader is also its library, and lies in `/lib` under the architecture's name.
fn has_musl(machine: Machine) -> bool {
    let files = std::fs::read_dir("/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut loaders =
        files.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ld-musl-")));
    loaders.any(|path| bytes_of(&path).is_ok_and(|bytes| elf::read(&bytes).is_ok_and(|elf| elf.machine == machine)))
}

/// Where `export_module!` puts the description.
const SECTION: &str = ".skerry.module";
/// The symbol under which `abi_stable` exports a root module, as its version 0.11 spells it; `host::open` asserts it.
pub const ROOT_SYMBOL: &str = "_1as_0lib_1header_0root_bmodule_bloader";
/// The ABI that the module host drives; an image of another major version is refused. `host::open` asserts it.
pub const ABI_VERSION: &str = "1.0.0";
/// Of the description.
const FORMAT: u32 = 1;
/// As the SDK has it.
const DESCRIPTION_BYTES_MAX: usize = 256 * 1024;
/// Bytes of an image: it is read whole into memory. A debug build of a large module has some 60 MB.
pub(super) const IMAGE_BYTES_MAX: u64 = 256 << 20;
/// The limit of IoT Hub for ids.
const NAME_BYTES_MAX: usize = 128;

#[cfg(test)]
#[path = "image_tests.rs"]
pub(super) mod tests;
