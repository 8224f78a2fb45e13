//! The files of a package, and the archives that hold them. Must never let the machine that packs show in the bytes: order, owners,
//! modes and times are said, not found.

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroU64;
use std::path::Path;

use flate2::{Compression, GzBuilder};

/// Paths from the root, without a leading slash.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub mode: u32,
    /// None for a folder.
    pub bytes: Option<Vec<u8>>,
}

impl Tree {
    pub fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        self.add(path, Entry { mode, bytes: Some(bytes.into()) });
    }

    /// The file at `from`, as it is.
    pub fn copy(&mut self, path: &str, mode: u32, from: &Path) -> Result<(), String> {
        let bytes = std::fs::read(from).map_err(|e| format!("{}: {e}", from.display()))?;
        self.file(path, mode, bytes);
        Ok(())
    }

    pub fn folder(&mut self, path: &str, mode: u32) {
        self.add(path, Entry { mode, bytes: None });
    }

    fn add(&mut self, path: &str, entry: Entry) {
        for (at, _) in path.match_indices('/') {
            self.entries.entry(path[..at].to_owned()).or_insert(Entry { mode: 0o755, bytes: None });
        }
        self.entries.insert(path.to_owned(), entry);
    }

    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    pub fn bytes(&self) -> u64 {
        self.entries.values().filter_map(|entry| entry.bytes.as_ref()).map(|bytes| bytes.len() as u64).sum()
    }

    /// A tar of everything below `prefix` (`./` for packages), owned by root, each thing of this time.
    pub fn tar(&self, prefix: &str, epoch: u64) -> Result<Vec<u8>, String> {
        let mut tar = tar::Builder::new(Vec::new());
        let folder = Entry { mode: 0o755, bytes: None };
        let all = std::iter::once(("", &folder)).chain(self.entries());
        for (path, entry) in all {
            let mut header = tar::Header::new_gnu();
            let slash = if entry.bytes.is_none() && !path.is_empty() { "/" } else { "" };
            let name = format!("{prefix}{path}{slash}");
            let bytes = entry.bytes.as_deref().unwrap_or_default();
            header.set_entry_type(if entry.bytes.is_some() {
                tar::EntryType::Regular
            } else {
                tar::EntryType::Directory
            });
            header.set_size(bytes.len() as u64);
            header.set_mode(entry.mode);
            header.set_mtime(epoch);
            header.set_uid(0);
            header.set_gid(0);
            // By its bytes: the crate would take the leading "./" away, which dpkg and opkg write.
            let gnu = header.as_gnu_mut().ok_or("no GNU header")?;
            for (field, owner) in [(&mut gnu.uname, "root"), (&mut gnu.gname, "root")] {
                field[..owner.len()].copy_from_slice(owner.as_bytes());
            }
            if name.len() >= gnu.name.len() {
                return Err(format!("the path {name} is too long for a package"));
            }
            gnu.name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, bytes).map_err(|e| e.to_string())?;
        }
        tar.into_inner().map_err(|e| e.to_string())
    }
}

/// Without a name and a time in the header.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut gzip = GzBuilder::new().operating_system(255).write(Vec::new(), Compression::best());
    gzip.write_all(bytes).and_then(|()| gzip.finish()).map_err(|e| e.to_string())
}

/// By zopfli, for what must be small: 5 % less, in a hundred times the time. What unpacks it is the same.
pub fn gzip_smallest(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let rounds = NonZeroU64::new(5).unwrap_or(NonZeroU64::MIN);
    // As many blocks as are worth it: the default is meant for files of a megabyte at most. (No limit would be 0, which this crate takes for none.)
    let options =
        zopfli::Options { iteration_count: rounds, maximum_block_splits: u16::MAX, ..zopfli::Options::default() };
    let mut packed = Vec::new();
    zopfli::compress(options, zopfli::Format::Gzip, bytes, &mut packed).map_err(|e| e.to_string())?;
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them_and_the_order_of_adding_does_not_show() {
        let mut tree = Tree::default();
        tree.file("usr/bin/b", 0o755, "b");
        tree.file("etc/a", 0o600, "a");
        let mut other = Tree::default();
        other.file("etc/a", 0o600, "a");
        other.file("usr/bin/b", 0o755, "b");
        let bytes = tree.tar("./", 7).unwrap();
        assert_eq!(bytes, other.tar("./", 7).unwrap());
        let mut archive = tar::Archive::new(&bytes[..]);
        let found = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            let owner = header.username().unwrap().unwrap().to_owned();
            (
                String::from_utf8(entry.path_bytes().to_vec()).unwrap(),
                header.mode().unwrap(),
                owner,
                header.mtime().unwrap(),
            )
        });
        let entry = |path: &str, mode| (path.to_owned(), mode, "root".to_owned(), 7);
        let expected = [
            entry("./", 0o755),
            entry("./etc/", 0o755),
            entry("./etc/a", 0o600),
            entry("./usr/", 0o755),
            entry("./usr/bin/", 0o755),
            entry("./usr/bin/b", 0o755),
        ];
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
}
