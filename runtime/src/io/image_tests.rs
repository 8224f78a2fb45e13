//! Tests of `io::image`: real shared libraries from the C compiler, then thousands of damaged copies of them.

use super::*;
use std::process::Command;

pub const GOOD: &str = r#"{"format":1,"name":"skerry-probe","version":"1.2.3","sdk_version":"0.1.0","abi_version":"1.0.0",
    "later":true,"declared":{"description":"A probe","inputs":{"in":"what comes"},
    "outputs":{"out":"all","alerts":"too hot"},"settings":{"threshold":{"default":21.5,"unit":"°C","text":"Above it, an alert"}}}}"#;

/// A shared library with `description` in its section (none when empty), with or without the root symbol.
fn library(description: &str, root: bool, flags: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("m.c"), folder.path().join("m.so"));
    let mut text = String::from("#include <stdlib.h>\nvoid *grab(void) { return malloc(1); }\n");
    if !description.is_empty() {
        let bytes: Vec<String> = description.bytes().map(|b| b.to_string()).collect();
        text += &format!(
            "__attribute__((section({SECTION:?}), used)) const unsigned char d[] = {{{}}};\n",
            bytes.join(",")
        );
    }
    if root {
        text += &format!("int {ROOT_SYMBOL} = 1;\n");
    }
    std::fs::write(&source, text).unwrap();
    let mut compiler = Command::new("cc");
    let status =
        compiler.arg(&source).arg("-o").arg(&library).args(["-fPIC", "-Wl,--build-id=sha1"]).args(flags).status();
    assert!(status.unwrap().success(), "cc failed");
    std::fs::read(&library).unwrap()
}

pub fn shared(description: &str) -> Vec<u8> {
    library(description, true, &["-shared"])
}

fn refusal(bytes: &[u8]) -> String {
    parse(bytes).unwrap_err().to_string()
}

#[test]
fn an_image_says_what_it_is() {
    let bytes = shared(GOOD);
    let image = parse(&bytes).unwrap();
    assert_eq!(
        (image.name.as_str(), image.package.as_str(), image.version.as_str()),
        ("probe", "skerry-probe", "1.2.3")
    );
    assert_eq!((image.inputs.len(), image.outputs.join(" ")), (1, "alerts out".to_owned()));
    let setting = &image.settings[0];
    assert_eq!((setting.name.as_str(), setting.default.as_str(), setting.unit.as_str()), ("threshold", "21.5", "°C"));
    assert_eq!((image.libc, image.machine), (Libc::Glibc, device().machine));
    assert!(image.glibc_floor.unwrap() <= device().glibc.unwrap());
    assert_eq!(image.build_id.as_ref().unwrap().len(), 40);
    assert_eq!((image.digest.len(), image.bytes), (64, bytes.len() as u64));
    fits(&image, device()).unwrap();
}

#[test]
fn names_lose_the_prefix() {
    for (package, name) in
        [("skerry-filter", "filter"), ("skerry-module-x", "x"), ("mine", "mine"), ("skerry-", "skerry-")]
    {
        assert_eq!(module_name(package), name);
    }
}

#[test]
fn each_refusal_is_one_sentence() {
    assert_eq!(refusal(b"hello"), "not an ELF file");
    assert!(
        refusal(&library("", true, &["-shared"])).starts_with("not a skerry module: it has no .skerry.module section")
    );
    assert!(refusal(&library(GOOD, false, &["-shared"])).starts_with("it describes a module but does not export one"));
    assert!(refusal(&shared("{\"name\":")).starts_with("its description (section .skerry.module) is malformed: EOF"));
    assert!(refusal(&shared(&GOOD.replace("skerry-probe", "a/b"))).contains("\"a/b\" is no name"));
    assert!(refusal(&shared(&GOOD.replace("alerts", ""))).contains("\"\" is no name"));
    assert!(refusal(&shared(&GOOD.replace(":1,", ":2,"))).contains("it has format 2, this runtime reads format 1"));
    let abi = refusal(&shared(&GOOD.replace("1.0.0", "9.1.0")));
    assert!(abi.starts_with("built for ABI version 9.1.0 (SDK 0.1.0), this runtime speaks 1.0.0;"), "{abi}");
    assert!(refusal(&library(GOOD, true, &["-c"])).starts_with("not a shared library"));
    let missing = read(Path::new("/nowhere/x.so")).unwrap_err().to_string();
    assert!(missing.starts_with("can't be read: No such file"), "{missing}");
}

#[test]
fn another_device_is_named() {
    let bytes = shared(GOOD);
    let image = parse(&bytes).unwrap();
    let mut foreign = bytes.clone();
    foreign[18..20].copy_from_slice(&183u16.to_le_bytes());
    let error =
        fits(&parse(&foreign).unwrap(), &Device { machine: Machine::here().unwrap(), glibc: None, musl: false });
    if cfg!(target_arch = "x86_64") {
        assert_eq!(error.unwrap_err().to_string(), "built for aarch64, this device is x86_64");
    }
    let version = |minor| Some(GlibcVersion { major: 2, minor });
    let image = Image { glibc_floor: version(34), ..image };
    let old = Device { glibc: version(17), ..*device() };
    let error = fits(&image, &old).unwrap_err().to_string();
    assert!(error.starts_with("needs glibc 2.34 or newer, this device has glibc 2.17"), "{error}");
    assert_eq!(fits(&image, &Device { glibc: None, ..old }), Err(ImageError::NoGlibc));
    let musl = Image { libc: Libc::Musl, glibc_floor: None, ..image.clone() };
    assert_eq!(fits(&musl, &Device { musl: false, ..old }), Err(ImageError::NoMusl));
    assert_eq!(fits(&musl, &Device { musl: true, ..old }), Ok(()));
    assert_eq!(fits(&Image { libc: Libc::Any, glibc_floor: None, ..image }, &old), Ok(()));
}

#[test]
fn every_cut_is_not_whole_yet() {
    let bytes = shared(GOOD);
    for length in (4..bytes.len()).step_by(61).chain([bytes.len() - 1]) {
        assert_eq!(parse(&bytes[..length]), Err(ImageError::Elf(ElfError::Truncated)), "{length} bytes");
        let mut reserved = bytes[..length].to_vec();
        reserved.resize(bytes.len(), 0);
        assert!(parse(&reserved).is_err() || length > bytes.len() / 2, "zeros after {length} bytes");
    }
}

#[test]
fn no_damage_panics() {
    let bytes = shared(GOOD);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let headers = bytes.len() - 64 * 32; // The section headers stand at the end.
    for _ in 0..20_000 {
        let mut broken = bytes.clone();
        for _ in 0..1 + next() % 4 {
            let at = match next() % 3 {
                0 => next() as usize % 1024,
                1 => headers + next() as usize % (bytes.len() - headers),
                _ => next() as usize % bytes.len(),
            };
            broken[at] = [0, 0xff, 0x7f, 0x80, next() as u8][next() as usize % 5];
        }
        if next() % 8 == 0 {
            broken.truncate(next() as usize % bytes.len());
        }
        let _ = parse(&broken).map(|image| image.digest).map_err(|error| error.to_string());
    }
}
