//! Modules from a registry, pushed as their authors do: with a manifest, by hand, signed, and when the registry is gone.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use serde_json::{Value, json};
use skerry_tests::{Device, Image, Registry, manifest, module, wait_for};

/// A manifest with one module of that image, and the registry's password.
fn content(registry: &Registry, image: &str) -> Value {
    let mut content = manifest(json!({"scribe": module(image)}), json!({}));
    content["modulesContent"]["$edgeAgent"]["properties.desired"]["runtime"]["settings"]["registryCredentials"] =
        registry.credentials();
    content
}

#[track_caller]
fn deploy(device: &Device, registry: &Registry, image: &str) {
    let file = device.path("typed.json");
    std::fs::write(&file, content(registry, image).to_string()).expect("a manifest");
    let ran = device.skerry(&["deploy", &file.display().to_string()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[track_caller]
fn wait_version(device: &Device, version: &str) {
    wait_for(&format!("version {version} runs"), || device.running("scribe").filter(|i| i.version == version));
}

/// What the agent says is wrong with the module.
#[track_caller]
fn wait_problem(device: &Device, text: &str) {
    device.wait_log(text);
}

#[test]
fn a_manifest_brings_modules_and_needs_no_registry_afterwards() {
    let registry = Registry::start();
    registry.push(&Image::of("scribe"), None, "team/scribe:1");
    registry.push(&Image::of("scribe").with_version("0.9.0"), None, "team/scribe:2");
    let mut device = Device::started("[modules]\nautostart = false\n");
    let one = registry.reference("team/scribe:1");
    deploy(&device, &registry, &one);
    wait_version(&device, env!("CARGO_PKG_VERSION"));
    let shown = device.skerry(&["images"]);
    assert!(shown.out.contains(&one) && shown.out.contains(" scribe "), "{shown:?}");
    // What can't be had leaves in place what runs.
    let before = device.running("scribe");
    deploy(&device, &registry, &registry.reference("team/scribe:9"));
    wait_problem(&device, "(404); check the reference");
    assert_eq!(device.running("scribe"), before);
    let two = registry.reference("team/scribe:2");
    let ran = device.skerry(&["pull", &two]);
    assert!(ran.code == Some(0) && ran.out.starts_with("scribe 0.9.0 sha256:"), "{ran:?}");
    deploy(&device, &registry, &two);
    wait_version(&device, "0.9.0");
    // The registry is gone, and the device starts anew.
    drop(registry);
    device.stop();
    device.start();
    wait_version(&device, "0.9.0");
    let ran = device.skerry(&["pull", &two]);
    assert!(
        ran.code == Some(0) && ran.out.contains("from the image store, since its source can't be asked"),
        "{ran:?}"
    );
    let ran = device.skerry(&["pull", "oci://127.0.0.1:9/nobody:1"]);
    assert!(ran.code == Some(1) && ran.err.contains("can't be reached"), "{ran:?}");
    let ran = device.skerry(&["pull", "team/scribe:1"]);
    assert!(ran.code == Some(1) && ran.err.contains("it names no registry"), "{ran:?}");
    assert!(!device.log().contains("secret"));
}

/// As in the field: what stands behind a tag is looked at when a module is made or changed, and not in between.
#[test]
fn a_tag_that_moves_is_followed_when_a_module_changes() {
    let registry = Registry::start();
    registry.push(&Image::of("scribe"), None, "scribe:latest");
    let device = Device::started("[modules]\nautostart = false\n[restart]\nhealth_window = \"1s\"\n");
    let reference = registry.reference("scribe");
    let deploy = |version: &str| {
        let mut content = content(&registry, &reference);
        content["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"]["scribe"]["version"] = version.into();
        let file = device.path("typed.json");
        std::fs::write(&file, content.to_string()).expect("a manifest");
        let ran = device.skerry(&["deploy", &file.display().to_string()]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
    };
    deploy("1");
    wait_version(&device, env!("CARGO_PKG_VERSION"));
    device.wait_log("proved=true");
    let before = device.running("scribe");
    registry.push(&Image::of("scribe").with_version("0.9.0"), None, "scribe:latest");
    deploy("1");
    assert_eq!(device.running("scribe"), before);
    deploy("2");
    wait_version(&device, "0.9.0");
    device.wait_log("proved=true image=scribe@0.9.0");
    // An operator brings the next one.
    registry.push(&Image::of("scribe").with_version("0.9.1"), None, "scribe:latest");
    let ran = device.skerry(&["pull", &reference]);
    assert!(ran.code == Some(0) && ran.out.starts_with("scribe 0.9.1 "), "{ran:?}");
    wait_version(&device, "0.9.1");
    device.wait_log("proved=true image=scribe@0.9.1");
    // Without the registry a change is made with what is at hand.
    drop(registry);
    let generation = device.wait_running("scribe").generation;
    let mut content: Value = serde_json::from_slice(&std::fs::read(device.path("typed.json")).unwrap()).unwrap();
    content["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"]["scribe"]["env"] =
        json!({"A": {"value": "b"}});
    std::fs::write(device.path("typed.json"), content.to_string()).expect("a manifest");
    assert_eq!(device.skerry(&["deploy", &device.path("typed.json").display().to_string()]).code, Some(0));
    assert_eq!(device.wait_after("scribe", generation).version, "0.9.1");
}

#[test]
fn only_what_is_signed_runs() {
    let registry = Registry::start();
    let device = Device::new("");
    let key = device.path("key").display().to_string();
    let ran = device.skerry(&["key", "new", &key]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let public = std::fs::read_to_string(device.path("key.pub")).expect("a public key").trim().to_owned();
    let file = device.path("scribe-to-sign.so");
    std::fs::write(&file, Image::of("scribe").bytes()).expect("an image");
    let ran = device.skerry(&["sign", "--key", &key, &file.display().to_string()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let signatures = std::fs::read_to_string(device.path("scribe-to-sign.so.sig")).expect("signatures");
    registry.push(&Image::of("scribe"), Some(&signatures), "scribe:signed");
    registry.push(&Image::of("scribe").with_version("0.9.0"), None, "scribe:plain");
    registry.push(&Image::of("scribe").with_version("0.8.0"), Some(&signatures), "scribe:forged");
    device.configure(&format!(
        "[modules]\nautostart = false\n[images]\ntrust_keys = [\"{public}\"]\n[restart]\nhealth_window = \"1s\"\n"
    ));
    let mut device = device;
    device.start();
    deploy(&device, &registry, &registry.reference("scribe:signed"));
    wait_version(&device, env!("CARGO_PKG_VERSION"));
    device.wait_log("proved=true");
    let before = device.running("scribe");
    for name in ["scribe:plain", "scribe:forged"] {
        let reference = registry.reference(name);
        deploy(&device, &registry, &reference);
        wait_problem(&device, &format!("image={reference} pulled=false retry_in_s=10"));
        assert_eq!(device.running("scribe"), before, "{name}");
    }
    // What ran well goes on after a start, too.
    device.stop();
    device.start();
    wait_version(&device, env!("CARGO_PKG_VERSION"));
}

/// With "never", what is in the store is used and nobody is asked; also when it is not there.
#[test]
fn a_pull_policy_of_never_asks_nobody() {
    let registry = Registry::start();
    registry.push(&Image::of("scribe"), None, "scribe:1");
    let device = Device::started(
        "[modules]\nautostart = false\n[images.registries.\"HOST\"]\nusername = \"device\"\npassword = \"secret\"\n"
            .replace("HOST", registry.address())
            .as_str(),
    );
    let never = |name: &str| {
        let mut content = content(&registry, &registry.reference(name));
        content["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"]["scribe"]["imagePullPolicy"] =
            "never".into();
        let file = device.path("never.json");
        std::fs::write(&file, content.to_string()).expect("a manifest");
        assert_eq!(device.skerry(&["deploy", &file.display().to_string()]).code, Some(0));
    };
    never("scribe:1");
    wait_problem(&device, "scribe:1 is not at hand, and imagePullPolicy is \\\"never\\\"");
    assert_eq!(device.running("scribe"), None);
    let ran = device.skerry(&["pull", &registry.reference("scribe:1")]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    wait_version(&device, env!("CARGO_PKG_VERSION"));
}

fn sha256(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), bytes).expect("an image");
    let ran = std::process::Command::new("sha256sum").arg(file.path()).output().expect("sha256sum");
    String::from_utf8_lossy(&ran.stdout).split(' ').next().expect("a digest").to_owned()
}

/// A server that gives the first part of a file and then nothing more, but all that is asked for from a later byte on. What it was asked.
fn breaks_off(image: Vec<u8>) -> (String, mpsc::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its number").to_string();
    let (told, asked) = mpsc::channel();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).expect("a request");
            let request = String::from_utf8_lossy(&bytes[..count]).to_ascii_lowercase();
            if request.contains(".sig ") {
                let _ = stream.write_all(b"HTTP/1.1 404 x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                continue;
            }
            let from =
                request.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
            let from: usize = from.unwrap_or(0);
            let left = image.len() - from;
            let status = if from == 0 { "200 x" } else { "206 x" };
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", image.len() - 1, image.len());
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {left}\r\n{range}\r\n");
            let end = if from == 0 { image.len() / 2 } else { image.len() };
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&image[from..end]));
            let _ = told.send(from);
            // Open, so that the other side waits for more.
            open.push(stream);
        }
    });
    (address, asked)
}

/// The power goes in the middle of a pull: what has come by then is not asked for again.
#[test]
fn a_pull_goes_on_after_the_runtime_was_killed() {
    let image = Image::of("scribe").bytes().to_vec();
    let digest = sha256(&image);
    let half = image.len() / 2;
    let (address, asked) = breaks_off(image);
    let mut device = Device::started("[modules]\nautostart = false\n");
    let reference = format!("http://{address}/scribe.so#sha256={digest}");
    let file = device.path("typed.json");
    std::fs::write(&file, manifest(json!({"scribe": module(&reference)}), json!({})).to_string()).expect("a manifest");
    assert_eq!(device.skerry(&["deploy", &file.display().to_string()]).code, Some(0));
    assert_eq!(asked.recv().expect("a request"), 0);
    let part = device.path(&format!("state/images/{digest}.download"));
    wait_for("half of it", || (std::fs::metadata(&part).ok()?.len() == half as u64).then_some(()));
    device.kill();
    device.start();
    wait_version(&device, env!("CARGO_PKG_VERSION"));
    assert_eq!(asked.recv().expect("a request"), half);
}

/// A file system of its own for the image store, of so many bytes; gone when it is dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(folder: &std::path::Path, bytes: usize) -> SmallDisk {
        std::fs::create_dir_all(folder).expect("a folder");
        let disk = SmallDisk(folder.to_owned());
        disk.run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes},mode=755"), "none"]);
        disk
    }

    fn grow(&self, bytes: usize) {
        self.run("mount", &["-o", &format!("remount,size={bytes}")]);
    }

    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) {
        let ran = std::process::Command::new(program).args(arguments).arg(&self.0).output().expect("mount");
        assert!(ran.status.success(), "run this as root: {}", String::from_utf8_lossy(&ran.stderr));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the runtime may still have an image open.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// In the middle of a pull the disk is full: that is said, nothing of it stays, and what runs goes on.
#[test]
fn a_disk_that_is_full_in_the_middle_of_a_pull() {
    let registry = Registry::start();
    registry.push(&Image::of("filter"), None, "filter:1");
    let (one, other) = (Image::of("scribe").bytes().len(), Image::of("filter").bytes().len());
    let mut device = Device::new("[modules]\nautostart = false\n");
    let disk = SmallDisk::mount(&device.path("state/images"), one + other / 2);
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    let deploy = || {
        let route = "FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/scribe/inputs/input1\")";
        let modules = json!({"scribe": module("scribe"), "filter": module(&registry.reference("filter:1"))});
        let mut content = manifest(modules, json!({"r": route}));
        content["modulesContent"]["$edgeAgent"]["properties.desired"]["runtime"]["settings"]["registryCredentials"] =
            registry.credentials();
        let file = device.path("typed.json");
        std::fs::write(&file, content.to_string()).expect("a manifest");
        let ran = device.skerry(&["deploy", &file.display().to_string()]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
    };
    deploy();
    let before = device.wait_running("scribe");
    device.wait_log("the disk of the state folder is full");
    assert!(device.module("filter").is_null());
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(device.path("state/images")).expect("a folder").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    assert!(names().iter().all(|name| !name.ends_with(".download")), "{:?}", names());
    let ran = device.skerry(&["pull", &registry.reference("filter:1")]);
    assert!(ran.code == Some(1) && ran.err.contains("the disk of the state folder is full"), "{ran:?}");
    for seq in 0..20 {
        let answer = device.send("tester", "out", &skerry_tests::numbered(seq));
        assert!(matches!(answer["outcome"].as_str(), Some("delivered" | "durable")), "{answer}");
    }
    device.wait_book("scribe", "the last", |line| line["body"]["seq"] == 19);
    assert_eq!(device.running("scribe"), Some(before.clone()));
    // With room again it comes.
    disk.grow(one + 2 * other);
    let ran = device.skerry(&["pull", &registry.reference("filter:1")]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    device.wait_running("filter");
    assert_eq!(device.running("scribe"), Some(before));
    device.stop();
    drop(disk);
}

/// A server that stops in the middle of a file until it is told to go on.
fn hesitant(image: Vec<u8>) -> (String, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its number").to_string();
    let (go_on, wait) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut asked = [0; 4096];
            let count = stream.read(&mut asked).expect("a request");
            if String::from_utf8_lossy(&asked[..count]).contains(".sig ") {
                let _ = stream.write_all(b"HTTP/1.1 404 x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                continue;
            }
            let head = format!("HTTP/1.1 200 x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", image.len());
            let half = image.len() * 45 / 100;
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&image[..half]));
            let _ = wait.recv();
            let _ = stream.write_all(&image[half..]);
        }
    });
    (address, go_on)
}

#[test]
fn how_far_a_pull_is_stands_in_the_reported_state() {
    let image = Image::of("scribe").bytes().to_vec();
    let digest = sha256(&image);
    let (address, go_on) = hesitant(image);
    let device = Device::started("[modules]\nautostart = false\n");
    let file = device.path("typed.json");
    let image = format!("http://{address}/scribe.so#sha256={digest}");
    let content = manifest(json!({"scribe": module(&image)}), json!({}));
    std::fs::write(&file, content.to_string()).expect("a manifest");
    assert_eq!(device.skerry(&["deploy", &file.display().to_string()]).code, Some(0));
    let agent = || device.skerry(&["twin", "get", "$edgeAgent", "--json"]).json()["reported"].clone();
    wait_for("half of it is reported", || {
        let agent = agent();
        let module = &agent["modules"]["scribe"];
        let text = module["statusDescription"].as_str()?.to_owned();
        // What is on its way is no fault.
        assert_ne!(agent["lastDesiredStatus"]["code"], 500, "{agent}");
        text.contains("its image is being pulled: 40 % of").then_some(())
    });
    assert!(device.skerry(&["status"]).out.contains("its image is being pulled: 40 % of"));
    go_on.send(()).expect("it waits");
    wait_version(&device, env!("CARGO_PKG_VERSION"));
    wait_for("that it runs is reported", || {
        (agent()["modules"]["scribe"]["statusDescription"] == "running").then_some(())
    });
}
