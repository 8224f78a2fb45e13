//! The one place that loads a library. An image is opened by its descriptor, checked by its header, and stays loaded
//! until the process ends. Must never go through `abi_stable`'s cached loader: it keeps one root module per type.
#![allow(unsafe_code)] // Loading a library runs its code; reading its header trusts a symbol's type.

use abi_stable::library::{AbiHeaderRef, LibHeader, LibraryError, RootModule};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use rustix::fs::{MemfdFlags, StatVfsMountFlags};
use skerry_abi::raw::RootRef;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// A loaded image.
pub struct Opened {
    pub root: RootRef,
    /// An address inside of it.
    pub inside: *const libc::c_void,
}

/// Loads the image that `image` is open on. The error is one sentence.
pub fn open(image: OwnedFd) -> Result<Opened, String> {
    let image = executable(image).map_err(|error| format!("the image can't be copied to memory: {error}"))?;
    // By process id, not `self`: a debugger that reads this name opens the file by it, too.
    let path = format!("/proc/{}/fd/{}", std::process::id(), image.as_raw_fd());
    // The descriptor stays open for that debugger, and for a backtrace.
    std::mem::forget(image);
    // SAFETY: it runs the image's initialisers. That is what this process is for, and it can lose only itself.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
    let library = library.map_err(|error| format!("the image does not load: {}", reason(&error, &path)))?;
    // SAFETY: under this name abi_stable exports an `AbiHeaderRef`, and nothing else does.
    let header = unsafe { library.get::<AbiHeaderRef>(abi_stable::library::ROOT_MODULE_LOADER_NAME_WITH_NUL) };
    let header = match header {
        Ok(header) => *header,
        Err(_) => return Err("the image exports no module; was it built with export_module!?".to_owned()),
    };
    // Never unloaded: its threads, its thread-locals and the layouts that were checked point into it.
    std::mem::forget(library);
    let header = check_header(header)?;
    let root = skerry_abi::raw::root_of(header).map_err(|error| refusal(header, &error))?;
    Ok(Opened { root, inside: std::ptr::from_ref(header).cast() })
}

fn check_header(header: AbiHeaderRef) -> Result<&'static LibHeader, String> {
    if !header.is_valid() {
        let ours = abi_stable::library::AbiHeader::VALUE;
        if header.magic_string != ours.magic_string {
            return Err("the image's header is no abi_stable header".to_owned());
        }
        return Err(format!(
            "the image was built with abi_stable {}.{}, this host speaks {}.{}; rebuild it with a matching SDK",
            header.abi_major, header.abi_minor, ours.abi_major, ours.abi_minor
        ));
    }
    header.upgrade().map_err(|error| format!("the image's C ABI differs: {}", one_line(&error.to_string())))
}

fn refusal(header: &LibHeader, error: &LibraryError) -> String {
    let (theirs, ours) = (header.version_strings(), RootRef::VERSION_STRINGS);
    match error {
        LibraryError::IncompatibleVersionNumber { .. } => {
            format!("the image speaks ABI {theirs}, this host speaks {ours}; rebuild it with a matching SDK")
        }
        LibraryError::AbiInstability(error) => {
            let error = one_line(&error.to_string());
            format!("the image's ABI {theirs} is laid out otherwise than this host's {ours}: {error}")
        }
        other => format!("the image does not start: {}", one_line(&other.to_string())),
    }
}

/// The loader names the file before its reason; the name means nothing to anybody here.
fn reason(error: &libloading::Error, path: &str) -> String {
    let text = match error {
        libloading::Error::DlOpen { source } => source.to_string(),
        other => other.to_string(),
    };
    one_line(text.strip_prefix(path).map_or(text.as_str(), |rest| rest.trim_start_matches(": ")))
}

/// The descriptor itself, or one on a copy in memory when the image lies on a mount that nothing may be run from.
fn executable(image: OwnedFd) -> io::Result<OwnedFd> {
    let flags = rustix::fs::fstatvfs(&image)?.f_flag;
    if !flags.contains(StatVfsMountFlags::NOEXEC) {
        return Ok(image);
    }
    let flags = MemfdFlags::CLOEXEC;
    // Kernels before 6.3 do not know the flag, which newer ones may ask for.
    let memory = rustix::fs::memfd_create("skerry-image", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("skerry-image", flags))?;
    let (mut image, mut copy) = (File::from(image), File::from(memory));
    image.rewind()?;
    io::copy(&mut image, &mut copy)?;
    copy.as_fd().try_clone_to_owned()
}

/// abi_stable's reports span many lines.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if line.len() + word.len() > TEXT_BYTES_MAX {
            line.push('…');
            break;
        }
        let _ = write!(line, "{}{word}", if line.is_empty() { "" } else { " " });
    }
    line
}

/// Of an error's text.
const TEXT_BYTES_MAX: usize = 400;

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_read_from_a_file_is_what_is_loaded() {
        assert_eq!(crate::io::image::ROOT_SYMBOL, abi_stable::library::ROOT_MODULE_LOADER_NAME);
        assert_eq!(crate::io::image::ABI_VERSION, skerry_abi::raw::ABI_VERSION);
    }
}
