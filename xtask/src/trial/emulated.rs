//! Another machine's lone binary, run by qemu: it opens a module of each C library from memory, talks to the emulated cloud, and
//! survives being killed. Must never use a program that this machine could run itself.

use std::fs;
use std::time::Duration;

use skerry_cloud::{Cloud, Options};

use super::root::Root;
use super::{Packages, build_for, require};
use crate::package::target::{self, Libc};

/// An emulated machine is slow.
const WAIT: Duration = Duration::from_secs(120);

/// aarch64 or armv7.
pub fn emulated(name: &str) -> Result<(), String> {
    let packages = build_for(target::of(name)?, &Libc::BOTH)?;
    let cloud = Cloud::start(Options::new("trial", &["sysinfo"]))?;
    let mut root = Root::foreign(packages.built.target)?;
    for folder in ["etc/skerry", "usr/lib/skerry/modules"] {
        fs::create_dir_all(root.at(folder)).map_err(|e| e.to_string())?;
    }
    let copy = |from: &std::path::Path, to: &str| fs::copy(from, root.at(to)).map_err(|e| format!("/{to}: {e}"));
    copy(&packages.built.lone, "usr/bin/skerry")?;
    copy(&cloud.ready().ca_file, "etc/skerry/ca.pem")?;
    copy(packages.image("sysinfo", Libc::Glibc)?, "usr/lib/skerry/modules/sysinfo.so")?;
    root.write("etc/skerry/config.toml", &config(&cloud))?;

    root.start(&[])?;
    root.until("the module's messages in the cloud", |_| (sent(&cloud) > 0).then_some(()))?;
    root.skerry(&["send", "tester", "out", "--body", "1", "--property", "seq=9"])?;
    for line in root.skerry(&["status"])?.lines().filter(|line| line.contains("isolat")) {
        println!("{name}: {}", line.trim());
    }
    root.kill()?;
    println!("{name}: a glibc module's messages reach the cloud; killed, with a message that waits");

    let before = sent(&cloud);
    let to = root.at("usr/lib/skerry/modules/recorder.so");
    fs::copy(packages.image("recorder", Libc::Musl)?, &to).map_err(|e| format!("{}: {e}", to.display()))?;
    root.start(&[])?;
    root.recorded("var/lib/skerry", "tester - 9")?;
    root.until("more messages in the cloud", |_| (sent(&cloud) > before).then_some(()))?;
    root.stop()?;
    println!("{name}: after the restart a musl module has the message that waited, and the cloud gets more");
    let pending = cloud.wait_until(WAIT, |cloud| cloud.connections().values().all(|c| !c.is_open).then_some(()));
    require(pending.is_some(), || "a connection outlives the runtime".to_owned())
}

fn sent(cloud: &Cloud) -> u64 {
    cloud.stored().values().map(|stored| stored.messages).sum()
}

fn config(cloud: &Cloud) -> String {
    let ready = cloud.ready();
    format!(
        "[device]\nid = \"trial\"\n[upstream]\naddress = \"{}\"\nca = \"ca.pem\"\nretry_max = \"1s\"\n\
         [upstream.modules.sysinfo]\nconnection_string = \"{}\"\n\
         [modules.sysinfo]\nsettings = {{ interval_ms = 500 }}\n\
         [routes]\nup = 'FROM /messages/modules/sysinfo/* INTO $upstream'\n\
         kept = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint(\"/modules/recorder/inputs/input1\")'\n",
        ready.address, ready.modules[0].connection_string
    )
}

impl Packages {
    fn image(&self, name: &str, libc: Libc) -> Result<&std::path::Path, String> {
        let found = self.modules.iter().find(|(module, _)| module.name == name);
        let file = found.and_then(|(_, files)| files.iter().find(|(of, _)| *of == libc));
        file.map(|(_, path)| path.as_path()).ok_or_else(|| format!("no module {name}"))
    }
}
