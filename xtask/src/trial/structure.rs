//! The packages as bytes: packed twice they are the same, and an .ipk has the members, owners, modes and fields that opkg reads.
//! Must never start anything.

use super::{Packages, require};
use crate::package::{Format, contents};

/// The same files packed again are the same bytes, and an .ipk is what opkg reads.
pub fn structure(packages: &Packages) -> Result<(), String> {
    for format in [Format::Deb, Format::Ipk, Format::Tar] {
        let pack = || contents::skerry(&packages.built, format, packages.epoch);
        for (one, other) in pack()?.iter().zip(pack()?) {
            require(one.bytes == other.bytes, || format!("{}: packed twice, it differs", one.file))?;
            if format == Format::Ipk {
                let (control, files) = open_ipk(&one.bytes)?;
                let has = |line: &str| control.lines().any(|found| found == line);
                let architecture = one.file.trim_end_matches(".ipk").split_once("-r1_").map_or("", |(_, name)| name);
                for line in ["Package: skerry", "Depends: ca-bundle", &format!("Architecture: {architecture}")] {
                    require(has(line), || format!("{}: control has no {line:?}", one.file))?;
                }
                for (path, mode) in [
                    ("./usr/bin/skerry", 0o755),
                    ("./etc/init.d/skerry", 0o755),
                    ("./etc/skerry/config.toml", 0o600),
                    ("./lib/upgrade/keep.d/skerry", 0o644),
                    ("./usr/lib/skerry/skerry-host-musl", 0o755),
                ] {
                    require(files.contains(&(path.to_owned(), mode)), || format!("{}: no {path} {mode:o}", one.file))?;
                }
            }
            println!("{}: {} bytes, twice the same", one.file, one.bytes.len());
        }
    }
    Ok(())
}

/// The control file, and names and modes of the files. Everything belongs to root.
fn open_ipk(bytes: &[u8]) -> Result<(String, Vec<(String, u32)>), String> {
    let failed = |e: std::io::Error| format!("the .ipk can't be read: {e}");
    let members = members(bytes).map_err(failed)?;
    let names: Vec<&str> = members.iter().map(|(name, ..)| name.as_str()).collect();
    require(names == ["./debian-binary", "./data.tar.gz", "./control.tar.gz"], || format!("members are {names:?}"))?;
    let (files, meta) = (self::members(&members[1].2).map_err(failed)?, self::members(&members[2].2).map_err(failed)?);
    let control = meta.iter().find(|(name, ..)| name == "./control").ok_or("no control file")?;
    let control = String::from_utf8_lossy(&control.2).into_owned();
    Ok((control, files.into_iter().map(|(name, mode, _)| (name, mode)).collect()))
}

pub fn members(gzipped: &[u8]) -> std::io::Result<Vec<(String, u32, Vec<u8>)>> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(gzipped));
    let mut all = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let (uid, gid) = (entry.header().uid()?, entry.header().gid()?);
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if (uid, gid) != (0, 0) {
            return Err(std::io::Error::other(format!("{name} belongs to {uid}:{gid}")));
        }
        let (mode, mut bytes) = (entry.header().mode()?, Vec::new());
        std::io::Read::read_to_end(&mut entry, &mut bytes)?;
        all.push((name, mode, bytes));
    }
    Ok(all)
}
