//! Images to order: the real ones with some bytes changed, and libraries from the C compiler.

use std::process::Command;

use crate::built;

/// The bytes of a shared library.
#[derive(Clone)]
pub struct Image(Vec<u8>);

impl Image {
    /// A plugin, or an image of the tests, as it was built.
    pub fn of(name: &str) -> Image {
        let path = built::image_file(name);
        Image(std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    /// The consumer of the tests under another name, which has six letters too.
    pub fn scribe_named(name: &str) -> Image {
        Image::of("scribe").with(r#""name": "scribe""#, &format!(r#""name": "{name}""#))
    }

    /// The consumer of the tests with something wrong: `start` crashes as it starts, `hang` hangs there, `later` fails after five seconds, `ill`
    /// says that it is unhealthy.
    pub fn scribe_failing(fault: &str) -> Image {
        Image::of("scribe").with("scribe-fault:none.", &format!("scribe-fault:{fault:.<5}"))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Every `from` becomes `to`, which is as long.
    #[track_caller]
    pub fn with(mut self, from: &str, to: &str) -> Image {
        assert_eq!(from.len(), to.len(), "nothing may move");
        let places: Vec<usize> =
            self.0.windows(from.len()).enumerate().filter(|(_, w)| *w == from.as_bytes()).map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "{from:?} does not occur");
        places.iter().for_each(|at| self.0[*at..at + to.len()].copy_from_slice(to.as_bytes()));
        self
    }

    pub fn with_version(self, version: &str) -> Image {
        let from = format!(r#""version":"{}","sdk"#, env!("CARGO_PKG_VERSION"));
        self.with(&from, &format!(r#""version":"{version}","sdk"#))
    }

    /// `e_machine` of the header.
    pub fn with_machine(mut self, number: u16) -> Image {
        self.0[18..20].copy_from_slice(&number.to_le_bytes());
        self
    }

    /// The newest glibc that it needs is one that there is not yet.
    pub fn with_newest_glibc(self) -> Image {
        let text = String::from_utf8_lossy(&self.0);
        let needed =
            (2..100).rev().map(|minor| format!("GLIBC_2.{minor:02}")).find(|name| text.contains(name.as_str()));
        let needed = needed.expect("it needs some glibc");
        self.with(&needed, "GLIBC_9.99")
    }

    pub fn truncated(mut self, bytes: usize) -> Image {
        self.0.truncate(bytes);
        self
    }

    /// Any bytes under the name of an image.
    pub fn text(text: &str) -> Image {
        Image(text.as_bytes().to_vec())
    }

    /// C source; no module.
    pub fn c(source: &str) -> Image {
        Image(compile(source, &["-shared", "-fPIC"]))
    }

    /// C source that calls itself a module of that name. `run` is what its constructor does. It never comes further: its
    /// header claims an abi_stable of another world.
    pub fn c_module(name: &str, run: &str) -> Image {
        let description = format!(
            r#"{{"format":1,"name":"{name}","version":"1.0.0","sdk_version":"0.1.0","abi_version":"1.0.0","declared":{{}}}}"#
        );
        let (length, quoted) = (description.len(), description.replace('"', "\\\""));
        Image::c(&format!(
            "__attribute__((section(\".skerry.module\"), used)) const char description[{length}] = \"{quoted}\";\n\
             const struct {{ unsigned char magic[32]; unsigned major, minor; }} {ROOT} = {{{{0}}, 7, 9}};\n\
             __attribute__((constructor)) static void run(void) {{ {run} fflush(stdout); }}\n"
        ))
    }
}

/// The symbol by which a host finds the module.
const ROOT: &str = "_1as_0lib_1header_0root_bmodule_bloader";

/// A program, as a file that lives as long as what is returned.
pub fn c_program(source: &str) -> tempfile::TempPath {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    let bytes = compile(source, &[]);
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&bytes).expect("its bytes");
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o755)).expect("its mode");
    file.into_temp_path()
}

fn compile(source: &str, flags: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, output) = (folder.path().join("source.c"), folder.path().join("output"));
    let headers = ["stdio", "stdlib", "string", "errno", "fcntl", "unistd", "signal", "dirent"];
    let headers = headers.map(|header| format!("#include <{header}.h>\n")).concat();
    let system = "#include <sys/ptrace.h>\n#include <sys/socket.h>\n#include <sys/un.h>\n";
    std::fs::write(&path, format!("#define _GNU_SOURCE\n{headers}{system}{source}")).expect("the source");
    let status = Command::new("cc").args(flags).arg("-w").arg("-o").args([&output, &path]).status();
    assert!(status.expect("a C compiler").success(), "{source}");
    std::fs::read(output).expect("what the compiler made")
}
