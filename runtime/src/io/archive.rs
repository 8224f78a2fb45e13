//! A tar archive, packed with gzip, that is written as it comes.
//! Must never hold more of it in memory than one file.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::model::time::Wall;

pub struct Archive<W: Write> {
    tar: tar::Builder<GzEncoder<W>>,
    /// Where everything in it lies, so that unpacking it makes one folder.
    folder: String,
    at: Wall,
}

impl<W: Write> Archive<W> {
    pub fn new(to: W, folder: &str, at: Wall) -> Archive<W> {
        let tar = tar::Builder::new(GzEncoder::new(to, Compression::default()));
        Archive { tar, folder: folder.to_owned(), at }
    }

    /// A file, for its owner alone.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(self.at.0 / 1_000).unwrap_or(0));
        self.tar.append_data(&mut header, format!("{}/{name}", self.folder), bytes)
    }

    /// Without this it has no end.
    pub fn finish(self) -> io::Result<W> {
        self.tar.into_inner()?.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;

    #[test]
    fn what_is_packed_comes_out_again() {
        let mut archive = Archive::new(Vec::new(), "folder", Wall(1_700_000_000_000));
        let long = format!("logs/{}.log", "m".repeat(128));
        archive.add("a.txt", b"one").unwrap();
        archive.add(&long, &[7; 100_000]).unwrap();
        let packed = archive.finish().unwrap();
        assert!(packed.len() < 2_000);
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(flate2::read::GzDecoder::new(&packed[..])).entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!((entry.header().mode().unwrap(), entry.header().mtime().unwrap()), (0o600, 1_700_000_000));
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            found.insert(name, bytes.len());
        }
        assert_eq!(found, BTreeMap::from([("folder/a.txt".to_owned(), 3), (format!("folder/{long}"), 100_000)]));
    }
}
