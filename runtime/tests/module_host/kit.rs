//! The runtime's end of a link, by hand, and images from the C compiler.
#![allow(unsafe_code)] // A leaked descriptor, on purpose.

use skerry_abi::wire::frame::{FromHost, LINK_VERSION, ToHost, split};
use skerry_runtime::io::image::ROOT_SYMBOL;
use skerry_runtime::io::process::{self, Ended, Host, HostBinary, Spec};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// A state folder in a folder of its own that others may pass.
pub struct State {
    outer: tempfile::TempDir,
}

impl State {
    pub fn new() -> State {
        let outer = tempfile::tempdir().unwrap();
        fs::set_permissions(outer.path(), Permissions::from_mode(0o755)).unwrap();
        let state = State { outer };
        fs::create_dir_all(state.own()).unwrap();
        fs::set_permissions(state.folder(), Permissions::from_mode(0o700)).unwrap();
        state
    }

    pub fn folder(&self) -> PathBuf {
        self.outer.path().canonicalize().unwrap().join("state")
    }

    pub fn own(&self) -> PathBuf {
        self.folder().join("modules/probe")
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.folder().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }

    pub fn spec(&self) -> Spec {
        Spec {
            module: "probe".into(),
            generation: 3,
            state_dir: self.own(),
            hidden: vec![self.folder(), self.outer.path().join("run-not-made-yet")],
            env: vec![("COLOUR".into(), "red".into())],
            landlock: true,
            log_level: 5,
            ..Spec::default()
        }
    }
}

/// A host and the runtime's end of its link.
pub struct Run {
    pub host: Host,
    pub link: UnixStream,
    state_dir: String,
    unread: Vec<u8>,
}

impl Run {
    pub fn start(state: &State, spec: &Spec, image: &[u8]) -> Run {
        Run::of(spec, spawn(state, spec, image).unwrap())
    }

    pub fn start_with(binary: &HostBinary, state: &State, spec: &Spec, image: &[u8]) -> Run {
        Run::of(spec, process::spawn(binary, spec, &image_file(state, image)).unwrap())
    }

    pub fn start_file(_: &State, spec: &Spec, image: &File) -> Run {
        Run::of(spec, process::spawn(&own_binary(), spec, image).unwrap())
    }

    fn of(spec: &Spec, host: Host) -> Run {
        let link = host.link.try_clone().unwrap();
        link.set_nonblocking(false).unwrap();
        link.set_read_timeout(Some(DEADLINE)).unwrap();
        let state_dir = spec.state_dir.display().to_string();
        Run { host, link, state_dir, unread: Vec::new() }
    }

    pub fn say(&mut self, frame: &ToHost<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.link.write_all(&bytes).unwrap();
    }

    /// The next frame as `check` reads it.
    pub fn hear<T>(&mut self, check: impl FnOnce(FromHost<'_>) -> T) -> T {
        loop {
            let mut rest = &self.unread[..];
            if let Some(frame) = split(&mut rest).unwrap() {
                let result = check(FromHost::decode(frame).unwrap());
                self.unread = rest.to_vec();
                return result;
            }
            let mut bytes = [0; 4096];
            let got = self.link.read(&mut bytes).expect("a frame within the deadline");
            assert_ne!(got, 0, "the link ended; output: {}", self.output());
            self.unread.extend_from_slice(&bytes[..got]);
        }
    }

    pub fn say_hello(&mut self, link_version: u16) {
        self.say(&ToHost::Hello {
            link_version,
            device: "d",
            module: "probe",
            generation: 3,
            credit_messages: 16,
            credit_bytes: 65_536,
        });
    }

    pub fn hear_hello(&mut self) -> String {
        self.hear(|frame| match frame {
            FromHost::Hello { link_version: LINK_VERSION, isolation, .. } => isolation.to_owned(),
            other => panic!("{other:?} instead of a hello"),
        })
    }

    /// Both hellos and the start; what the host says of its isolation.
    pub fn hello(&mut self) -> String {
        self.hello_with("{}")
    }

    /// The same, with those desired properties.
    pub fn hello_with(&mut self, desired: &str) -> String {
        self.say_hello(LINK_VERSION);
        let isolation = self.hear_hello();
        let state_dir = self.state_dir.clone();
        self.say(&ToHost::Start {
            desired_version: 1,
            desired,
            reported_version: 1,
            reported: "{}",
            state_dir: &state_dir,
        });
        isolation
    }

    pub fn failed(&mut self) -> (u8, String) {
        self.hear(|frame| match frame {
            FromHost::Failed { kind, text } => (kind as u8, text.to_owned()),
            other => panic!("{other:?} instead of last words"),
        })
    }

    pub fn shutdown(&self) {
        self.link.shutdown(Shutdown::Both).unwrap();
    }

    pub fn ended(&self) -> Ended {
        let mut fds = [rustix::event::PollFd::new(&self.host.pidfd, rustix::event::PollFlags::IN)];
        let deadline = rustix::event::Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut fds, Some(&deadline)).unwrap(), 1, "the host still runs");
        self.host.try_wait().unwrap().expect("its end")
    }

    /// All that it printed; waits for its end.
    pub fn output(&self) -> String {
        let mut text = String::new();
        File::from(self.host.stdout.try_clone().unwrap()).read_to_string(&mut text).unwrap();
        File::from(self.host.stderr.try_clone().unwrap()).read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.host.kill();
        let _ = self.host.wait();
    }
}

pub fn spawn(state: &State, spec: &Spec, image: &[u8]) -> io::Result<Host> {
    process::spawn(&own_binary(), spec, &image_file(state, image))
}

fn own_binary() -> HostBinary {
    HostBinary::File(env!("CARGO_BIN_EXE_skerry").into())
}

fn image_file(state: &State, bytes: &[u8]) -> File {
    let folder = state.folder().join("images");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("image.so");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    File::open(path).unwrap()
}

pub fn memory_file(bytes: &[u8]) -> OwnedFd {
    let memory = rustix::fs::memfd_create("host", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(memory);
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    // Open for reading only, or the kernel calls it busy.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OwnedFd::from(File::open(path).unwrap())
}

pub fn library(source: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (path, library) = (folder.path().join("image.c"), folder.path().join("image.so"));
    let headers = ["stdio", "stdlib", "string", "errno", "fcntl", "unistd", "signal", "dirent"];
    let mut text = String::from("#define _GNU_SOURCE\n#include <sys/ptrace.h>\n#include <sys/resource.h>\n");
    headers.iter().for_each(|header| text += &format!("#include <{header}.h>\n"));
    fs::write(&path, text + source).unwrap();
    compile(&path, &library);
    fs::read(library).unwrap()
}

/// The image of `examples/misbehave`. Built here, since `cargo test --test …` alone would not.
pub fn misbehave() -> Vec<u8> {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    let build = || {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "skerry-runtime", "--example", "misbehave"]);
        cargo.args((!cfg!(debug_assertions)).then_some("--release"));
        // What cargo tells this test would make build scripts run again, and everything above them.
        let told = std::env::vars_os().map(|(name, _)| name).filter(|name| {
            let name = name.to_string_lossy();
            name.starts_with("CARGO_") && name != "CARGO_HOME" && name != "CARGO_TARGET_DIR"
        });
        told.for_each(|name| {
            cargo.env_remove(name);
        });
        assert!(cargo.status().expect("cargo").success());
        let tests = std::env::current_exe().unwrap();
        let target = tests.ancestors().nth(2).unwrap();
        fs::read(target.join("examples/libmisbehave.so")).expect("the image that was just built")
    };
    IMAGE.get_or_init(build).clone()
}

fn compile(source: &Path, library: &Path) {
    let status = Command::new("cc").args(["-shared", "-fPIC", "-w", "-o"]).arg(library).arg(source).status();
    assert!(status.expect("a C compiler").success());
}

/// C source of an image whose header claims that version of abi_stable.
pub fn abi_header(major: u32, minor: u32) -> String {
    let magic = abi_stable::library::AbiHeader::VALUE.magic_string.map(|byte| byte.to_string()).join(",");
    format!(
        "const struct {{ unsigned char magic[32]; unsigned major, minor; }} {ROOT_SYMBOL} = {{{{{magic}}}, {major}, {minor}}};"
    )
}

/// A descriptor that is inherited, as a careless library opens it.
pub fn leak() -> OwnedFd {
    let file = File::open("/etc/hostname").unwrap();
    // SAFETY: dup gives a new descriptor, which is owned here alone.
    unsafe { OwnedFd::from_raw_fd(libc::dup(file.as_raw_fd())) }
}

pub fn is_root() -> bool {
    process::is_root()
}

/// Far more than a host needs, far less than anybody waits.
const DEADLINE: Duration = Duration::from_secs(20);
